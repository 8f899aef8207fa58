"""TICK: judge again what only time has changed, and what facts told something about."""

from __future__ import annotations

from datetime import datetime

from monitor.domain.model import Source
from monitor.store.accounts import AccountRow
from monitor.store.batches import collecting_batch
from monitor.store.ledger import steps_due
from monitor.store.locks import fence
from monitor.store.subscriptions import to_look_at
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Outcome, rejudge
from monitor.usecases.writing import Pen

AT_ONCE = 500


async def look_at_what_is_due(
    tools: Tools,
    account: Account,
    row: AccountRow,
    now: datetime,
    *,
    batch_id: int | None,
    run_id: int | None = None,
    lock: tuple[str, int] | None = None,
) -> Outcome:
    """Judge every subscription whose next look or step has come.

    Their mails join `batch_id`; None: the tick batch that collects at that instant, found anew in each transaction,
    since another worker's gate may have closed the last one meanwhile.
    Each row is judged once: the walk goes by row id, so a row that is due again at once cannot hold it up.
    """
    total = Outcome()
    policy = account.policy(row)
    after = 0
    while True:
        async with tools.db.write() as conn:
            if lock is not None:
                await fence(conn, *lock)
            due = await to_look_at(conn, row.id, now, AT_ONCE, after)
            steps = await steps_due(conn, row.id, now, AT_ONCE, after)
            ids = sorted({*due, *steps})[:AT_ONCE]
            if not ids:
                return total
            joins = await collecting_batch(conn, row.id, "tick", now) if batch_id is None else batch_id
            total.add(await rejudge(conn, row, policy, ids, Pen(now, Source.TIME, joins, run_id)))
        after = ids[-1]
