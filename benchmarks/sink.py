"""A mail server that only counts: a bare asyncio protocol with PIPELINING, so that it is never the slow part.

    python -m benchmarks.sink

prints one line of JSON once it listens. `VRFY count` answers with the mails taken so far.
"""

from __future__ import annotations

import asyncio
import json
import sys

_GREETING = b"220 sink ESMTP\r\n"
_EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 10485760\r\n"
_OK = b"250 2.0.0 Ok\r\n"
_GO = b"354 End with a dot\r\n"
_DOT = b"\r\n.\r\n"


class _Connection(asyncio.Protocol):
    taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = bytearray()
        self._in_body = False
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        searched = max(0, len(self._buffer) - len(_DOT))
        self._buffer += data
        replies = []
        while True:
            mark = _DOT if self._in_body else b"\r\n"
            end = self._buffer.find(mark, searched if self._in_body else 0)
            if end < 0:
                break
            if self._in_body:
                self._in_body = False
                _Connection.taken += 1
                replies.append(_OK)
            else:
                replies.append(self._reply(bytes(self._buffer[:4]).upper()))
            del self._buffer[: end + len(mark)]
            searched = 0
        if replies:
            self._transport.write(b"".join(replies))

    def _reply(self, verb: bytes) -> bytes:
        if verb == b"DATA":
            self._in_body = True
            return _GO
        if verb == b"EHLO":
            return _EHLO
        if verb == b"VRFY":
            return b"252 %d\r\n" % _Connection.taken
        if verb == b"QUIT":
            self._transport.write(b"221 2.0.0 Bye\r\n")
            self._transport.close()
            return b""
        return _OK


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=512)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
