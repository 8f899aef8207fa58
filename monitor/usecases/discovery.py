"""Find the subscriptions of an API that cannot list them: in payments, and in what webhooks told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.payments import PaymentPage
from monitor.store.accounts import AccountRow, change_account
from monitor.store.discovery import FoundIn, add_discovered, told_of_strangers
from monitor.store.runs import RunRow
from monitor.usecases.budget import Budget
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe_payments import PaymentWalk
from monitor.usecases.payments import pull_payments

SHARE = 0.5
"""Of the day's requests: the walk through old payments must not cost the reading of what is known."""


@dataclass(slots=True)
class Discovery:
    """How many ids were new, and the walk through the payments that named them."""

    found: int = 0
    paid: PaymentWalk = field(default_factory=PaymentWalk)


async def discover(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, budget: Budget, *, lock: str, batch_id: int
) -> Discovery:
    """Store every id that facts and payments name, and the payments where they are wanted: one walk for both.

    The watermark moves only when the walk came to its end.
    """
    async with tools.db.write() as conn:
        strangers = await told_of_strangers(conn, row.id)
        found = await add_discovered(conn, row.id, strangers, FoundIn.WEBHOOK, run.now_at)
    scout = _Scout(row, budget, run.now_at, found)
    paid = await pull_payments(tools, account, row, run, lock=lock, batch_id=batch_id, along=scout)
    if paid.problem is None:
        async with tools.db.write() as conn:
            await change_account(conn, row.id, payments_watermark=run.bound_at)
    return Discovery(scout.found, paid)


class _Scout:
    """Reads the payments along, for the ids in them."""

    def __init__(self, row: AccountRow, budget: Budget, now: datetime, found: int) -> None:
        self.watermark = row.payments_watermark
        self.found = found
        self._row = row
        self._budget = budget
        self._now = now

    def ends(self) -> str | None:
        """See `ReadsAlong`."""
        if self._budget.allows(SHARE):
            return None
        return (
            f"half of today's {self._budget.limit} requests are used (daily_requests): older payments wait, "
            "and `monitor import-ids` brings their subscriptions at once"
        )

    async def read(self, conn: AsyncConnection, page: PaymentPage) -> None:
        """See `ReadsAlong`."""
        self.found += await add_discovered(conn, self._row.id, page.named, FoundIn.PAYMENTS, self._now)
