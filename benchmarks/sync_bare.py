"""The bound: the same rows into the same tables by the widest doors, and nothing thought about them.

    python -m benchmarks.sync_bare BASE KEY DATABASE_URL

httpx reads a page ahead, msgspec decodes, and COPY fills our own customers and subscriptions, with their constraints
and indexes, in transactions of as many pages as ours has. Nothing is compared, looked up, hashed, judged or recorded,
and a second run would fail: it tells how much of a first sync is to be had at all.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import psycopg

from benchmarks.measure import tell, timed
from monitor.usecases.pull import PAGES_PER_WRITE

_HASH = bytes(16)
_CUSTOMERS = "COPY customers (id, account_id, ext_id, email, name, deleted, address_mac) FROM STDIN"
_SUBSCRIPTIONS = (
    "COPY subscriptions (id, account_id, ext_id, customer_id, provider, status, status_raw, test, situation, seq, "
    "state_hash, raw_mark, created_at, provider_updated_at, first_asked_at, asked_at, product_ext_id, price_usd, "
    "allowance, maximum, current_period_end_at, last_billing_at, next_billing_at, wallet, raw) FROM STDIN"
)
_ACCOUNT = "INSERT INTO accounts (name, provider, mode) VALUES ('bare', 'qbitflow-v2', 'live') RETURNING id"


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """What is decoded; every other key is ignored."""


class Customer(_Wire):
    uuid: str
    name: str | None = None
    email: str | None = None


class Subscription(_Wire):
    uuid: str
    status: str
    customer: Customer
    created_at: str
    updated_at: str
    wallet: str | None = msgspec.field(name="from", default=None)
    product_uuid: str | None = None
    price_usd: str | None = None
    allowance: str | None = None
    max_amount_per_period: str | None = None
    current_period_end: str | None = None
    last_billing_date: str | None = None
    next_billing_date: str | None = None
    test: bool = False


class Page(_Wire):
    items: list[msgspec.Raw]
    next_cursor: str | None = None


_page = msgspec.json.Decoder(Page).decode
_row = msgspec.json.Decoder(Subscription).decode
_Rows = list[tuple[Any, ...]]


async def _read(base: str, key: str, pages: asyncio.Queue[Page | None]) -> None:
    cursor = None
    async with httpx.AsyncClient(base_url=base, headers={"X-API-Key": key}) as client:
        while True:
            params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            response = await client.get("/v2/transaction/subscriptions", params=params)
            page = _page(response.raise_for_status().content)
            await pages.put(page)
            cursor = page.next_cursor
            if not cursor:
                await pages.put(None)
                return


def _rows(page: Page, account: int, first: int, now: datetime) -> tuple[_Rows, _Rows]:
    """The rows of both tables."""
    owners: _Rows = []
    rows: _Rows = []
    for number, raw in enumerate(page.items, first):
        text = bytes(raw)
        one = _row(text)
        owner = one.customer
        owners.append((number, account, owner.uuid, owner.email, owner.name, False, owner.uuid[-32:]))
        rows.append((
            number, account, one.uuid, number, "qbitflow-v2", one.status, one.status, one.test, "healthy", 0,
            _HASH, _HASH, one.created_at, one.updated_at, now, now, one.product_uuid, one.price_usd,
            one.allowance, one.max_amount_per_period, one.current_period_end, one.last_billing_date,
            one.next_billing_date, one.wallet, text.decode(),
        ))  # fmt: skip
    return owners, rows


async def _copy(conn: psycopg.AsyncConnection[Any], statement: str, rows: _Rows) -> None:
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)


async def sync(base: str, key: str, conn: psycopg.AsyncConnection[Any], account: int) -> int:
    """Read and write at once. Returns the rows written."""
    pages: asyncio.Queue[Page | None] = asyncio.Queue(maxsize=2 * PAGES_PER_WRITE)
    reading = asyncio.create_task(_read(base, key, pages))
    count, last = 0, False
    while not last:
        owners: _Rows = []
        rows: _Rows = []
        now = datetime.now(UTC)
        for _ in range(PAGES_PER_WRITE):
            page = await pages.get()
            if page is None:
                last = True
                break
            more = _rows(page, account, count + len(rows) + 1, now)
            owners += more[0]
            rows += more[1]
        async with conn.transaction():
            await _copy(conn, _CUSTOMERS, owners)
            await _copy(conn, _SUBSCRIPTIONS, rows)
        count += len(rows)
    await reading
    return count


async def main(base: str, key: str, url: str) -> None:
    """Time the walk."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        found = await (await conn.execute(_ACCOUNT)).fetchone()
        assert found is not None  # RETURNING
        with timed() as took:
            count = await sync(base, key, conn, found[0])
    tell(count, took)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
