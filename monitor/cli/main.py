"""The `monitor` command: its groups, and the last line of defence for errors nobody expected."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli import (
    checking,
    console,
    decisions,
    importing,
    installing,
    ledger,
    letters,
    payments,
    running,
    sandbox,
    service,
)
from monitor.cli.demo import command as demo_command
from monitor.cli.exits import Exit, code_of
from monitor.cli.helping import show_flags_plainly
from monitor.errors import MonitorError
from monitor.log import Redaction, configure_logging

_DEBUG = "--debug"
_GROUPS: tuple[Callable[[typer.Typer], None], ...] = (
    demo_command.register,
    running.register,
    service.register,
    ledger.register,
    payments.register,
    decisions.register,
    installing.register,
    importing.register,
    checking.register,
    letters.register,
    sandbox.register,
)
"""Each module of commands has a `register(app)`; the help lists them in this order."""

app = typer.Typer(
    name="monitor",
    help="Watches crypto subscriptions and tells each customer what to do, once, early enough.",
    epilog="New here? `monitor demo` shows the whole product in seconds, without a key. "
    "Then `monitor init` writes a settings file and `monitor check` tests it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"monitor {version('subscription-monitor')}")
        raise typer.Exit


@app.callback()
def every_command(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Print the traceback of an unexpected error.")] = False,
) -> None:
    """Runs before every command."""
    _ = show_version, debug
    configure_logging(level="warning")


for _register in _GROUPS:
    _register(app)
show_flags_plainly(app)


def run() -> None:
    """The console script. Exit codes: 0 done, 1 failures, 2 configuration or usage, 3 held, 130/143 interrupted."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit code, and lets nothing but that out."""
    try:
        app(arguments, prog_name="monitor")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except MonitorError as error:
        console.complain(error)
        return code_of(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # the last line of defence: whatever it is, a person must be able to read it
        _report_crash(error, debug=_DEBUG in arguments)
        return Exit.FAILURES
    return Exit.DONE


def _report_crash(error: Exception, *, debug: bool) -> None:
    """A short message, and the traceback without secrets where it can be found again."""
    told = Redaction().text("".join(traceback.format_exception(error)))
    if debug:
        console.warn(told)
        console.complain(f"unexpected {type(error).__name__}")
        return
    with tempfile.NamedTemporaryFile("w", prefix="monitor-crash-", suffix=".log", delete=False) as file:
        file.write(told)
    console.complain(
        f"unexpected {type(error).__name__}: this is a fault of the program. Nothing that was committed is lost; "
        f"start it again. Details: {Path(file.name)} (or: monitor --debug ...)"
    )
