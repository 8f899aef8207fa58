"""Who reads again what webhooks told something about, account by account, after they were answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from monitor.errors import MonitorError
from monitor.metrics import Meter
from monitor.schedule.turns import Turns
from monitor.store.asks import accounts_asking
from monitor.usecases.context import Account, Tools
from monitor.usecases.reread import reread_account

LANES = 4
COALESCE_S = 1.0
"""Several webhooks about one subscription, as a failed bill sends them, are one reading."""
BREATH_S = 0.05
"""Between two turns, so that answering webhooks goes before reading what they told."""


class HookReaders:
    """Readers over a set of accounts. What is to be read is decided from the ledger, never from who called."""

    def __init__(
        self,
        tools: Tools,
        accounts: Mapping[str, Account],
        meter: Meter,
        *,
        pause: Callable[[float], Awaitable[object]],
    ) -> None:
        """`pause` waits some seconds, for what comes close behind."""
        self._tools = tools
        self._accounts = accounts
        self._meter = meter
        self._pause = pause
        self._called: set[str] = set()
        self._turns = Turns("hooks", self._read, lanes=LANES)

    def call(self, account: str) -> None:
        """A webhook of this account was stored."""
        self._called.add(account)
        self._turns.offer([account])

    async def see_to_all(self) -> None:
        """Read what still waits: after a kill, an error, or where nobody called."""
        async with self._tools.db.read() as conn:
            waiting = await accounts_asking(conn, self._tools.clock.now())
        self._turns.offer([name for name in self._accounts if name in waiting])

    async def idle(self) -> None:
        """Wait until nothing is being read."""
        await self._turns.idle()

    async def close(self, seconds: float) -> bool:
        """End within so long; True when nothing had to be cut off. What was is read at the next start."""
        return await self._turns.close(seconds)

    async def _read(self, name: str) -> bool:
        await self._pause(COALESCE_S if name in self._called else BREATH_S)
        self._called.discard(name)
        if self._tools.stopping():
            return False
        log = structlog.get_logger().bind(account=name)
        try:
            done = await reread_account(self._tools, self._accounts[name])
        except MonitorError as error:
            structlog.get_logger().error("hooks_not_read", account=name, error=f"{type(error).__name__}: {error}")
            return False
        self._meter.reread(name, read=done.read, gone=done.gone, failed=len(done.problems))
        for problem in done.problems:
            log.warning("hook_read_problem", problem=problem)
        if done.read:
            log.info("hooks_read", read=done.read, changed=done.outcome.changed, events=done.outcome.events)
        return done.more or name in self._called
