"""Turns between accounts: first come, first served, a few at once, and who has more to do goes to the end of the line.

An account that hangs holds one lane; one that fails loses its turn. Neither stops another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog

from monitor.errors import MonitorError


class Turns:
    """A line of accounts, each in it once at most."""

    def __init__(self, what: str, take: Callable[[str], Awaitable[bool]], *, lanes: int) -> None:
        """`take(account)` does one turn and says whether there is more to do. `what` names it in the log."""
        self._what = what
        self._take = take
        self._lanes = lanes
        self._line: deque[str] = deque()
        self._known: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def offer(self, accounts: Iterable[str]) -> None:
        """Put them into the line in this order; who stands in it, or has its turn just now, is left where it is."""
        for account in accounts:
            if account not in self._known:
                self._known.add(account)
                self._line.append(account)
        self._fill()

    async def idle(self) -> None:
        """Wait until the line is empty and every turn has ended."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self, seconds: float) -> bool:
        """Begin no more turns, give the running ones so long, then cancel them; True when none had to be."""
        self._closed = True
        self._line.clear()
        if not self._running:
            return True
        _, late = await asyncio.wait(self._running, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late

    def _fill(self) -> None:
        while self._line and len(self._running) < self._lanes and not self._closed:
            task = asyncio.create_task(self._turn(self._line.popleft()))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._fill()

    async def _turn(self, account: str) -> None:
        more = False
        try:
            more = await self._take(account)
        except MonitorError as error:  # it has a name, and says what to do: a traceback a minute would not
            told = f"{type(error).__name__}: {error}"
            structlog.get_logger().error("turn_failed", account=account, what=self._what, error=told)
        except Exception:  # noqa: BLE001  # whatever it is, it is this account's: the others must go on
            structlog.get_logger().exception("turn_failed", account=account, what=self._what)
        finally:
            self._known.discard(account)
        if more and not self._closed:
            self._known.add(account)
            self._line.append(account)
