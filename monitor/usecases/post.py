"""Hand claimed mails to the server over a few connections, one recipient a transaction.

The `in_data` mark is committed between RCPT's 250 and DATA, `sent` on the reply to the final dot; whatever the server
says after it is ignored. Connections are kept while the next mails are being claimed and made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from monitor.domain.backoff import next_try
from monitor.domain.guard import Breaker
from monitor.domain.model import NotificationState
from monitor.domain.replies import Phase, Verdict, classify_reply, tries_allowed
from monitor.errors import UnmailableAddressError
from monitor.mail.transport import (
    ConnectionFailedError,
    InsecureConnectionError,
    LoginRefusedError,
    Reply,
    ReplyError,
    ReplyLostError,
    Session,
    Transport,
)
from monitor.store.transit import MAX_COPIES, Outcome
from monitor.usecases.context import Tools
from monitor.usecases.marks import ClaimedMail, Marker, Posted, Settlement

S = NotificationState
POLICY_WAIT = timedelta(hours=1)
REFUSED_MARK_WAIT = timedelta(minutes=1)  # so that one pass does not claim it again and again
DRAIN_S = 20.0
BELIEVED_S = 60.0
"""How long a claimed mail may wait for a connection and still be taken for true: then it is examined again."""
NOTICE_STOP_S = 0.2


class PostOffice:
    """Sends what it is handed until it is left: then nothing new begins, and what did not leave goes back."""

    def __init__(
        self,
        tools: Tools,
        transport: Transport,
        *,
        account_id: int,
        breaker: Breaker,
        now: datetime,
        connections: int,
    ) -> None:
        """`breaker` remembers the sender's newest replies and goes on remembering."""
        self._tools = tools
        self._transport = transport
        self._breaker = breaker
        self._now = now
        self._connections = connections
        self.posted = Posted()
        self._moved = asyncio.Event()
        self._marker = Marker(tools, account_id, now, self.posted, at_work=lambda: self._at_work, moved=self._moved)
        self._queue: asyncio.Queue[ClaimedMail | None] = asyncio.Queue()
        self._ahead: dict[Session, ClaimedMail] = {}
        """The mail whose envelope a connection has said already, with the body of the one before it."""
        self._handed_in: dict[str, float] = {}
        self._clerks: set[asyncio.Task[None]] = set()
        self._at_work = 0
        self._closing = False

    async def __aenter__(self) -> Self:
        self._marking = asyncio.create_task(self._marker.work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Wait for the replies of what is on its way, give the rest back, commit. Raises what stopped a connection."""
        self._closing = True
        for _ in self._clerks:
            self._queue.put_nowait(None)
        try:
            if kind is None or issubclass(kind, Exception):
                await self._wind_down()
        finally:
            for clerk in self._clerks:
                clerk.cancel()  # what was in its body stays in_data: the next start sees it as in doubt
            ends = await asyncio.gather(*self._clerks, return_exceptions=True)
            while not self._queue.empty():
                mail = self._queue.get_nowait()
                if mail is not None:
                    self._give_back(mail)
            self._marker.close()
            await self._marking
        failed = next((end for end in ends if isinstance(end, Exception)), None)
        if failed is not None and kind is None:
            raise failed

    @property
    def halted(self) -> bool:
        """Nothing more will leave: the sender pauses, nobody answers, a stop signal came, or something broke."""
        return self._stopped() or self._broken()

    @property
    def outstanding(self) -> frozenset[str]:
        """Ids of the mails that were handed in and are not settled for good yet."""
        return frozenset(self._marker.outstanding)

    async def send(self, mails: Sequence[ClaimedMail]) -> None:
        """Take these too. Returns while the last of them still wait for a connection: there is time to claim more."""
        self._marker.outstanding.update(mail.id for mail in mails)
        at = self._tools.clock.monotonic()
        for mail in mails:
            self._handed_in[mail.id] = at
            self._queue.put_nowait(mail)
        alive = sum(not clerk.done() for clerk in self._clerks)
        for _ in range(min(self._connections, self._queue.qsize()) - alive):
            self._clerks.add(asyncio.create_task(self._serve()))
        await self._until(lambda: self._queue.qsize() < len(mails))

    async def finish(self) -> None:
        """Until all that was handed in is settled for good, or nothing more will leave."""
        await self._until(lambda: not self._marker.outstanding)

    async def _until(self, met: Callable[[], bool]) -> None:
        while not met() and not self.halted:
            self._moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(NOTICE_STOP_S):
                    await self._moved.wait()

    async def _wind_down(self) -> None:
        """Until all connections are done; after a stop signal only as long as replies may reasonably take."""
        pending = self._clerks
        while pending and not self._tools.stopping() and not self._broken():
            _, pending = await asyncio.wait(pending, timeout=NOTICE_STOP_S, return_when=asyncio.FIRST_EXCEPTION)
        if pending:
            await asyncio.wait(pending, timeout=DRAIN_S)

    def _stopped(self) -> bool:
        return bool(self.posted.pause or self.posted.unreachable) or self._tools.stopping()

    def _broken(self) -> bool:
        return self._marking.done() or any(clerk.done() and clerk.exception() is not None for clerk in self._clerks)

    async def _serve(self) -> None:
        """One connection, for as many mails as there are."""
        try:
            async with self._transport.session() as session:
                self._tools.failpoint("after_connect")
                await self._empty_queue(session)
        except (LoginRefusedError, InsecureConnectionError) as error:
            self.posted.pause = str(error)
        except (ReplyError, ConnectionFailedError) as error:
            self._not_connected(error)
        finally:
            self._moved.set()

    async def _empty_queue(self, session: Session) -> None:
        try:
            while not self._stopped() and not self._closing:
                mail = await self._next(session)
                self._moved.set()
                if mail is None:
                    return
                if self._stopped():
                    self._give_back(mail)
                    return
                if self._tools.clock.monotonic() - self._handed_in.pop(mail.id) > BELIEVED_S:
                    self._give_back(mail)  # behind a slow server: who paid meanwhile must not get it any more
                    continue
                self._at_work += 1
                try:
                    await self._post(session, mail)
                finally:
                    self._at_work -= 1
                    self._moved.set()
        finally:
            if (mail := self._ahead.pop(session, None)) is not None:
                self._queue.put_nowait(mail)

    async def _next(self, session: Session) -> ClaimedMail | None:
        """The next mail for this connection: the one that it announced, one that waits, or one announced elsewhere.

        So no mail waits behind the slow reply of one connection while another has nothing to do.
        """
        mail = self._ahead.pop(session, None)
        if mail is None and self._queue.empty() and self._ahead:
            _, mail = self._ahead.popitem()
        return mail or await self._queue.get()

    def _look_ahead(self, session: Session) -> tuple[str, str] | None:
        """The envelope to leave with the body that is about to: of the next mail, while more wait than connections."""
        if not session.pipelining or self._queue.qsize() <= self._connections:
            return None
        mail = self._queue.get_nowait()
        if mail is None:  # the office closes
            return None
        self._ahead[session] = mail
        return mail.sender, mail.recipient

    def _not_connected(self, error: ReplyError | ConnectionFailedError) -> None:
        """Nothing of ours was on it. A server that lets in fewer connections is there: the others go on alone."""
        if isinstance(error, ReplyError):
            reply = error.reply
            if classify_reply(reply.phase, reply.code, reply.enhanced) is Verdict.PAUSE_SENDER:
                self.posted.pause = str(error)
                return
        others = sum(not clerk.done() for clerk in self._clerks) - 1
        if others:
            self._connections = others
        else:
            self.posted.unreachable = str(error)

    async def _post(self, session: Session, mail: ClaimedMail) -> None:
        """One mail. Every way out settles it exactly once, or leaves it in_data for the next start to see."""
        try:
            await session.envelope(mail.sender, mail.recipient)
        except (LoginRefusedError, InsecureConnectionError):
            self._give_back(mail)
            raise
        except ReplyError as error:
            await session.reset()
            self._answered(mail, error.reply, expect=S.CLAIMED, copy=0)
            return
        except UnmailableAddressError as error:
            await session.reset()
            self._void(mail, str(error))
            return
        except ConnectionFailedError:
            self._give_back(mail)
            raise
        self._tools.failpoint("after_rcpt")
        copy = await self._marker.in_data(mail)
        if copy is None:
            await session.reset()
            # ours no more, then this does nothing; or the account was paused: it waits, and not for the lease to end
            self._give_back(mail, next_try_at=self._now + REFUSED_MARK_WAIT)
            return
        self._tools.failpoint("after_in_data")
        try:
            reply = await session.body(mail.message, self._look_ahead(session))
        except ReplyError as error:
            self._answered(mail, error.reply, expect=S.IN_DATA, copy=copy)
            return
        except ConnectionFailedError as error:
            self._retry(mail, None, expect=S.IN_DATA, copy=copy, phase=error.phase)
            return
        except ReplyLostError as error:
            to = S.AMBIGUOUS if copy < MAX_COPIES else S.UNSETTLED
            self._settle(mail, S.IN_DATA, to, "ambiguous", Phase.DOT, copy=copy, detail=str(error), reason="reply_lost")
            return
        self._tools.failpoint("after_reply")
        self._breaker = self._breaker.after(refused=False)
        self._settle(mail, S.IN_DATA, S.SENT, "sent", Phase.DOT, copy=copy, reply=reply, sent_at=self._now)

    def _answered(self, mail: ClaimedMail, reply: Reply, *, expect: NotificationState, copy: int) -> None:
        """The server said no; its code decides who is at fault."""
        verdict = classify_reply(reply.phase, reply.code, reply.enhanced, reply.text)
        refused = reply.code is not None and 500 <= reply.code <= 599
        self._breaker = self._breaker.after(refused=refused)
        if self._breaker.reason is not None:
            self.posted.pause = self._breaker.reason.sentence
        if verdict is Verdict.PAUSE_SENDER:
            self.posted.pause = f"the server answered {reply.code} {reply.enhanced or ''} at {reply.phase}".strip()
            # an hour, so that a mail which alone displeases the server does not pause its sender again and again
            self._give_back(mail, expect=expect, next_try_at=self._now + POLICY_WAIT)
        elif verdict in {Verdict.REFUSED, Verdict.SUPPRESS}:
            self._settle(
                mail,
                expect,
                _ended(mail),
                "refused",
                reply.phase,
                copy=copy,
                reply=reply,
                reason="refused",
                suppress_address=verdict is Verdict.SUPPRESS,
            )
        else:
            self._retry(mail, reply, expect=expect, copy=copy, phase=reply.phase)

    def _retry(
        self, mail: ClaimedMail, reply: Reply | None, *, expect: NotificationState, copy: int, phase: Phase
    ) -> None:
        tries = mail.tries + 1
        allowed = tries_allowed(reply.code, reply.enhanced, reply.text) if reply is not None else None
        at = (
            next_try(mail.id, tries, self._now)
            if allowed is None
            else next_try(mail.id, tries, self._now, max_tries=allowed)
        )
        if at is None:
            self._settle(
                mail, expect, _ended(mail), "refused", phase, copy=copy, reply=reply, reason="gave_up", tries=tries
            )
            return
        self._settle(
            mail,
            expect,
            _waiting(mail),
            "deferred",
            phase,
            copy=copy,
            reply=reply,
            reason="deferred",
            tries=tries,
            next_try_at=at,
        )

    def _give_back(
        self, mail: ClaimedMail, *, expect: NotificationState = S.CLAIMED, next_try_at: datetime | None = None
    ) -> None:
        """Back to where it waited; no try is counted, and a copy that was refused at the dot neither."""
        copies_back = int(expect is S.IN_DATA)
        move = Outcome(
            mail.id,
            expect,
            _waiting(mail),
            mail.token,
            copies_back=copies_back,
            reason="returned",
            next_try_at=next_try_at,
        )
        self._marker.settle(Settlement(mail, move, "returned"))

    def _void(self, mail: ClaimedMail, why: str) -> None:
        to = S.UNSETTLED if mail.in_doubt else S.VOIDED
        move = Outcome(mail.id, S.CLAIMED, to, mail.token, reason="unmailable", why=why)
        self._marker.settle(Settlement(mail, move, "voided"))

    def _settle(
        self,
        mail: ClaimedMail,
        expect: NotificationState,
        to: NotificationState,
        outcome: str,
        phase: Phase,
        *,
        copy: int,
        reply: Reply | None = None,
        detail: str | None = None,
        suppress_address: bool = False,
        **values: Any,
    ) -> None:
        refused_at_the_dot = expect is S.IN_DATA and outcome in {"refused", "deferred"}
        move = Outcome(mail.id, expect, to, mail.token, copies_back=int(refused_at_the_dot), **values)
        self._marker.settle(
            Settlement(mail, move, outcome, phase.value, copy, reply=reply, detail=detail, suppress=suppress_address)
        )


def _waiting(mail: ClaimedMail) -> NotificationState:
    """Where a mail waits for its next chance: one that may have been delivered stays in doubt."""
    return S.AMBIGUOUS if mail.in_doubt else S.READY


def _ended(mail: ClaimedMail) -> NotificationState:
    """How a mail ends that the server refused: "failed" only if no earlier copy may have arrived."""
    return S.UNSETTLED if mail.in_doubt else S.FAILED
