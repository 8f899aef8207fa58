"""Pull payments into the database: what was seen, and what happened to each, in one transaction a page.

The walk goes back to where the newest complete one began, and a day further: payments are recorded late. A walk that
ends early keeps what it read and moves no watermark. The first complete walk is a baseline: history, without events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Source
from monitor.domain.payments import PaymentPage, PaymentSeen, Verdict, judge_payment
from monitor.errors import ProviderError
from monitor.providers.base import PaymentSource, UnsupportedError
from monitor.store.accounts import AccountRow
from monitor.store.engine import db_now
from monitor.store.facts import put_in_quarantine
from monitor.store.locks import fence
from monitor.store.payments import (
    StoredPayment,
    append_payment_events,
    find_payment_walk,
    insert_payments,
    load_payments,
    note_payment_walk,
    payer_ids,
    payments_to_look_at,
    seen_values,
    update_payments,
)
from monitor.store.runs import RunRow
from monitor.usecases.context import Account, Tools

OVERLAP = timedelta(days=1)
LOOKS_AT_ONCE = 500
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class PaymentWalk:
    """What a walk brought. `problem` says why it was not complete; the next run goes over the same ground."""

    rows: int = 0
    bad: int = 0
    new: int = 0
    changed: int = 0
    events: int = 0
    problem: str | None = None
    interrupted: bool = False

    @property
    def figures(self) -> dict[str, int]:
        """For the run's counts; nothing where nothing was asked."""
        return {"payments": self.rows, "payment_events": self.events} if self.rows else {}


@dataclass(frozen=True, slots=True)
class Till:
    """What every row of a transaction is signed with. `baselined_at` None: the first walk, which tells nothing."""

    now: datetime
    source: Source
    asked_at: datetime
    baselined_at: datetime | None
    run_id: int | None = None

    def mutes(self, seen: PaymentSeen) -> bool:
        """Whether a payment seen for the first time is history."""
        if self.baselined_at is None:
            return True
        return seen.created_at is not None and seen.created_at <= self.baselined_at


async def pull_payments(tools: Tools, account: Account, row: AccountRow, run: RunRow, *, lock: str) -> PaymentWalk:
    """Walk the provider's payments, where it has any and the account wants them. Provider errors become `problem`."""
    source = account.provider
    walk = PaymentWalk()
    if not account.payments or not isinstance(source, PaymentSource):
        return walk
    async with tools.db.read() as conn:
        past = await find_payment_walk(conn, row.id)
        customers = await payer_ids(conn, row.id)
    pages = source.payments(None if past is None else past.watermark - OVERLAP, customers)
    baselined_at = None if past is None else past.baselined_at
    try:
        while walk.problem is None:
            async with tools.db.read() as conn:
                asked_at = await db_now(conn)
            page = await anext(pages, None)
            if page is None:
                break
            till = Till(run.now_at, Source.PULL, asked_at, baselined_at, run.id)
            async with tools.db.write() as conn:
                await fence(conn, lock, run.token)
                await _store_page(conn, row.id, page, till, walk)
            tools.progress("payments", walk.rows, None)
            if tools.stopping():
                walk.problem, walk.interrupted = INTERRUPTED, True
    except ProviderError as error:
        walk.problem = str(error)
    if walk.problem is None:
        await _finish(tools, row, run, Till(run.now_at, Source.TIME, run.asked_at, baselined_at, run.id), walk, lock)
    return walk


async def reread_payment(
    tools: Tools, account: Account, row: AccountRow, ext_id: str, now: datetime, *, source: Source
) -> PaymentWalk | None:
    """Ask for one payment, because a webhook spoke of it, and store it; None for a 404. Raises `ProviderError`."""
    provider = account.provider
    if not isinstance(provider, PaymentSource):
        raise UnsupportedError(f"{account.provider_name} cannot read payment {ext_id}")
    async with tools.db.read() as conn:
        asked_at = await db_now(conn)
        past = await find_payment_walk(conn, row.id)
    seen = await provider.payment(ext_id)
    if seen is None:
        return None
    walk = PaymentWalk()
    till = Till(now, source, asked_at, None if past is None else past.baselined_at)
    async with tools.db.write() as conn:
        await _store_page(conn, row.id, PaymentPage((seen,)), till, walk)
    return walk


async def _store_page(conn: AsyncConnection, account_id: int, page: PaymentPage, till: Till, walk: PaymentWalk) -> None:
    walk.rows += len(page.rows) + len(page.bad)
    walk.bad += len(page.bad)
    await put_in_quarantine(conn, account_id, page.bad, till.now)
    # lists are newest first; the ledger tells what happened first before what came of it
    rows = list(page.rows)
    rows.reverse()
    rows.sort(key=lambda seen: seen.provider_updated_at or seen.created_at or till.now)
    await _observe(conn, account_id, {seen.ext_id: seen for seen in rows}, till, walk)


async def _observe(
    conn: AsyncConnection, account_id: int, page: dict[str, PaymentSeen], till: Till, walk: PaymentWalk
) -> None:
    stored = await load_payments(conn, account_id, page, lock=True)
    fresh = {ext_id: seen for ext_id, seen in page.items() if ext_id not in stored}
    inserted = await insert_payments(conn, account_id, [_new_row(account_id, seen, till) for seen in fresh.values()])
    walk.new += len(inserted)
    events = [
        _event_row(account_id, row_id, 1, None, fresh[ext_id], verdict, till)
        for ext_id, row_id in inserted.items()
        if (verdict := _first_verdict(fresh[ext_id], till)).event is not None
    ]
    changed = []
    for ext_id, seen in page.items():
        before = stored.get(ext_id)
        if before is None or seen == before.seen or _outdated(before, seen, till):
            continue
        verdict = judge_payment(before.seen.status, before.next_look_at, seen, till.now)
        changed.append(_changed_row(before, seen, verdict, till))
        if verdict.event is not None:
            events.append(_event_row(account_id, before.id, before.seq + 1, before.seen, seen, verdict, till))
    walk.changed += len(changed)
    walk.events += len(events)
    await update_payments(conn, changed)
    await append_payment_events(conn, events)
    late = {ext_id: seen for ext_id, seen in fresh.items() if ext_id not in inserted}
    if late:  # another transaction inserted them a moment ago: they are known now
        await _observe(conn, account_id, late, till, walk)


async def _finish(tools: Tools, row: AccountRow, run: RunRow, till: Till, walk: PaymentWalk, lock: str) -> None:
    """Tell of what has been pending for long, which no page brings as a change, and move the watermark."""
    while True:
        async with tools.db.write() as conn:
            await fence(conn, lock, run.token)
            due = await payments_to_look_at(conn, row.id, till.now, LOOKS_AT_ONCE)
            if not due:
                await note_payment_walk(conn, row.id, run.bound_at)
                return
            await _look(conn, row.id, due, till)
        walk.events += len(due)


async def _look(conn: AsyncConnection, account_id: int, due: Sequence[StoredPayment], till: Till) -> None:
    events, rows = [], []
    for one in due:
        verdict = judge_payment(one.seen.status, one.next_look_at, one.seen, till.now)
        rows.append(_changed_row(one, one.seen, verdict, replace(till, asked_at=one.asked_at)))
        events.append(_event_row(account_id, one.id, one.seq + 1, one.seen, one.seen, verdict, till))
    await update_payments(conn, rows)
    await append_payment_events(conn, events)


def _outdated(before: StoredPayment, seen: PaymentSeen, till: Till) -> bool:
    """Older never overwrites newer: the vendor's own time first; if equal or unknown, when we asked."""
    ours, theirs = before.seen.provider_updated_at, seen.provider_updated_at
    if ours is not None and theirs is not None and ours != theirs:
        return theirs < ours
    return till.asked_at < before.asked_at


def _first_verdict(seen: PaymentSeen, till: Till) -> Verdict:
    verdict = judge_payment(None, None, seen, till.now)
    return replace(verdict, event=None) if till.mutes(seen) else verdict


def _new_row(account_id: int, seen: PaymentSeen, till: Till) -> dict[str, Any]:
    verdict = _first_verdict(seen, till)
    return {
        "account_id": account_id,
        **seen_values(seen),
        "first_asked_at": till.asked_at,
        "asked_at": till.asked_at,
        "seq": int(verdict.event is not None),
        "next_look_at": verdict.next_look_at,
    }


def _changed_row(before: StoredPayment, seen: PaymentSeen, verdict: Verdict, till: Till) -> dict[str, Any]:
    return {
        "row_id": before.id,
        **seen_values(seen),
        "asked_at": till.asked_at,
        "seq": before.seq + (verdict.event is not None),
        "next_look_at": verdict.next_look_at,
    }


def _event_row(
    account_id: int,
    payment_id: int,
    seq: int,
    before: PaymentSeen | None,
    seen: PaymentSeen,
    verdict: Verdict,
    till: Till,
) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "payment_id": payment_id,
        "seq": seq,
        "kind": verdict.event,
        "old": None if before is None else before.status,
        "new": seen.status,
        "source": till.source,
        "run_id": till.run_id,
        "at": till.now,
        "asked_at": till.asked_at,
        "evidence_at": seen.provider_updated_at,
    }
