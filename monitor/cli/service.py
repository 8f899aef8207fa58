"""`daemon`, `serve`, `pause`, `resume`: what runs by itself, and the switch that stops it."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli import console
from monitor.cli.console import ConfigOption, Format, FormatOption
from monitor.cli.shifts import Shifts
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.config.values import bind_address
from monitor.domain.words import moment
from monitor.errors import ConfigError
from monitor.schedule.daemon import STOP_WITHIN_S, Daemon, Job, each_minute
from monitor.usecases.pausing import pause as pause_account
from monitor.usecases.pausing import resume as resume_account
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.wiring.place import Schema

ServeOption = Annotated[
    str | None,
    typer.Option("--serve", metavar="HOST:PORT", help="Serve /healthz, /readyz, /metrics and webhooks there."),
]
AccountArgument = Annotated[str, typer.Argument(help="The account's name, as in the settings.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    panel = "Service"
    app.command(epilog="Example:  `monitor daemon --serve 127.0.0.1:8080`", rich_help_panel=panel)(daemon)
    app.command(epilog="Example:  `monitor serve --bind 127.0.0.1:8080`", rich_help_panel=panel)(serve)
    app.command(epilog="Example:  `monitor pause acme`", rich_help_panel=panel)(pause)
    app.command(epilog="Example:  `monitor resume acme`", rich_help_panel=panel)(resume)


def daemon(config: ConfigOption = None, serve_at: ServeOption = None) -> None:
    """Run every account by its schedule and deliver every minute, until stopped.

    SIGTERM or Ctrl-C: a clean stop within 25 seconds (exit code 143 or 130). SIGHUP: the settings are read again; bad
    ones are told and the old ones kept.
    """

    async def body(stop: Stop) -> None:
        _checked_bind(serve_at, "--serve")
        await Shifts(config, stop).work(serve_at)

    console.operate(body)


def serve(
    config: ConfigOption = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="HOST:PORT", help="Where to listen; else web.bind of the settings.")
    ] = None,
) -> None:
    """Serve /healthz, /readyz, /metrics and the webhooks: for those who run by cron or systemd timer.

    What a webhook tells is read again at once, and joins a batch that `monitor deliver` opens and sends.
    """

    async def body(stop: Stop) -> None:
        _checked_bind(bind, "--bind")
        async with console.opened(config, schema=Schema.ANY, stop=stop) as wiring:
            readers, web = wiring.readers(), wiring.settings.web
            hooks = wiring.hooks(readers.call)
            site = Site(wiring.db, wiring.watched(), wiring.tools.clock, wiring.meter, hooks)
            names = "".join(f", /hooks/{name}" for name in wiring.hooked_names())
            job = Job("hooks", each_minute(SystemClock().now()), readers.see_to_all, at_start=True)
            async with served(build_app(site), bind or web.bind, proxies=web.proxies) as address:
                console.warn(f"serving {address}/healthz, /readyz, /metrics{names}")
                async with Daemon([job] if names else [], SystemClock()):
                    await stop.asked.wait()
            await readers.close(STOP_WITHIN_S)

    console.operate(body)


def pause(account: AccountArgument, config: ConfigOption = None, output_format: FormatOption = Format.TABLE) -> None:
    """Stop an account's mail at once, wherever it is being sent from. Its states are still followed."""

    async def body(_stop: Stop) -> None:
        async with console.opened(config) as wiring:
            chosen = wiring.settings.account(account)
            since = await pause_account(wiring.tools, account, chosen.provider, chosen.mode)
        if output_format is Format.JSON:
            console.print_json({"account": account, "paused_at": since})
        else:
            console.say(
                f"{account} sends no mail since {moment(since, chosen.zone)}; go on: "
                f"monitor resume {account}{console.config_option(config)}"
            )

    console.operate(body)


def resume(account: AccountArgument, config: ConfigOption = None, output_format: FormatOption = Format.TABLE) -> None:
    """Let a paused account's mail go on. What is not true any more by now is not sent."""

    async def body(_stop: Stop) -> None:
        async with console.opened(config) as wiring:
            chosen = wiring.settings.account(account)
            since = await resume_account(wiring.tools, account, chosen.provider, chosen.mode)
        if output_format is Format.JSON:
            console.print_json({"account": account, "paused_at": None, "was_paused_at": since})
        elif since is None:
            console.say(f"{account} was not paused")
        else:
            console.say(f"{account} sends mail again; it was paused since {moment(since, chosen.zone)}")

    console.operate(body)


def _checked_bind(text: str | None, option: str) -> None:
    try:
        if text is not None:
            bind_address(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text} {error}") from None
