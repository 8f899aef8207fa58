"""A stage for flow tests, on each database in turn."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from monitor.sandbox.world import World
from tests.harness import Stage, staged


@pytest.fixture
async def play(database_url, tmp_path):
    """`stage = await play(world)`: everything between the world and its mail catcher, closed after the test."""
    async with AsyncExitStack() as stack:

        async def begin(world: World, **how) -> Stage:
            return await stack.enter_async_context(staged(world, database_url, tmp_path / "var", **how))

        yield begin
