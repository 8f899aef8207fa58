"""`run`, `sync`, `deliver`: the work itself, account by account."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli import console, progress
from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.exits import worst
from monitor.cli.passes import Pass, Stages, pass_over, write_metrics
from monitor.cli.planning import plan_all
from monitor.cli.stop import Stop
from monitor.cli.summary import print_pass
from monitor.domain.model import Mode
from monitor.errors import ConfigError
from monitor.wiring.place import Schema
from monitor.wiring.process import Wiring

NowOption = Annotated[
    str | None,
    typer.Option(
        "--now",
        metavar="INSTANT",
        help='Decide as if it were then (2026-04-02T09:00+02:00). Only with --dry-run or on accounts of mode "test".',
    ),
]
MetricsOption = Annotated[
    Path | None,
    typer.Option("--metrics-file", help="Write this pass's metrics here for a collector of text files (NAME.prom)."),
]
LimitOption = Annotated[
    float | None, typer.Option("--limit-seconds", min=1, help="Stop cleanly after so long; the next start goes on.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  `monitor run --dry-run`   `monitor run -a acme --format json`",
        rich_help_panel="Work",
    )(run)
    app.command(epilog="Example:  `monitor sync && monitor deliver`", rich_help_panel="Work")(sync)
    app.command(epilog="Every few minutes from cron:  `monitor deliver`", rich_help_panel="Work")(deliver)


def run(
    config: ConfigOption = None,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what a run would change and mail, and why. Changes nothing.")
    ] = False,
    now: NowOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="With --dry-run: write the plan here.")] = None,
    limit_seconds: LimitOption = None,
    metrics_file: MetricsOption = None,
) -> None:
    """One pass: pull the subscriptions, compare, decide which mails are due, send them.

    Exit code 0: done (also when another run is in progress), 1: something failed, 2: configuration, 3: held by the
    guard, 130 or 143: stopped cleanly by a signal.
    """

    async def body(stop: Stop) -> int:
        at = None if now is None else console.at_instant(now)
        if output is not None and not dry_run:
            raise ConfigError("--output: only a plan can be written to a file; add --dry-run")
        if dry_run:
            return await _plan(config, account, at, output_format, output, stop)
        stages = Stages(at=at)
        return await _work(config, account, stages, output_format, limit_seconds, stop, metrics_file)

    console.operate(body)


def sync(
    config: ConfigOption = None,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    now: NowOption = None,
    limit_seconds: LimitOption = None,
    metrics_file: MetricsOption = None,
) -> None:
    """The first half of a run: pull, compare, decide, up to the gate. Sends nothing."""

    async def body(stop: Stop) -> int:
        stages = Stages(deliver=False, at=None if now is None else console.at_instant(now))
        return await _work(config, account, stages, output_format, limit_seconds, stop, metrics_file)

    console.operate(body)


def deliver(
    config: ConfigOption = None,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    now: NowOption = None,
    limit_seconds: LimitOption = None,
    metrics_file: MetricsOption = None,
) -> None:
    """The second half of a run: send what is due and allowed now. Safe at any time, any number of times at once."""

    async def body(stop: Stop) -> int:
        stages = Stages(sync=False, at=None if now is None else console.at_instant(now))
        return await _work(config, account, stages, output_format, limit_seconds, stop, metrics_file)

    console.operate(body)


async def _work(
    config: Path | None,
    account: str | None,
    stages: Stages,
    output_format: Format,
    limit: float | None,
    stop: Stop,
    metrics_file: Path | None,
) -> int:
    done: list[Pass] = []
    with progress.shown() as shown:
        async with console.opened(config, progress=shown, stop=stop) as wiring:
            names = wiring.account_names(account)
            _refuse_travel(wiring, names, stages.at)
            if limit is not None:
                stop.limit(limit)
            for name in names:
                if stop():
                    break
                done.append(await pass_over(wiring, name, stages))
            if metrics_file is not None:
                await write_metrics(wiring, done, metrics_file)
    _print(done, output_format)
    return worst(one.exit_code for one in done)


def _refuse_travel(wiring: Wiring, names: tuple[str, ...], at: datetime | None) -> None:
    live = [name for name in names if wiring.settings.account(name).mode != Mode.TEST.value]
    if at is not None and live:
        raise ConfigError(
            f'--now: accounts.{live[0]} is live, and its customers live today; add --dry-run, or use mode = "test"'
        )


async def _plan(
    config: Path | None,
    account: str | None,
    at: datetime | None,
    output_format: Format,
    output: Path | None,
    stop: Stop,
) -> int:
    with progress.shown() as shown:
        async with console.opened(config, schema=Schema.UNTOUCHED, progress=shown, stop=stop) as wiring:
            plans = await plan_all(wiring, wiring.account_names(account), at)
    return plans.show(output_format, output)


def _print(done: list[Pass], output_format: Format) -> None:
    if output_format is Format.JSON:
        code = worst(one.exit_code for one in done)
        console.print_json({"exit_code": int(code), "accounts": [one.as_json() for one in done]})
        for one in done:
            if one.error is not None:
                console.complain(one.error)
        return
    for number, one in enumerate(done):
        if number:
            console.say("")
        print_pass(one)
    if not done:
        console.warn("stopped before the first account")
