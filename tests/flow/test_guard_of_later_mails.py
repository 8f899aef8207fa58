"""The guard and mails that come due after the change they tell of: what was too much then is too much a day later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from tests.harness import Stage

pytestmark = pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
FAILED = "payment_failed:insufficient_balance"
WAITS = "payment_failed:other"
"""The vendor tries again by itself, so the first mail waits a day."""


async def baselined(play, size: int = 100) -> Stage:
    stage = await play(healthy(size, start=START))
    assert (await stage.run()).outcome == "complete"
    stage.world.advance(MINUTE)
    return stage


async def days_later(stage: Stage, days: int) -> int:
    """Mails that left in these days, a run each."""
    sent = 0
    for _ in range(days):
        stage.world.advance(DAY + MINUTE)
        await stage.run()
        sent += (await stage.deliver()).sent
    return sent


@pytest.mark.parametrize(("changed", "held"), [(20, False), (21, True)])
async def test_a_mass_change_whose_mails_wait_a_day_is_held_then(play, changed, held):
    stage = await baselined(play)
    cause(stage.world, {WAITS: changed})
    await stage.run()
    assert (await stage.deliver()).sent == 0
    stage.world.advance(DAY + MINUTE)
    report = await stage.run()
    assert report.outcome == ("held" if held else "complete")
    assert (await stage.deliver()).sent == (0 if held else changed)


async def test_nobody_is_reminded_of_a_mail_that_still_waits_for_a_decision(play):
    stage = await baselined(play)
    cause(stage.world, {FAILED: 21})
    assert (await stage.run()).outcome == "held"
    assert await days_later(stage, 6) == 0


async def test_what_was_let_go_is_reminded_without_another_decision(play):
    stage = await baselined(play)
    cause(stage.world, {FAILED: 20})
    assert (await stage.run()).outcome == "complete"
    assert (await stage.deliver()).sent == 20
    assert await days_later(stage, 5) == 20
