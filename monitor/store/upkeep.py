"""What is thrown away when it has served its time, a few rows at a time, so that nobody waits long for a lock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import RunState
from monitor.store.engine import Database
from monitor.store.schema import facts, quarantine, run_pages, runs, usages

AT_ONCE = 500


async def drop_quarantine(conn: AsyncConnection, before: datetime) -> int:
    """Delete some of the unreadable rows not seen since; returns how many."""
    old = select(quarantine.c.id).where(quarantine.c.last_at < before).limit(AT_ONCE)
    return (await conn.execute(delete(quarantine).where(quarantine.c.id.in_(old)))).rowcount


async def drop_facts(conn: AsyncConnection, before: datetime) -> int:
    """Delete some of the facts that were folded in before; one that still waits is kept. Returns how many."""
    old = select(facts.c.id).where(facts.c.done_at < before).limit(AT_ONCE)
    return (await conn.execute(delete(facts).where(facts.c.id.in_(old)))).rowcount


async def empty_pages(conn: AsyncConnection, before: datetime) -> int:
    """Forget who was seen on some of the pages of runs that ended before; their figures stay. Returns how many."""
    p = run_pages.c
    ended = select(runs.c.id).where(runs.c.ended_at < before, runs.c.state != RunState.RUNNING)
    old = select(p.run_id, p.win, p.n).where(p.run_id.in_(ended), p.seen != b"").limit(AT_ONCE)
    keys = [tuple(row) for row in await conn.execute(old)]
    if keys:
        await conn.execute(update(run_pages).where(tuple_(p.run_id, p.win, p.n).in_(keys)).values(seen=b""))
    return len(keys)


async def drop_usages(conn: AsyncConnection, before: datetime) -> int:
    """Delete some of the figures of periods that ended before; returns how many."""
    old = select(usages.c.subscription_id).where(usages.c.period_end_at < before).limit(AT_ONCE)
    return (await conn.execute(delete(usages).where(usages.c.subscription_id.in_(old)))).rowcount


async def tidy_sqlite(db: Database) -> None:
    """Write the log back into the file and renew the planner's figures. PostgreSQL does both by itself.

    A reader that stands in the way only leaves the rest for tomorrow.
    """
    if not db.is_sqlite:
        return
    async with db.engine.connect() as conn:
        driver: Any = (await conn.get_raw_connection()).driver_connection
        for pragma in ("optimize", "wal_checkpoint(TRUNCATE)"):
            await (await driver.execute(f"PRAGMA {pragma}")).close()
