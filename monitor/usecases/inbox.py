"""Where genuine webhooks are stored before they are answered: HOOK. All that come while a commit runs share the next.

A single commit for each would cost a disk's flush each; so a burst costs a few, and an answer still means "durable".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import Clock
from monitor.domain.model import BadRow, Fact, Source
from monitor.errors import StoreError
from monitor.providers.hooks import HookSeen
from monitor.store.accounts import change_account, ensure_account
from monitor.store.engine import Database
from monitor.store.facts import insert_facts, put_in_quarantine

AT_ONCE = 500
MOST_WAITING = 20_000
STORE_WITHIN_S = 20.0
"""The vendor waits 30 s for an answer (contract v2, 5.1)."""
NOTE_EVERY = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC) + NOTE_EVERY


@dataclass(frozen=True, slots=True)
class Addressee:
    """The account that a webhook is for, as its first contact would store it."""

    name: str
    provider: str
    mode: str


@dataclass(slots=True)
class _Letter:
    to: Addressee
    seen: HookSeen
    stored: asyncio.Future[bool]


@dataclass(slots=True)
class _Pile:
    """What one transaction stores for one account."""

    asking: list[Fact] = field(default_factory=list)
    telling: list[Fact] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


class Inbox:
    """One process's way to the facts table."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Nothing is stored yet."""
        self._db = db
        self._clock = clock
        self._waiting: list[_Letter] = []
        self._writing: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[set[tuple[str, str]]]] = set()
        self._ids: dict[str, int] = {}
        self._noted: dict[str, datetime] = {}

    async def put(self, to: Addressee, seen: HookSeen) -> bool:
        """Store it; True when it is new, False when it came before. Raises `StoreError`: then it must come again."""
        if len(self._waiting) >= MOST_WAITING:
            raise StoreError("too many webhooks wait for the database")
        letter = _Letter(to, seen, asyncio.get_running_loop().create_future())
        self._waiting.append(letter)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await letter.stored

    async def aclose(self) -> None:
        """Wait until what was put is stored. Idempotent."""
        if self._writing is not None:
            await asyncio.wait([self._writing, *self._late])

    async def _write_all(self) -> None:
        while self._waiting:
            letters, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            storing = asyncio.create_task(self._store(letters))
            done, _ = await asyncio.wait([storing], timeout=STORE_WITHIN_S)
            if not done:
                self._give_up(storing)
                _fail(letters, StoreError(f"the database did not answer within {STORE_WITHIN_S:.0f} s"))
                continue
            try:
                fresh = storing.result()
            except Exception as error:  # noqa: BLE001  # whoever waits must hear of it, whatever it is
                self._ids.clear()  # the account's row may be what is not there
                _fail(letters, error)
            else:
                _tell(letters, fresh)

    def _give_up(self, storing: asyncio.Task[set[tuple[str, str]]]) -> None:
        """Let it end by itself: SQLite's driver gives a lock up only when it has waited its time."""
        self._late.add(storing)
        storing.add_done_callback(self._late.discard)
        storing.cancel()

    async def _store(self, letters: Iterable[_Letter]) -> set[tuple[str, str]]:
        """(account, key) of each that is new."""
        piles: dict[Addressee, _Pile] = defaultdict(_Pile)
        for letter in letters:
            pile, seen = piles[letter.to], letter.seen
            if seen.fact is not None:
                (pile.asking if seen.ask else pile.telling).append(seen.fact)
            if seen.bad is not None:
                pile.bad.append(seen.bad)
        fresh: set[tuple[str, str]] = set()
        known, now = dict(self._ids), self._clock.now()
        async with self._db.write() as conn:
            # always in the same order: two processes must not wait for one another in a circle
            for to, pile in sorted(piles.items(), key=lambda one: one[0].name):
                known[to.name] = known.get(to.name) or (await ensure_account(conn, to.name, to.provider, to.mode)).id
                if self._noted.get(to.name, _NEVER) <= now - NOTE_EVERY:
                    await change_account(conn, known[to.name], hook_at=now)
                keys = await self._store_pile(conn, known[to.name], pile, now)
                fresh |= {(to.name, key) for key in keys}
        self._ids = known
        self._noted |= {to.name: now for to in piles if self._noted.get(to.name, _NEVER) <= now - NOTE_EVERY}
        return fresh

    async def _store_pile(self, conn: AsyncConnection, account_id: int, pile: _Pile, now: datetime) -> list[str]:
        keys = await insert_facts(conn, account_id, pile.asking, now, source=Source.WEBHOOK)
        keys += await insert_facts(conn, account_id, pile.telling, now, source=Source.WEBHOOK, ask=False)
        keys += await put_in_quarantine(conn, account_id, pile.bad, now)  # hashes: the keys of what has no fact
        return keys


def _tell(letters: Iterable[_Letter], fresh: set[tuple[str, str]]) -> None:
    """Of several that are the same, the first is the new one."""
    for letter in letters:
        key = (letter.to.name, letter.seen.key)
        if not letter.stored.done():  # else its sender has hung up
            letter.stored.set_result(key in fresh)
        fresh.discard(key)


def _fail(letters: Iterable[_Letter], error: Exception) -> None:
    for letter in letters:
        if not letter.stored.done():
            letter.stored.set_exception(error)
