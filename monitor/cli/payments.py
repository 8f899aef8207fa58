"""`payments`: what was paid, what failed, what is still under way, as the database holds it."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli.console import AccountOption, ConfigOption, Format, FormatOption
from monitor.cli.ledger import PANEL, LimitOption, SinceOption, SubscriptionOption
from monitor.cli.listings import LISTED, print_listing, wanted
from monitor.domain.payments import PaymentKind, PaymentStatus
from monitor.domain.words import NOTHING, brief, why_failed
from monitor.usecases.paid import list_paid


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        epilog="Examples:  `monitor payments --since 7d`   `monitor payments --status failed --format json`",
        rich_help_panel=PANEL,
    )(payments)


def payments(
    kind: Annotated[
        PaymentKind | None, typer.Option("--kind", "-k", help="Only one-off payments, bills, or failed tries.")
    ] = None,
    status: Annotated[PaymentStatus | None, typer.Option("--status", help="Only payments of this status.")] = None,
    since: SinceOption = None,
    subscription: SubscriptionOption = None,
    limit: LimitOption = LISTED,
    account: AccountOption = None,
    output_format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Payments, bills and failed tries, newest first; JSON has the transaction's hash and link too."""
    print_listing(
        config,
        output_format,
        wanted(account, since, limit, kind=kind, state=status, subscription=subscription),
        list_paid,
        {
            "When": lambda row, zone: brief(row["created_at"], zone),
            "Account": lambda row, _zone: row["account"],
            "Payment": lambda row, _zone: row["ext_id"],
            "What": lambda row, _zone: row["kind"].replace("_", "-"),
            "Status": lambda row, _zone: row["status"] if row["status"] != "unknown" else f'"{row["status_raw"]}"',
            "Amount": lambda row, _zone: row["amount"],
            "Of": lambda row, _zone: row["subscription_ext_id"] or row["customer_ext_id"] or NOTHING,
            "Why": lambda row, _zone: why_failed(row["cause"], row["reason"]),
        },
        "No payment yet: a run pulls them where the API lists any and `payments` is not false",
        spare=("Why", "Of", "Account", "When"),
    )
