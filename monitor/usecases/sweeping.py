"""What a run reads: the subscriptions, by list or by id, and the payments, as far as the API has either."""

from __future__ import annotations

from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow
from monitor.store.runs import RunRow
from monitor.usecases.context import Account, Tools
from monitor.usecases.payments import pull_payments
from monitor.usecases.pull import Sweep
from monitor.usecases.read_known import Errand, Figures, sweep_all


async def sweep_and_pay(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, errand: Errand
) -> tuple[Sweep, list[str], Figures]:
    """Sweep the subscriptions, then pull the payments: the sweep, the problems of both, further figures.

    Payments that could not be read leave a sweep of subscriptions as it is; where they are all there is, it is theirs.
    """
    if Capability.SUBSCRIPTIONS in account.provider.capabilities:
        sweep, problems, figures = await sweep_all(tools, account, row, run, errand)
        paid = await pull_payments(tools, account, row, run, lock=errand.lock)
    else:
        sweep, problems, figures = Sweep(), [], {}
        paid = await pull_payments(tools, account, row, run, lock=errand.lock)
        sweep.interrupted = paid.interrupted
        if paid.problem is not None:
            sweep.broken[0] = paid.problem
    if paid.problem is not None:
        problems.append(f"payments: {paid.problem}")
    return sweep, problems, {**figures, **paid.figures}
