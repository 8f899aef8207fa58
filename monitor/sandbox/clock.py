"""The world's own time: it stands still until somebody moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class VirtualClock:
    """Fits `monitor.clock.Clock`. Never goes back: a world cannot undo what happened in it."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a world starts at an aware instant")
        self._start = start.astimezone(UTC)
        self._at = self._start

    def now(self) -> datetime:
        """The virtual instant, aware UTC."""
        return self._at

    def monotonic(self) -> float:
        """Virtual seconds since the world began."""
        return (self._at - self._start).total_seconds()

    def move_to(self, at: datetime) -> None:
        """Move forward to `at`; an instant that has passed changes nothing."""
        self._at = max(self._at, at.astimezone(UTC))

    def advance(self, by: timedelta) -> None:
        """Move forward by `by`. Raises ValueError when it is negative."""
        if by < timedelta(0):
            raise ValueError("virtual time does not go back")
        self._at += by
