"""Notices in the outbox: mails that belong to a payment, or to a new subscription, and to no episode."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import distinct, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.intents import NO_ADDRESS, SUPERSEDED
from monitor.domain.model import Kind, NotificationState
from monitor.domain.payments import PaymentStatus
from monitor.store.bulk import one_of
from monitor.store.ledger import approved_mails
from monitor.store.outbox import WAITING, restage, stage
from monitor.store.payments import StoredPayment, read_payment
from monitor.store.schema import notifications, payment_events, payments, subscriptions

_ANOTHER_TRY = (PaymentStatus.CREATED, PaymentStatus.PENDING, PaymentStatus.SUCCEEDED)
_NOT_TOLD = (NotificationState.VOIDED, NotificationState.FAILED)
_MOVING = ("batch_id", "variant", "urgency", "rank", "due_at", "not_after", "next_try_at")


async def stage_notices(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write notices, staged or voided; returns how many are to be sent.

    One that is there stays as it is, unless it was voided for a reason that has passed: then it is staged again.
    """
    if not rows:
        return 0
    ids = [row["id"] for row in rows]
    there = set((await conn.execute(select(notifications.c.id).where(notifications.c.id.in_(ids)))).scalars())
    fresh = [row for row in rows if row["id"] not in there]
    await stage(conn, fresh)
    staged = len([row for row in fresh if row["state"] == NotificationState.STAGED])
    for row in rows:
        if row["id"] in there and row["state"] == NotificationState.STAGED:
            staged += await restage(conn, row["id"], **{name: row[name] for name in _MOVING})
    return staged


async def void_overtaken(conn: AsyncConnection, moved: Iterable[tuple[int, PaymentStatus, Kind | None]]) -> int:
    """Void what still waits of each (payment, its status now, the kind that tells of that). Returns how many.

    Locked first, in the order of their ids, as every gate and delivery does: nobody waits for another in a circle.
    """
    count = 0
    n, news = notifications.c, list(moved)
    if not news:
        return 0
    theirs = one_of(conn, n.payment_id, [payment_id for payment_id, *_ in news])
    waiting = select(n.id).where(theirs, n.state.in_(WAITING)).order_by(n.id)
    await conn.execute(waiting.with_for_update(key_share=True))
    for payment_id, status, kind in news:
        untrue = [n.payment_id == payment_id, n.state.in_(WAITING)] + ([] if kind is None else [n.kind != kind])
        done = await conn.execute(
            update(notifications)
            .where(*untrue)
            .values(state=NotificationState.VOIDED, reason=SUPERSEDED, why=f"the payment is {status.value} now"),
        )
        count += done.rowcount
    return count


async def unaddressed(conn: AsyncConnection, account_id: int, now: datetime) -> list[tuple[str, str]]:
    """(id, customer) of the notices that were voided for want of an address and are still worth sending."""
    n = notifications.c
    statement = select(n.id, n.customer_key).where(
        n.account_id == account_id,
        n.episode_id.is_(None),
        n.state == NotificationState.VOIDED,
        n.reason == NO_ADDRESS,
        n.not_after > now,
    )
    return sorted((row.id, row.customer_key) for row in await conn.execute(statement))


async def payments_by_row(conn: AsyncConnection, ids: Collection[int]) -> dict[int, StoredPayment]:
    """Payments by their row ids."""
    if not ids:
        return {}
    statement = select(payments).where(one_of(conn, payments.c.id, ids))
    return {row.id: read_payment(row) for row in await conn.execute(statement)}


async def tried_again(conn: AsyncConnection, account_id: int, those: Collection[StoredPayment]) -> set[int]:
    """Row ids of those whose customer has tried again: a later payment of the same order has succeeded or is open.

    A failed try is made good by the payment that it was a try at, once that is paid or waits for the chain: that it is
    open says nothing. Two people may have orders of one number.
    """
    orders = {one.seen.reference for one in those if one.seen.reference}
    tried = {one.seen.of_ext_id for one in those if one.seen.of_ext_id}
    p = payments.c
    wanted = [p.account_id == account_id, p.status.in_(_ANOTHER_TRY)]
    columns = (p.id, p.ext_id, p.reference, p.customer_ext_id, p.created_at)
    made_good = select(*columns).where(*wanted, p.ext_id.in_(list(tried)), p.status != PaymentStatus.CREATED)
    again = select(*columns).where(*wanted, p.reference.in_(list(orders)))
    paid = {row.ext_id for row in await conn.execute(made_good)} if tried else set()
    others = list(await conn.execute(again)) if orders else []
    return {one.id for one in those if one.seen.of_ext_id in paid or any(_is_later(one, row) for row in others)}


def _is_later(one: StoredPayment, other: Any) -> bool:
    seen = one.seen
    if other.id == one.id or (other.reference, other.customer_ext_id) != (seen.reference, seen.customer_ext_id):
        return False
    return seen.created_at is None or other.created_at is None or other.created_at >= seen.created_at


async def all_clears(conn: AsyncConnection, subscription_ids: Collection[int]) -> dict[int, list[datetime]]:
    """When the all-clears of these subscriptions were planned that went, or still may."""
    if not subscription_ids:
        return {}
    n = notifications.c
    statement = select(n.subscription_id, n.created_at).where(
        one_of(conn, n.subscription_id, subscription_ids), n.kind == Kind.RECOVERED, n.state.not_in(_NOT_TOLD)
    )
    found: dict[int, list[datetime]] = {}
    for row in await conn.execute(statement):
        found.setdefault(row.subscription_id, []).append(row.created_at)
    return found


async def subscription_rows(conn: AsyncConnection, account_id: int, ext_ids: Collection[str]) -> dict[str, int]:
    """The row ids of the subscriptions that are known among these."""
    if not ext_ids:
        return {}
    s = subscriptions.c
    statement = select(s.ext_id, s.id).where(s.account_id == account_id, s.ext_id.in_(list(ext_ids)))
    return {row.ext_id: row.id for row in await conn.execute(statement)}


async def count_one_off(conn: AsyncConnection, account_id: int, since: datetime) -> int:
    """One-off payments and failed tries at any that were made since then."""
    p = payments.c
    statement = select(func.count()).where(
        p.account_id == account_id, p.created_at >= since, p.subscription_ext_id.is_(None)
    )
    return int((await conn.execute(statement)).scalar_one())


async def payments_by_class(conn: AsyncConnection, account_id: int, since: datetime) -> dict[str, int]:
    """Distinct payments by class of event after `since`, all sources, minus those that an operator approved."""
    e = payment_events.c
    statement = (
        select(e.kind, func.count(distinct(e.payment_id)))
        .where(
            e.account_id == account_id,
            e.at > since,
            e.payment_id.not_in(approved_mails(account_id, notifications.c.payment_id)),
        )
        .group_by(e.kind)
    )
    return {row[0]: int(row[1]) for row in await conn.execute(statement)}
