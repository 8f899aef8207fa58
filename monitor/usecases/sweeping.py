"""What a run reads: the subscriptions, by list or by id, and the payments, as far as the API has either."""

from __future__ import annotations

from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow
from monitor.store.runs import RunRow
from monitor.usecases.context import Account, Tools
from monitor.usecases.payments import pull_payments, read_history
from monitor.usecases.pull import Sweep
from monitor.usecases.read_known import Errand, Figures, sweep_all


async def sweep_and_pay(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, errand: Errand
) -> tuple[Sweep, list[str], Figures]:
    """Sweep the subscriptions, then pull the payments: the sweep, the problems of both, further figures.

    Where payments name the subscriptions, the sweep has walked them already. Payments that could not be read leave a
    sweep of subscriptions as it is; where they are all there is, it is theirs.
    """
    if Capability.SUBSCRIPTIONS in account.provider.capabilities:
        sweep, problems, figures = await sweep_all(tools, account, row, run, errand)
        if Capability.DISCOVERY in account.provider.capabilities:
            return sweep, problems, figures
        paid = await pull_payments(tools, account, row, run, lock=errand.lock, batch_id=errand.batch_id)
    else:
        sweep, problems, figures = Sweep(), [], {}
        paid = await pull_payments(tools, account, row, run, lock=errand.lock, batch_id=errand.batch_id)
        sweep.interrupted = paid.interrupted
        if paid.problem is not None:
            sweep.broken[0] = paid.problem
    sweep.outcome.staged += paid.staged
    sweep.outcome.voided += paid.voided
    if paid.problem is not None:
        problems.append(f"payments: {paid.problem}")
    return sweep, problems, {**figures, **paid.figures}


async def read_the_past(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, *, lock: str
) -> tuple[list[str], Figures]:
    """Read a slice of the payments from before the first contact: problems, further figures. No mail waits for it."""
    past = await read_history(tools, account, row, run, lock=lock)
    problems = [] if past.problem is None else [f"payment history: {past.problem}"]
    return problems, {"payment_history": past.rows} if past.rows else {}
