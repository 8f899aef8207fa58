"""What one run brought, for people: its events and its mails, counted or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BatchState, NotificationState
from monitor.store.schema import batches, customers, events, notifications, payments, products, subscriptions

_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events of one kind a run wrote."""

    kind: str
    new: str | None
    cause: str | None
    count: int


@dataclass(frozen=True, slots=True)
class MailCount:
    """How many mails of one kind ended alike. `reason` is the rule, where one decided."""

    kind: str
    state: NotificationState
    reason: str | None
    count: int


@dataclass(frozen=True, slots=True)
class MailSummary:
    """One mail with whom it is for."""

    id: str
    kind: str
    variant: str
    state: NotificationState
    reason: str | None
    why: str | None
    next_try_at: datetime
    subscription: str | None
    payment: str | None
    product: str | None
    name: str | None
    last_name: str | None
    address: str | None
    message_id: str | None


@dataclass(frozen=True, slots=True)
class HeldMails:
    """Mails of one batch that wait for a person. `whole`: the guard holds the batch; else they are held one by one."""

    batch_id: int
    whole: bool
    mails: int


async def events_of_run(conn: AsyncConnection, run_id: int) -> list[EventCount]:
    """The run's events by kind, new value and cause; most frequent first."""
    e = events.c
    statement = (
        select(e.kind, e.new, e.cause, func.count().label("n"))
        .where(e.run_id == run_id)
        .group_by(e.kind, e.new, e.cause)
        .order_by(func.count().desc(), e.kind)
    )
    return [EventCount(row.kind, row.new, row.cause, int(row.n)) for row in await conn.execute(statement)]


async def mails_counted(conn: AsyncConnection, batch_id: int | None, ids: Sequence[str]) -> list[MailCount]:
    """The mails of a batch, and those with `ids`, by kind, state and rule."""
    n = notifications.c
    found: dict[tuple[str, str, str | None], int] = {}
    for chosen in _chosen(batch_id, ids):
        statement = (
            select(n.kind, n.state, n.reason, func.count().label("n")).where(chosen).group_by(n.kind, n.state, n.reason)
        )
        for row in await conn.execute(statement):
            key = (row.kind, row.state, row.reason)
            found[key] = found.get(key, 0) + int(row.n)
    return [
        MailCount(kind, NotificationState(state), reason, count)
        for (kind, state, reason), count in sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
    ]


async def mails_one_by_one(conn: AsyncConnection, batch_id: int | None, ids: Sequence[str]) -> list[MailSummary]:
    """The mails of a batch, and those with `ids`, most pressing first."""
    n, s, c, p = notifications.c, subscriptions.c, customers.c, payments.c
    rows: list[Any] = []
    for chosen in _chosen(batch_id, ids):
        statement = (
            select(
                n.id,
                n.kind,
                n.variant,
                n.state,
                n.reason,
                n.why,
                n.next_try_at,
                s.ext_id.label("subscription"),
                p.ext_id.label("payment"),
                products.c.name.label("product"),
                c.name,
                c.last_name,
                c.email.label("address"),
                n.message_id,
                n.rank,
            )
            .outerjoin(subscriptions, s.id == n.subscription_id)
            .outerjoin(payments, p.id == n.payment_id)
            .outerjoin(customers, (c.account_id == n.account_id) & (c.ext_id == n.customer_key))
            .outerjoin(
                products,
                (products.c.account_id == n.account_id)
                & (products.c.ext_id == func.coalesce(s.product_ext_id, p.product_ext_id)),
            )
            .where(chosen)
        )
        rows += (await conn.execute(statement)).all()
    rows.sort(key=lambda row: (row.rank, row.kind, row.variant, row.id))
    return [_mail(row) for row in rows]


async def held_waiting(conn: AsyncConnection, account_id: int) -> list[HeldMails]:
    """What waits for a person, by batch, oldest first."""
    n = notifications.c
    statement = (
        select(n.batch_id, batches.c.state, func.count().label("n"))
        .join(batches, batches.c.id == n.batch_id)
        .where(n.account_id == account_id, n.state == NotificationState.HELD, batches.c.state != BatchState.REJECTED)
        .group_by(n.batch_id, batches.c.state)
        .order_by(n.batch_id)
    )
    return [HeldMails(row.batch_id, row.state == BatchState.HELD, int(row.n)) for row in await conn.execute(statement)]


async def is_customer(conn: AsyncConnection, mac: str) -> bool:
    """Whether this address belongs to a customer of any account."""
    found = await conn.execute(select(customers.c.id).where(customers.c.address_mac == mac).limit(1))
    return found.one_or_none() is not None


def _chosen(batch_id: int | None, ids: Sequence[str]) -> list[ColumnElement[bool]]:
    """Conditions that name each mail once: the batch, then the others by id."""
    n = notifications.c
    parts: list[ColumnElement[bool]] = [] if batch_id is None else [n.batch_id == batch_id]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        listed = n.id.in_(list(ids[start : start + _IDS_AT_ONCE]))
        parts.append(listed if batch_id is None else listed & or_(n.batch_id != batch_id))
    return parts


def _mail(row: Any) -> MailSummary:
    return MailSummary(
        id=row.id,
        kind=row.kind,
        variant=row.variant,
        state=NotificationState(row.state),
        reason=row.reason,
        why=row.why,
        next_try_at=row.next_try_at,
        subscription=row.subscription,
        payment=row.payment,
        product=row.product,
        name=row.name,
        last_name=row.last_name,
        address=row.address,
        message_id=row.message_id,
    )
