"""A TCP proxy that spoils connections: late, cut after N bytes, reset, silent, or cut after the dot before the reply."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal, Self

END_OF_BODY = b"\r\n.\r\n"


@dataclass(frozen=True)
class Fault:
    """What happens to one connection. Bytes are counted per direction from its beginning."""

    delay: float = 0.0
    cut_up_after: int | None = None
    """Client to server: this many bytes pass, then the connection ends."""
    cut_down_after: int | None = None
    """Server to client."""
    cut_after_dot: bool = False
    """The body with its dot reaches the server, the reply to it does not reach the client."""
    how: Literal["close", "reset", "blackhole"] = "close"
    slice_to: int | None = None
    """Pass on in pieces of at most this many bytes."""


@dataclass
class Proxy:
    """In front of `port`. `faults` are for the connections in turn, then `otherwise` for all that follow."""

    port: int
    faults: list[Fault] = field(default_factory=list)
    otherwise: Fault = Fault()
    host: str = "127.0.0.1"
    listening: int = 0
    connections: int = 0
    bodies_passed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.listening = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        fault = self.faults[self.connections] if self.connections < len(self.faults) else self.otherwise
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            self._tasks.discard(task)
            return
        link = _Link(self, fault, writer, up_writer)
        try:
            await link.run(reader, up_reader)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            up_writer.close()
            writer.close()


class _CutError(Exception):
    pass


@dataclass
class _Link:
    proxy: Proxy
    fault: Fault
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dot_seen: bool = False
    tail: bytes = b""

    async def run(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        pumps = [
            asyncio.create_task(self.pump(from_client, self.server, self.fault.cut_up_after, up=True)),
            asyncio.create_task(self.pump(from_server, self.client, self.fault.cut_down_after, up=False)),
        ]
        done, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        failed = [pump.exception() for pump in done]
        if any(isinstance(error, _CutError) for error in failed) and self.fault.how == "blackhole":
            await asyncio.Event().wait()  # both ends stay connected and hear nothing more
        for pump in pending:
            pump.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self.fault.how == "reset":
            raw = self.client.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None, *, up: bool
    ) -> None:
        passed = 0
        while data := await source.read(self.fault.slice_to or 65536):
            if self.fault.delay:
                await asyncio.sleep(self.fault.delay)
            if not up and self.dot_seen and self.fault.cut_after_dot:
                raise _CutError
            if limit is not None and passed + len(data) >= limit:
                sink.write(data[: limit - passed])
                await sink.drain()
                raise _CutError
            if up:
                self._watch(data)
            sink.write(data)
            await sink.drain()
            passed += len(data)

    def _watch(self, data: bytes) -> None:
        seen = self.tail + data
        if END_OF_BODY in seen:
            self.dot_seen = True
            self.proxy.bodies_passed.set()
        self.tail = seen[-len(END_OF_BODY) :]
