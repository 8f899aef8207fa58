"""Payments as stored: what was seen, what happened to them, and how far the newest complete walk came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, func, insert, or_, select, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Cause
from monitor.domain.payments import PaymentKind, PaymentSeen, PaymentStatus
from monitor.store.bulk import insert_new
from monitor.store.inserting import insert_into
from monitor.store.schema import (
    accounts,
    batches,
    currencies,
    customers,
    notifications,
    payment_events,
    payment_walks,
    payments,
    products,
)
from monitor.store.views import Filter

_MOST_STORIES = 20
_SEEN = tuple(field.name for field in fields(PaymentSeen) if field.name != "customer")


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment and where its story stands."""

    id: int
    seen: PaymentSeen
    asked_at: datetime
    seq: int
    next_look_at: datetime | None


@dataclass(frozen=True, slots=True)
class PaymentWalkRow:
    """What was made by `baselined_at` is history; `watermark`: when the newest complete walk began.

    History that is read in slices goes on at `history_mark`, until `history_ended_at`.
    """

    baselined_at: datetime
    watermark: datetime
    history_mark: str | None = None
    history_ended_at: datetime | None = None


async def load_payments(
    conn: AsyncConnection, account_id: int, ext_ids: Iterable[str], *, lock: bool = False
) -> dict[str, StoredPayment]:
    """The known ones of these, by vendor id; with `lock`, locked in the order of their row ids."""
    statement = select(payments).where(payments.c.account_id == account_id, payments.c.ext_id.in_(list(ext_ids)))
    if lock:
        statement = statement.with_for_update()
    return {row.ext_id: read_payment(row) for row in await conn.execute(statement.order_by(payments.c.id))}


async def payments_to_look_at(
    conn: AsyncConnection, account_id: int, now: datetime, limit: int, *, lock: bool = True
) -> list[StoredPayment]:
    """Payments whose look has come, in order; with `lock`, locked."""
    statement = (
        select(payments)
        .where(payments.c.account_id == account_id, payments.c.next_look_at <= now)
        .order_by(payments.c.id)
        .limit(limit)
    )
    if lock:
        statement = statement.with_for_update()
    return [read_payment(row) for row in await conn.execute(statement)]


async def postpone_look(conn: AsyncConnection, row_id: int, until: datetime) -> None:
    """Look at this one later."""
    await conn.execute(update(payments).where(payments.c.id == row_id).values(next_look_at=until))


async def insert_payments(conn: AsyncConnection, account_id: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Insert rows with the same keys; returns the row ids of those that nobody else inserted meanwhile."""
    if not rows:
        return {}
    return await insert_new(conn, payments, account_id, tuple(rows[0]), [tuple(row.values()) for row in rows])


async def update_payments(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write new values; each row has the same keys and `row_id`."""
    if not rows:
        return
    names = [name for name in rows[0] if name != "row_id"]
    statement = update(payments).where(payments.c.id == bindparam("row_id"))
    await conn.execute(
        statement.values({name: bindparam(f"new_{name}") for name in names}),
        [{"row_id": row["row_id"], **{f"new_{name}": row[name] for name in names}} for row in rows],
    )


async def append_payment_events(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write events; a second one of the same (payment, seq) is an error: the row lock was not held."""
    if rows:
        await conn.execute(insert(payment_events), list(rows))


async def payer_ids(conn: AsyncConnection, account_id: int) -> tuple[str, ...]:
    """The vendor's ids of all customers known, from contacts and from payments, in order."""
    known = select(customers.c.ext_id).where(customers.c.account_id == account_id)
    paid = select(payments.c.customer_ext_id).where(
        payments.c.account_id == account_id, payments.c.customer_ext_id.is_not(None)
    )
    return tuple(sorted((await conn.execute(union(known, paid))).scalars()))


async def find_payment_walk(conn: AsyncConnection, account_id: int) -> PaymentWalkRow | None:
    """How far the newest complete walk came; None before the first."""
    columns = [payment_walks.c[field.name] for field in fields(PaymentWalkRow)]
    row = (await conn.execute(select(*columns).where(payment_walks.c.account_id == account_id))).one_or_none()
    return None if row is None else PaymentWalkRow(*row)


async def note_payment_walk(conn: AsyncConnection, account_id: int, began_at: datetime) -> None:
    """A walk that began then was complete."""
    statement = insert_into(conn, payment_walks).values(
        account_id=account_id, baselined_at=began_at, watermark=began_at
    )
    await conn.execute(statement.on_conflict_do_update(index_elements=["account_id"], set_={"watermark": began_at}))


async def note_history(conn: AsyncConnection, account_id: int, **values: Any) -> None:
    """How far the history is read: `history_mark`, `history_ended_at`."""
    await conn.execute(update(payment_walks).where(payment_walks.c.account_id == account_id).values(**values))


async def list_payments(conn: AsyncConnection, wanted: Filter) -> list[Row[Any]]:
    """Payments with their token, newest first; `kind` and `state` (the status) narrow, `subscription` too."""
    p, c = payments.c, currencies.c
    created = p.created_at
    statement = (
        select(accounts.c.name.label("account"), c.symbol, c.decimals, *p)
        .select_from(payments)
        .join(accounts, accounts.c.id == p.account_id)
        .outerjoin(currencies, (c.account_id == p.account_id) & (c.ext_id == p.currency))
    )
    narrowed = (
        (accounts.c.name, wanted.account),
        (p.kind, wanted.kind),
        (p.status, wanted.state),
        (p.subscription_ext_id, wanted.subscription),
    )
    for column, value in narrowed:
        if value is not None:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(created >= wanted.since)
    order = (created.desc().nulls_last(), p.id.desc())
    return list(await conn.execute(statement.order_by(*order).limit(wanted.limit + 1)))


async def payment_stories(conn: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, list[Row[Any]]]:
    """What happened to these, oldest first."""
    e = payment_events.c
    stories: dict[int, list[Row[Any]]] = {}
    for row in await conn.execute(select(payment_events).where(e.payment_id.in_(list(payment_ids))).order_by(e.id)):
        stories.setdefault(row.payment_id, []).append(row)
    return stories


def seen_values(seen: PaymentSeen) -> dict[str, Any]:
    """The columns of what was seen."""
    return {name: getattr(seen, name) for name in _SEEN}


def read_payment(row: Row[Any]) -> StoredPayment:
    """A row of `payments` in our words."""
    values = {name: row._mapping[name] for name in _SEEN}
    values["kind"], values["status"] = PaymentKind(row.kind), PaymentStatus(row.status)
    values["cause"] = Cause(row.cause) if row.cause else None
    return StoredPayment(row.id, PaymentSeen(**values), row.asked_at, row.seq, row.next_look_at)


async def find_payments(
    conn: AsyncConnection, asked: str, macs: Sequence[str], mail: str | None, account: str | None
) -> list[Row[Any]]:
    """Every payment of no subscription that this may mean, newest first: its id, its order, its mail, its customer.

    Of a customer only those that something happened to, the newest of them.
    """
    p, c, k = payments.c, currencies.c, customers.c
    of_mail = select(notifications.c.payment_id).where(notifications.c.id == mail)
    told = select(payment_events.c.payment_id).where(payment_events.c.payment_id == p.id).correlate(payments)
    address = or_(func.lower(k.email) == asked.lower(), k.address_mac.in_(list(macs)))
    statement = (
        select(
            *p,
            accounts.c.name.label("account"),
            accounts.c.time_travel,
            k.email,
            c.symbol,
            c.decimals,
            products.c.name.label("product"),
        )
        .select_from(payments)
        .join(accounts, accounts.c.id == p.account_id)
        .outerjoin(customers, (k.account_id == p.account_id) & (k.ext_id == p.customer_ext_id))
        .outerjoin(currencies, (c.account_id == p.account_id) & (c.ext_id == p.currency))
        .outerjoin(products, (products.c.account_id == p.account_id) & (products.c.ext_id == p.product_ext_id))
        .where(
            p.subscription_ext_id.is_(None),
            or_(p.ext_id == asked, p.reference == asked, p.id.in_(of_mail), and_(address, told.exists())),
        )
        .order_by(p.created_at.desc().nulls_last(), p.id.desc())
        .limit(_MOST_STORIES)
    )
    if account is not None:
        statement = statement.where(accounts.c.name == account)
    return list(await conn.execute(statement))


async def mails_of_payment(conn: AsyncConnection, payment_id: int) -> list[Row[Any]]:
    """The notifications about this payment with their batch, oldest first."""
    n, b = notifications.c, batches.c
    statement = (
        select(
            *n,
            b.state.label("batch_state"),
            b.reason.label("batch_reason"),
            b.decided_by,
            b.decided_at,
            b.valid_until,
        )
        .join(batches, b.id == n.batch_id)
        .where(n.payment_id == payment_id)
        .order_by(n.created_at, n.due_at, n.id)
    )
    return list(await conn.execute(statement))


async def mails_about(conn: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, list[Any]]:
    """Id, kind, state and rule of the mails about each of these payments."""
    n = notifications.c
    statement = select(n.payment_id, n.id, n.kind, n.state, n.reason, n.sent_at).where(
        n.payment_id.in_(list(payment_ids))
    )
    found: dict[int, list[Any]] = {}
    for row in await conn.execute(statement.order_by(n.created_at, n.id)):
        found.setdefault(row.payment_id, []).append(row)
    return found
