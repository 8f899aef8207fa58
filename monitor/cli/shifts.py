"""The daemon of one process: one crew after another, as settings are read again; the pages stay up meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from monitor.cli import console
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.config.slots import several_a_day
from monitor.errors import MonitorError
from monitor.log import configure_logging
from monitor.metrics import Meter
from monitor.schedule.crew import Crew
from monitor.schedule.daemon import STOP_WITHIN_S, Daemon, jobs
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.wiring.keys import loaded_secrets
from monitor.wiring.process import Wiring, wired


class Shifts:
    """SIGHUP ends one shift and begins the next; a stop ends the last."""

    def __init__(self, config: Path | None, stop: Stop) -> None:
        """Nothing is read yet."""
        self._config = config
        self._stop = stop
        self._meter = Meter()
        self._site: Site | None = None
        self._wake = asyncio.Event()
        self._reload = False

    async def work(self, serve_at: str | None) -> None:
        """Until the stop. Raises what makes the settings unusable at the start."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        stopping = asyncio.create_task(self._hear_stop())
        shift = await _Shift.begin(self._config, self._stop, self._meter)
        try:
            async with self._pages(shift, serve_at):
                while not self._stop():
                    shift = await self._one(shift)
        finally:
            await shift.end()
            stopping.cancel()
            loop.remove_signal_handler(signal.SIGHUP)
        structlog.get_logger().info("daemon_stopped")

    @asynccontextmanager
    async def _pages(self, shift: _Shift, serve_at: str | None) -> AsyncIterator[None]:
        if serve_at is None:
            yield
            return
        self._site = shift.site(self._meter)
        async with served(build_app(self._site), serve_at, proxies=shift.proxies) as address:
            structlog.get_logger().info("serving", at=address)
            yield

    async def _one(self, shift: _Shift) -> _Shift:
        """Let this crew work until the stop or a reload; returns who works next."""
        async with shift.at_work():
            following = await self._following(shift)
        if following is not shift:
            before = None if self._site is None else self._site.hooks
            if self._site is not None:
                site = following.site(self._meter)
                self._site.db, self._site.watched, self._site.hooks = site.db, site.watched, site.hooks
            if before is not None:
                await before.inbox.aclose()
            await shift.end()
            structlog.get_logger().info("settings_reloaded")
        return following

    async def _following(self, shift: _Shift) -> _Shift:
        """Wait for a stop, or for a hang-up with settings that can be used: bad ones are told, and nothing changes."""
        while not self._stop():
            if self._reload:
                self._reload = False
                try:
                    return await _Shift.begin(self._config, self._stop, self._meter)
                except MonitorError as error:
                    structlog.get_logger().error("settings_kept", why=str(error))
            await self._wake.wait()
            self._wake.clear()
        return shift

    def _hang_up(self) -> None:
        self._reload = True
        self._wake.set()

    async def _hear_stop(self) -> None:
        await self._stop.asked.wait()
        self._wake.set()


class _Shift:
    """One crew with everything it works with, between two reloads."""

    def __init__(self, wiring: Wiring, crew: Crew, stack: AsyncExitStack, end: asyncio.Event) -> None:
        """`end` is what `stopping` of the wiring looks at; `stack` closes the wiring."""
        self._wiring = wiring
        self._crew = crew
        self._stack = stack
        self._end = end

    @classmethod
    async def begin(cls, config: Path | None, stop: Stop, meter: Meter) -> _Shift:
        """Read the settings and wire everything. Raises what makes them unusable; then nothing is left open."""
        settings = console.read_settings(config)
        configure_logging(level="info", secrets=loaded_secrets(settings))
        end = asyncio.Event()
        async with AsyncExitStack() as stack:
            opening = wired(settings, stopping=lambda: stop() or end.is_set(), sleep=stop.sleep, meter=meter)
            wiring = await stack.enter_async_context(opening)
            crew = wiring.crew()
            kept = stack.pop_all()
        for name, account in settings.accounts.items():
            if several_a_day(account.schedule):
                structlog.get_logger().warning("schedule_once_a_day", account=name, schedule=account.schedule)
        return cls(wiring, crew, kept, end)

    def site(self, meter: Meter) -> Site:
        """What the pages speak of during this shift."""
        wiring = self._wiring
        hooks = wiring.hooks(self._crew.readers.call)
        return Site(wiring.db, wiring.watched(), wiring.tools.clock, meter, hooks)

    @property
    def proxies(self) -> tuple[str, ...]:
        """Who may say for whom a request came."""
        return self._wiring.settings.web.proxies

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The jobs run while the block does."""
        crew, clock = self._crew, SystemClock()
        now = clock.now()
        planned = jobs(
            self._wiring.watched(),
            runs=crew.see_to_runs,
            mails=crew.see_to_mails,
            hooks=crew.readers.see_to_all,
            watch=crew.watch,
            tidy=crew.tidy,
            now=now,
        )
        async with Daemon(planned, clock):
            structlog.get_logger().info("daemon_works", accounts=len(crew.charges))
            yield

    async def end(self) -> None:
        """Stop cleanly, or after 25 seconds not so cleanly; then close everything. Idempotent."""
        self._end.set()
        if not await self._crew.close(STOP_WITHIN_S):
            structlog.get_logger().warning("stopped_in_the_middle", advice="the next start goes on from there")
        await self._stack.aclose()
