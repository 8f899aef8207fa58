"""The server of the replayed APIs: a bare asyncio protocol, so that it is never the slow part."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

Answering = Callable[[str], tuple[int, bytes, float]]
"""The target of a GET → status, body, and after how many seconds."""

_HEAD = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"


class _Connection(asyncio.Protocol):
    """Requests one after the other on a kept connection; nothing else of HTTP is spoken."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            line, self._buffer = self._buffer[: self._buffer.find(b"\r\n")], self._buffer[end + 4 :]
            status, body, delay = self._answer(line.split(b" ", 2)[1].decode())
            now = format_datetime(datetime.now(UTC), usegmt=True).encode()
            whole = _HEAD % (status, now, len(body)) + body
            if delay:
                asyncio.get_running_loop().call_later(delay, self._transport.write, whole)
            else:
                self._transport.write(whole)


async def serve(answer: Answering, told: dict[str, Any]) -> None:
    """Print `told` and the address as one line of JSON once it listens, and serve until stdin ends."""
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(answer), "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sys.stdout.write(json.dumps({"base": base, **told}) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # whoever started us has gone
