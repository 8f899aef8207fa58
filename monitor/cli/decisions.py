"""`outbox approve|reject|review|hold|release|retry`, `suppressions add|remove`, `adopt`: an operator's decisions."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.exits import Exit
from monitor.cli.listings import LISTED
from monitor.cli.remedies import complete
from monitor.cli.stop import Stop
from monitor.domain.model import Situation
from monitor.domain.words import name_of
from monitor.errors import ConfigError
from monitor.usecases.adopt import Adoption, adopt, adopt_on_paper
from monitor.usecases.operate import Operator, Ruling
from monitor.usecases.report import Reports
from monitor.wiring.place import Schema
from monitor.wiring.process import Wiring

ByOption = Annotated[str, typer.Option("--by", envvar="USER", help="Who decides; the ledger keeps it.")]
HashOption = Annotated[
    str | None, typer.Option("--plan-hash", metavar="HASH", help="The plan that you looked at; refused if it changed.")
]
BatchArgument = Annotated[int, typer.Argument(metavar="BATCH", help="A batch's number (`monitor outbox batches`).")]
WholeAccount = Annotated[
    str | None, typer.Option("--account", "-a", help="All of this account's mails, instead of one by its id.")
]
MailArgument = Annotated[str | None, typer.Argument(metavar="ID", help="A mail's id, or its beginning.")]
AddressArgument = Annotated[str, typer.Argument(metavar="ADDRESS", help="A mail address.")]
NOBODY = "somebody"


class Scope(StrEnum):
    """What an address must not get."""

    ALL = "all"
    REMINDERS = "reminders"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        "adopt",
        epilog="Examples:  `monitor adopt --dry-run`   `monitor adopt --situation payment_failed`",
        rich_help_panel="Understand",
    )(adopt_command)


def fill_outbox(group: typer.Typer) -> None:
    """The decisions about mails."""
    group.command(epilog="Example:  `monitor outbox review 41`")(review)
    group.command(epilog="Example:  `monitor outbox approve 41 --plan-hash 9c41…e07a`")(approve)
    group.command(epilog="Example:  `monitor outbox reject 41`")(reject)
    group.command(epilog="Examples:  `monitor outbox hold 5d1c9a`   `monitor outbox hold --account acme`")(hold)
    group.command(epilog="Example:  `monitor outbox release 5d1c9a`")(release)
    group.command(epilog="Example:  `monitor outbox retry 5d1c9a`")(retry)


def fill_suppressions(group: typer.Typer) -> None:
    """The decisions about addresses."""
    group.command("add", epilog="Example:  `monitor suppressions add anna@example.org --reason 'asked by phone'`")(add)
    group.command("remove", epilog="Example:  `monitor suppressions remove anna@example.org`")(remove)


def review(
    batch: BatchArgument,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Look at a held plan: why it is held and what would go; what is printed may be approved for 24 hours."""

    async def body(stop: Stop) -> int:
        async with console.opened(config, stop=stop) as wiring:
            ruling = await operator(wiring, by).review(batch)
            found = await Reports(wiring.db).batch(batch)
        if output_format is Format.JSON:
            console.print_json({**ruling_json(ruling), "batch": found})
            return _code(ruling)
        for reason in found["reasons"]:
            console.say(f"Held: {reason['sentence']}")
        for row in found["mails"]:
            console.say(f"  {row['count']:>6,}  {name_of(row['kind'])}, {name_of(row['state'])}")
        if ruling.ids:
            every = sum(row["count"] for row in found["mails"])
            enough = f" --limit {every}" if every > LISTED else ""
            console.say(f"One by one:  {complete(f'monitor outbox list --batch {batch}{enough}')}")
        return _print(ruling)

    console.operate(body)


def approve(
    batch: BatchArgument,
    plan_hash: HashOption = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Let a held plan go, exactly as it was shown; refused (exit code 1) if it changed or is older than a day."""
    _decide(config, by, output_format, lambda one: one.approve(batch, plan_hash))


def reject(
    batch: BatchArgument,
    plan_hash: HashOption = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Drop a held plan: its mails are never sent."""
    _decide(config, by, output_format, lambda one: one.reject(batch, plan_hash))


def hold(
    notification: MailArgument = None,
    account: WholeAccount = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Stop one waiting mail, or with --account all that wait now, until somebody releases them."""
    _one_or_all(config, by, output_format, notification, account, Operator.hold, Operator.hold_account)


def release(
    notification: MailArgument = None,
    account: WholeAccount = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Let a mail go on that is held for itself, or with --account all that were held by hand."""
    _one_or_all(config, by, output_format, notification, account, Operator.release, Operator.release_account)


def retry(
    notification: Annotated[str, typer.Argument(metavar="ID", help="A mail's id, or its beginning.")],
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Try a failed mail again."""
    _decide(config, by, output_format, lambda one: one.retry(notification))


def add(
    address: AddressArgument,
    scope: Annotated[Scope, typer.Option("--scope", help="Every mail, or reminders only.")] = Scope.ALL,
    reason: Annotated[str, typer.Option("--reason", help="Why; the ledger keeps it.")] = "by hand",
    account: AccountOption = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Never mail this address again; only a keyed hash of it is stored."""
    _about_address(
        config,
        by,
        output_format,
        address,
        account,
        lambda one, name: one.suppress(name, address, scope=scope.value, reason=reason),
    )


def remove(
    address: AddressArgument,
    account: AccountOption = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Let this address be mailed again."""
    _about_address(config, by, output_format, address, account, lambda one, name: one.unsuppress(name, address))


def adopt_command(
    situation: Annotated[
        Situation | None, typer.Option("--situation", "-s", help="Only episodes of this situation.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be planned. Changes nothing.")] = False,
    account: AccountOption = None,
    by: ByOption = NOBODY,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Unmute what the first contact found, and plan its mails; none goes before the plan is approved."""

    async def body(stop: Stop) -> None:
        schema = Schema.UNTOUCHED if dry_run else Schema.READY
        async with console.opened(config, schema=schema, stop=stop) as wiring:
            names = wiring.account_names(account)
            done = [await _adopt(wiring, name, by, situation, dry_run=dry_run) for name in names]
        if output_format is Format.JSON:
            console.print_json({"dry_run": dry_run, "accounts": [asdict(one) | {"silent": one.silent} for one in done]})
            return
        for one in done:
            _print_adoption(one, dry_run=dry_run)

    console.operate(body)


async def _adopt(wiring: Wiring, name: str, by: str, situation: Situation | None, *, dry_run: bool) -> Adoption:
    if not dry_run:
        return await adopt(wiring.tools, wiring.account(name), by=by, situation=situation)
    with tempfile.TemporaryDirectory(prefix="monitor-adopt-") as folder:
        return await adopt_on_paper(
            wiring.tools, wiring.account(name), Path(folder), wiring.settings.state_dir, by=by, situation=situation
        )


def _print_adoption(done: Adoption, *, dry_run: bool) -> None:
    if done.batch_id is None:
        console.say(f"{done.account}: nothing is muted.")
        return
    kinds = ", ".join(f"{count:,} {name_of(kind)}" for kind, count in done.kinds)
    would = "would be " if dry_run else ""
    console.say(
        f"{done.account}: {done.episodes:,} episodes {would}unmuted, {done.mails:,} mails {would}planned"
        f"{f' ({kinds})' if kinds else ''}, {done.silent:,} cause none now."
    )
    if dry_run or not done.mails:
        return
    console.say(f"They are held as batch {done.batch_id}. Nothing is sent before:")
    console.say(f"  {complete(f'monitor outbox approve {done.batch_id} --plan-hash {done.plan_hash}')}")


def operator(wiring: Wiring, by: str) -> Operator:
    """Who decides, with everything a decision needs."""
    zones = {name: settings.timezone for name, settings in wiring.settings.accounts.items()}
    return Operator(wiring.tools, by, wiring.settings.state_dir, zones)


def _decide(
    config: Path | None, by: str, output_format: Format, decision: Callable[[Operator], Awaitable[Ruling]]
) -> None:
    async def body(stop: Stop) -> int:
        async with console.opened(config, stop=stop) as wiring:
            ruling = await decision(operator(wiring, by))
        if output_format is Format.JSON:
            console.print_json(ruling_json(ruling))
            return _code(ruling)
        return _print(ruling)

    console.operate(body)


def _one_or_all(
    config: Path | None,
    by: str,
    output_format: Format,
    notification: str | None,
    account: str | None,
    one: Callable[[Operator, str], Awaitable[Ruling]],
    all_of: Callable[[Operator, str], Awaitable[Ruling]],
) -> None:
    if (notification is None) == (account is None):
        raise typer.BadParameter("name one mail, or --account for all of an account's")

    async def decision(who: Operator) -> Ruling:
        return await (all_of(who, account) if account is not None else one(who, notification or ""))

    _decide(config, by, output_format, decision)


def _about_address(
    config: Path | None,
    by: str,
    output_format: Format,
    address: str,
    account: str | None,
    decision: Callable[[Operator, str], Awaitable[Ruling]],
) -> None:
    async def body(stop: Stop) -> int:
        if "@" not in address:
            raise ConfigError(f"{address!r} is no mail address")
        async with console.opened(config, stop=stop) as wiring:
            who = operator(wiring, by)
            rulings = [await decision(who, name) for name in wiring.account_names(account)]
        if output_format is Format.JSON:
            console.print_json({"accounts": [ruling_json(one) for one in rulings]})
        else:
            for one in rulings:
                _print(one)
        return max(_code(one) for one in rulings)

    console.operate(body)


def ruling_json(ruling: Ruling) -> dict[str, Any]:
    """Stable keys of a decision."""
    command = None if ruling.command is None else complete(ruling.command)
    return {"ok": ruling.ok, **asdict(ruling), "command": command}


def _print(ruling: Ruling) -> int:
    tell = console.say if ruling.ok else console.complain
    tell(f"{ruling.sentence[:1].upper()}{ruling.sentence[1:]}.")
    if ruling.command is not None:
        (console.say if ruling.ok else console.warn)(f"  {complete(ruling.command)}")
    return _code(ruling)


def _code(ruling: Ruling) -> int:
    return int(Exit.DONE if ruling.ok else Exit.FAILURES)
