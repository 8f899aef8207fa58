"""The outbox machine while mails wait: every change names the state it expects and reports how many rows obeyed.

docs/architecture.md draws it. Nothing here commits; a transition whose row is in another state by now simply does
nothing. `transit` has the states of a mail that is on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Integer,
    String,
    Text,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from monitor.domain.intents import REVIVABLE
from monitor.domain.model import BatchState, Kind, NotificationState
from monitor.domain.records import MailRecord
from monitor.store.bulk import one_of
from monitor.store.given import ROWS, as_json, given_rows
from monitor.store.inserting import insert_into
from monitor.store.schema import attempts, batches, notifications, templates
from monitor.store.types import Instant

S = NotificationState
_ATTEMPT: dict[str, TypeEngine[Any]] = {
    "notification_id": String(),
    "copy": Integer(),
    "token": Integer(),
    "phase": String(),
    "code": Integer(),
    "enhanced": String(),
    "outcome": String(),
    "detail": Text(),
    "at": Instant(),
}
WAITING = (S.STAGED, S.HELD, S.READY)


def in_states(*states: NotificationState) -> ColumnElement[bool]:
    """The mail is in one of these states, written out: SQLite uses a partial index only for words that it can read.

    The order is the index's own (`ready, ambiguous`; `claimed, in_data`).
    """
    words: BindParameter[list[str]] = bindparam(
        None, [state.value for state in states], expanding=True, literal_execute=True
    )
    return notifications.c.state.in_(words)


async def stage(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write notifications, staged or voided; returns how many are new. The same step twice is one row."""
    if not rows:
        return 0
    statement = insert_into(conn, notifications).on_conflict_do_nothing().returning(notifications.c.id)
    return len((await conn.execute(statement, list(rows))).all())


async def restage(conn: AsyncConnection, notification_id: str, *, held_for: str | None = None, **values: Any) -> bool:
    """Voided -> staged, or held for an operator, for a step that was never sent and whose episode came back."""
    done = await conn.execute(
        update(notifications)
        .where(
            notifications.c.id == notification_id,
            notifications.c.state == S.VOIDED,
            notifications.c.reason.in_(REVIVABLE | {"baseline"}),
            notifications.c.copies == 0,
        )
        .values(state=S.STAGED if held_for is None else S.HELD, reason=held_for, why=None, **values),
    )
    return done.rowcount == 1


async def void_episodes(conn: AsyncConnection, closing: Sequence[tuple[str, str]]) -> int:
    """Void what still waits of each (episode, reason): it is not true any more. A mail on its way is left alone.

    Locked in the order of their ids, as every gate and delivery does: nobody waits for another in a circle.
    """
    if not closing:
        return 0
    n, reasons = notifications.c, dict(closing)
    waiting = (
        select(n.id, n.episode_id)
        .where(one_of(conn, n.episode_id, reasons), n.state.in_(WAITING))
        .order_by(n.id)
        .with_for_update(key_share=True)
    )
    found = (await conn.execute(waiting)).all()
    for reason in {reasons[row.episode_id] for row in found}:
        ids = [row.id for row in found if reasons[row.episode_id] == reason]
        await conn.execute(
            update(notifications)
            .where(one_of(conn, n.id, ids), n.state.in_(WAITING))
            .values(state=S.VOIDED, reason=reason),
        )
    return len(found)


async def mails_of(conn: AsyncConnection, subscription_ids: Sequence[int]) -> dict[int, list[MailRecord]]:
    """What the outbox holds of these subscriptions."""
    if not subscription_ids:
        return {}
    n = notifications.c
    statement = select(
        n.subscription_id, n.id, n.episode_id, n.step, n.customer_key, n.kind, n.state, n.reason, n.sent_at
    ).where(n.subscription_id.in_(list(subscription_ids)))
    found: dict[int, list[MailRecord]] = {}
    for row in await conn.execute(statement):
        record = MailRecord(
            row.id,
            row.episode_id,
            row.step,
            row.customer_key,
            Kind(row.kind),
            S(row.state),
            row.reason,
            row.sent_at,
        )
        found.setdefault(row.subscription_id, []).append(record)
    return found


async def void(conn: AsyncConnection, notification_id: str, reason: str, why: str | None = None) -> bool:
    """Staged | held | ready -> voided, with the rule that says so."""
    done = await conn.execute(
        update(notifications)
        .where(notifications.c.id == notification_id, notifications.c.state.in_(WAITING))
        .values(state=S.VOIDED, reason=reason, why=why),
    )
    return done.rowcount == 1


async def hold(conn: AsyncConnection, notification_id: str, reason: str) -> bool:
    """Ready | staged -> held: only a person lets it go."""
    done = await conn.execute(
        update(notifications)
        .where(notifications.c.id == notification_id, notifications.c.state.in_((S.READY, S.STAGED)))
        .values(state=S.HELD, reason=reason),
    )
    return done.rowcount == 1


async def snooze(conn: AsyncConnection, notification_id: str, until: datetime, reason: str) -> bool:
    """Ready -> ready, later; no try is counted."""
    done = await conn.execute(
        update(notifications)
        .where(notifications.c.id == notification_id, notifications.c.state.in_((S.READY, S.AMBIGUOUS)))
        .values(next_try_at=until, reason=reason),
    )
    return done.rowcount == 1


async def poison(
    conn: AsyncConnection, notification_id: str, *, again: datetime | None, poisoned: int, why: str
) -> bool:
    """Ready -> ready later, or failed: this mail cannot be made."""
    values: dict[str, Any] = {"poisoned": poisoned, "reason": "poisoned", "why": why}
    values |= {"state": S.FAILED} if again is None else {"next_try_at": again}
    done = await conn.execute(
        update(notifications)
        .where(notifications.c.id == notification_id, notifications.c.state == S.READY)
        .values(**values),
    )
    return done.rowcount == 1


async def keep_template(conn: AsyncConnection, digest: str, files: str) -> None:
    """Keep the words of this version, which a resend must repeat. Idempotent."""
    await conn.execute(insert_into(conn, templates).values(hash=digest, files=files).on_conflict_do_nothing())


async def record_attempts(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what happened at the server; insert-only, so a fenced-off worker's late news is kept too."""
    if rows:
        await conn.execute(_record(conn.dialect.name), {ROWS: as_json(rows)})


async def ready_ids(
    conn: AsyncConnection, account_id: int, now: datetime, limit: int, skip: Iterable[str] = ()
) -> list[str]:
    """What may leave now, most pressing first, longest due first; never a row of a batch that is not open."""
    n = notifications.c
    statement = (
        select(n.id)
        .join(batches, batches.c.id == n.batch_id)
        .where(
            n.account_id == account_id,
            in_states(S.READY, S.AMBIGUOUS),
            n.next_try_at <= now,
            batches.c.state == BatchState.OPEN,
            ~one_of(conn, n.id, list(skip)),
        )
        .order_by(n.rank, n.due_at, n.id)
        .limit(limit)
    )
    return list((await conn.execute(statement)).scalars())


@cache
def _record(dialect: str) -> Insert:
    given = given_rows(dialect, _ATTEMPT)
    return insert(attempts).from_select(list(_ATTEMPT), select(*given.c))
