"""Payments in our words, and what happened to one: pure, as all judgement is.

A payment is a one-off purchase, a paid bill of a subscription, or a failed attempt at either. Amounts are carried as
received: `amount_units` are the currency's smallest units where the API says so (QBitFlow), and the API's own integer
where it does not say (the billing platform, contract 1.5); `amount_usd` is None where no USD is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from monitor.domain.model import BadRow, Cause, CustomerSeen

PENDING_LONG = timedelta(hours=24)
"""How long the provider may process a payment before that is news (campaigns: payment_pending_long)."""


class PaymentStatus(StrEnum):
    """Our words for a payment's status; `unknown` keeps the vendor's text beside it."""

    CREATED = "created"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class PaymentKind(StrEnum):
    ONE_OFF = "one_off"
    BILL = "bill"
    ATTEMPT = "attempt"
    """One failed try at something else (`of_ext_id`); it moved no money and is never final."""


class PaymentEvent(StrEnum):
    """What can happen to a payment; the words of the ledger."""

    PENDING_LONG = "payment_pending_long"
    SUCCEEDED = "payment_succeeded"
    FAILED = "payment_failed"
    EXPIRED = "payment_expired"
    CANCELLED = "payment_cancelled"


@dataclass(frozen=True, slots=True)
class PaymentSeen:
    """A payment as an API read shows it. None means "not told"."""

    ext_id: str
    kind: PaymentKind
    status: PaymentStatus
    status_raw: str
    created_at: datetime | None = None
    provider_updated_at: datetime | None = None
    customer_ext_id: str | None = None
    subscription_ext_id: str | None = None
    product_ext_id: str | None = None
    amount_usd: Decimal | None = None
    amount_units: int | None = None
    currency: str | None = None
    """The vendor's id of the token, or a currency's code."""
    tx_hash: str | None = None
    explorer_url: str | None = None
    reference: str | None = None
    """The merchant's own, such as an order's number."""
    of_ext_id: str | None = None
    attempt: int | None = None
    cause: Cause | None = None
    """Why it failed, in our words, where the API names its reasons."""
    reason: str | None = None
    """The same as sent: a name or a sentence."""
    test: bool = False
    customer: CustomerSeen | None = field(default=None, compare=False)
    """Who paid, where the API tells it with the payment; no part of the payment, and not kept with it."""


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """Some payments of a walk, in no promised order; a payment may be on more than one page."""

    rows: tuple[PaymentSeen, ...]
    bad: tuple[BadRow, ...] = ()
    named: tuple[str, ...] = ()
    """Subscriptions that it names, also in rows that cannot be read; told by an API that lists no subscriptions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one observation of a payment means: at most one event, and when time alone will bring the next."""

    event: PaymentEvent | None = None
    next_look_at: datetime | None = None


_ENDS: Mapping[PaymentStatus, PaymentEvent] = {
    PaymentStatus.SUCCEEDED: PaymentEvent.SUCCEEDED,
    PaymentStatus.FAILED: PaymentEvent.FAILED,
    PaymentStatus.EXPIRED: PaymentEvent.EXPIRED,
    PaymentStatus.CANCELLED: PaymentEvent.CANCELLED,
}


_LASTING = (
    "created_at",
    "customer_ext_id",
    "subscription_ext_id",
    "product_ext_id",
    "amount_usd",
    "amount_units",
    "currency",
    "tx_hash",
    "explorer_url",
    "reference",
    "of_ext_id",
)


def with_what_was_told(seen: PaymentSeen, before: PaymentSeen) -> PaymentSeen:
    """What never changes of a payment stays as it was told before, where another list or API leaves it out."""
    left_out = {name: getattr(before, name) for name in _LASTING if getattr(seen, name) is None}
    return replace(seen, **left_out)


def judge_payment(before: PaymentStatus | None, look_at: datetime | None, seen: PaymentSeen, now: datetime) -> Verdict:
    """What happened between what is stored and what is seen at `now`.

    `before` is the stored status (None: never seen) and `look_at` the stored look. A bill and a failed try at one tell
    nothing here: the subscription's own events do, and one thing is one event. An unknown status tells nothing either.
    """
    if seen.kind is PaymentKind.BILL or (seen.kind is PaymentKind.ATTEMPT and seen.subscription_ext_id is not None):
        return Verdict()
    if seen.status is not PaymentStatus.PENDING:
        return Verdict(event=None if before is seen.status else _ENDS.get(seen.status))
    if before is not PaymentStatus.PENDING:
        look_at = pending_since(seen, now) + PENDING_LONG
    if look_at is not None and now >= look_at:
        return Verdict(event=PaymentEvent.PENDING_LONG)
    return Verdict(next_look_at=look_at)


def pending_since(seen: PaymentSeen, now: datetime) -> datetime:
    """When it became pending: the vendor's last change, but never later than now."""
    told = seen.provider_updated_at or seen.created_at
    return now if told is None else min(told, now)
