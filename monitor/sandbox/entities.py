"""What the world is made of. Plain slotted records, no dialect: an API module turns them into its own JSON.

Instants are aware UTC. Token amounts are integers of the smallest unit, USD is `Decimal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from monitor.sandbox.chain import Category, ChainKind

UNLIMITED = 2**255


class Status(StrEnum):
    TRIAL = "trial"
    TRIAL_EXPIRED = "trial_expired"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class Action(StrEnum):
    TOP_UP_ALLOWANCE = "top_up_allowance"
    RAISE_MAXIMUM = "raise_maximum"
    CONFIRM_TRIAL = "confirm_trial"


class Reason(StrEnum):
    """Why a subscription was cancelled, or will be."""

    CUSTOMER = "customer"
    MERCHANT = "merchant"
    BILLING_FAILED = "billing_failed"
    TRIAL_NOT_CONVERTED = "trial_not_converted"
    MERCHANT_CLOSED = "merchant_closed"
    INACTIVE_ON_CHAIN = "inactive_on_chain"


@dataclass(frozen=True, slots=True)
class Currency:
    """A token, or with `main` None a chain's native coin."""

    id: int
    name: str
    symbol: str
    decimals: int
    address: str
    kind: ChainKind
    main: Currency | None = None


@dataclass(slots=True)
class Product:
    n: int
    name: str
    price_usd: Decimal
    frequency: timedelta
    created_at: datetime
    reference: str
    description: str = ""
    trial: timedelta | None = None
    active: bool = True


@dataclass(slots=True)
class Customer:
    n: int
    name: str
    last_name: str | None
    email: str
    created_at: datetime
    reference: str | None = None
    deleted: bool = False


@dataclass(slots=True)
class Wallet:
    """One address' holding of one token; several subscriptions may share it."""

    n: int
    currency: Currency
    balance: int
    approval: int = UNLIMITED


@dataclass(slots=True)
class Dunning:
    """A bill that failed and is tried again."""

    bill_n: int
    failed_attempts: int
    remaining_attempts: int
    failing_since_at: datetime
    category: Category
    next_attempt_at: datetime | None = None
    awaiting_maximum_since_at: datetime | None = None


@dataclass(slots=True)
class Subscription:
    n: int
    created_at: datetime
    updated_at: datetime
    wallet: Wallet
    product: Product
    customer: Customer | None
    price_usd: Decimal
    frequency: timedelta
    status: Status
    allowance: int = 0
    approved: int = 0
    """Total of the last approval; a new one must exceed it (forecast rules, 1.2)."""
    maximum: int | None = None
    last_amount: int = 0
    period_end_at: datetime | None = None
    next_billing_at: datetime | None = None
    last_billing_at: datetime | None = None
    action: Action | None = None
    dunning: Dunning | None = None
    reference: str | None = None
    cancelled_at: datetime | None = None
    cancel_reason: Reason | None = None
    minimum_cancellation_at: datetime | None = None
    obstacle: Category | None = None
    """Bills fail with this category until it is cleared: what no wallet explains."""
    announced_for_at: datetime | None = None
    """The bill (or trial end) that an upcoming-bill event has told already."""
    wake_at: datetime | None = None
    """When the world must look at it again."""
    status_text: str | None = None
    """A status that this API version does not know yet, shown instead of `status`."""
    member: int | None = None
    """The member whose space it is in; None for the organization's own."""
    gone: bool = False
    """No read shows it any more."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill that was paid."""

    n: int
    at: datetime
    amount: int
    refund: int
    token_usd: Decimal
    price_usd: Decimal
    period_start_at: datetime
    period_end_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt: it moved no money and is never final."""

    n: int
    at: datetime
    subscription: Subscription
    bill_n: int
    attempt: int
    category: Category
    amount: int
    price_usd: Decimal


@dataclass(slots=True)
class Purchase:
    """A one-off payment through the same vendor: it has no subscription."""

    n: int
    created_at: datetime
    product: Product
    customer: Customer | None
    currency: Currency
    amount: int
    reference: str | None = None
    failed_at: datetime | None = None
    category: Category | None = None
    """Why its newest try failed; it may be paid all the same, later."""
    confirming_at: datetime | None = None
    """Since when its transaction waits for the chain."""
    expired_at: datetime | None = None
    paid_at: datetime | None = None


@dataclass(slots=True)
class Endpoint:
    """Where the merchant wants webhooks, and how they fare."""

    url: str
    n: int
    delivered_at: datetime | None = None
    failing_since_at: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None


class Topic(StrEnum):
    CREATED = "created"
    BILLED = "billed"
    STATUS_CHANGED = "status_changed"
    ACTION_CHANGED = "action_changed"
    BILLING_FAILED = "billing_failed"
    UPCOMING_BILL = "upcoming_bill"


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the world's history. `subscription` is a copy of that instant."""

    n: int
    topic: Topic
    at: datetime
    subscription: Subscription
    previous_status: Status | None = None
    previous_action: Action | None = None
    bill: Bill | None = None
    failure: Failure | None = None
    next_attempt_at: datetime | None = None
    remaining_attempts: int = 0
    trial_ending: bool = False
    balance_sufficient: bool | None = None
    allowance_sufficient: bool | None = None


@dataclass(frozen=True, slots=True)
class DunningRules:
    """How a failed bill is tried again. The contract leaves count and spacing open; these fit its examples."""

    attempts: int = 5
    spacing: timedelta = timedelta(days=1)
    limit: timedelta = timedelta(days=7)
    announce: timedelta = timedelta(days=3)
    trial_grace: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Merchant:
    name: str = "Acme"
    mode: str = "live"
    members: int = 0
    """How many members the organization has; whose rows are theirs, `Subscription.member` says."""
    link_base: str = "https://qbitflow.example"
    """Where management pages and payment links lie."""
    rules: DunningRules = field(default_factory=DunningRules)
