"""The web application, and how it is served: on this machine's own address unless somebody says otherwise."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from monitor.config.values import bind_address
from monitor.errors import ConfigError
from monitor.web import health
from monitor.web.health import Site
from monitor.web.hooks import hook


def build_app(site: Site) -> Starlette:
    """All pages about `site`."""
    app = Starlette(
        routes=[
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            Route("/metrics", health.metrics),
            Route("/hooks/{account}", hook, methods=["POST"]),
        ]
    )
    app.state.site = site
    return app


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: the command decides what a signal means."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: ASGIApp, bind: str, *, proxies: Sequence[str] = ()) -> AsyncIterator[str]:
    """Serve while the block runs; yields `http://host:port`, with the port that was taken where `bind` says 0.

    What one of the `proxies` says about who is behind it is believed.
    Raises `ConfigError` when the address cannot be listened on.
    """
    listener = _listen(bind)
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=3,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving


def _listen(bind: str) -> socket.socket:
    host, port = bind_address(bind)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)  # a burst of webhooks
    except OSError as error:
        raise ConfigError(f"web.bind: cannot listen on {bind} ({error.strerror}); use another address") from None
    # asyncio does it only for sockets that name their protocol; without it an answer waits 40 ms for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
