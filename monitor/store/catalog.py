"""What the mails name beside the subscription: products, currencies; and whom we must not mail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import CurrencySeen, ProductSeen
from monitor.store.bulk import one_of
from monitor.store.inserting import insert_into
from monitor.store.schema import currencies, products, suppressions

_PRODUCT = ("ext_id", "name", "price_usd", "frequency", "payment_link", "active")
_CURRENCY = tuple(f.name for f in fields(CurrencySeen) if f.name not in {"name", "test"})


async def write_products(conn: AsyncConnection, account_id: int, seen: Sequence[ProductSeen]) -> None:
    """Insert or bring up to date."""
    await _upsert(conn, products, account_id, [{name: getattr(one, name) for name in _PRODUCT} for one in seen])


async def write_currencies(conn: AsyncConnection, account_id: int, seen: Sequence[CurrencySeen]) -> None:
    """Insert or bring up to date."""
    await _upsert(conn, currencies, account_id, [{name: getattr(one, name) for name in _CURRENCY} for one in seen])


async def load_products(conn: AsyncConnection, account_id: int) -> dict[str, ProductSeen]:
    """All products by vendor id."""
    statement = select(products).where(products.c.account_id == account_id)
    return {
        row.ext_id: ProductSeen(**{name: row._mapping[name] for name in _PRODUCT})
        for row in await conn.execute(statement)
    }


async def load_currencies(conn: AsyncConnection, account_id: int) -> dict[str, CurrencySeen]:
    """All tokens by vendor id."""
    statement = select(currencies).where(currencies.c.account_id == account_id)
    return {
        row.ext_id: CurrencySeen(**{name: row._mapping[name] for name in _CURRENCY})
        for row in await conn.execute(statement)
    }


async def suppress(
    conn: AsyncConnection, account_id: int, mac: str, *, scope: str, reason: str, by: str, at: datetime
) -> bool:
    """Never mail this address again in this scope (`all` or `reminders`); False when it was so already."""
    made = await conn.execute(
        insert_into(conn, suppressions)
        .values(account_id=account_id, address_mac=mac, scope=scope, reason=reason, by=by, at=at)
        .on_conflict_do_nothing(index_elements=["account_id", "address_mac", "scope"])
        .returning(suppressions.c.id),
    )
    return made.scalar_one_or_none() is not None


async def unsuppress(conn: AsyncConnection, account_id: int, mac: str) -> int:
    """Lift every suppression of this address; returns how many there were."""
    done = await conn.execute(
        delete(suppressions).where(suppressions.c.account_id == account_id, suppressions.c.address_mac == mac),
    )
    return done.rowcount


async def suppressed(conn: AsyncConnection, account_id: int, macs: Sequence[str]) -> dict[str, set[str]]:
    """The scopes in which these addresses must not be mailed."""
    statement = select(suppressions.c.address_mac, suppressions.c.scope).where(
        suppressions.c.account_id == account_id, one_of(conn, suppressions.c.address_mac, macs)
    )
    found: dict[str, set[str]] = {}
    for row in await conn.execute(statement):
        found.setdefault(row.address_mac, set()).add(row.scope)
    return found


async def _upsert(conn: AsyncConnection, table: Any, account_id: int, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = insert_into(conn, table)
    moving = {name: insert.excluded[name] for name in rows[0] if name != "ext_id"}
    await conn.execute(
        insert.on_conflict_do_update(index_elements=["account_id", "ext_id"], set_=moving),
        [{"account_id": account_id, **row} for row in rows],
    )
