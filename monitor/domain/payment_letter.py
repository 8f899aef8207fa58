"""Fills the letter of a notice about a payment: what was paid or tried, exactly, and the subscription behind a bill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from monitor.domain.letter import Letter
from monitor.domain.letters import Mailing, StoredFacts, fill_letter, greeting_name
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
    letter = _by_itself(mailing, facts, now) if facts.bill_of is None else fill_letter(mailing, facts.bill_of, now)
    return replace(
        letter,
        token=(currency.symbol or None) if currency else None,
        payment_at=_at(mailing.kind, payment),
        payment_amount=whole_amount(payment.amount_units, currency),
        payment_usd=payment.amount_usd,
        payment_tx=payment.tx_hash,
        payment_link=facts.payment_link,
    )


def whole_amount(units: int | None, currency: CurrencySeen | None) -> Decimal | None:
    """Exactly what was paid, in whole units; None where nobody tells how many decimals the number has."""
    if units is None or currency is None or units < 0:
        return None
    return Decimal(f"{units}E-{currency.decimals}")


def _by_itself(mailing: Mailing, facts: PaymentFacts, now: datetime) -> Letter:
    return Letter(
        kind=mailing.kind,
        variant=mailing.variant,
        step=mailing.step,
        urgency=mailing.urgency,
        notification_id=mailing.notification_id,
        first_in_episode=mailing.first_in_episode,
        locale=mailing.locale,
        zone=mailing.zone,
        brand=mailing.brand,
        sender=mailing.sender,
        reply_to=mailing.reply_to,
        recipient=mailing.recipient,
        customer_name=greeting_name(facts.customer_name, shared_address=mailing.shared_address),
        product=facts.product_name or "",
        refusable=mailing.refusable,
        purchase=True,
        now=now,
        reference=facts.payment.reference,
        product_link=facts.product_link,
        unsubscribe_url=mailing.unsubscribe_url,
        message_id=mailing.message_id,
        date_header=mailing.date_header,
    )


def _at(kind: Kind, payment: PaymentSeen) -> datetime | None:
    """When it arrived; of one that did not, when its customer made it."""
    arrived = kind is Kind.PAYMENT_SUCCEEDED
    return (payment.provider_updated_at if arrived else None) or payment.created_at
