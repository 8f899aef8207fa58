"""The billing platform's access token: fetched once for many callers, kept until shortly before it ends.

Contract billing-platform, 1.1: a token lives 23 hours after its login by the page's own guess, and is renewed when less
than 5 minutes of that remain; where it names its own end, the earlier of both counts. A refused token is replaced once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from monitor.clock import Clock
from monitor.providers.billing_platform_wire import expiry_of


class TokenCache:
    """Hands out the token. `log_in` fetches a new one, with the seconds since 1970 at which the API gave it."""

    def __init__(
        self, log_in: Callable[[], Awaitable[tuple[str, float]]], clock: Clock, *, ttl_s: float, margin_s: float
    ) -> None:
        """Nothing is asked yet."""
        self._log_in = log_in
        self._clock = clock
        self._ttl_s = ttl_s
        self._margin_s = margin_s
        self._token: str | None = None
        self._renew_at = 0.0
        self._login: asyncio.Task[str] | None = None

    async def current(self, *, refused: str | None = None) -> str:
        """The token to use; never `refused`, which the API would not have. Raises what the login raises.

        Whoever comes while a login is under way waits for that one, and shares its error too.
        """
        if self._token is not None and self._token != refused and self._clock.monotonic() < self._renew_at:
            return self._token
        if self._login is None:
            self._login = asyncio.create_task(self._renew())
            self._login.add_done_callback(self._settle)
        # one caller that gives up must not take the login from the others
        return await asyncio.shield(self._login)

    def forget(self) -> None:
        """The next caller logs in anew."""
        self._token = None

    async def aclose(self) -> None:
        """End a login that nobody waits for any more."""
        if self._login is not None:
            self._login.cancel()
            await asyncio.gather(self._login, return_exceptions=True)

    async def _renew(self) -> str:
        token, given_at = await self._log_in()
        life = self._ttl_s
        expiry = expiry_of(token)
        if expiry is not None:
            life = min(life, expiry - given_at)
        # a token that lives less than two margins would be renewed at every call
        self._renew_at = self._clock.monotonic() + life - min(self._margin_s, max(life, 0.0) / 2)
        self._token = token
        return token

    def _settle(self, ended: asyncio.Task[str]) -> None:
        self._login = None
        if not ended.cancelled():
            ended.exception()  # seen, also where every caller has gone
