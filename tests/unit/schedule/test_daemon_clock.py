"""A clock that is set back must not put the daemon to sleep until its old hour comes round again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from monitor.clock import SystemClock
from monitor.config.crontab import cron_trigger
from monitor.schedule.daemon import Daemon, Job, each_minute


def noting(name: str, called: list[str]) -> Callable[[], Awaitable[None]]:
    async def duty() -> None:
        called.append(name)

    return duty


async def called_after_looking(looks: int, **triggers: object) -> list[str]:
    """Which jobs of these triggers were called, after so many looks at the clock and in no time of the machine's."""
    called: list[str] = []
    done = asyncio.Event()

    async def a_minute(seconds: float) -> None:
        nonlocal looks
        assert seconds == 60
        if looks == 0:
            done.set()
            await asyncio.Event().wait()
        looks -= 1

    planned = [Job(name, trigger, noting(name, called)) for name, trigger in triggers.items()]
    async with Daemon(planned, SystemClock(), sleep=a_minute):
        await done.wait()
        await asyncio.sleep(0.02)  # the scheduler hands out what is due in its own turn
    return sorted(called)


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1), timedelta(days=3650)])
async def test_what_was_planned_by_a_clock_that_ran_ahead_is_called_at_once(ahead):
    now = datetime.now(UTC)
    triggers = {"mail": each_minute(now + ahead), "hooks": each_minute(now + ahead), "other": each_minute(now)}
    assert await called_after_looking(2, **triggers) == ["hooks", "mail"]


async def test_a_clock_that_is_right_changes_nothing():
    now = datetime.now(UTC)
    yearly = cron_trigger(f"0 0 {(now - timedelta(days=3)):%d %m} *", UTC)
    assert await called_after_looking(3, mail=each_minute(now), yearly=yearly) == []
