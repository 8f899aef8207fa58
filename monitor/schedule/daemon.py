"""Every job of the daemon on one page. It receives callables; when they are called does not decide what they do.

| job         | when                                    | late                            |
|-------------|-----------------------------------------|---------------------------------|
| run <name>  | the account's schedule, in its own zone | any lateness, once              |
| catch up    | every minute, and at the start          | any lateness, once              |
| mail        | every minute, and at the start          | any lateness, once              |
| hooks       | every minute, and at the start          | any lateness, once; each webhook also calls by itself |
| watch       | every 5 minutes, and at the start       | any lateness, once              |
| tidy        | 03:17 UTC                               | any lateness, once; else at the next one |

A clock that is set back would let every job wait until its old hour comes round again, so the next times are looked at
every minute too.

No job store: what was missed is decided from the `runs` table (`config.slots`), so that a restart, a suspended machine
and a second daemon come to the same. "catch up" also is what wakes after a suspension, when timers run late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped] # version 3 has no types
from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped] # version 3 has no types
from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped] # version 3 has no types
from apscheduler.triggers.interval import IntervalTrigger  # type: ignore[import-untyped] # version 3 has no types

from monitor.clock import Clock
from monitor.config.crontab import cron_trigger
from monitor.errors import MonitorError
from monitor.usecases.watch import Watched

EVERY = timedelta(seconds=60)
WATCH_EVERY = timedelta(minutes=5)
STOP_WITHIN_S = 25.0
Duty = Callable[[], Awaitable[None]]
Sleep = Callable[[float], Awaitable[object]]
_JITTER = timedelta(seconds=1)
"""What a clock may be set back by while it is kept right, without a word."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is called when. `at_start`: also as soon as the daemon stands."""

    name: str
    trigger: BaseTrigger
    duty: Duty
    at_start: bool = False


def jobs(
    accounts: Iterable[Watched],
    *,
    runs: Duty,
    mails: Duty,
    hooks: Duty,
    watch: Duty,
    tidy: Duty,
    now: datetime,
    every: timedelta = EVERY,
    watch_every: timedelta = WATCH_EVERY,
) -> tuple[Job, ...]:
    """All jobs, counted from `now`."""
    return (
        *(Job(f"run {one.name}", cron_trigger(one.schedule, one.zone), runs) for one in accounts),
        Job("catch up", _each(every, now), runs, at_start=True),
        Job("mail", _each(every, now), mails, at_start=True),
        Job("hooks", _each(every, now), hooks, at_start=True),
        Job("watch", _each(watch_every, now), watch, at_start=True),
        Job("tidy", CronTrigger(hour=3, minute=17, timezone=UTC), tidy),
    )


class Daemon:
    """The jobs on a scheduler in the running loop: `async with Daemon(jobs, clock): ...`."""

    def __init__(self, planned: Iterable[Job], clock: Clock, *, sleep: Sleep = asyncio.sleep) -> None:
        """Nothing is called before the block begins. `sleep` waits between looks at the clock, whatever it shows."""
        self._clock = clock
        self._sleep = sleep
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
        )
        for job in planned:
            first: dict[str, Any] = {"next_run_time": clock.now()} if job.at_start else {}
            self._scheduler.add_job(_call, job.trigger, args=[job], id=job.name, name=job.name, **first)

    async def __aenter__(self) -> None:
        self._scheduler.start()
        self._looking = asyncio.create_task(self._look_at_the_clock())

    async def __aexit__(self, *_error: object) -> None:
        self._looking.cancel()
        self._scheduler.shutdown(wait=False)  # duties only hand out work; whoever does it is closed apart

    async def _look_at_the_clock(self) -> None:
        while True:
            await self._sleep(EVERY.total_seconds())
            now = self._clock.now()
            stuck = [
                job
                for job in self._scheduler.get_jobs()
                if job.next_run_time > job.trigger.get_next_fire_time(now, now) + _JITTER  # as if it were called now
            ]
            for job in stuck:
                job.modify(next_run_time=now)
            if stuck:
                structlog.get_logger().warning("clock_set_back", jobs=[job.name for job in stuck])


async def _call(job: Job) -> None:
    """An error that has a name is one line of the log, not a traceback a minute: the next call may find it mended."""
    try:
        await job.duty()
    except MonitorError as error:
        structlog.get_logger().error("job_failed", job=job.name, error=f"{type(error).__name__}: {error}")


def each_minute(now: datetime) -> BaseTrigger:
    """Every minute, counted from `now`."""
    return _each(EVERY, now)


def _each(every: timedelta, now: datetime) -> IntervalTrigger:
    return IntervalTrigger(seconds=int(every.total_seconds()), start_date=now + every, timezone=UTC)
