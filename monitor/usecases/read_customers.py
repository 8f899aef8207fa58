"""Read the customers that subscriptions name, for an API whose subscriptions carry none.

What was read is good for a day, but not where a mail is about to go: those are read in every run. Many stale ones
are read by pages of all customers, a few one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.domain.model import CustomerSeen
from monitor.errors import ProviderError
from monitor.providers.base import KnownReader, Provider
from monitor.store.accounts import AccountRow
from monitor.store.customers import awaited_customers, mark_read, stale_customers
from monitor.store.engine import db_now
from monitor.store.subscriptions import upsert_customers
from monitor.usecases.budget import Budget
from monitor.usecases.context import Tools

FRESH_FOR = timedelta(hours=24)
SINGLY = 20
"""So many stale customers are read one by one; more of them by pages of a hundred first."""
AT_ONCE = 100


@dataclass(slots=True)
class CustomersRead:
    """How many were read. `problem`: why some were not."""

    read: int = 0
    problem: str | None = None


async def read_customers(
    tools: Tools, provider: Provider, row: AccountRow, reader: KnownReader, budget: Budget, since: datetime
) -> CustomersRead:
    """Bring stale customers up to date, and those with a mail before them that were read before `since`.

    An error of the API costs what it has not told yet.
    """
    done = CustomersRead()
    async with tools.db.read() as conn:
        now = await db_now(conn)
        stale = await stale_customers(conn, row.id, now - FRESH_FOR)
    try:
        if len(stale) > SINGLY:
            await _by_pages(tools, row, reader, budget, now, stale, done)
        async with tools.db.read() as conn:
            stale = await stale_customers(conn, row.id, now - FRESH_FOR)
            stale = list(dict.fromkeys([*await awaited_customers(conn, row.id, since), *stale]))
        await _singly(tools, provider, row, budget, now, stale, done)
    except ProviderError as error:
        done.problem = str(error)
    return done


async def _by_pages(
    tools: Tools,
    row: AccountRow,
    reader: KnownReader,
    budget: Budget,
    now: datetime,
    stale: Sequence[str],
    done: CustomersRead,
) -> None:
    wanted = set(stale)
    used: set[str | None] = set()
    cursor: str | None = None
    while wanted and cursor not in used and budget.allows() and not tools.stopping():
        used.add(cursor)
        page = await reader.customers(cursor)
        await _write(tools, row, now, [one for one in page.rows if one.ext_id in wanted], done)
        wanted.difference_update(one.ext_id for one in page.rows)
        cursor = page.next_cursor
        if cursor is None or not page.size:
            return


async def _singly(
    tools: Tools,
    provider: Provider,
    row: AccountRow,
    budget: Budget,
    now: datetime,
    stale: Sequence[str],
    done: CustomersRead,
) -> None:
    seen: list[CustomerSeen] = []
    for n, ext_id in enumerate(stale):
        if tools.stopping() or not budget.allows():
            done.problem = f"{len(stale) - n} customers were not read (daily_requests, or the run was stopped)"
            break
        # a customer whom the API does not know is not mailed any more; the next reading takes that back
        seen.append(await provider.customer(ext_id) or CustomerSeen(ext_id, deleted=True))
        if len(seen) >= AT_ONCE:
            await _write(tools, row, now, seen, done)
            seen = []
    await _write(tools, row, now, seen, done)


async def _write(
    tools: Tools, row: AccountRow, now: datetime, seen: Sequence[CustomerSeen], done: CustomersRead
) -> None:
    async with tools.db.write() as conn:
        await upsert_customers(conn, row.id, {one.ext_id: _values(tools, one) for one in seen})
        await mark_read(conn, row.id, [one.ext_id for one in seen], now)
    done.read += len(seen)


def _values(tools: Tools, seen: CustomerSeen) -> dict[str, object]:
    if seen.deleted:
        return {"deleted": True}
    values: dict[str, object] = {
        "name": seen.name,
        "last_name": seen.last_name,
        "reference": seen.reference,
        "deleted": False,
    }
    if seen.email:  # where the API has none, an imported one stays
        values |= {"email": seen.email, "address_mac": tools.address_mac(seen.email)}
    return values
