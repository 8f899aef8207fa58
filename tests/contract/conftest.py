"""A migrated database for store tests, each database in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from monitor.store.engine import Database


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url)
    yield db
    await db.aclose()
