"""A delivery pass of one account: what time has made due, the gates of live batches, then the mails themselves."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from monitor.domain.halt import Halt, HaltRule
from monitor.domain.model import RunState
from monitor.mail.transport import Transport
from monitor.store.accounts import AccountRow, find_account, lock_account
from monitor.store.batches import BatchRow, collecting
from monitor.store.ledger import steps_due
from monitor.store.locks import RUN_LOCK, release_lock, take_lock
from monitor.store.runs import RESUME_WITHIN, change_run, find_run, run_totals
from monitor.store.subscriptions import count_live, to_look_at
from monitor.store.witness import check_witness
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.dispatch import Delivery, Dispatch
from monitor.usecases.gate import LIVE_COLLECTS, Sight, pass_gate
from monitor.usecases.letters import LetterDesk, Mailer
from monitor.usecases.payments import look_at_payments
from monitor.usecases.tick import look_at_what_is_due


async def deliver_account(
    tools: Tools,
    account: Account,
    transport: Transport,
    mailer: Mailer,
    *,
    at: datetime | None = None,
    turn: int | None = None,
    state_dir: Path | None = None,
    witness: str | None = None,
) -> Delivery:
    """One pass at `at`, or now. Held mails stay held; what only collects waits for its gate, two minutes later.

    `turn` ends it after so many claims at the latest (see `Dispatch.deliver`). With `state_dir` the witness is asked
    first: a restored database still has mails waiting that left after its backup. `witness` is a verdict taken
    elsewhere.
    """
    async with tools.db.read() as conn:
        row = await find_account(conn, account.name)
    if row is None:
        return Delivery(stopped_by=Halt(HaltRule.NO_RUN_YET))
    if state_dir is not None:
        witness = await _witness(tools, state_dir)
    if witness is not None:
        return Delivery(stopped_by=Halt(HaltRule.RESTORED, witness))
    now = travelled_now(tools.clock, row, at)
    await _tick(tools, account, row, now)
    problems = await look_at_payments(tools, account, row, now)
    await _gates(tools, account, row, now)
    async with tools.db.read() as conn:
        row = await find_account(conn, account.name) or row
    delivery = await Dispatch(tools, account, row, transport, LetterDesk(mailer)).deliver(now, turn=turn)
    delivery.problems += problems
    return delivery


async def _witness(tools: Tools, state_dir: Path) -> str | None:
    """The witness's verdict; asked again if it is odd, since a run may seal it between the look at row and file."""
    return await _ask_witness(tools, state_dir) and await _ask_witness(tools, state_dir)


async def _ask_witness(tools: Tools, state_dir: Path) -> str | None:
    async with tools.db.read() as conn:
        return await check_witness(conn, tools.db, state_dir)


async def _tick(tools: Tools, account: Account, row: AccountRow, now: datetime) -> None:
    async with tools.db.read() as conn:
        due = await to_look_at(conn, row.id, now, 1, 0) or await steps_due(conn, row.id, now, 1, 0)
    if not due:
        return
    await look_at_what_is_due(tools, account, row, now, batch_id=None)


async def _gates(tools: Tools, account: Account, row: AccountRow, now: datetime) -> None:
    """Judge live batches that have collected long enough, and those of runs that nobody will finish."""
    async with tools.db.read() as conn:
        waiting = await collecting(conn, row.id)
    for batch in waiting:
        patience = RESUME_WITHIN if batch.origin == "run" else LIVE_COLLECTS
        if now - batch.opened_at < patience:
            continue
        if batch.origin == "run":
            await _finish_abandoned(tools, account, row, batch, now)
        else:
            await _gate_live(tools, account, row, batch, now)


async def _gate_live(tools: Tools, account: Account, row: AccountRow, batch: BatchRow, now: datetime) -> None:
    async with tools.db.write() as conn:
        locked = await lock_account(conn, row.id)
        sight = Sight(population=await count_live(conn, row.id))
        await pass_gate(conn, account, locked, batch.id, sight, now)


async def _finish_abandoned(tools: Tools, account: Account, row: AccountRow, batch: BatchRow, now: datetime) -> None:
    """Gate the batch of a run that was killed and never resumed, unless the run still lives."""
    lock = f"{RUN_LOCK}{account.name}"
    if not tools.locks.hold_run(account.name):
        return
    try:
        async with tools.db.write() as conn:
            token = await take_lock(conn, lock, tools.owner, steal=tools.db.is_sqlite)
            if token is None:
                return
            locked = await lock_account(conn, row.id)
            run = await find_run(conn, batch.run_id or 0)
            rows, unknown = await run_totals(conn, run)
            sight = Sight(population=rows, rows=rows, newly_unknown=unknown)
            await pass_gate(conn, account, locked, batch.id, sight, now)
            await change_run(conn, run.id, state=RunState.ABANDONED, ended_at=now)
            await release_lock(conn, lock, token)
    finally:
        tools.locks.release_run(account.name)
