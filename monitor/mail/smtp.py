"""SMTP over aiosmtplib: the only place that speaks to a mail server."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import aiosmtplib

from monitor.domain.replies import Phase, enhanced_code
from monitor.errors import ConfigError, UnmailableAddressError
from monitor.mail.transport import (
    ConnectionFailedError,
    InsecureConnectionError,
    LoginRefusedError,
    Reply,
    ReplyError,
    ReplyLostError,
)

MAILS_PER_CONNECTION = 100
_LONGEST_TEXT = 500
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_ATOM = r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff<>(),:;@\[\]\\\"]+"
_PLAIN_ADDRESS = re.compile(f"{_ATOM}@{_ATOM}")
_CLOSING = 421


@dataclass(frozen=True, slots=True)
class SmtpTimeouts:
    """How long to wait (RFC 5321 4.5.3.2). A shorter `final` makes duplicates: the server may have taken the mail."""

    connect: timedelta = timedelta(seconds=30)
    command: timedelta = timedelta(minutes=5)
    data: timedelta = timedelta(minutes=2)
    final: timedelta = timedelta(minutes=10)
    quit: timedelta = timedelta(seconds=5)


class SmtpTransport:
    """One mail server with one login. Sessions are independent of one another."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        security: Literal["none", "starttls", "tls"],
        username: str | None = None,
        password: str | None = None,
        timeouts: SmtpTimeouts | None = None,
        mails_per_connection: int = MAILS_PER_CONNECTION,
        tls_context: ssl.SSLContext | None = None,
        own_name: str | None = None,
    ) -> None:
        """`own_name` is what EHLO says (default: this machine's full name); `tls_context` verifies, by default."""
        if username and security == "none":
            raise ConfigError("smtp.username: would be sent in clear; set smtp.security to starttls or tls")
        self._host = host
        self._port = port
        self._security = security
        self._username = username
        self._password = password or ""
        self.timeouts = timeouts or SmtpTimeouts()
        self.mails_per_connection = mails_per_connection
        self._tls = tls_context or (None if security == "none" else ssl.create_default_context())
        self._own_name = own_name

    @asynccontextmanager
    async def session(self) -> AsyncIterator[SmtpSession]:
        """See `monitor.mail.transport.Transport`."""
        session = SmtpSession(self, await self.connect())
        try:
            yield session
        finally:
            await session.close()

    async def connect(self) -> aiosmtplib.SMTP:
        """A new connection, greeted, encrypted as configured, logged in. Errors as for `session`."""
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            local_hostname=self._own_name,
            timeout=self.timeouts.command.total_seconds(),
            use_tls=self._security == "tls",
            start_tls=False,
            tls_context=self._tls,
        )
        try:
            with _failures(Phase.CONNECT):
                await client.connect(timeout=self.timeouts.connect.total_seconds())
            self._own_name = client.local_hostname  # looked up once: a resolver may be slow
            await self._greet(client)
            if self._security == "starttls":
                await self._encrypt(client)
            if self._username:
                await self._log_in(client, self._username)
        except BaseException:
            client.close()
            raise
        return client

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        with _failures(Phase.HELO):
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError:
                await client.helo()  # a server from before 1995 has no EHLO, and thus neither TLS nor a login

    async def _encrypt(self, client: aiosmtplib.SMTP) -> None:
        try:
            with _failures(Phase.HELO):
                await client.starttls(timeout=self.timeouts.connect.total_seconds())
        except ReplyError as error:
            raise InsecureConnectionError(f"STARTTLS was refused with {error.reply.code}") from error
        except aiosmtplib.SMTPException as error:
            raise InsecureConnectionError("the server offers no STARTTLS") from error
        await self._greet(client)  # what was said before TLS counts no more (RFC 3207 4.2)

    async def _log_in(self, client: aiosmtplib.SMTP, username: str) -> None:
        """One attempt with one method: every failed attempt counts towards the server's lock-out."""
        if client.get_transport_info("sslcontext") is None:
            raise InsecureConnectionError("no login without TLS")
        methods = {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_crammd5}
        method = next((methods[name] for name in methods if name in client.server_auth_methods), None)
        if method is None:
            raise LoginRefusedError(Reply(Phase.AUTH, None, text="the server offers no login that is known here"))
        try:
            with _failures(Phase.AUTH):
                await method(username, self._password)
        except ReplyError as error:
            if error.reply.code is not None and error.reply.code // 100 == 4:
                raise  # 454: the server's own trouble
            raise LoginRefusedError(error.reply) from error


class SmtpSession:
    """See `monitor.mail.transport.Session`."""

    def __init__(self, transport: SmtpTransport, client: aiosmtplib.SMTP) -> None:
        self._transport = transport
        self._client = client
        self._mails = 0
        self._in_transaction = False

    async def envelope(self, sender: str, recipient: str) -> Reply:
        if self._mails >= self._transport.mails_per_connection:
            await self.close()
        if self._in_transaction:
            await self.reset()
        if not self._client.is_connected:
            await self._reconnect()
        used = self._mails > 0
        try:
            return await self._mail_and_rcpt(sender, recipient)
        except (ConnectionFailedError, ReplyError) as error:
            # A kept connection may have run into the server's idle time or its limit of mails: once more, on a new one.
            if not used or not _is_closed(error):
                raise
        await self._reconnect()
        return await self._mail_and_rcpt(sender, recipient)

    async def _reconnect(self) -> None:
        self._client.close()
        self._client = await self._transport.connect()
        self._mails = 0
        self._in_transaction = False

    async def _mail_and_rcpt(self, sender: str, recipient: str) -> Reply:
        # Anything but one plain mailbox could end the command, or name somebody who was not meant.
        if not (_PLAIN_ADDRESS.fullmatch(sender) and _PLAIN_ADDRESS.fullmatch(recipient)):
            raise UnmailableAddressError("the address is not one plain name@host")
        international = not (sender.isascii() and recipient.isascii())
        if international and not self._client.supports_extension("smtputf8"):
            raise UnmailableAddressError("the address needs SMTPUTF8, which the server lacks")
        self._mails += 1
        self._in_transaction = True
        encoding = "utf-8" if international else "ascii"
        options = [b"SMTPUTF8"] if international else []
        # Its own `mail` and `rcpt` parse the address once more, as a header's: a third of the time of an envelope.
        origin, target = f"FROM:<{sender}>".encode(encoding), f"TO:<{recipient}>".encode(encoding)
        await self._ask(Phase.MAIL, self._client.execute_command(b"MAIL", origin, *options))
        return await self._ask(Phase.RCPT, self._client.execute_command(b"RCPT", target))

    async def body(self, message: bytes) -> Reply:
        wait = self._transport.timeouts.data.total_seconds()
        await self._ask(Phase.DATA, self._client.execute_command(b"DATA", timeout=wait), success=3)
        reply = await self._send(message)
        self._in_transaction = False
        if reply.code is None or reply.code // 100 not in {2, 4, 5}:
            self._client.close()
            raise ReplyLostError("the answer to the message is no SMTP reply")
        if reply.code // 100 == 2:
            return reply
        raise self._refusal(reply)

    async def _ask(self, phase: Phase, command: Awaitable[aiosmtplib.SMTPResponse], *, success: int = 2) -> Reply:
        """The reply, when its code begins with `success`; every other end is an error and leaves no half-read reply."""
        try:
            response = await command
        except aiosmtplib.SMTPResponseException as error:
            reply = _reply(phase, error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:
            self._client.close()
            raise ConnectionFailedError(phase, type(error).__name__) from error
        except BaseException:
            self._client.close()  # cancelled: a later reply must not be taken for another command's
            raise
        else:
            reply = _reply(phase, response.code, response.message)
        if reply.code is not None and reply.code // 100 == success:
            return reply
        raise self._refusal(reply)

    def _refusal(self, reply: Reply) -> ReplyError:
        """The error of a refusal. After 421 or garbage the connection is of no more use."""
        if reply.code in {None, _CLOSING}:
            self._client.close()
        return ReplyError(reply)

    async def _send(self, message: bytes) -> Reply:
        """Message and dot, then the reply. From the first byte on, a lost connection leaves open what happened."""
        protocol = self._client.protocol
        if protocol is None or not protocol.is_connected:
            raise ConnectionFailedError(Phase.DATA, "closed after the go-ahead")
        try:
            protocol.write(_dotted(message))
            response = await protocol.read_response(timeout=self._transport.timeouts.final.total_seconds())
        except aiosmtplib.SMTPResponseException as error:
            return _reply(Phase.DOT, error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:
            self._client.close()
            raise ReplyLostError(f"no answer to the message: {type(error).__name__}") from error
        except BaseException:
            self._client.close()  # cancelled: the answer must not be taken for another mail's
            raise
        return _reply(Phase.DOT, response.code, response.message)

    async def reset(self) -> None:
        self._in_transaction = False
        if not self._client.is_connected:
            return
        try:
            await self._client.rset()
        except (aiosmtplib.SMTPException, OSError):
            self._client.close()

    async def close(self) -> None:
        """QUIT, if there is somebody to say it to. Whatever is answered: what was sent stays sent."""
        if self._client.is_connected:
            with suppress(aiosmtplib.SMTPException, OSError):
                await self._client.quit(timeout=self._transport.timeouts.quit.total_seconds())
        self._client.close()


@contextmanager
def _failures(phase: Phase) -> Iterator[None]:
    """Errors of aiosmtplib while a connection is made, as ours."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise ReplyError(_reply(phase, error.code, error.message)) from error
    except OSError as error:  # its connection and time-out errors are OSErrors too
        if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            raise InsecureConnectionError("TLS failed, or the certificate is not trusted for this host") from error
        raise ConnectionFailedError(phase, _why(error)) from error


def _why(error: OSError) -> str:
    """What the system says where it says anything, such as "Connection refused"; else the error's kind."""
    cause = error.__cause__
    if isinstance(cause, socket.gaierror):
        return str(cause.strerror)
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)
    return type(error).__name__


def _reply(phase: Phase, code: int, text: str) -> Reply:
    """The reply as a value; aiosmtplib says -1 for what it could not read."""
    clean = _CONTROLS.sub(" ", text)[:_LONGEST_TEXT].strip()
    return Reply(phase, code if code > 0 else None, enhanced_code(clean), clean)


def _is_closed(error: ConnectionFailedError | ReplyError) -> bool:
    return isinstance(error, ConnectionFailedError) or error.reply.code == _CLOSING


def _dotted(message: bytes) -> bytes:
    """The message as it stands on the wire: CRLF line ends, leading dots doubled, the final dot (RFC 5321 4.5.2)."""
    ends = message.count(b"\r\n")
    if ends != message.count(b"\n") or ends != message.count(b"\r"):  # ours never has any other: looking is cheaper
        message = _LINE_END.sub(b"\r\n", message)
    dotted = message.replace(b"\r\n.", b"\r\n..")
    start = b"." if dotted.startswith(b".") else b""
    end = b"" if dotted.endswith(b"\r\n") else b"\r\n"
    return start + dotted + end + b".\r\n"
