"""`check`: the list to go through before customers are mailed, and the exact thing to mend where a line fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from monitor.cli import console
from monitor.cli.checks import merchant, place, webhooks
from monitor.cli.checks.finding import Finding, Mark, fail, ok
from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.config import Settings
from monitor.domain.words import count
from monitor.errors import MonitorError

_SIGNS = {Mark.OK: ("✓", "green"), Mark.HINT: ("!", "yellow"), Mark.FAIL: ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  `monitor check`   `monitor check --config monitor.toml --format json`",
        rich_help_panel="Set up",
    )(check)


def check(
    config: ConfigOption = None, account: AccountOption = None, output_format: FormatOption = Format.TABLE
) -> None:
    """Go through the list before customers are mailed.

    Settings, secrets, folders, every mail in every language, alerts, database; of each account its key, mode, mail
    server, schedule and webhooks. Sends no mail and changes no state. Exit code 2 with the exact setting to mend.
    """

    async def body(stop: Stop) -> int:
        findings = []
        async for finding in _findings(config, account, stop):
            findings.append(finding)
            if output_format is Format.TABLE:
                _print(finding)
        failed = sum(finding.mark is Mark.FAIL for finding in findings)
        if output_format is Format.JSON:
            checks = [{"what": one.what, "mark": one.mark, "text": one.text} for one in findings]
            console.print_json({"ok": not failed, "checks": checks})
        elif failed:
            console.say(f"\n{count(failed, 'thing')} to mend.")
        else:
            hints = sum(finding.mark is Mark.HINT for finding in findings)
            well = f"Nothing to mend, {count(hints, 'hint')}." if hints else "All is well."
            console.say(f"\n{well} See what a run would do: monitor run --dry-run{console.config_option(config)}")
        return Exit.CONFIG if failed else Exit.DONE

    console.operate(body)


def _print(finding: Finding) -> None:
    sign, style = _SIGNS[finding.mark]
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(width=20, overflow="fold")
    line.add_column(overflow="fold")
    line.add_row(Text(sign, style=style), Text(finding.what, style="dim"), Text(finding.text))
    console.stdout().print(line)


async def _findings(config: Path | None, account: str | None, stop: Stop) -> AsyncIterator[Finding]:
    try:
        settings = console.read_settings(config)
        names = tuple(settings.accounts) if account is None else (settings.account(account).name,)
    except MonitorError as error:
        for line in str(error).splitlines():
            yield fail("settings", line)
        return
    yield ok("settings", f"{count(len(settings.accounts), 'account')}: {', '.join(settings.accounts)}")
    for finding in await asyncio.to_thread(place.secrets, config, os.environ):
        yield finding
    yield place.state_folder(settings)
    yield place.mails(settings)
    yield place.alerts(settings)
    known = place.Known()
    async for finding in place.database(settings, known):
        yield finding
    for name in names:
        async for finding in _of_account(settings, name, known, stop):
            yield finding


async def _of_account(settings: Settings, name: str, known: place.Known, stop: Stop) -> AsyncIterator[Finding]:
    yield await merchant.key(settings, name, known.rows.get(name), stop)
    for finding in merchant.mode(settings, name, known):
        yield finding
    for finding in merchant.looks(settings, name):
        yield finding
    for finding in await merchant.mail_server(settings, name):
        yield finding
    for finding in merchant.schedule(settings, name, known, SystemClock().now()):
        yield finding
    yield await webhooks.endpoint(settings, name, known.rows.get(name))
