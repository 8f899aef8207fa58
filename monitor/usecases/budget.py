"""The requests an account may make in one day of its own zone, counted over all its runs."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.providers.base import KnownReader
from monitor.store.accounts import AccountRow, change_account
from monitor.usecases.context import Account

RESERVED = 10
"""One in so many requests is kept for customers' addresses, without which reading was for nothing."""


class Budget:
    """What is left of today's requests. Without a limit it only counts."""

    def __init__(self, account: Account, row: AccountRow, reader: KnownReader, now: datetime) -> None:
        """`now` says which day it is. What `reader` asked since it was last counted belongs to it."""
        self.day = now.astimezone(ZoneInfo(account.zone)).date().isoformat()
        self.limit = account.daily_requests
        self._reader = reader
        self._first = reader.counted
        self._used_before = row.requests_used if row.requests_day == self.day else 0

    @property
    def spent(self) -> int:
        """Requests of this run, and of the mails that were looked at again since the last one."""
        return self._reader.requests - self._first

    @property
    def used(self) -> int:
        """Requests of this day so far."""
        return self._used_before + self._reader.requests - self._reader.counted

    def allows(self, share: float = 1.0) -> bool:
        """Whether one more request may be made by who may take the day's requests up to this share of the limit."""
        return self.limit is None or self.used < self.limit * share

    async def keep(self, conn: AsyncConnection, account_id: int) -> None:
        """Store what is used, in the caller's transaction."""
        self._used_before, self._reader.counted = self.used, self._reader.requests
        await change_account(conn, account_id, requests_day=self.day, requests_used=self._used_before)
