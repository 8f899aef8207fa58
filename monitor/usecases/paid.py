"""Payments as people and scripts list them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from monitor.domain.words import UNKNOWN, in_digits, tokens
from monitor.store.payments import list_payments, mails_about, payment_stories
from monitor.store.views import Filter
from monitor.usecases.report import Listing, Reports

_FIELDS = (
    *("account", "ext_id", "kind", "status", "status_raw", "created_at", "provider_updated_at", "customer_ext_id"),
    *("subscription_ext_id", "product_ext_id", "amount_usd", "amount_units", "currency", "symbol", "tx_hash"),
    *("explorer_url", "reference", "of_ext_id", "attempt", "cause", "reason", "test", "asked_at"),
)
_MAIL = ("id", "kind", "state", "reason", "sent_at")
_EVENT = ("kind", "old", "new", "source", "at", "evidence_at")


async def list_paid(reports: Reports, wanted: Filter) -> Listing:
    """Payments, newest first, each with its `amount` in words, its `events` and its `mails`, oldest first."""
    async with reports.db.read() as conn:
        rows = await list_payments(conn, wanted)
        more = len(rows) > wanted.limit
        rows = rows[: wanted.limit]
        stories = await payment_stories(conn, [row.id for row in rows])
        mails = await mails_about(conn, [row.id for row in rows])
    return Listing(tuple(_paid(row, stories.get(row.id, []), mails.get(row.id, [])) for row in rows), more)


def _paid(row: Row[Any], story: list[Row[Any]], mails: list[Any]) -> dict[str, Any]:
    return {
        **{name: row._mapping[name] for name in _FIELDS},
        "amount": _amount(row),
        "mails": [{name: mail._mapping[name] for name in _MAIL} for mail in mails],
        "events": [{name: event._mapping[name] for name in _EVENT} for event in story],
    }


def _amount(row: Row[Any]) -> str:
    """Token and USD where both are known; a currency that is no token as its API sent it."""
    if row.symbol is not None:
        token = tokens(row.amount_units, row.decimals, row.symbol)
        return token if row.amount_usd is None else f"{token} ({in_digits(row.amount_usd)} USD)"
    if row.amount_usd is not None:
        return f"{in_digits(row.amount_usd)} USD"
    return UNKNOWN if row.amount_units is None else f"{row.amount_units} {row.currency or 'units'}"
