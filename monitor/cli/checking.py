"""`check`: whether everything that a run needs is right, and the exact thing to mend where it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from monitor.cli import console
from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.cli.words import count
from monitor.clock import SystemClock
from monitor.config import Settings, secret_key
from monitor.config.values import is_loopback
from monitor.errors import MailError, MonitorError, RenderError
from monitor.mail.check import check_templates
from monitor.mail.render import Renderer
from monitor.mail.transport import ConnectionFailedError, InsecureConnectionError, LoginRefusedError, ReplyError
from monitor.store.accounts import AccountRow, change_account, find_account
from monitor.store.engine import Database
from monitor.store.revision import code_revision, database_revision, require_current
from monitor.usecases.run import check_identity
from monitor.wiring import Schema, build_account, build_transport, open_database, prepare_state_dir

_LITTLE_SPACE = 200 * 2**20
_NOBODY = 0
"""No account's id."""


class Mark(StrEnum):
    """How one check ended."""

    OK = "ok"
    HINT = "hint"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. `text` of a failure begins with the setting."""

    what: str
    mark: Mark
    text: str


_SECURITY = {"none": "in clear, on this machine only", "starttls": "STARTTLS", "tls": "TLS"}
_SIGNS = {Mark.OK: ("✓", "green"), Mark.HINT: ("!", "yellow"), Mark.FAIL: ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example:  `monitor check --config monitor.toml`", rich_help_panel="Set up")(check)


def check(
    config: ConfigOption = None, account: AccountOption = None, output_format: FormatOption = Format.TABLE
) -> None:
    """Try everything a run needs: settings, database, keys, mail servers, every mail in every language.

    Sends no mail and changes no state. Exit code 2 with the exact setting to mend.
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
            told = f"monitor run --dry-run{console.config_option(config)}"
            console.say(f"\nAll is well. See what a run would do: {told}")
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
            yield Finding("settings", Mark.FAIL, line)
        return
    yield Finding("settings", Mark.OK, f"{count(len(settings.accounts), 'account')}: {', '.join(settings.accounts)}")
    yield _state(settings)
    yield _templates(settings)
    rows: dict[str, AccountRow | None] = {}
    async for finding in _database(settings, rows):
        yield finding
    for name in names:
        yield await _key(settings, name, rows.get(name), stop)
        yield await _smtp(settings, name)
        for hint in _hints(settings, name):
            yield Finding(name, Mark.HINT, hint)


def _state(settings: Settings) -> Finding:
    try:
        folder = prepare_state_dir(settings)
        secret_key(settings)
    except MonitorError as error:
        return Finding("state folder", Mark.FAIL, str(error))
    return Finding("state folder", Mark.OK, f"{folder}, writable, with its secret key")


def _templates(settings: Settings) -> Finding:
    try:
        renderer = Renderer(settings.templates_dir)
        problems = check_templates(renderer)
    except RenderError as error:
        return Finding("mails", Mark.FAIL, f"templates_dir: {error}")
    if problems:
        places = [f"{one.file}{f':{one.line}' if one.line else ''}: {one.message}" for one in problems]
        return Finding("mails", Mark.FAIL, "templates_dir: " + "\n".join(places))
    languages = ", ".join(renderer.wordings.locales)
    return Finding("mails", Mark.OK, f"every kind, cause and step is rendered ({languages})")


async def _database(settings: Settings, rows: dict[str, AccountRow | None]) -> AsyncIterator[Finding]:
    try:
        db = await open_database(settings, Schema.ANY)
    except MonitorError as error:
        yield Finding("database", Mark.FAIL, str(error))
        return
    try:
        if db.path is not None and not db.path.exists():
            yield _new_file(db.path)
            return
        yield await _revision(db)
        if await database_revision(db) == code_revision():
            async with db.write() as conn:
                # Changes no row, and fails where none may be changed.
                await change_account(conn, _NOBODY, paused_at=None)
            async with db.read() as conn:
                rows.update({name: await find_account(conn, name) for name in settings.accounts})
        if db.path is not None and shutil.disk_usage(db.path.parent).free < _LITTLE_SPACE:
            yield Finding("database", Mark.HINT, f"the disk of {db.path} is nearly full: free some space")
    except MonitorError as error:
        yield Finding("database", Mark.FAIL, str(error))
    finally:
        await db.aclose()


def _new_file(path: Path) -> Finding:
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding("database", Mark.FAIL, f"database.url: {path.parent} is not writable for this user")
    return Finding("database", Mark.OK, f"{path} is not there yet: the first run makes it")


async def _revision(db: Database) -> Finding:
    found = await database_revision(db)
    if db.is_sqlite and found != code_revision():
        try:
            await require_current(db)
        except MonitorError as error:
            if "newer" in str(error):
                return Finding("database", Mark.FAIL, str(error))
        return Finding("database", Mark.HINT, f"at revision {found or 'none'}: the next run upgrades it")
    await require_current(db)
    return Finding("database", Mark.OK, f"{db.path or db.url.render_as_string(hide_password=True)}, revision {found}")


async def _key(settings: Settings, name: str, row: AccountRow | None, stop: Stop) -> Finding:
    clock = SystemClock()
    try:
        account = build_account(settings, name, clock=clock, sleep=stop.sleep)
    except MonitorError as error:
        return Finding(f"{name}: key", Mark.FAIL, str(error))
    try:
        identity = await account.provider.identify()
        check_identity(clock, account, row, identity)
    except MonitorError as error:
        text = str(error)
        where = f"accounts.{name}"
        return Finding(f"{name}: key", Mark.FAIL, text if text.startswith(where) else f"{where}: {text}")
    finally:
        await account.provider.aclose()
    return Finding(f"{name}: key", Mark.OK, f"a {identity.mode.value} key of space {identity.space_uuid}")


async def _smtp(settings: Settings, name: str) -> Finding:
    """Connect, EHLO, TLS, AUTH, QUIT; no mail."""
    smtp = settings.smtp_for(name)
    where = f"accounts.{name}.smtp" if settings.account(name).smtp is not None else "smtp"
    place = f"{smtp.host}:{smtp.port}"
    try:
        async with build_transport(smtp).session():
            login = f", logged in as {smtp.username}" if smtp.username else ""
            return Finding(f"{name}: mail server", Mark.OK, f"{place} ({_SECURITY[smtp.security]}){login}")
    except LoginRefusedError as error:
        return Finding(f"{name}: mail server", Mark.FAIL, f"{where}.password: {place} refuses the login: {error}")
    except InsecureConnectionError as error:
        return Finding(f"{name}: mail server", Mark.FAIL, f"{where}.security: {place}: {error}")
    except ConnectionFailedError as error:
        return Finding(f"{name}: mail server", Mark.FAIL, f"{where}.host, {where}.port: {place}: {error}")
    except (ReplyError, MailError) as error:
        return Finding(f"{name}: mail server", Mark.FAIL, f"{where}: {place}: {error}")


def _hints(settings: Settings, name: str) -> list[str]:
    account, smtp = settings.account(name), settings.smtp_for(name)
    hints = []
    if account.mode == "test" and not account.mail_test_rows:
        hints.append(
            f"accounts.{name}.mail_test_rows is false: rows of a test key are recorded, never mailed; "
            "write true to have mails of them"
        )
    if account.mode == "live" and is_loopback(smtp.host) and smtp.port == 1025:
        hints.append("smtp: a live account whose mail goes to port 1025 of this machine, where catchers listen")
    if account.mode == "live" and account.mail_test_rows:
        hints.append(f"accounts.{name}.mail_test_rows is true on a live account: test rows are mailed too")
    return hints
