"""A stage for flow tests, on each database in turn."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from monitor.sandbox.world import World
from tests.harness import Stage, staged

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace what runs on both databases on SQLite only: traced, a test takes twice as long.

    The marker `traced` names the few whose lines SQLite never runs.
    """
    for item in items:
        on = item.callspec.params.get("database_url") if hasattr(item, "callspec") else None
        if HERE in item.path.parents and on == "postgres" and not item.get_closest_marker("traced"):
            item.add_marker("no_cover")


@pytest.fixture
async def play(database_url, tmp_path):
    """`stage = await play(world)`: everything between the world and its mail catcher, closed after the test."""
    async with AsyncExitStack() as stack:

        async def begin(world: World, **how) -> Stage:
            return await stack.enter_async_context(staged(world, database_url, tmp_path / "var", **how))

        yield begin
