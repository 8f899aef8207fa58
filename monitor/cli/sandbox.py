"""`sandbox`: the simulated payment API and a mail catcher, for trying out without a key."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli import console
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.errors import ConfigError
from monitor.sandbox.entities import Merchant
from monitor.sandbox.naming import mix
from monitor.sandbox.seeding import healthy
from monitor.sandbox.sender import HookSender
from monitor.sandbox.serve import Addresses, serve
from monitor.sandbox.world import World

API_PORT = 8787
SMTP_PORT = 1025
_TICK_S = 1.0


class Version(StrEnum):
    """Which API's webhooks are sent."""

    V1 = "v1"
    V2 = "v2"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Example:  `monitor sandbox --control`, and in another terminal "
        "`monitor init sandbox.toml --sandbox && monitor run -c sandbox.toml`",
        rich_help_panel="Try out",
    )(sandbox)


def sandbox(
    size: Annotated[int, typer.Option("--size", min=1, help="How many subscriptions.")] = 1_000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another world; the same seed, the same one.")] = 1,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The API's port; 0 takes a free one.")] = (
        API_PORT
    ),
    smtp_port: Annotated[int, typer.Option("--smtp-port", min=0, max=65535, help="The mail catcher's port.")] = (
        SMTP_PORT
    ),
    mails: Annotated[Path, typer.Option("--mails", help="The folder for caught mails.")] = Path("mails"),
    control: Annotated[
        bool, typer.Option("--control", help="Serve /_control too: cause failures, top up, move time, without a key.")
    ] = False,
    webhooks: Annotated[
        str | None,
        typer.Option("--webhooks", metavar="URL", help="Send webhooks there: some twice, some late, not in order."),
    ] = None,
    webhook_version: Annotated[
        Version, typer.Option("--webhook-version", help="Whose bodies and signatures: API v2's or v1's.")
    ] = Version.V2,
) -> None:
    """Serve a simulated payment API of each kind and an SMTP server that keeps every mail as a file; until Ctrl-C."""

    async def body(stop: Stop) -> int:
        world = healthy(size, trials=size // 20, seed=seed, start=SystemClock().now(), merchant=Merchant(mode="test"))
        secret = f"whsec_sandbox_{mix(seed, 7):016x}"
        sender = None if webhooks is None else HookSender(world, webhooks, [secret], version=webhook_version)
        living = asyncio.create_task(_live(world, stop, sender))
        try:
            await serve(
                world,
                stop=stop.asked,
                on_ready=lambda ready: _tell(ready, size, size // 20, None if sender is None else secret),
                port=port,
                smtp_port=smtp_port,
                mail_folder=mails,
                control=control,
            )
        except OSError as error:
            raise ConfigError(
                f"--port {port}, --smtp-port {smtp_port}: cannot listen ({error.strerror or error}); choose others"
            ) from error
        finally:
            living.cancel()
            if sender is not None:
                await sender.aclose()
        return Exit.DONE

    console.operate(body)


async def _live(world: World, stop: Stop, sender: HookSender | None) -> None:
    """The world's time follows the machine's, unless it was moved ahead: then it waits for nobody."""
    clock = SystemClock()
    ahead = timedelta()
    while not stop():
        await stop.sleep(_TICK_S)
        ahead = max(ahead, world.now - clock.now())
        world.advance(to=max(world.now, clock.now() + ahead))
        if sender is not None:
            await sender.send()


def _tell(ready: Addresses, size: int, trials: int, hook_secret: str | None) -> None:
    console.say(f"A simulated merchant with {size:,} subscriptions and {trials:,} trials.")
    console.say("Put this into the settings (mode 0600):\n")
    console.say(f'  [smtp]\n  host = "{ready.smtp_host}"\n  port = {ready.smtp_port}\n  security = "none"\n')
    console.say(
        f'  [accounts.acme]\n  provider = "qbitflow-v2"\n  mode = "test"\n  base_url = "{ready.api_url}"\n'
        f'  api_key = "{ready.api_key}"\n  mail_test_rows = true\n'
        + ("" if hook_secret is None else f'  webhook_secret = "{hook_secret}"\n')
    )
    console.say("The same customers pay through the billing platform too; it has an account of its own:\n")
    console.say(
        f'  provider = "billing-platform"\n  base_url = "{ready.platform_url}"\n'
        f'  api_key = "{ready.till.tenant_secret}"\n  billing = {{ tenant_id = "{ready.till.tenant_id}" }}\n'
    )
    console.say(f"Mails are kept in {ready.mail_folder}/. Ctrl-C ends it.")
    if ready.control_url:
        console.say(
            "Make something happen:\n"
            f"  curl -X POST {ready.control_url}/cause -d '{{\"payment_failed:insufficient_balance\": 3}}'\n"
            f"  curl -X POST {ready.control_url}/advance -d '{{\"days\": 1}}'   # then: monitor run --now ..."
        )
    else:
        console.say("With --control you can make something happen in it.")
