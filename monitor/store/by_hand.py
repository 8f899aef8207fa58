"""The transitions of single mails that only a person makes: hold, release, retry. Each leaves a row in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BatchState, NotificationState
from monitor.store.batches import PLANNED
from monitor.store.schema import attempts, batches, notifications

S = NotificationState
BY_HAND = "by_hand"
RELEASABLE = (BY_HAND, "per_address")
PHASE = "operator"
"""The phase of an `attempts` row that is no attempt, but a decision about this mail."""
_AFTER_RELEASE: Mapping[BatchState, tuple[NotificationState, str | None]] = {
    BatchState.OPEN: (S.READY, None),
    BatchState.COLLECTING: (S.STAGED, None),
    BatchState.HELD: (S.HELD, "guard"),
}
"""Where a mail goes by the state of its batch; nothing of a rejected one is ever released."""


async def find_mail(conn: AsyncConnection, notification_id: str) -> Row[Any] | None:
    """What decides about a person's wish: state, reason, account, batch with its state, `not_after`, address."""
    n = notifications.c
    statement = (
        select(n.id, n.account_id, n.batch_id, n.state, n.reason, n.not_after, n.copies, n.address_mac)
        .add_columns(batches.c.state.label("batch_state"))
        .join(batches, batches.c.id == n.batch_id)
        .where(n.id == notification_id)
    )
    return (await conn.execute(statement)).one_or_none()


async def hold_mail(conn: AsyncConnection, notification_id: str, why: str) -> bool:
    """Ready | staged -> held by hand; out of a held plan too, whose hash then changes."""
    n = notifications.c
    waits = or_(n.state.in_((S.READY, S.STAGED)), and_(n.state == S.HELD, n.reason.in_(PLANNED)))
    return bool(await _hold(conn, and_(n.id == notification_id, waits), why))


async def hold_waiting(conn: AsyncConnection, account_id: int, why: str) -> list[str]:
    """Everything of an account that would leave by itself is held by hand; returns the ids."""
    n = notifications.c
    return await _hold(conn, and_(n.account_id == account_id, n.state.in_((S.READY, S.STAGED))), why)


async def batches_held_by_hand(conn: AsyncConnection, account_id: int) -> list[int]:
    """The batches of mails that a person holds, in order."""
    n = notifications.c
    statement = select(n.batch_id).where(n.account_id == account_id, n.state == S.HELD, n.reason == BY_HAND).distinct()
    return sorted((await conn.execute(statement)).scalars())


async def release_mail(
    conn: AsyncConnection, notification_id: str, batch_state: BatchState, now: datetime
) -> NotificationState | None:
    """Held for its own reason -> where its batch is: ready, staged, or back in the held plan; None: it was not held.

    Of a mail that always waits for an operator the release is the decision, once the guard has opened its batch.
    """
    reasons = (*RELEASABLE, "operator_decides") if batch_state is BatchState.OPEN else RELEASABLE
    which = and_(notifications.c.id == notification_id, notifications.c.reason.in_(reasons))
    return _AFTER_RELEASE[batch_state][0] if await _release(conn, which, batch_state, now) else None


async def release_by_hand(conn: AsyncConnection, batch_id: int, batch_state: BatchState, now: datetime) -> list[str]:
    """The same for everything of a batch that a person holds; returns the ids."""
    n = notifications.c
    return await _release(conn, and_(n.batch_id == batch_id, n.reason == BY_HAND), batch_state, now)


async def retry_mail(conn: AsyncConnection, notification_id: str, now: datetime) -> bool:
    """Failed -> ready, with all its tries again."""
    n = notifications.c
    done = await conn.execute(
        update(notifications)
        .where(n.id == notification_id, n.state == S.FAILED)
        .values(state=S.READY, reason=None, why=None, tries=0, poisoned=0, next_try_at=now),
    )
    return done.rowcount == 1


async def note_decisions(conn: AsyncConnection, ids: Sequence[str], outcome: str, by: str, now: datetime) -> None:
    """Who decided what about these mails, beside their attempts."""
    if ids:
        row: Mapping[str, Any] = {"copy": 0, "token": 0, "phase": PHASE, "outcome": outcome, "detail": by, "at": now}
        await conn.execute(insert(attempts), [{"notification_id": one, **row} for one in ids])


async def _release(
    conn: AsyncConnection, which: ColumnElement[bool], batch_state: BatchState, now: datetime
) -> list[str]:
    if batch_state not in _AFTER_RELEASE:
        return []
    state, reason = _AFTER_RELEASE[batch_state]
    done = await conn.execute(
        update(notifications)
        .where(which, notifications.c.state == S.HELD)
        .values(state=state, reason=reason, why=None, next_try_at=now)
        .returning(notifications.c.id),
    )
    return sorted(done.scalars())


async def _hold(conn: AsyncConnection, which: ColumnElement[bool], why: str) -> list[str]:
    done = await conn.execute(
        update(notifications).where(which).values(state=S.HELD, reason=BY_HAND, why=why).returning(notifications.c.id),
    )
    return sorted(done.scalars())
