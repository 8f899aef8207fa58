"""The whole sandbox until it is told to stop: what `monitor sandbox` runs. Prints nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monitor.clock import Clock
from monitor.sandbox import control as control_routes
from monitor.sandbox.faults import Faults
from monitor.sandbox.mailbox import MailCatcher
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.till import Till, stock
from monitor.sandbox.world import World


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens, once it does."""

    api_url: str
    api_key: str
    smtp_host: str
    smtp_port: int
    mail_folder: Path | None
    control_url: str | None
    platform_url: str
    till: Till


async def serve(
    world: World,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[Addresses], None],
    host: str = "127.0.0.1",
    port: int = 0,
    smtp_port: int = 0,
    mail_folder: Path | None = None,
    control: bool = False,
    faults: Faults | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve API and SMTP catcher until `stop` is set; `on_ready` is called once, when both listen.

    Port 0 takes a free one. Raises OSError when a port is taken or the folder cannot be made.
    """
    till = Till(world)
    stock(till, len(world.customers))
    routes = control_routes.routes(world, till) if control else ()
    server = SandboxServer(world, faults, host=host, port=port, clock=clock, routes=routes, till=till)
    async with server, MailCatcher(mail_folder, host=host, port=smtp_port) as mailbox:
        on_ready(
            Addresses(
                api_url=server.url,
                api_key=world.ids.api_key,
                smtp_host=mailbox.host,
                smtp_port=mailbox.port,
                mail_folder=mail_folder,
                control_url=f"{server.base}/_control" if control else None,
                platform_url=server.platform_url,
                till=till,
            )
        )
        await stop.wait()
