"""Tell a watchdog on the web that a scheduled run started, succeeded or failed. A watchdog never holds up a run.

The address is pinged as services of this sort understand it: with /start, as it is, with /fail.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx
import structlog

SECONDS = 5.0


class Heartbeat:
    """One account's watchdog; without an address it does nothing."""

    def __init__(self, account: str, url: str | None) -> None:
        """Nothing is sent yet. `account` is named in the log where a ping fails."""
        self._account = account
        self._url = url
        self._pings: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None

    def start(self) -> None:
        """A run begins."""
        self._tell("/start")

    def success(self) -> None:
        """It did what it should."""
        self._tell("")

    def failure(self) -> None:
        """It did not, or only in part."""
        self._tell("/fail")

    async def aclose(self) -> None:
        """Wait for what is on its way; each ping ends within seconds."""
        await asyncio.gather(*self._pings)

    def _tell(self, suffix: str) -> None:
        if self._url is None:
            return
        parts = urlsplit(self._url)
        url = parts._replace(path=parts.path.rstrip("/") + suffix).geturl()
        self._last = asyncio.create_task(self._ping(url, self._last))
        self._pings.add(self._last)
        self._last.add_done_callback(self._pings.discard)

    async def _ping(self, url: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])  # a start that overtakes its end would look like a run that hangs
        try:
            async with asyncio.timeout(SECONDS), httpx.AsyncClient(timeout=SECONDS) as client:
                (await client.post(url)).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError) as error:
            structlog.get_logger().warning("heartbeat_failed", account=self._account, error=type(error).__name__)
