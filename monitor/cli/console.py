"""What every command shares: options, the way in and out, tables and JSON. Results go to stdout, all else to stderr."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from monitor.cli.exits import Exit, code_of
from monitor.cli.remedies import copyable, started_with
from monitor.cli.stop import Stop
from monitor.config import DEFAULT_FILES, Settings, load_settings
from monitor.errors import ConfigError, MonitorError
from monitor.log import configure_logging
from monitor.usecases.context import no_progress
from monitor.wiring.keys import loaded_secrets
from monitor.wiring.place import Schema
from monitor.wiring.process import Wiring, wired

WIDTH_WITHOUT_TERMINAL = 100


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The settings file; else MONITOR_CONFIG, else monitor.toml, else config/monitor.toml."
    ),
]
AccountOption = Annotated[str | None, typer.Option("--account", "-a", help="Only this account; else all of them.")]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="A table for people, or JSON for scripts.")]

Progress = Callable[[str, int, int | None], None]


def stdout() -> Console:
    """Where results go. Never wrapped to nothing when it is a pipe."""
    return _console(stderr=False)


def stderr() -> Console:
    """Where warnings, errors and progress go."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    return console


def print_json(value: Any) -> None:
    """One JSON document on stdout: instants as ISO 8601 in UTC, keys in the order they were given."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """The same as text."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Iterable):
        return list(value)
    return str(value)


def print_bytes(data: bytes) -> None:
    """UTF-8 on stdout exactly as it is, such as a mail with its CRLF."""
    typer.echo(data.decode(), nl=not data.endswith(b"\n"))


def say(text: str) -> None:
    """A line of result on stdout; a command in backticks is completed, so that it can be typed as it stands."""
    stdout().print(copyable(text), markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """The same on stderr."""
    stderr().print(copyable(text), markup=False, soft_wrap=True)


def complain(error: BaseException | str) -> None:
    """`error: ...` on stderr; every line of a message with several gets its own."""
    for line in str(error).splitlines() or [type(error).__name__]:
        console = stderr()
        console.print("[bold red]error:[/]", end=" ")
        console.print(copyable(line), markup=False, soft_wrap=True)


def config_option(config: Path | None) -> str:
    """` --config FILE`, to end a command that is told; nothing where the file is found by itself."""
    return "" if config is None or config == DEFAULT_FILES[0] else f" --config {shlex.quote(str(config))}"


def at_instant(text: str) -> datetime:
    """An instant that was typed, which must name its offset. Raises `ConfigError`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no instant; write it like 2026-04-02T09:00:00+02:00") from None
    if at.tzinfo is None:
        raise ConfigError(f"{text!r} names no time zone; add an offset such as +02:00, or Z for UTC")
    return at


def read_settings(config: Path | None) -> Settings:
    """The settings, and a log that knows which secrets to hide. Raises `ConfigError`."""
    started_with(config_option(config))
    settings = load_settings(config, os.environ)
    configure_logging(level="warning", secrets=loaded_secrets(settings))
    return settings


@asynccontextmanager
async def opened(
    config: Path | None,
    *,
    schema: Schema = Schema.READY,
    progress: Progress = no_progress,
    stop: Stop | None = None,
) -> AsyncIterator[Wiring]:
    """Settings read and everything wired (`wiring.settings`, `.db`, `.tools`, `.account(name)`); closed at the end."""
    settings = read_settings(config)
    stopping, sleep = (stop, stop.sleep) if stop is not None else (_never, asyncio.sleep)
    async with wired(settings, schema=schema, progress=progress, stopping=stopping, sleep=sleep) as wiring:
        yield wiring


def _never() -> bool:
    return False


def operate(body: Callable[[Stop], Awaitable[int | None]]) -> None:
    """Run a command's `async def body(stop)` and leave with its exit code (None is 0).

    An error of ours becomes one line on stderr and its exit code. A signal asks the body to stop cleanly and decides
    the exit code; a second one cancels it.
    """
    raise typer.Exit(asyncio.run(_operate(body)))


async def _operate(body: Callable[[Stop], Awaitable[int | None]]) -> int:
    stop = Stop(lambda: warn("stopping: no new mail, waiting for replies; once more to stop at once"))
    code: int | None = Exit.FAILURES
    with stop.listening(), suppress(asyncio.CancelledError):
        try:
            code = await body(stop)
        except MonitorError as error:
            complain(error)
            code = code_of(error)
    return stop.exit_code or int(code or 0)
