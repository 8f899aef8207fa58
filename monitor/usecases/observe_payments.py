"""Store what was seen of payments, what happened to each, and the notices that this is worth: in one transaction.

As `observe` does it for subscriptions, and inside the caller's transaction as well: a payment's state, its events and
its staged notices commit together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Kind, Source
from monitor.domain.notices import news_of
from monitor.domain.payments import (
    PaymentEvent,
    PaymentPage,
    PaymentSeen,
    Verdict,
    judge_payment,
    with_what_was_told,
)
from monitor.store.facts import put_in_quarantine
from monitor.store.notices import void_overtaken
from monitor.store.payments import (
    StoredPayment,
    append_payment_events,
    insert_payments,
    load_payments,
    seen_values,
    update_payments,
)
from monitor.usecases.context import Account, Tools
from monitor.usecases.notices import News, stage_payment_notices


@dataclass(slots=True)
class PaymentWalk:
    """What a walk brought. `problem` says why it was not complete; the next run goes over the same ground."""

    rows: int = 0
    bad: int = 0
    new: int = 0
    changed: int = 0
    events: int = 0
    staged: int = 0
    voided: int = 0
    problem: str | None = None
    interrupted: bool = False

    @property
    def figures(self) -> dict[str, int]:
        """For the run's counts; nothing where nothing was asked."""
        return {"payments": self.rows, "payment_events": self.events} if self.rows else {}


@dataclass(frozen=True, slots=True)
class Till:
    """What every row of a transaction is signed with.

    `baselined_at` None: what is seen for the first time is history. `batch_id` None: notices join the live batch.
    """

    tools: Tools
    account: Account
    account_id: int
    now: datetime
    source: Source
    asked_at: datetime
    baselined_at: datetime | None
    batch_id: int | None = None
    run_id: int | None = None
    single: bool = False
    """The payments were asked for apart: that nothing changed is news too, and a look that has come is taken."""

    def mutes(self, seen: PaymentSeen) -> bool:
        """Whether a payment seen for the first time is history."""
        if self.baselined_at is None:
            return True
        return seen.created_at is not None and seen.created_at <= self.baselined_at


@dataclass(slots=True)
class _Writing:
    """What one transaction writes beside the payments themselves."""

    changed: list[dict[str, Any]]
    events: list[dict[str, Any]]
    news: list[News]
    moved: list[tuple[int, PaymentSeen, Kind | None]]


async def store_page(conn: AsyncConnection, till: Till, page: PaymentPage, walk: PaymentWalk) -> None:
    """Write a page; `walk` counts it. A row that another transaction inserted meanwhile is observed again."""
    walk.rows += len(page.rows) + len(page.bad)
    walk.bad += len(page.bad)
    await put_in_quarantine(conn, till.account_id, page.bad, till.now)
    # lists are newest first; the ledger tells what happened first before what came of it
    rows = list(page.rows)
    rows.reverse()
    rows.sort(key=lambda seen: seen.provider_updated_at or seen.created_at or till.now)
    await _observe(conn, till, {seen.ext_id: seen for seen in rows}, walk)


async def look_again(conn: AsyncConnection, till: Till, due: Sequence[StoredPayment], walk: PaymentWalk) -> None:
    """Judge stored payments whose look has come, locked by the caller: only time has passed."""
    writing = _Writing([], [], [], [])
    for one in due:
        _judge(replace(till, asked_at=one.asked_at), one, one.seen, writing)
    await _write(conn, till, writing, walk)


async def _observe(conn: AsyncConnection, till: Till, page: Mapping[str, PaymentSeen], walk: PaymentWalk) -> None:
    stored = await load_payments(conn, till.account_id, page, lock=True)
    fresh = {ext_id: seen for ext_id, seen in page.items() if ext_id not in stored}
    verdicts = {ext_id: _first_verdict(seen, till) for ext_id, seen in fresh.items()}
    inserted = await insert_payments(
        conn, till.account_id, [_new_row(seen, verdicts[ext_id], till) for ext_id, seen in fresh.items()]
    )
    walk.new += len(inserted)
    writing = _Writing([], [], [], [])
    for ext_id, row_id in inserted.items():
        seen, verdict = fresh[ext_id], verdicts[ext_id]
        if verdict.event is not None:
            writing.events.append(_event_row(row_id, 1, None, seen, verdict.event, till))
        _tell(writing, row_id, seen, news_of(None, seen, verdict.event, till.baselined_at))
    touched = []
    for ext_id, told in page.items():
        before = stored.get(ext_id)
        if before is None or _outdated(before, told, till):
            continue
        seen = with_what_was_told(told, before.seen)
        if seen != before.seen or _is_due(before, till):
            _judge(till, before, seen, writing)
        elif till.single:
            touched.append({"row_id": before.id, "asked_at": till.asked_at})
    await update_payments(conn, touched)
    walk.changed += len(writing.changed)
    await _write(conn, till, writing, walk)
    late = {ext_id: seen for ext_id, seen in fresh.items() if ext_id not in inserted}
    if late:  # another transaction inserted them a moment ago: they are known now
        await _observe(conn, till, late, walk)


def _judge(till: Till, before: StoredPayment, seen: PaymentSeen, writing: _Writing) -> None:
    verdict = judge_payment(before.seen.status, before.next_look_at, seen, till.now)
    writing.changed.append(_changed_row(before, seen, verdict, till))
    if verdict.event is not None:
        writing.events.append(_event_row(before.id, before.seq + 1, before.seen, seen, verdict.event, till))
    kind = news_of(before.seen.status, seen, verdict.event, till.baselined_at)
    _tell(writing, before.id, seen, kind)
    if seen.status is not before.seen.status:
        writing.moved.append((before.id, seen, kind))


def _tell(writing: _Writing, payment_id: int, seen: PaymentSeen, kind: Kind | None) -> None:
    if kind is not None:
        writing.news.append(News(payment_id, seen, kind))


async def _write(conn: AsyncConnection, till: Till, writing: _Writing, walk: PaymentWalk) -> None:
    await update_payments(conn, writing.changed)
    await append_payment_events(conn, [{"account_id": till.account_id, **row} for row in writing.events])
    walk.events += len(writing.events)
    walk.voided += await void_overtaken(conn, [(row_id, seen.status, kind) for row_id, seen, kind in writing.moved])
    staged, silent = await stage_payment_notices(
        conn, till.tools, till.account, till.account_id, writing.news, till.now, till.batch_id
    )
    walk.staged += staged
    walk.voided += silent


def _is_due(before: StoredPayment, till: Till) -> bool:
    return till.single and before.next_look_at is not None and before.next_look_at <= till.now


def _outdated(before: StoredPayment, seen: PaymentSeen, till: Till) -> bool:
    """Older never overwrites newer: the vendor's own time first; if equal or unknown, when we asked."""
    ours, theirs = before.seen.provider_updated_at, seen.provider_updated_at
    if ours is not None and theirs is not None and ours != theirs:
        return theirs < ours
    return till.asked_at < before.asked_at


def _first_verdict(seen: PaymentSeen, till: Till) -> Verdict:
    verdict = judge_payment(None, None, seen, till.now)
    return replace(verdict, event=None) if till.mutes(seen) else verdict


def _new_row(seen: PaymentSeen, verdict: Verdict, till: Till) -> dict[str, Any]:
    return {
        "account_id": till.account_id,
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
    payment_id: int, seq: int, before: PaymentSeen | None, seen: PaymentSeen, event: PaymentEvent, till: Till
) -> dict[str, Any]:
    return {
        "payment_id": payment_id,
        "seq": seq,
        "kind": event,
        "old": None if before is None else before.status,
        "new": seen.status,
        # whoever looked: that it takes long is told by time alone
        "source": Source.TIME if event is PaymentEvent.PENDING_LONG else till.source,
        "run_id": till.run_id,
        "at": till.now,
        "asked_at": till.asked_at,
        "evidence_at": seen.provider_updated_at,
    }
