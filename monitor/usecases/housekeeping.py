"""What is kept how long: personal data that no longer serves is gone after its time, and the files stay small."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.store.upkeep import drop_facts, drop_quarantine, drop_usages, empty_pages, tidy_sqlite
from monitor.usecases.context import Tools

QUARANTINE_KEPT = timedelta(days=30)
FACTS_KEPT = timedelta(days=90)
PAGES_KEPT = timedelta(days=14)
USAGES_KEPT = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Kept:
    """How many rows were deleted (quarantine, facts, usages) or emptied (pages)."""

    quarantine: int
    facts: int
    pages: int
    usages: int


async def keep_house(tools: Tools, now: datetime) -> Kept:
    """Delete what is older than its time, then tidy the file. Idempotent; each transaction is short."""
    kept = Kept(
        quarantine=await _all(tools, drop_quarantine, now - QUARANTINE_KEPT),
        facts=await _all(tools, drop_facts, now - FACTS_KEPT),
        pages=await _all(tools, empty_pages, now - PAGES_KEPT),
        usages=await _all(tools, drop_usages, now - USAGES_KEPT),
    )
    await tidy_sqlite(tools.db)
    return kept


async def _all(tools: Tools, some: Callable[[AsyncConnection, datetime], Awaitable[int]], before: datetime) -> int:
    total = 0
    while not tools.stopping():
        async with tools.db.write() as conn:
            done = await some(conn, before)
        if not done:
            break
        total += done
    return total
