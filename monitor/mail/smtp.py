"""Connections to a mail server: made, encrypted and logged in by aiosmtplib; then a session of our own has them."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import aiosmtplib

from monitor.config.tables import CONNECTIONS
from monitor.domain.replies import Phase
from monitor.errors import ConfigError
from monitor.mail.session import Opened, SmtpSession, SmtpTimeouts, reply_of
from monitor.mail.transport import (
    ConnectionFailedError,
    InsecureConnectionError,
    LoginRefusedError,
    Reply,
    ReplyError,
)
from monitor.mail.wire import Wire

MAILS_PER_CONNECTION = 100


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
        connections: int = CONNECTIONS,
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
        self.connections = connections
        self.timeouts = timeouts or SmtpTimeouts()
        self.mails_per_connection = mails_per_connection
        self._tls = tls_context or (None if security == "none" else ssl.create_default_context())
        self._own_name = own_name

    @asynccontextmanager
    async def session(self) -> AsyncIterator[SmtpSession]:
        """See `monitor.mail.transport.Transport`."""
        session = SmtpSession(
            await self.connect(), self.connect, timeouts=self.timeouts, mails=self.mails_per_connection
        )
        try:
            yield session
        finally:
            await session.close()

    async def connect(self) -> Opened:
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
            return _taken_over(client)
        except BaseException:
            client.close()
            raise

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


def _taken_over(client: aiosmtplib.SMTP) -> Opened:
    """The connection that aiosmtplib has made, from here on ours: its client reads one reply a command."""
    if not isinstance(client.transport, asyncio.Transport):
        raise ConnectionFailedError(Phase.HELO, "the server has closed the connection")
    return Opened(
        wire=Wire(client.transport),
        pipelining=client.supports_extension("pipelining"),
        international=client.supports_extension("smtputf8"),
    )


@contextmanager
def _failures(phase: Phase) -> Iterator[None]:
    """Errors of aiosmtplib while a connection is made, as ours."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise ReplyError(_reply(phase, error)) from error
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


def _reply(phase: Phase, error: aiosmtplib.SMTPResponseException) -> Reply:
    """The reply as a value; aiosmtplib says -1 for what it could not read."""
    return reply_of(phase, error.code if error.code > 0 else None, error.message)
