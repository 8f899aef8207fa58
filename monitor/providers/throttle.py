"""How fast one route of an account may be asked: halved when the API says 429, recovered slowly, free until then."""

from __future__ import annotations

from monitor.clock import Clock

FIRST_GAP = 0.25
"""Seconds between requests after the first 429; halved rate = doubled gap from there."""
LONGEST_GAP = 8.0
FREE_BELOW = 0.02
RECOVERY = 0.9
"""Each good answer shortens the gap to this share, so that about 25 of them undo one 429."""


class Throttle:
    """Hands out start times: one gap apart, and none while the API asked for quiet. It never sleeps itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at = 0.0
        self._quiet_until = 0.0
        self.gap = 0.0
        """Seconds between two starts; 0 until the first 429."""

    @property
    def quiet(self) -> float:
        """Seconds for which the API still wants not to be asked."""
        return max(0.0, self._quiet_until - self._clock.monotonic())

    def reserve(self, at_least: float = 0.0) -> float:
        """Seconds to wait before the next start, `at_least` or longer; the start after it comes a gap later."""
        now = self._clock.monotonic()
        wait = max(at_least, self._next_at - now, self.quiet)
        if self.gap:
            self._next_at = now + wait + self.gap
        return wait

    def refused(self, retry_after: float | None) -> None:
        """A 429 came: half the rate, and nothing before what it asked."""
        self.gap = min(self.gap * 2 or FIRST_GAP, LONGEST_GAP)
        if retry_after is not None:
            self._quiet_until = max(self._quiet_until, self._clock.monotonic() + retry_after)

    def answered(self) -> None:
        """A good answer came: a little faster."""
        self.gap *= RECOVERY
        if self.gap < FREE_BELOW:
            self.gap = self._next_at = 0.0
