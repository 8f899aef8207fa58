"""What the daemon does for its accounts: runs that are due, mails in turns, a watchful eye, a tidy house.

Every duty may be called at any time and any number of times: what is due is decided from the ledger, never from when
somebody was called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from monitor.config.slots import due_slot
from monitor.domain.model import RunState
from monitor.errors import ConfigError, MonitorError, ProviderAuthError
from monitor.heartbeat import Heartbeat
from monitor.mail.transport import Transport
from monitor.metrics import Meter
from monitor.schedule.readers import HookReaders
from monitor.schedule.turns import Turns
from monitor.store.accounts import find_account
from monitor.store.watching import RunsSeen, most_pressing, runs_seen
from monitor.usecases.alerts import Alerts
from monitor.usecases.context import Account, Tools
from monitor.usecases.deliver import deliver_account
from monitor.usecases.housekeeping import keep_house
from monitor.usecases.letters import Mailer
from monitor.usecases.run import Run, RunOptions, RunReport
from monitor.usecases.watch import Cause, Finding, Watched, look_after

CLAIMS_A_TURN = 50
RUN_LANES = 4
MAIL_LANES = 8
AGAIN_AFTER = timedelta(minutes=5)
AGAIN_AT_MOST = timedelta(hours=1)
PARTIAL_AGAIN = timedelta(hours=1)
"""How long after a run that could not read everything it is tried again, without waiting for tomorrow."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One account as the daemon looks after it."""

    account: Account
    schedule: str
    transport: Transport
    heartbeat: Heartbeat

    @property
    def zone(self) -> ZoneInfo:
        """The zone of schedule and slots."""
        return ZoneInfo(self.account.zone)

    @property
    def watched(self) -> Watched:
        """The account as a watchman knows it."""
        return Watched(self.account.name, self.schedule, self.zone)


@dataclass(slots=True)
class _Setback:
    """Runs that ended in an error, one after another. `trouble` is for the operator to mend."""

    times: int
    at: datetime
    again_at: datetime
    trouble: str | None


class Crew:
    """The duties over a set of accounts, for as long as the settings stay as they are."""

    def __init__(
        self,
        tools: Tools,
        charges: Sequence[Charge],
        mailer: Mailer,
        *,
        state_dir: Path,
        meter: Meter,
        alerts: Alerts,
        readers: HookReaders,
    ) -> None:
        """Nothing happens yet."""
        self.readers = readers
        self.charges = {charge.account.name: charge for charge in charges}
        self._tools = tools
        self._mailer = mailer
        self._state_dir = state_dir
        self._meter = meter
        self._alerts = alerts
        self._since = tools.clock.now()
        self._setbacks: dict[str, _Setback] = {}
        self._runs = Turns("run", self._run_if_due, lanes=RUN_LANES)
        self._mails = Turns("mail", self._deliver, lanes=MAIL_LANES)

    async def see_to_runs(self) -> None:
        """Start every run that is due: on time, after a sleep, after a kill, or once more after an error."""
        self._runs.offer([name for name in self.charges if await self._due(name) is not None])

    async def see_to_mails(self) -> None:
        """Deliver what may leave, the account with the most pressing mail first."""
        async with self._tools.db.read() as conn:
            ranks = await most_pressing(conn, self._tools.clock.now())
        self._mails.offer(sorted(self.charges, key=lambda name: ranks.get(name, len(ranks) + 100)))

    async def watch(self) -> None:
        """Look for what an operator should know, and tell it."""
        now = self._tools.clock.now()
        watched = [charge.watched for charge in self.charges.values()]
        found = await look_after(self._tools.db, watched, now, since=self._since)
        found += [
            Finding(name, Cause.KEY, setback.trouble) for name, setback in self._setbacks.items() if setback.trouble
        ]
        await self._alerts.tell(found, now)

    async def tidy(self) -> None:
        """Throw away what has served its time."""
        kept = await keep_house(self._tools, self._tools.clock.now())
        structlog.get_logger().info("house_kept", quarantine=kept.quarantine, facts=kept.facts, pages=kept.pages)

    async def idle(self) -> None:
        """Wait until nothing is being done."""
        await self._runs.idle()
        await self.readers.idle()
        await self._mails.idle()

    async def close(self, seconds: float) -> bool:
        """End cleanly within `seconds`; True when nothing had to be cut off: that goes on at the next start."""
        ends = (self._runs.close(seconds), self._mails.close(seconds), self.readers.close(seconds))
        clean = await asyncio.gather(*ends)
        await asyncio.gather(*(charge.heartbeat.aclose() for charge in self.charges.values()))
        return all(clean)

    async def _due(self, name: str) -> RunOptions | None:
        """The run that this account needs now; None when it needs none."""
        charge, now = self.charges[name], self._tools.clock.now()
        setback = self._setbacks.get(name)
        if setback is not None and setback.at <= now < setback.again_at:  # earlier: the clock was set back
            return None
        async with self._tools.db.read() as conn:
            row = await find_account(conn, name)
            seen = RunsSeen() if row is None else await runs_seen(conn, row.id)
        slot = due_slot(charge.schedule, charge.zone, seen.last_slot, now)
        if slot is not None:
            return RunOptions(trigger="daemon", slot=slot.isoformat(), state_dir=self._state_dir)
        partial = seen.newest is RunState.PARTIAL and seen.newest_ended_at is not None
        if partial and seen.newest_ended_at is not None and now - seen.newest_ended_at >= PARTIAL_AGAIN:
            return RunOptions(trigger="again", state_dir=self._state_dir)
        return None

    async def _run_if_due(self, name: str) -> bool:
        options = await self._due(name)  # asked again: it may have waited in line
        if options is None or self._tools.stopping():
            return False
        charge = self.charges[name]
        charge.heartbeat.start()
        try:
            report = await Run(self._tools, charge.account, options).execute()
        except MonitorError as error:
            self._failed(charge, error)
        except Exception as error:
            self._failed(charge, error)
            raise
        else:
            self._ended(charge, report)
            self._mails.offer([name])
        return False

    def _ended(self, charge: Charge, report: RunReport) -> None:
        name = charge.account.name
        self._setbacks.pop(name, None)
        self._meter.ran(name, report.outcome, report.counts)
        figures = {key: value for key, value in report.counts.items() if isinstance(value, int)}
        structlog.get_logger().info("run_ended", account=name, outcome=report.outcome, **figures)
        for problem in report.problems:
            structlog.get_logger().warning("run_problem", account=name, problem=problem)
        if report.outcome == "partial":
            charge.heartbeat.failure()
        elif report.outcome in {"complete", "held", "already_done"}:
            charge.heartbeat.success()

    def _failed(self, charge: Charge, error: Exception) -> None:
        """Try again, each time a little later; what an operator must mend is told."""
        name = charge.account.name
        times = self._setbacks[name].times + 1 if name in self._setbacks else 1
        now, wait = self._tools.clock.now(), min(AGAIN_AFTER * 2 ** min(times - 1, 10), AGAIN_AT_MOST)
        trouble = str(error) if isinstance(error, ConfigError | ProviderAuthError) else None
        self._setbacks[name] = _Setback(times, now, now + wait, trouble)
        self._meter.ran(name, "failed", {})
        structlog.get_logger().error(
            "run_failed", account=name, error=f"{type(error).__name__}: {error}", again_in_s=wait.total_seconds()
        )
        charge.heartbeat.failure()

    async def _deliver(self, name: str) -> bool:
        if self._tools.stopping():
            return False
        charge = self.charges[name]
        done = await deliver_account(
            self._tools,
            charge.account,
            charge.transport,
            self._mailer,
            turn=CLAIMS_A_TURN,
            state_dir=self._state_dir,
        )
        self._meter.delivered(name, done.by_kind, done.rescued)
        if done.by_kind or done.problems:
            structlog.get_logger().info(
                "mails_delivered",
                account=name,
                sent=done.sent,
                failed=done.failed,
                stopped_by=None if done.stopped_by is None else done.stopped_by.rule.value,
                why=None if done.stopped_by is None else done.stopped_by.why or None,
            )
        for problem in done.problems:
            structlog.get_logger().warning("mail_problem", account=name, problem=problem)
        return done.more
