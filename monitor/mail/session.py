"""One mail after another over one connection: the envelope, then the body, each reply judged by its class.

Where the server takes several commands at once (PIPELINING, RFC 2920), MAIL and RCPT leave together, and those of the
next mail right behind the dot of the last. DATA never does: the caller's mark is committed before it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from monitor.domain.replies import Phase, enhanced_code
from monitor.errors import UnmailableAddressError
from monitor.mail.transport import ConnectionFailedError, Reply, ReplyError, ReplyLostError
from monitor.mail.wire import Wire, WireError, as_data

_LONGEST_TEXT = 500
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_ATOM = r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff<>(),:;@\[\]\\\"]+"
_PLAIN_ADDRESS = re.compile(f"{_ATOM}@{_ATOM}")
_UNAVAILABLE = 421
_DONE = 250


@dataclass(frozen=True, slots=True)
class SmtpTimeouts:
    """How long to wait (RFC 5321 4.5.3.2). A shorter `final` makes duplicates: the server may have taken the mail."""

    connect: timedelta = timedelta(seconds=30)
    command: timedelta = timedelta(minutes=5)
    data: timedelta = timedelta(minutes=2)
    final: timedelta = timedelta(minutes=10)
    quit: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that is ready for mails, and what its server can do."""

    wire: Wire
    pipelining: bool
    international: bool
    """SMTPUTF8: addresses beyond ASCII."""


class SmtpSession:
    """See `monitor.mail.transport.Session`."""

    def __init__(
        self, opened: Opened, connect: Callable[[], Awaitable[Opened]], *, timeouts: SmtpTimeouts, mails: int
    ) -> None:
        """`connect` makes the next connection, after so many `mails` or when the server has ended this one."""
        self._open = opened
        self._connect = connect
        self._timeouts = timeouts
        self._most = mails
        self._mails = 0
        self._in_transaction = False
        self._announced: tuple[str, str] | None = None

    @property
    def pipelining(self) -> bool:
        return self._open.pipelining

    async def envelope(self, sender: str, recipient: str) -> Reply:
        announced = self._announced == (sender, recipient)
        if not announced and self._mails >= self._most:
            await self.close()
        if self._in_transaction and not announced:
            await self.reset()
        if not self._open.wire.is_open and not announced:
            await self._reconnect()
        used = announced or self._mails > 0
        try:
            return await self._mail_and_rcpt(sender, recipient, said=announced)
        except (ConnectionFailedError, ReplyError) as error:
            # A kept connection may have run into the server's idle time or its limit of mails: once more, on a new one.
            if not used or not _is_closed(error):
                raise
        await self._reconnect()
        return await self._mail_and_rcpt(sender, recipient, said=False)

    async def _reconnect(self) -> None:
        self._open.wire.close()
        self._open = await self._connect()
        self._mails = 0
        self._in_transaction = False
        self._announced = None

    async def _mail_and_rcpt(self, sender: str, recipient: str, *, said: bool) -> Reply:
        self._announced = None
        rest = b""
        if not said:
            mail, rcpt = self._commands(sender, recipient)
            self._mails += 1
            self._in_transaction = True
            if self._open.pipelining:
                self._say(Phase.MAIL, mail + rcpt, replies=2)
            else:
                self._say(Phase.MAIL, mail)
                rest = rcpt
        asked = await self._reply(Phase.MAIL)
        if not _is_good(asked):
            if self._open.wire.awaited and not _is_closing(asked):
                with suppress(ConnectionFailedError):
                    await self._reply(Phase.RCPT)  # it must not be taken for the next command's
            raise self._refusal(asked)
        if rest:
            self._say(Phase.RCPT, rest)
        answer = await self._reply(Phase.RCPT)
        if not _is_good(answer):
            raise self._refusal(answer)
        return answer

    def _commands(self, sender: str, recipient: str) -> tuple[bytes, bytes]:
        """MAIL and RCPT; `UnmailableAddressError` for an address that cannot stand there."""
        # Anything but one plain mailbox could end the command, or name somebody who was not meant.
        if not (_PLAIN_ADDRESS.fullmatch(sender) and _PLAIN_ADDRESS.fullmatch(recipient)):
            raise UnmailableAddressError("the address is not one plain name@host")
        if sender.isascii() and recipient.isascii():
            return f"MAIL FROM:<{sender}>\r\n".encode("ascii"), f"RCPT TO:<{recipient}>\r\n".encode("ascii")
        if not self._open.international:
            raise UnmailableAddressError("the address needs SMTPUTF8, which the server lacks")
        return f"MAIL FROM:<{sender}> SMTPUTF8\r\n".encode(), f"RCPT TO:<{recipient}>\r\n".encode()

    async def body(self, message: bytes, following: tuple[str, str] | None = None) -> Reply:
        self._say(Phase.DATA, b"DATA\r\n")
        go_ahead = await self._reply(Phase.DATA, self._timeouts.data)
        if go_ahead.code is None or go_ahead.code // 100 != 3:
            raise self._refusal(go_ahead)
        envelope = self._announce(following)
        self._say(Phase.DATA, as_data(message) + envelope, replies=3 if envelope else 1)
        self._in_transaction = bool(envelope)
        try:
            reply = await self._reply(Phase.DOT, self._timeouts.final)
        except ConnectionFailedError as error:  # from the first byte on, it is open what happened
            raise ReplyLostError(f"no answer to the message: {error.reason}") from error
        if reply.code is None or reply.code // 100 not in {2, 4, 5}:
            self._drop()
            raise ReplyLostError("the answer to the message is no SMTP reply")
        if _is_good(reply):
            return reply
        raise self._refusal(reply)

    def _announce(self, following: tuple[str, str] | None) -> bytes:
        """The next mail's commands, to leave with this one's dot; nothing where they must wait for their turn."""
        if following is None or not self._open.pipelining or self._mails >= self._most:
            return b""
        try:
            mail, rcpt = self._commands(*following)
        except UnmailableAddressError:
            return b""  # told when its turn comes
        self._announced = following
        self._mails += 1
        return mail + rcpt

    def _say(self, phase: Phase, data: bytes, *, replies: int = 1) -> None:
        try:
            self._open.wire.say(data, replies=replies)
        except WireError as error:
            raise ConnectionFailedError(phase, str(error)) from error

    async def _reply(self, phase: Phase, wait: timedelta | None = None) -> Reply:
        """The next reply, whatever it says. `ConnectionFailedError`: none came; the connection is closed."""
        try:
            code, text = await self._open.wire.reply((wait or self._timeouts.command).total_seconds())
        except WireError as error:
            raise ConnectionFailedError(phase, str(error)) from error
        return reply_of(phase, code, text)

    def _refusal(self, reply: Reply) -> ReplyError:
        """The error of a refusal. After 421 or garbage the connection is of no more use."""
        if _is_closing(reply):
            self._drop()
        return ReplyError(reply)

    def _drop(self) -> None:
        """Nothing more is said or read here, not even what was announced."""
        self._announced = None
        self._open.wire.close()

    async def reset(self) -> None:
        self._in_transaction = False
        self._announced = None
        if await self._last_reply_to(b"RSET\r\n", self._timeouts.command) != _DONE:
            self._open.wire.close()

    async def close(self) -> None:
        """QUIT, if there is somebody to say it to. Whatever is answered: what was sent stays sent."""
        try:
            await self._last_reply_to(b"QUIT\r\n", self._timeouts.quit)
        finally:
            self._drop()

    async def _last_reply_to(self, command: bytes, wait: timedelta) -> int | None:
        """The code of the reply to this command, after those that were still to come; None: there was none."""
        wire, code = self._open.wire, None
        with suppress(WireError):
            wire.say(command)
            while wire.awaited:
                code, _ = await wire.reply(wait.total_seconds())
                if code is None:
                    break
        return code


@lru_cache(maxsize=256)  # most replies of a server are the same few
def reply_of(phase: Phase, code: int | None, text: str) -> Reply:
    """The reply as a value, its text fit for a log."""
    clean = _CONTROLS.sub(" ", text)[:_LONGEST_TEXT].strip()
    return Reply(phase, code, enhanced_code(clean), clean)


def _is_good(reply: Reply) -> bool:
    return reply.code is not None and reply.code // 100 == 2


def _is_closed(error: ConnectionFailedError | ReplyError) -> bool:
    return isinstance(error, ConnectionFailedError) or error.reply.code == _UNAVAILABLE


def _is_closing(reply: Reply) -> bool:
    """Whether nothing that follows on this connection is worth reading."""
    return reply.code in {None, _UNAVAILABLE}
