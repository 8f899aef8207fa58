"""Tell the operator each cause once in 24 hours, and remember it over restarts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from monitor.alarm import Alarm
from monitor.usecases.watch import Cause, Finding

QUIET = timedelta(hours=24)
FILE_NAME = "alerts.json"
_TITLES = {
    Cause.DATABASE: "the database is out of reach",
    Cause.GUARD_HOLD: "mails wait for your decision",
    Cause.KEY: "the API refuses the key",
    Cause.MISSING_RUN: "a run is missing",
    Cause.SENDER_PAUSED: "the sender pauses",
    Cause.UNREACHABLE: "customers cannot be reached",
    Cause.WEBHOOKS: "webhooks stay away",
}


class Alerts:
    """What was told when, in a file of the state folder; one process at a time writes it."""

    def __init__(self, alarm: Alarm, state_dir: Path) -> None:
        """The folder must be there."""
        self._alarm = alarm
        self._file = state_dir / FILE_NAME

    async def tell(self, findings: Iterable[Finding], now: datetime) -> int:
        """Ring for what was not told within 24 hours; returns how often. What nobody took is told again next time."""
        told = {key: at for key, at in self._read().items() if now - at < QUIET}
        rung = 0
        for one in findings:
            key = f"{one.account or ''} {one.cause.value}"
            if key in told:
                continue
            who = "" if one.account is None else f"{one.account}: "
            structlog.get_logger().warning("alert", account=one.account, cause=one.cause.value, why=one.sentence)
            if await self._alarm.ring(f"Subscription monitor: {who}{_TITLES[one.cause]}", one.sentence):
                told[key] = now
                rung += 1
        self._write(told)
        return rung

    def _read(self) -> dict[str, datetime]:
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(key): datetime.fromisoformat(at) for key, at in noted.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # told twice is better than never

    def _write(self, told: dict[str, datetime]) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps({key: at.isoformat() for key, at in told.items()}), encoding="utf-8")
        fresh.replace(self._file)
