"""Why to stop: a signal (the first asks for a clean stop, the second stops at once), or a limit of time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop; calling it answers. No new mail after the first signal, no more waiting after the second."""

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        """`on_first` tells the person at the terminal that the stop was heard."""
        self.signum: int | None = None
        self.asked = asyncio.Event()
        """Set by a signal and by the limit alike."""
        self._on_first = on_first

    def __call__(self) -> bool:
        return self.asked.is_set()

    @property
    def exit_code(self) -> int | None:
        """128 and the signal's number (130, 143); None when nobody asked."""
        return None if self.signum is None else 128 + self.signum

    def limit(self, seconds: float) -> None:
        """Ask for a stop after so long; that is no interruption and has no exit code of its own."""
        asyncio.get_running_loop().call_later(seconds, self.asked.set)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.asked.wait(), seconds)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals while the block runs; the calling task is what a second one cancels."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def heard(signum: int) -> None:
            if self.signum is not None:
                if task is not None:
                    task.cancel()
                return
            self.signum = signum
            self.asked.set()
            self._on_first()

        for one in _SIGNALS:
            loop.add_signal_handler(one, heard, one)
        try:
            yield
        finally:
            for one in _SIGNALS:
                loop.remove_signal_handler(one)
