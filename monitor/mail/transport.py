"""What delivery needs of a mail server, as types: a session, its two steps, and the ways in which they end.

Between the two steps the caller commits its mark: after `envelope` nothing was sent that could be delivered, from
`body` on something may have been. So an error of `envelope` is always safe to retry, and of `body` every error but
`ReplyLostError` is.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from monitor.domain.replies import Phase
from monitor.errors import MailError


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the server. `code` None: it could not be read. `enhanced` is the RFC 3463 code, if there was one.

    `text` is the server's own, without control characters and cut; it may quote an address, so it is not for logs.
    """

    phase: Phase
    code: int | None
    enhanced: str | None = None
    text: str = ""


class ReplyError(MailError):
    """The server refused, for now or for good: `monitor.domain.replies.classify_reply` tells which."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the server answered {reply.code or 'nothing readable'} at {reply.phase}")
        self.reply = reply


class LoginRefusedError(ReplyError):
    """User or password are refused, or the server offers no login: the sender must pause, no mail is at fault."""


class InsecureConnectionError(MailError):
    """TLS was asked for and could not be had, or the certificate is not the server's. Nothing was sent in clear."""


class ConnectionFailedError(MailError):
    """No connection, or it was lost or too slow before any part of a body was sent: safe to retry later."""

    def __init__(self, phase: Phase, reason: str) -> None:
        super().__init__(f"the connection failed at {phase}: {reason}")
        self.phase = phase
        self.reason = reason


class ReplyLostError(MailError):
    """The body was sent and no reply that can be read came back: the mail may have been delivered, or not."""


class Session(Protocol):
    """A connection that is kept for many mails, and made anew when the server closes it. One mail at a time."""

    @property
    def pipelining(self) -> bool:
        """Whether the next mail's envelope may leave with this one's body: then `following` is worth giving."""
        ...

    async def envelope(self, sender: str, recipient: str) -> Reply:
        """MAIL and exactly one RCPT; the reply is RCPT's.

        Raises:
            ReplyError: the server refused sender or recipient; the connection may still be good.
            ConnectionFailedError: also after one attempt on a new connection; nothing was sent.
            LoginRefusedError, InsecureConnectionError: when a new connection had to be made.
            UnmailableAddressError: the address cannot stand in a command, or needs SMTPUTF8 and the server lacks it.
        """
        ...

    async def body(self, message: bytes, following: tuple[str, str] | None = None) -> Reply:
        """DATA and the message; waits up to 10 minutes for the reply (RFC 5321 4.5.3.2.6). A reply returned is 2xx.

        `following` are sender and recipient of the next mail, whose `envelope` will be asked for, or `reset`: where the
        server allows it they are said already, and nothing of that mail is sent.

        Raises:
            ReplyError: refused at DATA or at the dot: certainly not delivered.
            ConnectionFailedError: lost before the server asked for the message: certainly not delivered.
            ReplyLostError: lost later, too slow, or answered in no SMTP: nobody knows.
        """
        ...

    async def reset(self) -> None:
        """Forget the envelope. Never raises: a connection that cannot is dropped."""
        ...


class Transport(Protocol):
    """A mail server one can have sessions with."""

    @property
    def connections(self) -> int:
        """How many sessions it may be asked for at once, 1 or more."""
        ...

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A session, connected and logged in. Whatever happens while it closes is ignored: sent mail stays sent.

        Raises (on entry): ReplyError, LoginRefusedError, InsecureConnectionError, ConnectionFailedError.
        """
        ...
