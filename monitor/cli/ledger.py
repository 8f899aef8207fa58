"""`explain`, `events`, `episodes`, `outbox`, `runs`, `suppressions`: read the ledger. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Annotated

import typer

from monitor.cli import console, decisions
from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.listings import LISTED, print_listing, print_one, wanted, zones_of
from monitor.cli.stop import Stop
from monitor.cli.stories import explanation_json, print_explanation
from monitor.cli.words import rule_words
from monitor.domain.model import Kind, NotificationState, RunState, Situation
from monitor.domain.words import EVENTS, NOTHING, brief, mark_of, name_of
from monitor.errors import ConfigError
from monitor.store.views import Filter
from monitor.usecases.explain import Reader
from monitor.usecases.explain_payments import explain_all
from monitor.usecases.report import Listing, Reports
from monitor.usecases.told_events import Terms, tell_event

PANEL = "Understand"

SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="AGO|INSTANT", help="Only since then: 36h, 7d, or an instant.")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many rows.")]
SubscriptionOption = Annotated[str | None, typer.Option("--subscription", "-s", help="Only this subscription's.")]
ShowOption = Annotated[
    bool, typer.Option("--show-addresses", help="Print addresses whole instead of a***@example.org.")
]


class EpisodeState(StrEnum):
    """What an episode listing is narrowed to."""

    OPEN = "open"
    MUTED = "muted"
    CLOSED = "closed"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  `monitor explain sub_8d2f`   `monitor explain anna@example.org --at 2026-11-20T07:12+01:00`",
        rich_help_panel=PANEL,
    )(explain)
    app.command(epilog="Example:  `monitor events --kind payment_failed --since 7d`", rich_help_panel=PANEL)(events)
    app.command(epilog="Example:  `monitor episodes --state muted`", rich_help_panel=PANEL)(episodes)
    app.add_typer(
        _group(
            "Mails: what waits, what went, what did not; and decisions about them.",
            "Examples:  `monitor outbox list --state held`   `monitor outbox batches`",
            _outbox,
        ),
        name="outbox",
        rich_help_panel=PANEL,
    )
    app.add_typer(
        _group("Passes over an account.", "Example:  `monitor runs list`", _runs), name="runs", rich_help_panel=PANEL
    )
    app.add_typer(
        _group("Addresses that must not be mailed.", "Example:  `monitor suppressions list`", _suppressions),
        name="suppressions",
        rich_help_panel=PANEL,
    )


def _group(help_text: str, example: str, fill: Callable[[typer.Typer], None]) -> typer.Typer:
    group = typer.Typer(help=help_text, epilog=example, no_args_is_help=True)
    fill(group)
    return group


def _outbox(group: typer.Typer) -> None:
    group.command("list", epilog="Example:  `monitor outbox list --state held --format json`")(outbox_list)
    group.command("show", epilog="Example:  `monitor outbox show 5d1c9a`")(outbox_show)
    group.command("batches", epilog="Example:  `monitor outbox batches`")(outbox_batches)
    decisions.fill_outbox(group)


def _runs(group: typer.Typer) -> None:
    group.command("list", epilog="Example:  `monitor runs list --state partial`")(runs_list)
    group.command("show", epilog="Example:  `monitor runs show 813`")(runs_show)


def _suppressions(group: typer.Typer) -> None:
    group.command("list", epilog="Example:  `monitor suppressions list`")(suppressions_list)
    decisions.fill_suppressions(group)


def explain(
    asked: Annotated[
        str, typer.Argument(metavar="SUBSCRIPTION|EMAIL", help="A subscription, a payment, a mail's id or an address.")
    ],
    at: Annotated[str | None, typer.Option("--at", metavar="INSTANT", help="What was known then.")] = None,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    show_addresses: ShowOption = False,
    config: ConfigOption = None,
) -> None:
    """Why a mail went, or did not: the time line, and every step of every episode with its rule.

    Exit code 1 when nothing is known of what was asked for.
    """

    async def body(stop: Stop) -> None:
        known_at = None if at is None else console.at_instant(at)
        async with console.opened(config, stop=stop) as wiring:
            wiring.account_names(account)
            now = wiring.tools.clock.now()
            reader = Reader(wiring.db, wiring.tools.address_mac, zones_of(wiring), now, show_addresses)
            found = await explain_all(reader, asked, account=account, known_at=known_at)
        if output_format is Format.JSON:
            console.print_json(explanation_json(found))
        else:
            print_explanation(found)

    console.operate(body)


def events(
    kind: Annotated[str | None, typer.Option("--kind", "-k", help="Only this kind, such as payment_failed.")] = None,
    since: SinceOption = None,
    subscription: SubscriptionOption = None,
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """What happened to subscriptions, newest first."""
    known = {*EVENTS, *(situation.value for situation in Situation)}

    async def read(reports: Reports, narrowed: Filter) -> Listing:
        if kind is not None and kind not in known:
            raise ConfigError(f"--kind: {kind!r} is no kind of event; choose one of {', '.join(sorted(known))}")
        return await reports.events(narrowed)

    print_listing(
        config,
        output_format,
        wanted(account, since, limit, kind=kind, subscription=subscription),
        read,
        {
            "When": lambda row, zone: brief(row["at"], zone),
            "Account": lambda row, _zone: row["account"],
            "Subscription": lambda row, _zone: row["subscription"],
            "What": lambda row, zone: tell_event(SimpleNamespace(**row), Terms(zone, row["symbol"], row["decimals"])),
            "From": lambda row, _zone: row["source"],
        },
        "Nothing has happened yet: events are written when a run sees a change",
        spare=("From", "Account", "When"),
    )


def episodes(
    kind: Annotated[Situation | None, typer.Option("--kind", "-k", help="Only this situation.")] = None,
    state: Annotated[EpisodeState | None, typer.Option("--state", help="Only these.")] = None,
    since: SinceOption = None,
    subscription: SubscriptionOption = None,
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """The spells that subscriptions went through, newest first."""
    print_listing(
        config,
        output_format,
        wanted(account, since, limit, kind=kind, state=state, subscription=subscription),
        Reports.episodes,
        {
            "Began": lambda row, zone: brief(row["opened_at"], zone),
            "Account": lambda row, _zone: row["account"],
            "Subscription": lambda row, _zone: row["subscription"],
            "Situation": lambda row, _zone: name_of(row["kind"]).capitalize() + (" (muted)" if row["muted"] else ""),
            "Deadline": lambda row, zone: brief(row["deadline_at"], zone),
            "Next step": lambda row, zone: brief(row["next_step_at"], zone),
            "Ended": lambda row, zone: (
                f"{row['close_reason']} {brief(row['closed_at'], zone)}" if row["closed_at"] else "open"
            ),
        },
        "No episode yet: everybody is healthy, or nothing was read so far",
        spare=("Next step", "Deadline", "Began", "Account"),
    )


def outbox_list(
    kind: Annotated[Kind | None, typer.Option("--kind", "-k", help="Only this kind of mail.")] = None,
    state: Annotated[NotificationState | None, typer.Option("--state", help="Only mails in this state.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", "-b", help="Only mails of this batch.")] = None,
    since: SinceOption = None,
    subscription: SubscriptionOption = None,
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    show_addresses: ShowOption = False,
    config: ConfigOption = None,
) -> None:
    """Mails, newest first; those that were not sent too, with the reason."""
    print_listing(
        config,
        output_format,
        wanted(account, since, limit, kind=kind, state=state, subscription=subscription, batch=batch),
        Reports.outbox,
        {
            "Id": lambda row, _zone: row["id"][:13],
            "To": lambda row, _zone: row["address"] or NOTHING,
            "Mail": lambda row, _zone: name_of(row["kind"]).capitalize(),
            "State": lambda row, _zone: mark_of(row["state"]).capitalize(),
            "Why": lambda row, _zone: rule_words(row["reason"]) or NOTHING,
            "Due": lambda row, zone: brief(row["due_at"], zone),
            "Batch": lambda row, _zone: str(row["batch_id"]),
        },
        "No mail yet: they are planned when a run finds something that a customer must know",
        spare=("Batch", "Due"),
        show_addresses=show_addresses,
    )


def outbox_show(
    notification: Annotated[str, typer.Argument(metavar="ID", help="A mail's id, or its beginning.")],
    output_format: FormatOption = Format.TABLE,
    show_addresses: ShowOption = False,
    config: ConfigOption = None,
) -> None:
    """One mail: its state and why, its attempts, and the facts that it printed."""
    print_one(config, output_format, lambda reports: reports.mail(notification), show_addresses=show_addresses)


def outbox_batches(
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Batches that wait: for the guard, for an operator, or for delivery."""
    print_listing(
        config,
        output_format,
        wanted(account, None, limit),
        Reports.batches,
        {
            "Batch": lambda row, _zone: str(row["id"]),
            "Account": lambda row, _zone: row["account"],
            "State": lambda row, _zone: name_of(row["state"]),
            "Mails": lambda row, _zone: str(row["waiting"]),
            "Judged": lambda row, zone: brief(row["closed_at"], zone),
            "Approve until": lambda row, zone: brief(row["valid_until"], zone) if row["state"] == "held" else NOTHING,
            "Why": lambda row, _zone: "; ".join(one["sentence"] for one in row["reasons"]) or NOTHING,
        },
        "No batch waits: the guard holds nothing",
        spare=("Judged", "Account"),
    )


def runs_list(
    state: Annotated[RunState | None, typer.Option("--state", help="Only runs in this state.")] = None,
    since: SinceOption = None,
    limit: LimitOption = 20,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Runs, newest first."""
    print_listing(
        config,
        output_format,
        wanted(account, since, limit, state=state),
        Reports.runs,
        {
            "Run": lambda row, _zone: str(row["id"]),
            "Account": lambda row, _zone: row["account"],
            "Began": lambda row, zone: brief(row["started_at"], zone),
            "State": lambda row, _zone: (
                row["state"]
                + (" (first contact)" if row["baseline"] else "")
                + (": the next one goes on" if row["state"] == RunState.INTERRUPTED else "")
            ),
            "Read": lambda row, _zone: f"{row['counts'].get('rows', 0) + row['counts'].get('rows_before', 0):,}",
            "Changed": lambda row, _zone: f"{row['counts'].get('changed', 0):,}",
            "Mails": lambda row, _zone: f"{row['counts'].get('staged', 0):,}",
            "Problems": lambda row, _zone: str(len(row["problems"])),
        },
        "No run yet: `monitor run` makes the first",
        spare=("Problems", "Mails", "Changed"),
    )


def runs_show(
    run: Annotated[int, typer.Argument(metavar="ID", help="A run's number.")],
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """One run: counts, problems, windows, and the rows that could not be read (never their content)."""
    print_one(config, output_format, lambda reports: reports.run(run))


def suppressions_list(
    since: SinceOption = None,
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    show_addresses: ShowOption = False,
    config: ConfigOption = None,
) -> None:
    """Addresses that must not be mailed; stored as keyed hashes."""
    print_listing(
        config,
        output_format,
        wanted(account, since, limit),
        Reports.suppressions,
        {
            "Since": lambda row, zone: brief(row["at"], zone),
            "Account": lambda row, _zone: row["account"],
            "Address": lambda row, _zone: row["address"] or f"{row['address_hash'][:12]}…",
            "Scope": lambda row, _zone: row["scope"],
            "Why": lambda row, _zone: row["reason"],
            "By": lambda row, _zone: row["by"],
        },
        "No address is suppressed",
        spare=("By", "Scope", "Since"),
        show_addresses=show_addresses,
    )
