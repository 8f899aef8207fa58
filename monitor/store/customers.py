"""Customers that are read or imported apart from their subscriptions: who is stale, whose address is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import NotificationState
from monitor.store.bulk import by_keys
from monitor.store.inserting import insert_into
from monitor.store.schema import customers, notifications, subscriptions

AT_ONCE = 500


async def stale_customers(conn: AsyncConnection, account_id: int, read_before: datetime) -> list[str]:
    """Ids of customers that were last read before then or never, the longest unread first; erased ones aside."""
    c = customers.c
    statement = (
        select(c.ext_id)
        .where(c.account_id == account_id, c.erased_at.is_(None))
        .where(or_(c.read_at.is_(None), c.read_at < read_before))
        .order_by(c.read_at.is_not(None), c.read_at, c.id)
    )
    return list((await conn.execute(statement)).scalars())


async def awaited_customers(conn: AsyncConnection, account_id: int, read_before: datetime) -> list[str]:
    """Ids of customers whom a mail is about to go to and who were last read before then."""
    c, n = customers.c, notifications.c
    statement = (
        select(c.ext_id)
        .where(c.account_id == account_id, c.erased_at.is_(None))
        .where(or_(c.read_at.is_(None), c.read_at < read_before))
        .where(
            exists().where(
                n.account_id == account_id,
                n.customer_key == c.ext_id,
                n.state.in_((NotificationState.STAGED.value, NotificationState.READY.value)),
            )
        )
        .order_by(c.id)
    )
    return list((await conn.execute(statement)).scalars())


async def mark_read(conn: AsyncConnection, account_id: int, ext_ids: Sequence[str], at: datetime) -> None:
    """These customers are fresh as of `at`."""
    c = customers.c
    await conn.execute(
        update(customers).where(c.account_id == account_id, c.ext_id.in_(list(ext_ids))).values(read_at=at)
    )


async def load_customers(conn: AsyncConnection, account_id: int, ext_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Stored customers by vendor id."""
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(ext_ids), AT_ONCE):
        some = list(ext_ids[start : start + AT_ONCE])
        statement = select(customers).where(customers.c.account_id == account_id, customers.c.ext_id.in_(some))
        found |= {row.ext_id: row for row in await conn.execute(statement)}
    return found


async def insert_customers(conn: AsyncConnection, account_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """New customers; one that is there already by now stays as it is."""
    if rows:
        await conn.execute(
            insert_into(conn, customers).on_conflict_do_nothing(index_elements=["account_id", "ext_id"]),
            [{"account_id": account_id, "deleted": False, **row} for row in rows],
        )


async def lock_subscriptions_of(conn: AsyncConnection, account_id: int, ext_ids: Collection[str]) -> None:
    """Hold what these customers subscribe to, in the order of its ids, before they are changed.

    Whoever observes locks subscriptions first and then their customers: the other way round both would wait for ever.
    """
    s = subscriptions.c
    theirs = by_keys(conn, customers, account_id, ext_ids, customers.c.id)
    await conn.execute(select(s.id).where(s.customer_id.in_(theirs)).order_by(s.id).with_for_update(key_share=True))


async def change_customer(conn: AsyncConnection, row_id: int, now: datetime, **values: object) -> None:
    """Set columns of one customer, and have their subscriptions judged again: a mail may have waited for it."""
    await conn.execute(update(customers).where(customers.c.id == row_id).values(**values))
    await conn.execute(
        update(subscriptions).where(subscriptions.c.customer_id == row_id).values(next_look_at=now),
    )


async def count_without_address(conn: AsyncConnection, account_id: int) -> int:
    """How many known customers cannot be mailed."""
    c = customers.c
    statement = select(func.count()).where(
        c.account_id == account_id, c.email.is_(None), c.deleted.is_(False), c.erased_at.is_(None)
    )
    return int((await conn.execute(statement)).scalar_one())
