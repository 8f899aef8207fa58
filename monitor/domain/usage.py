"""What a pay-as-you-go subscription has used of its spending limit in one period, as the merchant measured it.

No API tells usage, and none tells reliably who is billed by it: the merchant, who meters, brings the figures
(docs/decisions/0013). Dollars are exact; nothing here rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """The newest figures of one subscription. `period` names its billing period for as long as that lasts."""

    used_usd: Decimal
    limit_usd: Decimal | None
    """None: the figures came without one, and the limit that the API tells counts."""
    period: datetime
    """The end that was told when this period was first heard of: its identity, though the end may be corrected."""
    period_end_at: datetime
    as_of: datetime
    period_start_at: datetime | None = None

    def is_of(self, known: Usage, now: datetime) -> bool:
        """Whether this tells of the period that `known` tells of.

        A period lasts until an end that was told for it has passed, so that ends which move by a second, or by a day
        with each report, are one period and not a mail each. Only a start after the last measurement begins another
        one before that.
        """
        if now >= min(known.period, known.period_end_at):
            return False
        start_at = self.period_start_at
        return start_at is None or start_at == known.period_start_at or start_at < known.as_of

    def in_period_of(self, known: Usage) -> Usage:
        """The same figures, told of the period that `known` tells of."""
        return replace(self, period=known.period)

    def says_as(self, known: Usage) -> bool:
        """Whether the figures are those of `known`, whenever each was measured."""
        return self._figures() == known._figures()

    def _figures(self) -> tuple[object, ...]:
        return self.used_usd, self.limit_usd, self.period_start_at, self.period_end_at
