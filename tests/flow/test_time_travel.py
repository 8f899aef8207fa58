"""A test account may travel through time, and only forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from monitor.errors import ConfigError
from monitor.sandbox.seeding import healthy

MORNING = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


async def test_a_run_before_the_newest_one_is_refused_and_changes_nothing(play):
    stage = await play(healthy(20, start=MORNING))
    await stage.run(at=MORNING + timedelta(days=2))
    with pytest.raises(ConfigError, match=r"--now: 2026-04-02 .* time goes forward only"):
        await stage.run(at=MORNING + timedelta(days=1))
    row = await stage.row()
    assert row.time_travel == timedelta(days=2)


async def test_the_same_instant_and_a_later_one_are_fine(play):
    stage = await play(healthy(20, start=MORNING))
    for day in (0, 0, 1):
        assert (await stage.run(at=MORNING + timedelta(days=day))).outcome == "complete"
