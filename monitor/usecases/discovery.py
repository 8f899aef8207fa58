"""Find the subscriptions of an API that cannot list them: in payments, and in what webhooks told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.errors import ProviderError
from monitor.providers.base import IdPage, KnownReader
from monitor.store.accounts import AccountRow, change_account
from monitor.store.discovery import FoundIn, add_discovered, told_of_strangers
from monitor.usecases.budget import Budget
from monitor.usecases.context import Tools

OVERLAP = timedelta(days=1)
"""Payments this much older than the watermark are read again: one may be recorded later than it is dated."""
SHARE = 0.5
"""Of the day's requests: the walk through old payments must not cost the reading of what is known."""


@dataclass(slots=True)
class Discovery:
    """How many ids were new. `problem`: why the walk did not come to its end; None when it did."""

    found: int = 0
    pages: int = 0
    problem: str | None = None


async def discover(tools: Tools, row: AccountRow, reader: KnownReader, budget: Budget, now: datetime) -> Discovery:
    """Store every id that payments and facts name. The watermark moves only when the walk came to its end."""
    walk = Discovery()
    async with tools.db.write() as conn:
        strangers = await told_of_strangers(conn, row.id)
        walk.found += await add_discovered(conn, row.id, strangers, FoundIn.WEBHOOK, now)
    try:
        newest = await _walk_payments(tools, row, reader, budget, now, walk)
    except ProviderError as error:
        walk.problem = str(error)
        return walk
    if newest is not None and (row.payments_watermark is None or newest > row.payments_watermark):
        async with tools.db.write() as conn:
            await change_account(conn, row.id, payments_watermark=newest)
    return walk


async def _walk_payments(
    tools: Tools, row: AccountRow, reader: KnownReader, budget: Budget, now: datetime, walk: Discovery
) -> datetime | None:
    """The newest payment's time, once the walk reached the watermark or the end; None where it did not."""
    order = _Order(None if row.payments_watermark is None else row.payments_watermark - OVERLAP)
    cursor: str | None = None
    used: set[str] = set()
    while True:
        if tools.stopping():
            walk.problem = "interrupted"
            return None
        if not budget.allows(SHARE):
            walk.problem = (
                f"half of today's {budget.limit} requests are used (daily_requests): older payments wait, "
                "and `monitor import-ids` brings their subscriptions at once"
            )
            return None
        page = await reader.paid_ids(cursor)
        walk.pages += 1
        async with tools.db.write() as conn:
            walk.found += await add_discovered(conn, row.id, page.ids, FoundIn.PAYMENTS, now)
        tools.progress("discover", walk.found, None)
        if order.reached(page) or page.next_cursor is None or not page.size:
            return order.newest
        if page.next_cursor in used or page.next_cursor == cursor:
            walk.problem = "the cursors of payments go round in a circle"
            return None
        used.add(page.next_cursor)
        cursor = page.next_cursor


class _Order:
    """Whether rows have come newest first so far, which v1 does not promise: only then a page can be the last."""

    def __init__(self, edge: datetime | None) -> None:
        self.newest: datetime | None = None
        self._edge = edge
        self._last: datetime | None = None
        self._falling = True

    def reached(self, page: IdPage) -> bool:
        """Whether everything newer than the edge has been seen with this page."""
        for at in page.times:
            self._falling = self._falling and (self._last is None or at <= self._last)
            self._last = at
            self.newest = at if self.newest is None else max(self.newest, at)
        return self._falling and self._edge is not None and bool(page.times) and min(page.times) < self._edge
