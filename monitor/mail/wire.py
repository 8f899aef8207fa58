"""The bytes of an SMTP conversation: what is said, and the replies to it, one after another and never mixed up.

A connection is made, encrypted and logged in by aiosmtplib, which reads one reply a command. From then on it is ours:
several commands may be under way at once (RFC 2920), and each reply belongs to the oldest of them.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque

LONGEST_LINE = 8192
_LONGEST_REPLY = 4 * LONGEST_LINE
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LEADING_DOT = re.compile(rb"\n\.")


class WireError(Exception):
    """The server has closed the connection, or was silent for too long: nothing more will be read from it."""


class Wire(asyncio.Protocol):
    """One connection. A reply is (code, text); code None: it is no SMTP, and what follows it means nothing."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take a connection over on which nothing is under way."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._replies: deque[tuple[int | None, str]] = deque()
        self._awaited = 0
        self._reader: asyncio.Future[None] | None = None
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether something may still be said."""
        return not self._transport.is_closing()

    @property
    def awaited(self) -> int:
        """How many replies are still to be read."""
        return self._awaited

    def say(self, data: bytes, *, replies: int = 1) -> None:
        """Write commands, or a message, to which so many replies will come. `WireError`: closed by now."""
        if not self.is_open:
            raise WireError("the server has closed the connection")
        self._awaited += replies
        self._transport.write(data)

    async def reply(self, wait: float) -> tuple[int | None, str]:
        """The next reply, after at most `wait` seconds. `WireError`: none came. Cancelled or in error: closed."""
        if not self._replies:
            await self._more(wait)
        self._awaited -= 1
        return self._replies.popleft()

    async def _more(self, wait: float) -> None:
        if not self.is_open:
            raise WireError("the server has closed the connection")
        reader = self._reader = self._loop.create_future()
        alarm = self._loop.call_later(wait, self._end, "no answer in time")
        try:
            await reader
        except BaseException:
            self._transport.abort()  # a reply that comes later must not be taken for another command's
            raise
        finally:
            alarm.cancel()
            self._reader = None

    def close(self) -> None:
        """Close, whatever is under way."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (reply := self._next()) is not None:
            if len(self._replies) < self._awaited:
                self._replies.append(reply)
            else:
                self.close()  # said without being asked, as a farewell is: nothing after it can be told apart
        if self._replies and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        self._end("the server has closed the connection")

    def _end(self, why: str) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(WireError(why))

    def _next(self) -> tuple[int | None, str] | None:
        """The first whole reply of what was read, taken out of it; None: not all of it is there."""
        read, start, lines = self._read, 0, []
        while (end := read.find(b"\n", start)) >= 0:
            line = bytes(read[start : end + 1])
            start = end + 1
            if len(line) > LONGEST_LINE or not line[:3].isdigit():
                return self._unreadable(line)
            lines.append(line[4:].strip())
            if line[3:4] != b"-":
                del read[:start]
                return int(line[:3]), b"\n".join(lines).decode("utf-8", "surrogateescape")
        return self._unreadable(bytes(read)) if len(read) > _LONGEST_REPLY else None

    def _unreadable(self, line: bytes) -> tuple[None, str]:
        self._read.clear()
        return None, line[:LONGEST_LINE].decode("utf-8", "surrogateescape")


def as_data(message: bytes) -> bytes:
    """The message as it stands on the wire: CRLF line ends, leading dots doubled, the final dot (RFC 5321 4.5.2)."""
    ends = message.count(b"\r\n")
    if ends != message.count(b"\n") or ends != message.count(b"\r"):  # ours never has any other: looking is cheaper
        message = _LINE_END.sub(b"\r\n", message)
    message = _LEADING_DOT.sub(b"\n..", message)  # `replace` takes twice as long
    start = b"." if message.startswith(b".") else b""
    end = b"" if message.endswith(b"\r\n") else b"\r\n"
    return start + message + end + b".\r\n"
