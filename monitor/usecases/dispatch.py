"""Deliver what the gate has opened: examine, claim, hand over, record; until nothing is ready.

Safe to run anywhere, any number of times at once: a mail is somebody's only by a conditional claim.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.backoff import next_poison_try
from monitor.domain.guard import Breaker
from monitor.domain.halt import Halt, HaltRule
from monitor.domain.model import NotificationState, Source
from monitor.domain.still_due import Answer, Case, Do, still_due
from monitor.errors import MailError, ProviderError, RenderError, UnmailableAddressError
from monitor.mail.transport import Transport
from monitor.store.accounts import AccountRow, change_account, find_account
from monitor.store.batches import collecting_batch
from monitor.store.cases import StoredMail, load_mails, recent_mails, recent_verdicts, waiting
from monitor.store.catalog import suppressed
from monitor.store.engine import db_now
from monitor.store.outbox import (
    MAX_COPIES,
    claim,
    hold,
    leased,
    poison,
    ready_ids,
    record_attempts,
    settle,
    snooze,
    void,
)
from monitor.usecases.context import Account, Tools
from monitor.usecases.letters import LetterDesk
from monitor.usecases.marks import ClaimedMail, Posted
from monitor.usecases.observe import Observed, observe
from monitor.usecases.post import PostOffice
from monitor.usecases.writing import Pen

S = NotificationState
CLAIM_AT_ONCE = 50
CONNECTIONS = 4
LEASE = timedelta(minutes=15)
SENDER_PAUSE = timedelta(minutes=15)
_ASK_AT_ONCE = 4
_API_DOWN_WAIT = timedelta(minutes=5)
_LAST_HOURS = timedelta(hours=6)  # before not_after: facts up to a day old must do when the API is down
_OLD_FACTS = timedelta(hours=24)


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
        self._asked: set[str] = set()
        self._skip: set[str] = set()
        self._kinds: dict[str, str] = {}

    async def deliver(self, now: datetime, *, turn: int | None = None) -> Delivery:
        """Deliver until nothing is ready, the sender must pause, or a stop signal. `now` is the decision's instant.

        `turn` ends the pass after so many claims at the latest, so that other accounts get theirs (`Delivery.more`).
        """
        await self.settle_dead()
        breaker = await self._breaker()
        claimed = 0
        while not self._tools.stopping():
            async with self._tools.db.read() as conn:
                # read anew before every CLAIM: whoever pauses the account wants it now
                self._row = await find_account(conn, self._row.name) or self._row
                self._delivery.stopped_by = self._delivery.stopped_by or self._paused(now)
                if self._delivery.stopped_by is not None:
                    break
                ids = await ready_ids(conn, self._row.id, now, CLAIM_AT_ONCE, self._skip)
            if not ids:
                break
            if turn is not None and claimed >= turn:
                self._delivery.more = True
                break
            mails = await self._claim(ids if turn is None else ids[: turn - claimed], now)
            claimed += len(mails)
            if not mails:
                continue
            self._tools.failpoint("after_claim")
            office = PostOffice(
                self._tools,
                self._transport,
                account_id=self._row.id,
                breaker=breaker,
                now=now,
                connections=CONNECTIONS,
            )
            posted = await office.send(mails)
            breaker = office.breaker
            await self._account_for(posted, now)
        async with self._tools.db.read() as conn:
            self._delivery.waiting, self._delivery.waiting_until = await waiting(conn, self._row.id, now)
        return self._delivery

    async def settle_dead(self) -> None:
        """Take back what dead workers held: claimed mails were certainly not sent, in_data ones are in doubt.

        A second copy in doubt is never sent a third time.
        """
        async with self._tools.db.write() as conn:
            wall = await db_now(conn)
            for row in await leased(conn, self._row.id):
                expired = row.until_at is None or row.until_at < wall
                if not (expired or self._tools.locks.is_dead(row.owner or "")):
                    continue
                state = S(row.state)
                to = S.READY if row.copies == 0 else S.AMBIGUOUS
                if row.copies >= MAX_COPIES and state is S.IN_DATA:
                    to = S.UNSETTLED
                moved = await settle(
                    conn, row.id, expect=state, token=row.token, to=to, values={"reason": "worker_died"}
                )
                self._delivery.rescued += moved
                if moved and state is S.IN_DATA:
                    self._delivery.ambiguous += 1
                    await record_attempts(
                        conn,
                        [
                            {
                                "notification_id": row.id,
                                "copy": row.copies,
                                "token": row.token,
                                "phase": "data",
                                "outcome": "ambiguous",
                                "detail": "the worker died before it saw a reply",
                                "at": wall,
                            }
                        ],
                    )

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
        """CLAIM: examine these mails, and take those that may leave now."""
        answers = await self._examine(ids, now)
        stale = [mail for mail, answer in answers if answer.do is Do.ASK]
        if stale:
            await self._ask_api(stale, now)
            answers = await self._examine(ids, now)
            for mail, _ in answers:
                if mail.state is S.VOIDED and mail.id in self._asked:  # what was read ended its episode
                    self._voided(mail, mail.reason or "")
        claimed = []
        async with self._tools.db.write() as conn:
            until_at = await db_now(conn) + LEASE
            for mail, answer in answers:
                made = await self._obey(conn, mail, answer, now, until_at)
                if made is not None:
                    claimed.append(made)
        return claimed

    async def _examine(self, ids: Sequence[str], now: datetime) -> list[tuple[StoredMail, Answer]]:
        async with self._tools.db.read() as conn:
            wall = await db_now(conn)
            mails = await load_mails(conn, self._row.id, ids)
            macs = [mail.address_mac for mail in mails if mail.address_mac]
            scopes = await suppressed(conn, self._row.id, macs)
            recent = await recent_mails(conn, self._row.id, macs, now)
        result = []
        for mail in mails:
            count, oldest = recent.get(mail.address_mac or "", (0, None))
            case = self._case(mail, wall, frozenset(scopes.get(mail.address_mac or "", ())), count, oldest)
            answer = still_due(case, now)
            if answer.do is Do.SEND and mail.address_mac:
                recent[mail.address_mac] = (count + 1, oldest)
            result.append((mail, answer))
        return result

    def _read_at(self, mail: StoredMail) -> datetime:
        """When this subscription was read last, alone or by a complete sweep (the database's clock)."""
        read_at = mail.subscription.asked_at
        return read_at if self._row.sweep_started_at is None else max(read_at, self._row.sweep_started_at)

    def _case(
        self, mail: StoredMail, wall: datetime, scopes: frozenset[str], count: int, oldest: datetime | None
    ) -> Case:
        account = self._account
        return Case(
            kind=mail.kind,
            step=mail.step,
            urgency=mail.urgency,
            not_after=mail.not_after,
            episode=mail.episode,
            snapshot=mail.subscription.snapshot,
            told=mail.subscription.told,
            situation_open=mail.situation_open,
            address=mail.address,
            deleted=mail.deleted,
            erased=mail.erased,
            test_allowed=account.mail_test_rows,
            facts_age=wall - self._read_at(mail),
            suppressed_in=scopes,
            mails_24h=count,
            oldest_24h_at=oldest,
            customer_zone=mail.zone,
            account_zone=account.zone,
            window=account.window,
            limits=account.guard,
            asked=mail.id in self._asked,
            customer_key=mail.customer_key,
            released=mail.released,
        )

    async def _obey(
        self, conn: AsyncConnection, mail: StoredMail, answer: Answer, now: datetime, until_at: datetime
    ) -> ClaimedMail | None:
        if answer.do is Do.SEND:
            return await self._take(conn, mail, now, until_at)
        if mail.state is S.AMBIGUOUS and answer.do is not Do.SNOOZE:
            await self._leave_unsettled(conn, mail, answer)
        elif answer.do is Do.VOID and await void(conn, mail.id, answer.rule, answer.why):
            self._voided(mail, answer.rule)
        elif answer.do is Do.HOLD and await hold(conn, mail.id, answer.rule):
            self._delivery.held += 1
            self._delivery.by_kind[mail.kind.value, "held"] += 1
            self._delivery.problems.append(answer.why)
        elif answer.do in {Do.SNOOZE, Do.ASK}:
            until = answer.until or now + _API_DOWN_WAIT
            if await snooze(conn, mail.id, until, answer.rule):
                self._delivery.snoozed[answer.rule] += 1
            self._skip.add(mail.id)
        return None

    async def _leave_unsettled(self, conn: AsyncConnection, mail: StoredMail, answer: Answer) -> None:
        """A mail in doubt that is not due any more is not resent: it may have been delivered, and says so."""
        moved = await settle(
            conn,
            mail.id,
            expect=S.AMBIGUOUS,
            token=None,
            to=S.UNSETTLED,
            values={"reason": answer.rule, "why": answer.why},
        )
        self._delivery.ambiguous += moved

    async def _take(
        self, conn: AsyncConnection, mail: StoredMail, now: datetime, until_at: datetime
    ) -> ClaimedMail | None:
        try:
            made = await self._desk.make(conn, self._account, self._row.id, mail, now)
        except UnmailableAddressError as error:
            if mail.copies:
                await self._leave_unsettled(conn, mail, Answer(Do.VOID, "unmailable", str(error)))
            elif await void(conn, mail.id, "unmailable", str(error)):
                self._voided(mail, "unmailable")
            return None
        except MailError as error:
            await self._poisoned(conn, mail, error, now)
            return None
        token = await claim(
            conn,
            mail.id,
            owner=self._tools.owner,
            until_at=until_at,
            values={"address_mac": mail.address_mac, "variant": made.variant},
        )
        self._kinds[mail.id] = mail.kind.value
        return None if token is None else made.claimed(token)

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

    async def _ask_api(self, mails: Sequence[StoredMail], now: datetime) -> None:
        """Read these subscriptions again (OBSERVE); without an answer, facts of a day must do near the end."""
        limit = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(mail: StoredMail) -> Observed | None:
            ext_id = mail.subscription.snapshot.ext_id
            async with limit:
                async with self._tools.db.read() as conn:
                    asked_at = await db_now(conn)
                answer = await self._account.provider.subscription(ext_id)
            return None if answer is None else Observed(answer[0], answer[1], asked_at)

        answers = await asyncio.gather(*map(ask, mails), return_exceptions=True)
        async with self._tools.db.read() as conn:
            wall = await db_now(conn)
        seen: list[Observed] = []
        for mail, answer in zip(mails, answers, strict=True):
            if isinstance(answer, ProviderError):
                self._delivery.problems.append(f"the API did not answer before a mail: {answer}")
                near = mail.not_after is not None and mail.not_after - now < _LAST_HOURS
                if near and wall - self._read_at(mail) < _OLD_FACTS:
                    self._asked.add(mail.id)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer is not None:
                self._asked.add(mail.id)
                seen.append(answer)
            # a 404 proves nothing, but nobody is asked to pay for what the API does not know: the mail waits
        if not seen:
            return
        async with self._tools.db.write() as conn:
            batch_id = await collecting_batch(conn, self._row.id, "live", now)
            pen = Pen(now, Source.PULL, batch_id)
            policy = self._account.policy(self._row)
            await observe(conn, self._row, policy, seen, pen, self._tools.address_mac, touch=True)

    async def _account_for(self, posted: Posted, now: datetime) -> None:
        delivery = self._delivery
        delivery.by_kind.update((self._kinds[one.mail.id], one.outcome) for one in posted.settled)
        delivery.sent += posted.count("sent")
        delivery.sent_ids += [one.mail.id for one in posted.settled if one.outcome == "sent"]
        delivery.failed += sum(one.to is S.FAILED for one in posted.settled)
        delivery.deferred += posted.count("deferred")
        delivery.ambiguous += posted.count("ambiguous")
        delivery.voided["unmailable"] += posted.count("voided")
        self._tools.progress("deliver", delivery.sent, None)
        if posted.pause is not None:
            until = now + SENDER_PAUSE
            async with self._tools.db.write() as conn:
                await change_account(conn, self._row.id, sender_paused_until=until, sender_pause_reason=posted.pause)
            self._row = replace(self._row, sender_paused_until=until, sender_pause_reason=posted.pause)
            delivery.stopped_by = Halt(HaltRule.SENDER_PAUSED, posted.pause, until)
        elif posted.unreachable is not None:
            delivery.stopped_by = Halt(HaltRule.SERVER_UNREACHABLE, posted.unreachable)
