"""A migrated database for store tests, each database in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from monitor.store.engine import Database
from tests.harness import unsynced


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    db = unsynced(Database(database_url))
    yield db
    await db.aclose()
