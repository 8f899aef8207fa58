"""Print listings and single things of the ledger: tables for people, JSON for scripts, times in the account's zone."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from monitor.cli import console
from monitor.cli.console import Format
from monitor.cli.stop import Stop
from monitor.cli.tables import print_whole, table_of
from monitor.domain.words import NOTHING, moment
from monitor.errors import ConfigError
from monitor.store.views import Filter
from monitor.usecases.report import Listing, Reports
from monitor.wiring.process import Wiring

LISTED = 50
"""How many rows a listing has where nobody asks for more."""
_AGO = re.compile(r"(\d+)(min|h|d)\Z")
_WHOLE = (
    *("Id", "Subscription", "To", "Address", "Batch", "Run"),
    *("When", "Began", "Since", "Due", "Deadline", "Next step", "Judged", "Approve until"),
)
"""Columns of what people copy, and of times: never broken."""
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}

Column = Callable[[Mapping[str, Any], ZoneInfo], str]
"""A cell of one row, with the row's account's zone for its times."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A listing's filter as it was typed; `narrowed` are the other fields of `Filter`."""

    account: str | None
    since: str | None
    limit: int
    narrowed: Mapping[str, Any]

    def filter(self, now: datetime) -> Filter:
        """Raises `ConfigError` for a time that cannot be read."""
        since = None if self.since is None else since_when(self.since, now)
        return Filter(account=self.account, since=since, limit=self.limit, **self.narrowed)

    @property
    def narrow(self) -> bool:
        """Whether it leaves anything out."""
        return any(value is not None for value in (self.account, self.since, *self.narrowed.values()))


def wanted(account: str | None, since: str | None, limit: int, **narrowed: Any) -> Wanted:
    """A filter of options."""
    return Wanted(account, since, limit, narrowed)


def print_listing(
    config: Path | None,
    output_format: Format,
    asked: Wanted,
    read: Callable[[Reports, Filter], Awaitable[Listing]],
    columns: Mapping[str, Column],
    empty: str,
    *,
    spare: Sequence[str] = (),
    show_addresses: bool = False,
) -> None:
    """A command's whole work: read, then print.

    `empty` says why nothing may be there yet; the columns in `spare` give way on a narrow terminal, the first first.
    """

    async def body(stop: Stop) -> None:
        async with console.opened(config, stop=stop) as wiring:
            wiring.account_names(asked.account)
            listing = await read(_reports(wiring, show_addresses), asked.filter(wiring.tools.clock.now()))
            zones = zones_of(wiring)
        if output_format is Format.JSON:
            console.print_json(listing.as_json())
            return
        if not listing.items:
            console.warn("No match." if asked.narrow else f"{empty}.")
            return
        names = {row["account"] for row in listing.items}
        shown = {name: column for name, column in columns.items() if name != "Account" or len(names) > 1}
        rows = [
            [column(row, ZoneInfo(zones.get(row["account"], "UTC"))) for column in shown.values()]
            for row in listing.items
        ]
        out = console.stdout()
        table, left_out = table_of(list(shown), rows, out.width, whole=_WHOLE, spare=spare)
        print_whole(out, table)
        if left_out:
            console.warn(f"No room here for: {', '.join(left_out)}. A wider window or --format json shows them.")
        console.warn("Times in " + ", ".join(sorted({zones.get(name, "UTC") for name in names})) + ".")
        if listing.more:
            console.warn(f"There are more; --limit {asked.limit * 2} shows further ones.")

    console.operate(body)


def print_one(
    config: Path | None,
    output_format: Format,
    read: Callable[[Reports], Awaitable[dict[str, Any]]],
    *,
    show_addresses: bool = False,
) -> None:
    """A command's whole work for one thing: every field, nested ones indented."""

    async def body(stop: Stop) -> None:
        async with console.opened(config, stop=stop) as wiring:
            found = await read(_reports(wiring, show_addresses))
            zone = ZoneInfo(zones_of(wiring).get(found["account"], "UTC"))
        if output_format is Format.JSON:
            console.print_json(found)
        else:
            _print_whole(found, zone)

    console.operate(body)


def _reports(wiring: Wiring, show_addresses: bool) -> Reports:
    return Reports(wiring.db, show_addresses, wiring.tools.locks.is_dead)


def _print_whole(found: Mapping[str, Any], zone: ZoneInfo, indent: str = "") -> None:
    for name, value in found.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            console.say(f"{label}:")
            _print_whole(value, zone, indent + "  ")
        elif isinstance(value, list | tuple):
            console.say(f"{label}: {NOTHING if not value else ''}".rstrip())
            for one in value:
                inner = (
                    " · ".join(f"{key} {_plain(part, zone)}" for key, part in one.items() if part is not None)
                    if isinstance(one, Mapping)
                    else str(one)
                )
                console.say(f"{indent}  - {inner}")
        elif value is not None and value != "":
            console.say(f"{label}: {_plain(value, zone)}")


def _plain(value: Any, zone: ZoneInfo) -> str:
    return moment(value, zone) if isinstance(value, datetime) else str(value)


def zones_of(wiring: Wiring) -> dict[str, str]:
    """The accounts' time zones by name."""
    return {name: settings.timezone for name, settings in wiring.settings.accounts.items()}


def since_when(text: str, now: datetime) -> datetime:
    """`36h`, `7d`, `30min` before `now`, or an instant with its offset. Raises `ConfigError`."""
    found = _AGO.match(text)
    if found is None:
        try:
            return console.at_instant(text)
        except ConfigError as error:
            raise ConfigError(f"--since: {error}, or how long ago: 36h, 7d") from None
    return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
