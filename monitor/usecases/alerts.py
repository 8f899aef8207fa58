"""Tell the operator each cause once in 24 hours, whatever is restarted meanwhile, and on whichever machine."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from monitor.alarm import Alarm
from monitor.store.alerts import alerts_told, note_alert
from monitor.store.engine import Database
from monitor.usecases.watch import Cause, Finding

QUIET = timedelta(hours=24)
_TITLES = {
    Cause.DATABASE: "the database is out of reach",
    Cause.GUARD_HOLD: "mails wait for your decision",
    Cause.KEY: "the API refuses the key",
    Cause.MISSING_RUN: "a run is missing",
    Cause.PRICES: "prices cannot be read",
    Cause.SENDER_PAUSED: "the sender pauses",
    Cause.UNREACHABLE: "customers cannot be reached",
    Cause.WEBHOOKS: "webhooks stay away",
}


class Alerts:
    """Who is told, and the database that knows what was told when."""

    def __init__(self, alarm: Alarm, db: Database) -> None:
        self._alarm = alarm
        self._db = db

    async def tell(self, findings: Iterable[Finding], now: datetime) -> int:
        """Ring for what was not told within 24 hours; returns how often. What nobody took is told again next time.

        It is noted once it was taken: told twice, by two who look in the same second, is better than never.
        """
        async with self._db.read() as conn:
            told = await alerts_told(conn, now - QUIET, now)
        rung = 0
        for one in findings:
            account, cause = one.account or "", one.cause.value
            if (account, cause) in told:
                continue
            who = f"{account}: " if account else ""
            structlog.get_logger().warning("alert", account=one.account, cause=cause, why=one.sentence)
            if await self._alarm.ring(f"Subscription monitor: {who}{_TITLES[one.cause]}", one.sentence):
                async with self._db.write() as conn:
                    await note_alert(conn, account, cause, now)
                told.add((account, cause))
                rung += 1
        return rung
