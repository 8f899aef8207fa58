"""Commit the marks of all connections in groups: `sent` of the last mail with `in_data` of the next.

Two marks a mail. After a crash only `in_data` rows are in doubt, at most as many as there are connections; all others
were certainly not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.mail.transport import Reply
from monitor.store.catalog import suppress
from monitor.store.outbox import record_attempts
from monitor.store.transit import Outcome, mark_in_data, settle
from monitor.usecases.context import Tools

REPLY_LEASE = timedelta(minutes=15)
"""From the mark on: a slow server may answer for ten minutes, however old the claim is by then."""
GATHER_S = 0.005
"""How long a group waits for those whose reply is about to come: one commit for all costs what one for each does."""


@dataclass(frozen=True, slots=True)
class ClaimedMail:
    """A mail that is ours to send, made and ready."""

    id: str
    kind: str
    token: int
    tries: int
    sender: str
    recipient: str
    message: bytes
    address_mac: str | None
    frozen: Mapping[str, Any]
    """What the first `in_data` mark freezes, so that a resend is the same mail."""
    in_doubt: bool = False
    """An earlier copy may have been delivered: whatever happens now, that stays true."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one mail ended, to be committed with the next group. `phase` "": nothing was said about it to a server."""

    mail: ClaimedMail
    move: Outcome
    outcome: str
    phase: str = ""
    copy: int = 0
    reply: Reply | None = None
    detail: str | None = None
    suppress: bool = False


@dataclass(slots=True)
class Posted:
    """What became of mails so far. `pause` says why the sender must stop, `unreachable` why nobody answered."""

    settled: list[Settlement] = field(default_factory=list)
    pause: str | None = None
    unreachable: str | None = None

    def take(self) -> list[Settlement]:
        """What was committed since the last time; it is forgotten here, bodies and all."""
        taken, self.settled = self.settled, []
        return taken


class Marker:
    """Commits marks of all connections in groups: `sent` of the last mail with `in_data` of the next."""

    def __init__(
        self,
        tools: Tools,
        account_id: int,
        now: datetime,
        posted: Posted,
        *,
        at_work: Callable[[], int],
        moved: asyncio.Event,
    ) -> None:
        """Settled mails are added to `posted` once they are committed, which sets `moved` each time.

        `at_work`: how many may soon want a mark.
        """
        self._tools = tools
        self._account_id = account_id
        self._broken: BaseException | None = None
        self._now = now
        self._posted = posted
        self._at_work = at_work
        self._moved = moved
        self._asked: list[tuple[ClaimedMail, asyncio.Future[int | None]]] = []
        self._settled: list[Settlement] = []
        self._wake = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None
        self._committing = False
        self._closing = False
        self.outstanding: set[str] = set()
        """Ids of the mails that were handed in and are not settled for good yet."""

    async def in_data(self, mail: ClaimedMail) -> int | None:
        """Commit the mark; returns which copy this is, None when the mail is not ours to send any more."""
        if self._broken is not None:
            raise self._broken
        asked: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asked.append((mail, asked))
        self._rouse()
        return await asked

    def settle(self, settlement: Settlement) -> None:
        """Have this outcome committed with the next group."""
        self._settled.append(settlement)
        self._rouse()

    def close(self) -> None:
        """Let `work` end once everything handed in is committed."""
        self._closing = True
        self._wake.set()

    async def work(self) -> None:
        """Commit until closed. A database error reaches whoever waits for a mark, and ends the work."""
        while not (self._closing and not self._asked and not self._settled):
            if self._asked or self._settled:
                self._rouse()
            await self._wake.wait()
            self._wake.clear()
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
            asked, self._asked = self._asked, []
            settled, self._settled = self._settled, []
            if not asked and not settled:
                continue
            self._committing = True
            try:
                copies = await self._commit([mail for mail, _ in asked], settled)
            except BaseException as error:
                self._broken = error
                for _, future in (*asked, *self._asked):
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # retrieved here too: its waiter may be gone by now
                raise
            self._committing = False
            self._posted.settled.extend(settled)
            self.outstanding.difference_update(one.mail.id for one in settled)
            self._moved.set()
            for mail, future in asked:
                if not future.done():
                    future.set_result(copies.get(mail.id))

    def _rouse(self) -> None:
        """Begin a group when everybody who may still ask has asked, or a few milliseconds after the first one did."""
        if self._committing:
            return  # what comes meanwhile is looked at when that is done
        if self._closing or len(self._asked) >= self._at_work():
            self._wake.set()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(GATHER_S, self._wake.set)

    async def _commit(self, asked: list[ClaimedMail], settled: list[Settlement]) -> dict[str, int]:
        tools = self._tools
        tools.failpoint("before_mark")
        async with tools.db.write() as conn:
            await settle(conn, [one.move for one in settled])
            for one in settled:
                if one.suppress and one.mail.address_mac is not None:
                    await self._suppress(conn, one.mail.address_mac)
            wanted = [(mail.id, mail.token, mail.frozen) for mail in asked]
            copies = await mark_in_data(conn, wanted, owner=tools.owner, at=self._now, lease=REPLY_LEASE)
            attempts = [self._ended(one) for one in settled if one.phase]
            attempts += [self._started(mail, copies[mail.id]) for mail in asked if mail.id in copies]
            await record_attempts(conn, attempts)
            tools.failpoint("before_mark_commit")
        tools.failpoint("after_mark_commit")
        return copies

    async def _suppress(self, conn: AsyncConnection, mac: str) -> None:
        """The server says that this address does not exist: it is never mailed again."""
        why = "the server refused the address (5.1.x)"
        await suppress(conn, self._account_id, mac, scope="all", reason=why, by="delivery", at=self._now)

    def _ended(self, one: Settlement) -> dict[str, Any]:
        reply = one.reply
        return {
            **self._attempt(one.mail, one.copy, one.phase, one.outcome),
            "code": None if reply is None else reply.code,
            "enhanced": None if reply is None else reply.enhanced,
            "detail": one.detail,
        }

    def _started(self, mail: ClaimedMail, copy: int) -> dict[str, Any]:
        return self._attempt(mail, copy, "data", "started")

    def _attempt(self, mail: ClaimedMail, copy: int, phase: str, outcome: str) -> dict[str, Any]:
        return {
            "notification_id": mail.id,
            "copy": copy,
            "token": mail.token,
            "phase": phase,
            "outcome": outcome,
            "at": self._now,
        }
