"""A mail server that accepts on paper: what it took stands in an append-only file outside the worker.

In process: `async with Sink(log) as sink`. As a process of its own, which a killed worker cannot take with it:
`python -m tests.faults.rig.sink --log FILE [--port N] [--script FILE]`, which prints `ready <port>`.

A script says what to answer: `{"MAIL": Act(...)}` always, `{("MAIL", 2): Act(...)}` at the second MAIL of this server.
Verbs: CONNECT EHLO HELO STARTTLS AUTH MAIL RCPT DATA BODY DOT RSET NOOP QUIT; BODY is the first line of a body.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from email.policy import SMTP
from pathlib import Path
from typing import Literal, Self

OK = {
    "CONNECT": b"220 sink ESMTP\r\n",
    "HELO": b"250 sink\r\n",
    "STARTTLS": b"220 2.0.0 go ahead\r\n",
    "AUTH": b"235 2.7.0 welcome\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go ahead\r\n",
    "DOT": b"250 2.0.0 queued\r\n",
    "RSET": b"250 2.0.0 ok\r\n",
    "NOOP": b"250 2.0.0 ok\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}
LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Act:
    """What to do at a command: answer (None: the usual, b"": nothing), after `delay` s or when `gate` opens, and then."""

    reply: bytes | None = None
    then: Literal["go", "close", "reset", "hang"] = "go"
    delay: float = 0.0
    gate: asyncio.Event | None = None
    accept: bool | None = None
    """At DOT: whether the body counts as taken. None: yes, unless the reply refuses it (4xx, 5xx)."""
    call: Callable[[], object] | None = None
    """Called first, such as to kill the worker that is speaking."""


Script = Mapping[str | tuple[str, int], Act]


@dataclass(frozen=True)
class Accepted:
    """One line of the log."""

    message_id: str
    sender: str
    recipients: tuple[str, ...]
    sha256: str
    body: bytes | None
    tls: bool
    connection: int


@dataclass
class Sink:
    log: Path
    script: Script = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    offers: tuple[str, ...] = ("8BITMIME", "SMTPUTF8", "PIPELINING")
    """EHLO's lines; STARTTLS and AUTH are added where there is a certificate."""
    keep_bodies: bool = True
    fsync: bool = False
    commands: list[tuple[str, str, bool]] = field(default_factory=list)
    """Everything that was said: verb, line, whether under TLS."""
    violations: list[str] = field(default_factory=list)
    passes: Counter[str] = field(default_factory=Counter)
    bodies_in: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first whole body has come in, before it is answered."""

    async def __aenter__(self) -> Self:
        self._file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._talks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.tls if self.implicit_tls else None, limit=LIMIT
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()
        os.close(self._file)

    def accepted(self) -> list[Accepted]:
        return read_log(self.log)

    def act(self, verb: str) -> Act:
        self.passes[verb] += 1
        return self.script.get((verb, self.passes[verb])) or self.script.get(verb) or Act()

    def record(self, entry: dict[str, object]) -> None:
        """One write of one line: whole, or not at all."""
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        if self.fsync:
            os.fsync(self._file)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self.passes["connection"] += 1
        try:
            await Talk(self, reader, writer, self.passes["connection"]).run()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._talks.discard(task)
            writer.close()


class _Over(Exception):
    """The connection is to end here."""


@dataclass
class Talk:
    """One connection."""

    sink: Sink
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)

    @property
    def secure(self) -> bool:
        return self.writer.get_extra_info("sslcontext") is not None

    async def run(self) -> None:
        try:
            await self.answer("CONNECT")
            while line := await self.reader.readline():
                await self.command(line.decode("utf-8", "replace").rstrip("\r\n"))
        except _Over:
            pass

    async def command(self, line: str) -> None:
        verb = line.split(" ", maxsplit=1)[0].upper()
        self.sink.commands.append((verb, line, self.secure))
        handler = getattr(self, f"on_{verb.lower()}", None)
        if handler is not None:
            await handler(line)
        elif verb in OK:
            await self.answer(verb)
        else:
            await self.send(b"500 5.5.1 what?\r\n")

    async def answer(self, verb: str, usual: bytes | None = None) -> bytes:
        """Does what the script says at `verb`; the reply that was sent."""
        return await self.do(verb, self.sink.act(verb), usual)

    async def do(self, verb: str, act: Act, usual: bytes | None = None) -> bytes:
        if act.call is not None:
            act.call()
        if act.delay:
            await asyncio.sleep(act.delay)
        if act.gate is not None:
            await act.gate.wait()
        reply = act.reply if act.reply is not None else (usual or OK[verb])
        if act.then in {"close", "reset", "hang"} and act.reply is None:
            reply = b""
        await self.send(reply)
        if act.then == "hang":
            await asyncio.Event().wait()
        if act.then == "reset":
            raw = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if act.then != "go":
            raise _Over
        return reply

    async def send(self, data: bytes) -> None:
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def on_ehlo(self, _line: str) -> None:
        lines = ["sink", *self.sink.offers]
        if self.sink.tls and not self.secure and "NO-STARTTLS" not in lines:
            lines.append("STARTTLS")
        if self.sink.tls:
            lines.append("AUTH PLAIN LOGIN")
        lines = [line for line in lines if line != "NO-STARTTLS"]
        usual = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        await self.answer("EHLO", usual.encode())

    async def on_starttls(self, _line: str) -> None:
        reply = await self.answer("STARTTLS")
        if reply.startswith(b"220") and self.sink.tls:
            await self.writer.start_tls(self.sink.tls)

    async def on_mail(self, line: str) -> None:
        if self.sender is not None:
            await self.send(b"503 5.5.1 one at a time\r\n")
            return
        reply = await self.answer("MAIL")
        if reply.startswith(b"2"):
            self.sender, self.recipients = _address(line), []

    async def on_rcpt(self, line: str) -> None:
        if self.recipients:
            self.sink.violations.append(f"second RCPT in one transaction: {line}")
            self.sink.record({"violation": self.sink.violations[-1]})
        reply = await self.answer("RCPT")
        if reply.startswith(b"2"):
            self.recipients.append(_address(line))

    async def on_rset(self, _line: str) -> None:
        self.sender, self.recipients = None, []
        await self.answer("RSET")

    async def on_quit(self, _line: str) -> None:
        await self.answer("QUIT")
        raise _Over

    async def on_data(self, _line: str) -> None:
        if not self.recipients:
            await self.send(b"503 5.5.1 RCPT first\r\n")
            return
        reply = await self.answer("DATA")
        if not reply.startswith(b"354"):
            return
        body = await self.read_body()
        act = self.sink.act("DOT")
        self.sink.bodies_in.set()
        if act.accept if act.accept is not None else (act.reply or b"2")[:1] not in b"45":
            self.keep(body)
        self.sender, self.recipients = None, []
        await self.do("DOT", act)

    async def read_body(self) -> bytes:
        lines: list[bytes] = []
        while (line := await self.reader.readline()) != b".\r\n":
            if not line.endswith(b"\n"):
                raise _Over  # cut before the dot: nothing was handed over
            if not lines and (call := self.sink.act("BODY").call) is not None:
                call()
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    def keep(self, body: bytes) -> None:
        headers = BytesHeaderParser(policy=SMTP).parsebytes(body)
        self.sink.record(
            {
                "message_id": str(headers["Message-ID"] or "").strip(),
                "sender": self.sender,
                "recipients": self.recipients,
                "sha256": hashlib.sha256(body).hexdigest(),
                "body": base64.b64encode(body).decode() if self.sink.keep_bodies else None,
                "tls": self.secure,
                "connection": self.number,
            }
        )


def _address(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


def read_log(log: Path) -> list[Accepted]:
    """What was taken, in order. A half-written last line cannot be: see `record`."""
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [
        Accepted(
            message_id=entry["message_id"],
            sender=entry["sender"],
            recipients=tuple(entry["recipients"]),
            sha256=entry["sha256"],
            body=base64.b64decode(entry["body"]) if entry["body"] is not None else None,
            tls=entry["tls"],
            connection=entry["connection"],
        )
        for entry in entries
        if "violation" not in entry
    ]


def read_violations(log: Path) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry["violation"] for entry in map(json.loads, lines) if "violation" in entry]


def read_script(text: str) -> Script:
    """`{"DOT:3": {"reply": "451 4.7.1 later\\r\\n", "then": "close", "delay": 0.1}}`; without a number: always."""
    script: dict[str | tuple[str, int], Act] = {}
    for key, act in json.loads(text).items():
        verb, _, number = key.partition(":")
        reply = act.pop("reply", None)
        script[(verb, int(number)) if number else verb] = Act(None if reply is None else reply.encode(), **act)
    return script


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--no-bodies", action="store_true")
    parser.add_argument("--fsync", action="store_true")
    given = parser.parse_args()
    script = read_script(given.script.read_text()) if given.script else {}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Sink(given.log, script, port=given.port, keep_bodies=not given.no_bodies, fsync=given.fsync) as sink:
        sys.stdout.write(f"ready {sink.port}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main())
