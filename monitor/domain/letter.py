"""What a mail is told: every fact a template may print, decided and rounded before anything is rendered.

The domain fills a `Letter` (rounding: `forecast`), the mail edge words it. A fact that is None is unknown, and the mail
then leaves it out or says so (campaigns, section 2: unknown fact); it is never printed as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from monitor.domain.model import Kind, Urgency


@dataclass(frozen=True, slots=True)
class Brand:
    """The merchant as the customer knows it. `color` is six-digit hex or anything else (then our accent is used)."""

    name: str
    url: str
    color: str
    postal_address: str = ""
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail's facts. Amounts are whole tokens, already rounded to the careful side; instants are aware UTC."""

    kind: Kind
    variant: str
    """The cause (`Cause`) or reason (`CancelReason`) that picks the words; "" where the kind has one text."""
    step: str
    """`first`, `reminder` or `last_call`."""
    urgency: Urgency
    notification_id: str
    """The outbox id: message code, Message-ID and Feedback-ID are made from it."""
    first_in_episode: bool
    """No earlier mail of this episode was delivered: the words must not refer to one."""

    locale: str
    zone: str
    brand: Brand
    sender: str
    """`Name <address>` as configured."""
    reply_to: str
    recipient: str
    customer_name: str | None
    """None also when several customers share the address."""
    product: str
    refusable: bool
    """Reminders and trial mails may be refused (campaigns, column U)."""

    price_usd: Decimal | None = None
    period: timedelta | None = None
    token: str | None = None
    amount_due: Decimal | None = None
    amount_due_as_of: datetime | None = None
    """When the amount was true: the failed attempt, or the price's instant."""
    amounts_uncertain: bool = False
    allowance_left: Decimal | None = None
    approve_more: Decimal | None = None
    approve_total: Decimal | None = None
    approve_bills: int = 3
    maximum_now: Decimal | None = None
    maximum_to_set: Decimal | None = None
    used_usd: Decimal | None = None
    limit_usd: Decimal | None = None
    """Of one period of a pay-as-you-go subscription, with `period_ends_at` and `measured_at`."""
    approved: Decimal | None = None
    """For `recovered` after a top-up: the allowance now."""

    next_bill_at: datetime | None = None
    next_attempt_at: datetime | None = None
    cancellation_at: datetime | None = None
    """The latest instant of the end; None: we are not told."""
    paid_until_at: datetime | None = None
    trial_end_at: datetime | None = None
    ends_at: datetime | None = None
    ended_at: datetime | None = None
    paused_since_at: datetime | None = None
    failed_at: datetime | None = None
    """The bill that failed: the date a mail names."""
    period_ends_at: datetime | None = None
    measured_at: datetime | None = None
    """When what was used was measured."""
    balance_checked_at: datetime | None = None
    """When the wallet was found to hold too little for `next_bill_at`."""
    now: datetime | None = None
    """The instant of sending: decides tense ("access until" or "paid until"), never printed."""

    last_bill_at: datetime | None = None
    last_bill_tx: str | None = None
    last_bill_usd: Decimal | None = None
    sub_tail: str | None = None
    wallet_tail: str | None = None
    reference: str | None = None
    signed_up_at: datetime | None = None

    purchase: bool = False
    """It is about a payment that belongs to no subscription."""
    payment_at: datetime | None = None
    """When the payment that this tells of arrived, began or failed."""
    payment_amount: Decimal | None = None
    """Exactly what was paid or tried, in whole tokens or units of the currency."""
    payment_usd: Decimal | None = None
    payment_tx: str | None = None
    payment_link: str | None = None
    """The transaction in a block explorer; already checked against the allow-list, as the links below are."""

    manage_link: str | None = None
    """Already checked against the allow-list."""
    product_link: str | None = None
    link_hosts: tuple[str, ...] | None = None
    """Hosts this mail may link to; None: the caller has checked them, only the form is checked again."""
    unsubscribe_url: str | None = None
    """A signed https link that honours RFC 8058; None: the mail offers an answer by mail instead."""
    in_reply_to: str | None = None
    """Message-ID of the episode's first delivered mail."""
    message_id: str = ""
    date_header: str = ""
    """RFC 5322 Date, frozen at the first attempt so that a resend is the same mail."""
