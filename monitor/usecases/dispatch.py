"""Deliver what the gate has opened: examine, claim, hand over, record; until nothing is ready.

Safe to run anywhere, any number of times at once: a mail is somebody's only by a conditional claim.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.backoff import next_poison_try
from monitor.domain.guard import Breaker
from monitor.domain.halt import Halt, HaltRule
from monitor.domain.model import NotificationState
from monitor.domain.still_due import Answer, Do
from monitor.errors import MailError, RenderError, UnmailableAddressError
from monitor.mail.transport import Transport
from monitor.store.accounts import AccountRow, change_account, find_account
from monitor.store.cases import StoredMail, recent_verdicts, waiting
from monitor.store.engine import db_now
from monitor.store.outbox import hold, poison, ready_ids, record_attempts, snooze, void
from monitor.store.transit import MAX_COPIES, Outcome, Wanted, claim, leased, settle
from monitor.usecases.context import Account, Tools
from monitor.usecases.inquiry import Inquiry
from monitor.usecases.letters import LetterDesk, MadeMail
from monitor.usecases.marks import ClaimedMail, Posted
from monitor.usecases.post import PostOffice

S = NotificationState
CLAIM_AT_ONCE = 100
MADE_AT_ONCE = 4
"""Between two turns of the connections: two or three milliseconds."""
LEASE = timedelta(minutes=15)
SENDER_PAUSE = timedelta(minutes=15)
_API_DOWN_WAIT = timedelta(minutes=5)
_NO_REPLY = {"phase": "data", "outcome": "ambiguous", "detail": "the worker died before it saw a reply"}


@dataclass(slots=True)
class Delivery:
    """What one pass did. `waiting_until` is when the next waiting mail may leave.

    `by_kind` counts (kind, outcome); `more`: the turn ended before the work did; `rescued`: taken back from the dead.
    """

    sent: int = 0
    voided: Counter[str] = field(default_factory=Counter)
    snoozed: Counter[str] = field(default_factory=Counter)
    held: int = 0
    failed: int = 0
    deferred: int = 0
    ambiguous: int = 0
    waiting: int = 0
    waiting_until: datetime | None = None
    stopped_by: Halt | None = None
    problems: list[str] = field(default_factory=list)
    sent_ids: list[str] = field(default_factory=list)
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    rescued: int = 0
    more: bool = False


class Dispatch:
    """One delivery pass over one account."""

    def __init__(self, tools: Tools, account: Account, row: AccountRow, transport: Transport, desk: LetterDesk) -> None:
        """`desk` makes letters and messages of stored mails."""
        self._tools = tools
        self._account = account
        self._row = row
        self._transport = transport
        self._desk = desk
        self._delivery = Delivery()
        self._inquiry = Inquiry(tools, account)
        self._skip: set[str] = set()

    async def deliver(self, now: datetime, *, turn: int | None = None) -> Delivery:
        """Deliver until nothing is ready, the sender must pause, or a stop signal. `now` is the decision's instant.

        `turn` ends the pass after so many claims at the latest, so that other accounts get theirs (`Delivery.more`).
        """
        await self.settle_dead()
        office = PostOffice(
            self._tools,
            self._transport,
            account_id=self._row.id,
            breaker=await self._breaker(),
            now=now,
            connections=self._transport.connections,
        )
        async with office:
            await self._send_all(office, now, turn)
            await office.finish()
        self._count(office.posted)
        await self._pause_or_stop(office.posted, now)
        async with self._tools.db.read() as conn:
            self._delivery.waiting, self._delivery.waiting_until = await waiting(conn, self._row.id, now)
        self._delivery.problems += self._inquiry.problems
        return self._delivery

    async def _send_all(self, office: PostOffice, now: datetime, turn: int | None) -> None:
        """Claim and hand over until nothing is ready, the turn is over, or nothing more will leave."""
        claimed = 0
        while not office.halted:
            outstanding = office.outstanding  # before the look: what is settled meanwhile may be ready again
            async with self._tools.db.read() as conn:
                # read anew before every CLAIM: whoever pauses the account wants it now
                self._row = await find_account(conn, self._row.name) or self._row
                self._delivery.stopped_by = self._paused(now)
                if self._delivery.stopped_by is not None:
                    return
                # another worker may have put a mail of ours in doubt whose lease ran out: it is still on our connection
                ids = await ready_ids(conn, self._row.id, now, CLAIM_AT_ONCE, self._skip | outstanding)
            if not ids and outstanding:
                await office.finish()
            elif not ids:
                return
            elif turn is not None and claimed >= turn:
                self._delivery.more = True
                return
            else:
                mails = await self._claim(ids if turn is None else ids[: turn - claimed], now)
                claimed += len(mails)
                if mails:
                    self._tools.failpoint("after_claim")
                    await office.send(mails)
            self._count(office.posted)

    async def settle_dead(self) -> None:
        """Take back what dead workers held: claimed mails were certainly not sent, in_data ones are in doubt.

        A second copy in doubt is never sent a third time.
        """
        async with self._tools.db.write() as conn:
            wall = await db_now(conn)
            dead = [row for row in await leased(conn, self._row.id) if self._is_dead(row, wall)]
            moved = await settle(conn, map(_taken_back, dead))
            doubtful = [row for row in dead if row.id in moved and row.state == S.IN_DATA]
            await record_attempts(conn, [{**_NO_REPLY, **_copy_of(row), "at": wall} for row in doubtful])
        self._delivery.rescued += len(moved)
        self._delivery.ambiguous += len(doubtful)

    def _is_dead(self, row: Row[Any], wall: datetime) -> bool:
        return row.until_at is None or row.until_at < wall or self._tools.locks.is_dead(row.owner or "")

    def _paused(self, now: datetime) -> Halt | None:
        if self._row.paused_at is not None:
            return Halt(HaltRule.PAUSED_BY_HAND)
        until = self._row.sender_paused_until
        if until is not None and until > now:
            return Halt(HaltRule.SENDER_PAUSED, self._row.sender_pause_reason or "", until)
        return None

    async def _breaker(self) -> Breaker:
        async with self._tools.db.read() as conn:
            since = self._row.sender_paused_until
            return Breaker(tuple(await recent_verdicts(conn, self._row.id, since, Breaker.WINDOW)))

    async def _claim(self, ids: Sequence[str], now: datetime) -> list[ClaimedMail]:
        """CLAIM: examine these mails, make those that may leave now (no transaction is open meanwhile), take them."""
        answers = await self._inquiry.answers(self._row, ids, now)
        for mail in self._inquiry.ended(answers):
            self._voided(mail, mail.reason or "")
        due = [mail for mail, answer in answers if answer.do is Do.SEND]
        await self._desk.read(self._tools.db, self._row.id, due)
        made, faults = await self._make(due, now)
        others: list[tuple[StoredMail, Answer | MailError]] = [one for one in answers if one[1].do is not Do.SEND]
        async with self._tools.db.write() as conn:
            # in the order of their ids: who closes the episodes of several of them must not wait for us in a circle
            for mail, said in sorted([*others, *faults], key=lambda one: one[0].id):
                if isinstance(said, Answer):
                    await self._obey(conn, mail, said, now)
                else:
                    await self._cannot_be_made(conn, mail, said, now)
            if not made:
                return []
            await self._desk.keep(conn)
            wanted = [Wanted(one.mail.id, one.mail.address_mac, one.variant) for one in made]
            tokens = await claim(conn, wanted, owner=self._tools.owner, lease=LEASE)
        self._skip |= {one.mail.id for one in made} - tokens.keys()  # another worker's by now
        return [one.claimed(tokens[one.mail.id]) for one in made if one.mail.id in tokens]

    async def _make(
        self, mails: Sequence[StoredMail], now: datetime
    ) -> tuple[list[MadeMail], list[tuple[StoredMail, MailError]]]:
        """The messages, and those of which none can be made. After a few of them the connections have their turn."""
        made: list[MadeMail] = []
        faults: list[tuple[StoredMail, MailError]] = []
        for number, mail in enumerate(mails, 1):
            try:
                made.append(self._desk.make(self._account, mail, now))
            except MailError as error:
                faults.append((mail, error))
            if number % MADE_AT_ONCE == 0:
                await asyncio.sleep(0)
        return made, faults

    async def _obey(self, conn: AsyncConnection, mail: StoredMail, answer: Answer, now: datetime) -> None:
        if mail.state is S.AMBIGUOUS and answer.do in {Do.VOID, Do.HOLD}:
            await self._leave_unsettled(conn, mail, answer)
        elif answer.do is Do.VOID:
            if await void(conn, mail.id, answer.rule, answer.why):
                self._voided(mail, answer.rule)
        elif answer.do is Do.HOLD:
            if await hold(conn, mail.id, answer.rule):
                self._delivery.held += 1
                self._delivery.by_kind[mail.kind.value, "held"] += 1
                self._delivery.problems.append(answer.why)
        elif await snooze(conn, mail.id, answer.until or now + _API_DOWN_WAIT, answer.rule):
            self._delivery.snoozed[answer.rule] += 1

    async def _leave_unsettled(self, conn: AsyncConnection, mail: StoredMail, answer: Answer) -> None:
        """A mail in doubt that is not due any more is not resent: it may have been delivered, and says so."""
        move = Outcome(mail.id, S.AMBIGUOUS, S.UNSETTLED, token=None, reason=answer.rule, why=answer.why)
        self._delivery.ambiguous += len(await settle(conn, [move]))

    async def _cannot_be_made(self, conn: AsyncConnection, mail: StoredMail, error: MailError, now: datetime) -> None:
        """An address that cannot be mailed ends this mail; what else fails may be mended, so it waits an hour."""
        if not isinstance(error, UnmailableAddressError):
            await self._poisoned(conn, mail, error, now)
        elif mail.copies:
            await self._leave_unsettled(conn, mail, Answer(Do.VOID, "unmailable", str(error)))
        elif await void(conn, mail.id, "unmailable", str(error)):
            self._voided(mail, "unmailable")

    async def _poisoned(self, conn: AsyncConnection, mail: StoredMail, error: MailError, now: datetime) -> None:
        """This mail cannot be made: it waits an hour, the third time it has failed; the others go on."""
        again = next_poison_try(mail.id, mail.poisoned + 1, now)
        self._skip.add(mail.id)
        place = f"{error.template}:{error.line}: " if isinstance(error, RenderError) and error.template else ""
        self._delivery.problems.append(f"{mail.kind.value} {mail.id}: {place}{error}")
        await poison(conn, mail.id, again=again, poisoned=mail.poisoned + 1, why=f"{place}{error}"[:500])
        self._delivery.failed += again is None

    def _voided(self, mail: StoredMail, rule: str) -> None:
        self._delivery.voided[rule] += 1
        self._delivery.by_kind[mail.kind.value, "voided"] += 1

    def _count(self, posted: Posted) -> None:
        delivery = self._delivery
        for one in posted.take():
            delivery.by_kind[one.mail.kind, one.outcome] += 1
            delivery.sent += one.outcome == "sent"
            delivery.deferred += one.outcome == "deferred"
            delivery.ambiguous += one.outcome == "ambiguous"
            delivery.failed += one.move.to is S.FAILED
            delivery.voided["unmailable"] += one.outcome == "voided"
            if one.outcome == "sent":
                delivery.sent_ids.append(one.mail.id)
        self._tools.progress("deliver", delivery.sent, None)

    async def _pause_or_stop(self, posted: Posted, now: datetime) -> None:
        if posted.pause is not None:
            until = now + SENDER_PAUSE
            async with self._tools.db.write() as conn:
                await change_account(conn, self._row.id, sender_paused_until=until, sender_pause_reason=posted.pause)
            self._delivery.stopped_by = Halt(HaltRule.SENDER_PAUSED, posted.pause, until)
        elif posted.unreachable is not None:
            self._delivery.stopped_by = Halt(HaltRule.SERVER_UNREACHABLE, posted.unreachable)


def _taken_back(row: Row[Any]) -> Outcome:
    """Where a dead worker's mail goes: back if no copy was begun, else in doubt, or the end of both copies."""
    to = S.READY if row.copies == 0 else S.AMBIGUOUS
    if row.copies >= MAX_COPIES and row.state == S.IN_DATA:
        to = S.UNSETTLED
    return Outcome(row.id, S(row.state), to, row.token, reason="worker_died")


def _copy_of(row: Row[Any]) -> dict[str, Any]:
    return {"notification_id": row.id, "copy": row.copies, "token": row.token}
