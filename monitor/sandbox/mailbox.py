"""An SMTP server that delivers nothing: every accepted mail becomes an `.eml` file."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

ENVELOPES = "envelopes.jsonl"


@dataclass(frozen=True, slots=True)
class CaughtMail:
    """One accepted body, with the envelope it came in."""

    number: int
    sender: str
    recipients: tuple[str, ...]
    data: bytes
    path: Path | None

    @property
    def message(self) -> EmailMessage:
        """The parsed mail."""
        parsed = message_from_bytes(self.data, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class MailCatcher:
    """`async with MailCatcher(folder) as mailbox: ... mailbox.port, mailbox.messages`.

    With a folder, a mail is on disk under its final name before the client is told 250: `000001.eml` holds exactly
    the accepted bytes, and a line of `envelopes.jsonl` its envelope. Numbers go on where the folder ends.
    """

    def __init__(self, folder: Path | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.messages: list[CaughtMail] = []
        self.folder = folder
        self.host = host
        self.port = port
        self._server: asyncio.Server | None = None
        self._open: set[_Smtp] = set()
        self._count = 0

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken or the folder cannot be made."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem) for path in self.folder.glob("*.eml") if path.stem.isdigit()]
            self._count = max(numbers, default=0)
        listener = socket.create_server((self.host, self.port), backlog=512)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio leaves it out for such a socket
        self.port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Smtp(self, self._open, loop), sock=listener)

    async def close(self) -> None:
        """Stop listening and break what is open."""
        if self._server is None:
            return
        self._server.close()
        for session in list(self._open):
            session.break_off()
        await asyncio.gather(*(session.lost for session in self._open))
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def keep(self, sender: str, recipients: tuple[str, ...], data: bytes) -> CaughtMail:
        """Write one mail down, atomically."""
        self._count += 1
        path = None
        if self.folder is not None:
            path = self.folder / f"{self._count:06}.eml"
            draft = path.with_suffix(".part")
            draft.write_bytes(data)
            line = {"file": path.name, "from": sender, "to": list(recipients)}
            with (self.folder / ENVELOPES).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line, ensure_ascii=False) + "\n")
            draft.replace(path)
        mail = CaughtMail(self._count, sender, recipients, data, path)
        self.messages.append(mail)
        return mail

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        """Called by aiosmtpd with a complete body."""
        content = envelope.original_content or b""
        self.keep(envelope.mail_from or "", tuple(envelope.rcpt_tos), content)
        return "250 2.0.0 caught"


class _Smtp(SMTP):
    """One connection, known to its catcher while it lasts."""

    def __init__(self, catcher: MailCatcher, live: set[_Smtp], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            catcher, hostname="sandbox.invalid", ident="sandbox", enable_SMTPUTF8=True, data_size_limit=2**25, loop=loop
        )
        self._live = live
        self.lost = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._live.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._live.discard(self)
        self.lost.set_result(None)
        super().connection_lost(error)

    def break_off(self) -> None:
        transport: Any = self.transport
        transport.abort()
