"""The world over real HTTP on the loopback interface, in the running loop or in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from monitor.clock import Clock
from monitor.sandbox.faults import Faults
from monitor.sandbox.mailbox import MailCatcher
from monitor.sandbox.platform import Platform
from monitor.sandbox.till import Till
from monitor.sandbox.v1 import V1
from monitor.sandbox.v2 import V2
from monitor.sandbox.world import World


class _Connection(H11Protocol):
    """An HTTP connection that an endpoint can break (`scope["state"]["connection"]`)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent declares it
        super().connection_made(transport)
        self.lost = self.loop.create_future()
        self.app_state["connection"] = self

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set_result(None)

    def break_off(self) -> None:
        """End it now, in the middle of an answer, after what has been sent of it."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()


class SandboxServer:
    """Serves a world: `async with SandboxServer(world) as api: ... api.url`.

    Port 0 takes a free one. `clock` is what the Date header tells: the machine's by default, `world.clock` for runs
    that live in virtual time. `control` adds the routes that move the world; leave it off where nobody needs them.
    """

    def __init__(
        self,
        world: World,
        faults: Faults | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        routes: tuple[Route, ...] = (),
        till: Till | None = None,
    ) -> None:
        self.world = world
        self.faults = faults or Faults()
        self._address = (host, port)
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self.platform = Platform(till or Till(world), self.faults, clock=clock)
        app = V2(world, self.faults, clock=clock).app(
            *routes, *self.platform.routes, *V1(world, self.faults, clock=clock).routes
        )
        self._config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_keep_alive=600,
        )

    @property
    def base(self) -> str:
        """`http://host:port`."""
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def url(self) -> str:
        """The base URL that a provider is given."""
        return f"{self.base}/v2"

    @property
    def platform_url(self) -> str:
        """The base URL of the billing platform."""
        return self.base + self.platform.prefix

    @property
    def v1_url(self) -> str:
        """The base URL of API v1 on the same world."""
        return f"{self.base}/v1"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._config.load()
        listener = socket.create_server(self._address, backlog=512)
        # asyncio does this only for sockets that name their protocol; without it every answer waits 40 ms for an ACK
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address = (self._address[0], listener.getsockname()[1])
        loop = asyncio.get_running_loop()

        def connection() -> _Connection:
            return _Connection(self._config, self._state, {})

        self._server = await loop.create_server(connection, sock=listener)

    async def close(self) -> None:
        """Stop listening, break what is open, wait until every request has ended."""
        if self._server is None:
            return
        self._server.close()
        lost = []
        for connection in list(self._state.connections):
            assert isinstance(connection, _Connection)
            connection.transport.abort()
            lost.append(connection.lost)
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        await asyncio.gather(*lost)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class ThreadedSandbox:
    """API and SMTP catcher with a loop in a thread of their own, for code that runs its own loop."""

    def __init__(self, server: SandboxServer, mailbox: MailCatcher, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.mailbox = mailbox
        self._loop = loop

    @property
    def url(self) -> str:
        return self.server.url

    def call(self, act: Callable[[World], Any]) -> Any:
        """Do something with the world between two requests, and wait for it."""

        async def run() -> Any:
            return act(self.server.world)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def start(self) -> None:
        await self.server.start()
        await self.mailbox.start()

    async def close(self) -> None:
        await self.server.close()
        await self.mailbox.close()


@contextmanager
def in_thread(
    world: World, faults: Faults | None = None, *, mail_folder: Path | None = None, **how: Any
) -> Iterator[ThreadedSandbox]:
    """Serve `world` and catch mails from another thread while the block runs; `how` is that of `SandboxServer`."""
    loop = asyncio.new_event_loop()
    sandbox = ThreadedSandbox(SandboxServer(world, faults, **how), MailCatcher(mail_folder), loop)
    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        yield sandbox
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
