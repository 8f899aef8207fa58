"""Fills the letter of a notice about a payment: what was paid or tried, exactly, and the subscription behind a bill."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from monitor.domain.letter import Letter
from monitor.domain.letters import Mailing, StoredFacts, frame_of, subscription_facts
from monitor.domain.model import CurrencySeen, Kind
from monitor.domain.payments import PaymentSeen


@dataclass(frozen=True, slots=True)
class PaymentFacts:
    """What is stored about one payment when its mail is made."""

    payment: PaymentSeen
    bill_of: StoredFacts | None = None
    """The subscription whose bill it is; None: a payment by itself."""
    customer_name: str | None = None
    product_name: str | None = None
    product_link: str | None = None
    """Where to try again; already checked against the allow-list, as the transaction's link is."""
    currency: CurrencySeen | None = None
    payment_link: str | None = None


def fill_payment_letter(mailing: Mailing, facts: PaymentFacts, now: datetime) -> Letter:
    """The letter of this notice, true at `now` (aware UTC)."""
    payment, currency = facts.payment, facts.currency
    bill_of = facts.bill_of
    values = _by_itself(mailing, facts, now) if bill_of is None else subscription_facts(mailing, bill_of, now)
    values |= {
        "token": (currency.symbol or None) if currency else None,
        "payment_at": _at(mailing.kind, payment),
        "payment_amount": whole_amount(payment.amount_units, currency),
        "payment_usd": payment.amount_usd,
        "payment_tx": payment.tx_hash,
        "payment_link": facts.payment_link,
    }
    return Letter(**values)


def whole_amount(units: int | None, currency: CurrencySeen | None) -> Decimal | None:
    """Exactly what was paid, in whole units; None where nobody tells how many decimals the number has."""
    if units is None or currency is None or units < 0:
        return None
    return Decimal(f"{units}E-{currency.decimals}")


def _by_itself(mailing: Mailing, facts: PaymentFacts, now: datetime) -> dict[str, Any]:
    return frame_of(mailing, facts.customer_name, now) | {
        "product": facts.product_name or "",
        "purchase": True,
        "reference": facts.payment.reference,
        "product_link": facts.product_link,
    }


def _at(kind: Kind, payment: PaymentSeen) -> datetime | None:
    """When it arrived; of one that did not, when its customer made it."""
    arrived = kind is Kind.PAYMENT_SUCCEEDED
    return (payment.provider_updated_at if arrived else None) or payment.created_at
