"""A plain good way: one kept AsyncClient, pydantic, one bulk upsert a page. It detects no change, decides nothing.

python -m benchmarks.sync_good BASE KEY DATABASE_URL
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from sqlalchemy import Boolean, Column, DateTime, MetaData, String, Table, Text
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.measure import tell, timed

_At = DateTime(timezone=True)
metadata = MetaData()
subscriptions = Table(
    "good_subscriptions",
    metadata,
    Column("uuid", String(100), primary_key=True),
    Column("status", String(30)),
    Column("action_required", String(30)),
    Column("customer_uuid", String(100)),
    Column("email", Text),
    Column("name", Text),
    Column("product_uuid", String(100)),
    Column("price_usd", String(40)),
    Column("allowance", String(80)),
    Column("max_amount_per_period", String(80)),
    Column("created_at", _At),
    Column("updated_at", _At),
    Column("current_period_end", _At),
    Column("last_billing_date", _At),
    Column("next_billing_date", _At),
    Column("test", Boolean),
)


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class Customer(_Wire):
    name: str | None = None
    email: str | None = None


class Subscription(_Wire):
    uuid: str
    status: str
    action_required: str | None = None
    customer_uuid: str | None = None
    customer: Customer | None = None
    product_uuid: str | None = None
    price_usd: str | None = None
    allowance: str | None = None
    max_amount_per_period: str | None = None
    created_at: datetime
    updated_at: datetime
    current_period_end: datetime | None = None
    last_billing_date: datetime | None = None
    next_billing_date: datetime | None = None
    test: bool = False


class Page(_Wire):
    items: list[Subscription]
    next_cursor: str | None = None


def values_of(row: Subscription) -> dict[str, Any]:
    """The table's columns of one row."""
    values = {name: value for name, value in row if name != "customer"}
    customer = row.customer or Customer()
    return values | {"email": customer.email, "name": customer.name}


async def sync(base: str, key: str, engine: AsyncEngine) -> int:
    """Every page, one statement each. Returns the rows read."""
    build = postgres_insert if engine.dialect.name == "postgresql" else sqlite_insert
    insert = build(subscriptions)
    others = [column.name for column in subscriptions.c if column.name != "uuid"]
    upsert = insert.on_conflict_do_update(
        index_elements=["uuid"], set_={name: insert.excluded[name] for name in others}
    )
    cursor, count = None, 0
    async with httpx.AsyncClient(base_url=base, headers={"X-API-Key": key}) as client:
        while True:
            params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            response = await client.get("/v2/transaction/subscriptions", params=params)
            response.raise_for_status()
            page = Page.model_validate_json(response.content)
            async with engine.begin() as conn:
                await conn.execute(upsert, [values_of(row) for row in page.items])
            count += len(page.items)
            cursor = page.next_cursor
            if not cursor:
                return count


async def main(base: str, key: str, url: str) -> None:
    """Make the table, then time the walk."""
    url = url.replace("postgresql://", "postgresql+psycopg://").replace("sqlite://", "sqlite+aiosqlite://")
    engine = create_async_engine(url)
    async with engine.begin() as conn:
        await conn.run_sync(metadata.create_all)
    with timed() as took:
        count = await sync(base, key, engine)
    await engine.dispose()
    tell(count, took)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
