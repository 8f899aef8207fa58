"""Hand claimed mails to the server over a few connections, one recipient a transaction.

The `in_data` mark is committed between RCPT's 250 and DATA, `sent` on the reply to the final dot; whatever the server
says after it is ignored.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

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
from monitor.store.outbox import MAX_COPIES
from monitor.usecases.context import Tools
from monitor.usecases.marks import ClaimedMail, Marker, Posted, Settlement

S = NotificationState
POLICY_WAIT = timedelta(hours=1)
REFUSED_MARK_WAIT = timedelta(minutes=1)  # so that one pass does not claim it again and again
DRAIN_S = 20.0
NOTICE_STOP_S = 0.2


class PostOffice:
    """Sends one claimed group over a few connections."""

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
        self.breaker = breaker
        self._now = now
        self._connections = connections
        self._posted = Posted()
        self._marker = Marker(tools, account_id, now, self._posted)

    async def send(self, mails: list[ClaimedMail]) -> Posted:
        """Send them all, or stop early at a stop signal or a tripped breaker; what did not leave goes back."""
        queue: asyncio.Queue[ClaimedMail] = asyncio.Queue()
        for mail in mails:
            queue.put_nowait(mail)
        marking = asyncio.create_task(self._marker.work())
        try:
            workers = {asyncio.create_task(self._work(queue)) for _ in range(min(self._connections, len(mails)))}
            await self._wait_for(workers)
            while not queue.empty():
                self._give_back(queue.get_nowait())
        finally:
            self._marker.close()
            await marking
        return self._posted

    async def _wait_for(self, workers: set[asyncio.Task[None]]) -> None:
        """Until all are done; after a stop signal only as long as replies may reasonably take."""
        pending = workers
        while pending and not self._tools.stopping():
            done, pending = await asyncio.wait(pending, timeout=NOTICE_STOP_S, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() is not None for task in done):
                break
        if pending:
            await asyncio.wait(pending, timeout=DRAIN_S)
        for task in workers:
            task.cancel()  # what was in its body stays in_data: the next start sees it as in doubt
        for outcome in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _stopped(self) -> bool:
        return bool(self._posted.pause or self._posted.unreachable) or self._tools.stopping()

    async def _work(self, queue: asyncio.Queue[ClaimedMail]) -> None:
        if self._stopped():
            return
        try:
            async with self._transport.session() as session:
                self._tools.failpoint("after_connect")
                while not queue.empty() and not self._stopped():
                    await self._post(session, queue.get_nowait())
        except (LoginRefusedError, InsecureConnectionError) as error:
            self._posted.pause = str(error)
        except ReplyError as error:
            if classify_reply(error.reply.phase, error.reply.code, error.reply.enhanced) is Verdict.PAUSE_SENDER:
                self._posted.pause = str(error)
            else:
                self._posted.unreachable = str(error)
        except ConnectionFailedError as error:
            self._posted.unreachable = str(error)  # nothing of ours was on it; all goes back for a later pass

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
            reply = await session.body(mail.message)
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
        self.breaker = self.breaker.after(refused=False)
        self._settle(mail, S.IN_DATA, S.SENT, "sent", Phase.DOT, copy=copy, reply=reply, sent_at=self._now)

    def _answered(self, mail: ClaimedMail, reply: Reply, *, expect: NotificationState, copy: int) -> None:
        """The server said no; its code decides who is at fault."""
        verdict = classify_reply(reply.phase, reply.code, reply.enhanced, reply.text)
        refused = reply.code is not None and 500 <= reply.code <= 599
        self.breaker = self.breaker.after(refused=refused)
        if self.breaker.reason is not None:
            self._posted.pause = self.breaker.reason.sentence
        if verdict is Verdict.PAUSE_SENDER:
            self._posted.pause = f"the server answered {reply.code} {reply.enhanced or ''} at {reply.phase}".strip()
            # an hour, so that a mail which alone displeases the server does not pause its sender again and again
            self._give_back(mail, expect=expect, copies_back=expect is S.IN_DATA, next_try_at=self._now + POLICY_WAIT)
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
                suppress=verdict is Verdict.SUPPRESS,
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
        self, mail: ClaimedMail, *, expect: NotificationState = S.CLAIMED, copies_back: bool = False, **values: Any
    ) -> None:
        """Claimed -> ready; no try is counted."""
        values = {"reason": "returned", **values}
        self._marker.settle(
            Settlement(mail, expect, _waiting(mail), "returned", "", copies_back=copies_back, values=values)
        )

    def _void(self, mail: ClaimedMail, why: str) -> None:
        values = {"reason": "unmailable", "why": why}
        to = S.UNSETTLED if mail.in_doubt else S.VOIDED
        self._marker.settle(Settlement(mail, S.CLAIMED, to, "voided", "", values=values))

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
        suppress: bool = False,
        reason: str | None = None,
        **values: Any,
    ) -> None:
        refused_at_the_dot = expect is S.IN_DATA and outcome in {"refused", "deferred"}
        self._marker.settle(
            Settlement(
                mail,
                expect,
                to,
                outcome,
                phase.value,
                copy=copy,
                copies_back=refused_at_the_dot,
                reply=reply,
                detail=detail,
                values={"reason": reason, **values},
                suppress=suppress,
            ),
        )


def _waiting(mail: ClaimedMail) -> NotificationState:
    """Where a mail waits for its next chance: one that may have been delivered stays in doubt."""
    return S.AMBIGUOUS if mail.in_doubt else S.READY


def _ended(mail: ClaimedMail) -> NotificationState:
    """How a mail ends that the server refused: "failed" only if no earlier copy may have arrived."""
    return S.UNSETTLED if mail.in_doubt else S.FAILED
