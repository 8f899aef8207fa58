"""`import-ids`, `import-contacts`, `import-usage`: what an API does not tell comes from a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli import console
from monitor.cli.console import ConfigOption, Format, FormatOption
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.errors import ConfigError
from monitor.usecases.context import Account, Tools
from monitor.usecases.importing import Imported, import_contacts, import_ids
from monitor.usecases.usage import UsageImported, import_usage

MOST_NAMED = 5
FileArgument = Annotated[Path, typer.Argument(help="The file, UTF-8.")]
OneAccountOption = Annotated[
    str | None, typer.Option("--account", "-a", help="The account; may be left out where there is only one.")
]
_Done = Imported | UsageImported

_NOTES = {
    "kept": "customers have another address already; it was kept (--replace overwrites it)",
    "without_address": "customers have no address: their mails are voided with the rule no_address",
    "older": "were measured before what is known already, which stays",
    "over": "are about a period that has ended: nothing is mailed about it",
}
"""What is said of a count, where it is not 0."""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("import-ids", epilog="Example:  `monitor import-ids subscriptions.csv`", rich_help_panel="Set up")(ids)
    app.command(
        "import-contacts", epilog="Example:  `monitor import-contacts customers.csv`", rich_help_panel="Set up"
    )(contacts)
    app.command("import-usage", epilog="Example:  `monitor import-usage usage.csv`", rich_help_panel="Set up")(usage)


def ids(
    file: FileArgument,
    config: ConfigOption = None,
    account: OneAccountOption = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Bring in ids of subscriptions that API v1 cannot list: a CSV, or one a line. The next run reads them.

    The same file again changes nothing. Exit code 1 when a line holds no id; the others are imported.
    """
    _import(file, config, account, output_format, import_ids)


def contacts(
    file: FileArgument,
    config: ConfigOption = None,
    account: OneAccountOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite known addresses where the file has another one.")
    ] = False,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Bring in address, locale and time zone of customers: a CSV with headings customer, address, locale, zone.

    The same file again changes nothing. Exit code 1 when a line cannot be used; the others are imported.
    """

    async def act(tools: Tools, chosen: Account, lines: Iterable[str]) -> Imported:
        return await import_contacts(tools, chosen, lines, replace_addresses=replace)

    _import(file, config, account, output_format, act)


def usage(
    file: FileArgument,
    config: ConfigOption = None,
    account: OneAccountOption = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Bring in usage of pay-as-you-go subscriptions: a CSV with headings subscription, used, limit, period_end.

    Dollars, and times with a zone. period_start and as_of (when it was measured; else now) may stand beside. The next
    run or delivery mails whoever has used 80 percent of the limit, or all of it: each once a period, however often a
    file comes. The same file again changes nothing. Exit code 1 when a line cannot be used; the others are imported.
    """
    _import(file, config, account, output_format, import_usage)


def _import(
    file: Path,
    config: Path | None,
    account: str | None,
    output_format: Format,
    act: Callable[[Tools, Account, Iterable[str]], Awaitable[_Done]],
) -> None:
    async def body(stop: Stop) -> int:
        lines = _read(file)
        async with console.opened(config, stop=stop) as wiring:
            names = wiring.account_names(account)
            if len(names) != 1:
                raise ConfigError(f"--account: there are several accounts ({', '.join(names)}); name one")
            done = await act(wiring.tools, wiring.account(names[0]), lines)
        _tell(names[0], done, output_format)
        return Exit.FAILURES if done.bad else Exit.DONE

    console.operate(body)


def _read(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file}: cannot be read ({reason})") from None


def _tell(account: str, done: _Done, output_format: Format) -> None:
    counts = asdict(done)
    bad = counts.pop("bad")
    if output_format is Format.JSON:
        lines = [{"line": number, "reason": reason} for number, reason in bad]
        console.print_json({"account": account, **counts, "bad": lines})
        return
    console.say(
        f"{account}: {done.lines} lines: {done.new} new, {done.changed} changed, {done.unchanged} known already"
    )
    for name, words in _NOTES.items():
        if counts.get(name):
            console.say(f"{counts[name]} {words}")
    for number, reason in bad[:MOST_NAMED]:
        console.warn(f"line {number}: {reason}")
    if len(bad) > MOST_NAMED:
        console.warn(f"... and {len(bad) - MOST_NAMED} more lines that could not be used")
