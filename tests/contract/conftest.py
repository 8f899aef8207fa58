"""A migrated database for store tests, each database in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from sqlalchemy import text

from monitor.store.engine import Database
from tests.harness import unsynced


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    db = unsynced(Database(database_url))
    yield db
    await db.aclose()


@pytest.fixture
def held_up(store: Database) -> Callable[[int, str], AbstractAsyncContextManager[None]]:
    """Let so many transactions wait for what an SQL statement holds before any of them goes on.

    SQLite has one writer at a time anyway.
    """

    @asynccontextmanager
    async def hold(waiting: int, sql: str) -> AsyncIterator[None]:
        count = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with store.engine.connect() as gate:
            await gate.execute(text(sql))
            yield
            async with asyncio.timeout(20):
                while not store.is_sqlite:
                    async with store.read() as conn:
                        if (await conn.execute(count)).scalar_one() >= waiting:
                            break
                    await asyncio.sleep(0.01)
            await gate.rollback()

    return hold
