"""`init` and `db`: what is done once, or after an upgrade."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from monitor.assets import shipped
from monitor.cli import console
from monitor.cli.console import ConfigOption, Format, FormatOption
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.errors import ConfigError
from monitor.store.engine import Database
from monitor.store.revision import code_revision, database_revision, require_current
from monitor.store.revision import upgrade as upgrade_database
from monitor.wiring.place import Schema, open_database

DEFAULT_FILE = Path("monitor.toml")
_HERE = {
    'state_dir = "../var"   ': 'state_dir = "var"      ',
    'url = "sqlite:///../monitor.db"   ': 'url = "sqlite:///monitor.db"      ',
}
_SANDBOX_HEAD = "This example runs against `monitor sandbox`; change what is yours."
_REAL = {
    _SANDBOX_HEAD: "Change what is yours, then run `monitor check`.",
    'host = "127.0.0.1"\nport = 1025\nsecurity = "none"    ': (
        'host = "smtp.acme.example"\nport = 587\nsecurity = "starttls"'
    ),
    'mode = "test"                                # live | test; must agree with the key': (
        'mode = "live"                                # live | test; must agree with the key'
    ),
    'base_url = "http://127.0.0.1:8787/v2"        # the sandbox; the real one is https://api.qbitflow.app/v2': (
        'base_url = "https://api.qbitflow.app/v2"'
    ),
    "mail_test_rows = true                        # mail rows with `test: true` too (this is a test account)": (
        "mail_test_rows = false                       # true: mail rows with `test: true` too (a test-mode key)"
    ),
}
_KEY_LINE = "api_key = "
_KEY_FILE_LINE = "# api_key_file = "


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Examples:  `monitor init`   `monitor init sandbox.toml --sandbox`", rich_help_panel="Set up")(
        init
    )
    db = typer.Typer(help="The database's revision.", epilog="Example:  `monitor db current`", no_args_is_help=True)
    db.command(epilog="After installing a new version, on PostgreSQL:  `monitor db upgrade`")(upgrade)
    db.command(epilog="Example:  `monitor db current --format json`")(current)
    app.add_typer(db, name="db", rich_help_panel="Set up")


def init(
    file: Annotated[Path, typer.Argument(help="The file to write; never overwritten.")] = DEFAULT_FILE,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="For trying out: points at `monitor sandbox` on this machine.")
    ] = False,
) -> None:
    """Write a commented settings file to start from."""

    async def body(_stop: Stop) -> int:
        _write_new(file, settings_text(sandbox=sandbox))
        console.say(f"{file} is written. Next:")
        for step in _next_steps(file, sandbox=sandbox):
            console.say(f"  {step}")
        return Exit.DONE

    console.operate(body)


def settings_text(*, sandbox: bool) -> str:
    """The shipped example with its paths beside the file: for the sandbox, or for the real API."""
    text = (shipped("config") / "monitor.toml").read_text(encoding="utf-8")
    for old, new in ({} if sandbox else _REAL).items():
        text = _replaced(text, old, new)
    for old, new in _HERE.items():
        text = _replaced(text, old, new)
    if sandbox:
        return text
    lines = [line for line in text.splitlines() if not line.startswith(_KEY_LINE)]
    key_file = 'api_key_file = "acme-key"                    # a file with the key alone, mode 0600'
    return "\n".join(key_file if line.startswith(_KEY_FILE_LINE) else line for line in lines) + "\n"


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ConfigError(f"config/monitor.toml: was changed in this installation ({old!r}); install the package again")
    return text.replace(old, new)


def _write_new(file: Path, text: str) -> None:
    """Readable for this user alone, because a key may be written into it. Raises `ConfigError`."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already and stays as it is; name another file, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror}); name another file") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)


def _next_steps(file: Path, *, sandbox: bool) -> tuple[str, ...]:
    named = console.config_option(file)
    if sandbox:
        return (
            "monitor sandbox                    # in another terminal: a simulated API and a mail catcher",
            f"monitor check{named}",
            f"monitor run{named}      # the first run records, later ones mail what changed",
        )
    return (
        f"Put your API key into {file.parent / 'acme-key'} (chmod 600), and your mail server into [smtp].",
        f"monitor check{named}            # says what is still missing",
        f"monitor run --dry-run{named}    # shows what a run would do",
    )


def upgrade(config: ConfigOption = None) -> None:
    """Bring the database to the revision of this version; does nothing if it is there already."""

    async def body(_stop: Stop) -> int:
        db = await open_database(console.read_settings(config), Schema.ANY)
        try:
            before, after = await upgrade_database(db)
        finally:
            await db.aclose()
        console.say(
            f"The database is at {after} already." if before == after else f"Upgraded: {before or 'empty'} -> {after}"
        )
        return Exit.DONE

    console.operate(body)


async def _difference(db: Database) -> str | None:
    """What is wrong with the revision and what helps: an upgrade, or another version of the monitor."""
    try:
        await require_current(db)
    except ConfigError as error:
        return str(error)
    return None


def current(config: ConfigOption = None, output_format: FormatOption = Format.TABLE) -> None:
    """Print the revision of the database and of this version. Exit code 2 when they differ."""

    async def body(_stop: Stop) -> int:
        db = await open_database(console.read_settings(config), Schema.ANY)
        try:
            found, wanted, differs = await database_revision(db), code_revision(), await _difference(db)
        finally:
            await db.aclose()
        if output_format is Format.JSON:
            console.print_json({"database": found, "code": wanted, "current": differs is None})
        else:
            console.say(f"database  {found or 'empty'}\ncode      {wanted}")
            if differs is not None:
                console.warn(differs)
        return Exit.DONE if differs is None else Exit.CONFIG

    console.operate(body)
