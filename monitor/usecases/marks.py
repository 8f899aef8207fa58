"""Commit the marks of all connections in groups: `sent` of the last mail with `in_data` of the next.

Two marks a mail. After a crash only `in_data` rows are in doubt, at most as many as there are connections; all others
were certainly not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import NotificationState
from monitor.mail.transport import Reply
from monitor.store.catalog import suppress
from monitor.store.engine import db_now
from monitor.store.outbox import mark_in_data, record_attempts, settle
from monitor.usecases.context import Tools

REPLY_LEASE = timedelta(minutes=15)
"""From the mark on: a slow server may answer for ten minutes, however old the claim is by then."""


@dataclass(frozen=True, slots=True)
class ClaimedMail:
    """A mail that is ours to send, made and ready."""

    id: str
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


@dataclass(slots=True)
class Settlement:
    """How one mail ended, to be committed with the next group."""

    mail: ClaimedMail
    expect: NotificationState
    to: NotificationState
    outcome: str
    phase: str
    copy: int = 0
    copies_back: bool = False
    reply: Reply | None = None
    detail: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    suppress: bool = False


@dataclass(slots=True)
class Posted:
    """What a group of mails came to. `pause` says why the sender must stop, `unreachable` why nobody answered."""

    settled: list[Settlement] = field(default_factory=list)
    pause: str | None = None
    unreachable: str | None = None

    def count(self, outcome: str) -> int:
        """How many ended so."""
        return sum(one.outcome == outcome for one in self.settled)


class Marker:
    """Commits marks of all connections in groups: `sent` of the last mail with `in_data` of the next."""

    def __init__(self, tools: Tools, account_id: int, now: datetime, posted: Posted) -> None:
        """Settled mails are added to `posted` once they are committed."""
        self._tools = tools
        self._account_id = account_id
        self._broken: BaseException | None = None
        self._now = now
        self._posted = posted
        self._asked: list[tuple[ClaimedMail, asyncio.Future[int | None]]] = []
        self._settled: list[Settlement] = []
        self._wake = asyncio.Event()
        self._closing = False

    async def in_data(self, mail: ClaimedMail) -> int | None:
        """Commit the mark; returns which copy this is, None when the mail is not ours to send any more."""
        if self._broken is not None:
            raise self._broken
        asked: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asked.append((mail, asked))
        self._wake.set()
        return await asked

    def settle(self, settlement: Settlement) -> None:
        """Have this outcome committed with the next group."""
        self._settled.append(settlement)
        self._wake.set()

    def close(self) -> None:
        """Let `work` end once everything handed in is committed."""
        self._closing = True
        self._wake.set()

    async def work(self) -> None:
        """Commit until closed. A database error reaches whoever waits for a mark, and ends the work."""
        while not (self._closing and not self._asked and not self._settled):
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, []
            settled, self._settled = self._settled, []
            if not asked and not settled:
                continue
            try:
                copies = await self._commit(asked, settled)
            except BaseException as error:
                self._broken = error
                for _, future in (*asked, *self._asked):
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # retrieved here too: its waiter may be gone by now
                raise
            self._posted.settled.extend(settled)
            for (_, future), copy in zip(asked, copies, strict=True):
                if not future.done():
                    future.set_result(copy)

    async def _commit(
        self, asked: list[tuple[ClaimedMail, asyncio.Future[int | None]]], settled: list[Settlement]
    ) -> list[int | None]:
        tools = self._tools
        tools.failpoint("before_mark")
        copies: list[int | None] = []
        attempts = []
        async with tools.db.write() as conn:
            for one in settled:
                await settle(
                    conn,
                    one.mail.id,
                    expect=one.expect,
                    token=one.mail.token,
                    to=one.to,
                    copies_back=one.copies_back,
                    values=one.values,
                )
                if one.phase:
                    attempts.append(self._attempt(one.mail, one.copy, one.phase, one.outcome, one.reply, one.detail))
                if one.suppress and one.mail.address_mac is not None:
                    await self._suppress(conn, one.mail.address_mac)
            until_at = await db_now(conn) + REPLY_LEASE if asked else None
            for mail, _ in asked:
                copy = await mark_in_data(
                    conn,
                    mail.id,
                    owner=tools.owner,
                    token=mail.token,
                    at=self._now,
                    values={**mail.frozen, "until_at": until_at},
                )
                copies.append(copy)
                if copy is not None:
                    attempts.append(self._attempt(mail, copy, "data", "started", None, None))
            await record_attempts(conn, attempts)
            tools.failpoint("before_mark_commit")
        tools.failpoint("after_mark_commit")
        return copies

    async def _suppress(self, conn: AsyncConnection, mac: str) -> None:
        """The server says that this address does not exist: it is never mailed again."""
        why = "the server refused the address (5.1.x)"
        await suppress(conn, self._account_id, mac, scope="all", reason=why, by="delivery", at=self._now)

    def _attempt(
        self, mail: ClaimedMail, copy: int, phase: str, outcome: str, reply: Reply | None, detail: str | None
    ) -> dict[str, Any]:
        return {
            "notification_id": mail.id,
            "copy": copy,
            "token": mail.token,
            "phase": phase,
            "code": None if reply is None else reply.code,
            "enhanced": None if reply is None else reply.enhanced,
            "outcome": outcome,
            "detail": detail,
            "at": self._now,
        }
