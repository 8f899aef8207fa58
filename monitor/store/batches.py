"""Batches: the notifications that the guard opens or holds together, and an operator's decision about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BatchState, NotificationState
from monitor.store.inserting import insert_into
from monitor.store.schema import batches, notifications, payments, subscriptions

APPROVAL_LASTS = timedelta(hours=24)
PLANNED = ("guard", "operator_decides")
"""Why a held mail waits for the decision about its batch; a hold of any other reason is released by itself."""
S = NotificationState


@dataclass(frozen=True, slots=True)
class BatchRow:
    id: int
    account_id: int
    origin: str
    run_id: int | None
    state: BatchState
    reason: str | None
    plan_hash: str | None
    opened_at: datetime
    valid_until: datetime | None
    decided_at: datetime | None
    decided_by: str | None


_COLUMNS = tuple(batches.c[name] for name in BatchRow.__dataclass_fields__)


async def find_batch(conn: AsyncConnection, batch_id: int, *, lock: bool = False) -> BatchRow | None:
    """One batch, under its row lock with `lock` (weak enough that new mails may still refer to it)."""
    statement = select(*_COLUMNS).where(batches.c.id == batch_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    row = (await conn.execute(statement)).one_or_none()
    return None if row is None else _read(row)


async def run_batch(conn: AsyncConnection, account_id: int, run_id: int, now: datetime) -> int:
    """The batch of a run, made at its first use."""
    found = (await conn.execute(select(batches.c.id).where(batches.c.run_id == run_id))).scalar_one_or_none()
    if found is None:
        found = await _insert(conn, account_id=account_id, origin="run", run_id=run_id, now=now)
    return int(found)


async def collecting_batch(conn: AsyncConnection, account_id: int, origin: str, now: datetime) -> int:
    """The batch in which webhooks (`live`) or time (`tick`) collect now, made at its first use.

    Call it in the transaction that stages into it: no gate closes the batch before that transaction has ended, or what
    joins too late would wait for ever in a batch that is judged already.
    """
    statement = (
        select(batches.c.id)
        .where(batches.c.account_id == account_id, batches.c.origin == origin)
        .where(batches.c.state == BatchState.COLLECTING)
        .with_for_update(read=True)
    )
    fresh = insert_into(conn, batches).values(
        account_id=account_id, origin=origin, state=BatchState.COLLECTING, opened_at=now
    )
    while True:
        found = (await conn.execute(statement)).scalar_one_or_none()
        if found is not None:
            return int(found)
        await conn.execute(fresh.on_conflict_do_nothing())  # another worker may open it at this instant


async def collecting(conn: AsyncConnection, account_id: int) -> list[BatchRow]:
    """Batches that no GATE has judged yet."""
    statement = select(*_COLUMNS).where(batches.c.account_id == account_id, batches.c.state == BatchState.COLLECTING)
    return [_read(row) for row in await conn.execute(statement.order_by(batches.c.id))]


async def staged_ids(conn: AsyncConnection, batch_id: int, *, lock: bool = False) -> list[str]:
    """Ids of the notifications that the GATE of this batch would open, in order; under row locks with `lock`."""
    n = notifications.c
    statement = select(n.id).where(n.batch_id == batch_id, n.state == S.STAGED)
    if lock:
        statement = statement.order_by(n.id).with_for_update(key_share=True)
    return sorted((await conn.execute(statement)).scalars())


async def held_ids(conn: AsyncConnection, batch_id: int) -> list[str]:
    """Ids of the mails that wait for the decision about this batch, in order: the held plan."""
    return sorted((await conn.execute(select(notifications.c.id).where(_planned(batch_id)))).scalars())


async def lock_plan(conn: AsyncConnection, batch_id: int) -> list[str]:
    """The held plan, with its subscriptions and payments locked in the order of their ids, as a PAGE locks them.

    Whoever heals one of them now waits, or is waited for; so the plan stands still, and nobody blocks in a circle.
    """
    concerned = select(notifications.c.subscription_id).where(_planned(batch_id))
    statement = select(subscriptions.c.id).where(subscriptions.c.id.in_(concerned)).order_by(subscriptions.c.id)
    await conn.execute(statement.with_for_update(key_share=True))
    paid = select(notifications.c.payment_id).where(_planned(batch_id))
    told = select(payments.c.id).where(payments.c.id.in_(paid)).order_by(payments.c.id)
    await conn.execute(told.with_for_update(key_share=True))
    return await held_ids(conn, batch_id)


def plan_hash(ids: Sequence[str]) -> str:
    """What an approval is bound to: the exact set of mails."""
    return sha256("\n".join(sorted(ids)).encode()).hexdigest()


async def close_gate(
    conn: AsyncConnection,
    batch_id: int,
    *,
    opened: bool,
    reason: str | None,
    counts: Mapping[str, Any],
    now: datetime,
) -> tuple[int, str]:
    """Collecting -> open | held, and its staged rows with it; returns (rows, plan hash). Does nothing a second time."""
    await find_batch(conn, batch_id, lock=True)  # whoever stages into it at this instant ends first
    ids = await staged_ids(conn, batch_id, lock=True)  # whoever voids some of them ends first, or sees them gone on
    digest = plan_hash(ids if opened else [*ids, *await held_ids(conn, batch_id)])
    judged = await conn.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.COLLECTING)
        .values(
            state=BatchState.OPEN if opened else BatchState.HELD,
            reason=reason,
            counts=json.dumps(counts, sort_keys=True),
            plan_hash=digest,
            closed_at=now,
            valid_until=now + APPROVAL_LASTS,
        ),
    )
    if judged.rowcount != 1:
        return 0, digest
    moved = await conn.execute(
        update(notifications)
        .where(notifications.c.batch_id == batch_id, notifications.c.state == S.STAGED)
        .values(state=S.READY if opened else S.HELD, reason=None if opened else "guard"),
    )
    return moved.rowcount, digest


async def decide(conn: AsyncConnection, batch_id: int, *, approve: bool, by: str, now: datetime) -> int:
    """An operator's word about the held plan; returns how many mails moved. The caller holds the account's lock.

    A held batch becomes open or rejected. Of an open one only the mails move that always wait for an operator. Mails
    held for another reason stay when it is approved, and end with the batch when it is rejected: nothing of a rejected
    batch may ever leave.
    """
    done = await conn.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state.in_((BatchState.HELD, BatchState.OPEN)))
        .values(
            state=case(
                (batches.c.state == BatchState.OPEN, BatchState.OPEN),
                else_=BatchState.OPEN if approve else BatchState.REJECTED,
            ),
            decided_by=by,
            decided_at=now,
        )
        .returning(batches.c.state),
    )
    state = done.scalar_one_or_none()
    if state is None:
        return 0
    concerned = _planned(batch_id)
    if state == BatchState.REJECTED:
        concerned = (notifications.c.batch_id == batch_id) & (notifications.c.state == S.HELD)
    moved = await conn.execute(
        update(notifications)
        .where(concerned)
        .values(
            state=S.READY if approve else S.VOIDED,
            reason=None if approve else "rejected",
            next_try_at=now,
        ),
    )
    return moved.rowcount


async def renew_plan(conn: AsyncConnection, batch_id: int, now: datetime) -> tuple[list[str], str, datetime]:
    """What is held now becomes the plan, to be approved within a day: (ids, plan hash, valid until)."""
    ids = await held_ids(conn, batch_id)
    digest, valid_until = plan_hash(ids), now + APPROVAL_LASTS
    await conn.execute(
        update(batches).where(batches.c.id == batch_id).values(plan_hash=digest, valid_until=valid_until),
    )
    return ids, digest, valid_until


async def empty_held(conn: AsyncConnection) -> list[BatchRow]:
    """Held batches of every account in which no mail waits: one counts only while the database itself is in doubt."""
    waits = select(notifications.c.id).where(notifications.c.batch_id == batches.c.id, notifications.c.state == S.HELD)
    statement = select(*_COLUMNS).where(batches.c.state == BatchState.HELD, ~waits.correlate(batches).exists())
    return [_read(row) for row in await conn.execute(statement.order_by(batches.c.id))]


async def new_batch(conn: AsyncConnection, account_id: int, origin: str, now: datetime) -> int:
    """A batch of its own, whatever else collects."""
    return await _insert(conn, account_id=account_id, origin=origin, run_id=None, now=now)


def _planned(batch_id: int) -> ColumnElement[bool]:
    n = notifications.c
    return and_(n.batch_id == batch_id, n.state == S.HELD, n.reason.in_(PLANNED))


async def batch_size(conn: AsyncConnection, batch_id: int) -> tuple[tuple[str, int], ...]:
    """(kind, count) of the mails of this batch that would go, by kind."""
    n = notifications.c
    statement = select(n.kind, func.count()).where(n.batch_id == batch_id, n.state.in_((S.STAGED, S.HELD, S.READY)))
    return tuple((row[0], int(row[1])) for row in await conn.execute(statement.group_by(n.kind).order_by(n.kind)))


async def mails_per_day(conn: AsyncConnection, account_id: int, since: datetime) -> list[datetime]:
    """When each mail since then was sent: the guard counts them by the account's local days."""
    statement = select(notifications.c.sent_at).where(
        notifications.c.account_id == account_id, notifications.c.sent_at > since
    )
    return list((await conn.execute(statement)).scalars())


async def count_open(conn: AsyncConnection, account_id: int) -> int:
    """Mails that a gate has opened and that have not left yet: they leave today as well."""
    n = notifications.c
    on_their_way = (S.READY, S.CLAIMED, S.IN_DATA, S.AMBIGUOUS)
    statement = select(func.count()).where(n.account_id == account_id, n.state.in_(on_their_way))
    return int((await conn.execute(statement)).scalar_one())


async def _insert(conn: AsyncConnection, *, account_id: int, origin: str, run_id: int | None, now: datetime) -> int:
    made = await conn.execute(
        insert(batches)
        .values(account_id=account_id, origin=origin, run_id=run_id, state=BatchState.COLLECTING, opened_at=now)
        .returning(batches.c.id),
    )
    return int(made.scalar_one())


def _read(row: Any) -> BatchRow:
    values = dict(row._mapping)
    return BatchRow(**{**values, "state": BatchState(values["state"])})
