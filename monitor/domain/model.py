"""The words of the product as types: what a subscription is, what its customer faces, what we decided.

Plain values. Instants are aware UTC, token amounts are integers of the smallest unit, USD is `Decimal`. Enum values are
what the database, the logs and the JSON output show; the mails and the console use words from a catalog instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from monitor.domain.unread import Unread
from monitor.domain.usage import Usage
from monitor.domain.value import value

ZERO_TIME_YEAR = 1  # the API's "never": 0001-01-01T00:00:00Z (contract v2, decoding rules)


class Status(StrEnum):
    """Our words for a subscription's status (contract v2, 2.4); `unknown` keeps the vendor's text beside it."""

    TRIAL = "trial"
    TRIAL_EXPIRED = "trial_expired"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What the customer is asked to do (contract v2, 2.3 `actionRequired`)."""

    TOP_UP_ALLOWANCE = "top_up_allowance"
    RAISE_MAXIMUM = "raise_maximum"
    CONFIRM_TRIAL = "confirm_trial"
    UNKNOWN = "unknown"


class CancelReason(StrEnum):
    """Why it ended or will end (contract v2, 2.3 `cancellationReason`)."""

    CUSTOMER = "customer"
    MERCHANT = "merchant"
    BILLING_FAILED = "billing_failed"
    TRIAL_NOT_CONVERTED = "trial_not_converted"
    MERCHANT_CLOSED = "merchant_closed"
    INACTIVE_ON_CHAIN = "inactive_on_chain"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a bill failed. `other` is the vendor's "none of these"; `unknown` is ours: nobody told us."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    ALLOWANCE_EXHAUSTED = "allowance_exhausted"
    APPROVAL_REVOKED = "approval_revoked"
    MAX_AMOUNT_EXCEEDED = "max_amount_exceeded"
    OTHER = "other"
    UNKNOWN = "unknown"


class Situation(StrEnum):
    """What the customer faces; `classify` has the order in which they win."""

    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    STOPPED = "stopped"
    PAUSED = "paused"
    MAX_AMOUNT_REACHED = "max_amount_reached"
    PAYMENT_FAILED = "payment_failed"
    TRIAL_EXPIRED = "trial_expired"
    LOW_ON_FUNDS = "low_on_funds"
    TRIAL_ENDING = "trial_ending"
    HEALTHY = "healthy"
    # of the track `usage`, beside whatever the customer faces in billing
    SPENDING_LIMIT_NEAR = "spending_limit_near"
    SPENDING_LIMIT_REACHED = "spending_limit_reached"


class Track(StrEnum):
    """Episodes of different tracks live side by side; of one track only one is open."""

    BILLING = "billing"
    FORECAST = "forecast"
    USAGE = "usage"


class Kind(StrEnum):
    """A kind of mail: one template folder each."""

    LOW_ON_FUNDS = "low_on_funds"
    MAX_AMOUNT_REACHED = "max_amount_reached"
    PAYMENT_FAILED = "payment_failed"
    TRIAL_ENDING = "trial_ending"
    TRIAL_EXPIRED = "trial_expired"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    PAUSED = "paused"
    RECOVERED = "recovered"
    SPENDING_LIMIT_NEAR = "spending_limit_near"
    SPENDING_LIMIT_REACHED = "spending_limit_reached"
    SUBSCRIPTION_CREATED = "subscription_created"
    PAYMENT_SUCCEEDED = "payment_succeeded"
    PAYMENT_PENDING_LONG = "payment_pending_long"
    PAYMENT_EXPIRED = "payment_expired"
    ONE_OFF_FAILED = "one_off_failed"


class Urgency(StrEnum):
    """How hard a mail presses (campaigns: low drops first, critical waits for nothing but the guard)."""

    LOW = "low"
    NORMAL = "normal"
    URGENT = "urgent"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 is the most pressing; the order of claims."""
        return {"critical": 0, "urgent": 1, "normal": 2, "low": 3}[self.value]


class Source(StrEnum):
    """Who told us."""

    PULL = "pull"
    WEBHOOK = "webhook"
    LOG = "log"
    TIME = "time"


class NotificationState(StrEnum):
    """The states of the outbox machine (docs/architecture.md draws it)."""

    STAGED = "staged"
    HELD = "held"
    READY = "ready"
    MERGED = "merged"
    CLAIMED = "claimed"
    IN_DATA = "in_data"
    AMBIGUOUS = "ambiguous"
    SENT = "sent"
    VOIDED = "voided"
    FAILED = "failed"
    UNSETTLED = "unsettled"


class BatchState(StrEnum):
    COLLECTING = "collecting"
    OPEN = "open"
    HELD = "held"
    REJECTED = "rejected"


class RunState(StrEnum):
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Never stored: so one that stands as running is shown where its process is gone. The next run goes on with it."""
    COMPLETE = "complete"
    PARTIAL = "partial"
    HELD = "held"
    ABANDONED = "abandoned"


class Mode(StrEnum):
    LIVE = "live"
    TEST = "test"


@value(frozen=True, slots=True)
class CustomerSeen:
    """A customer as an API read shows them. `email` is as sent; None when there is none."""

    ext_id: str
    email: str | None = None
    name: str | None = None
    last_name: str | None = None
    reference: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class CurrencySeen:
    """A token: `chain` is the main currency's symbol, or its own for a native coin."""

    ext_id: str
    symbol: str
    decimals: int
    name: str = ""
    address: str = ""
    chain: str = ""
    test: bool = False


@dataclass(frozen=True, slots=True)
class ProductSeen:
    ext_id: str
    name: str
    price_usd: Decimal | None = None
    frequency: timedelta | None = None
    payment_link: str | None = None
    reference: str | None = None
    active: bool = True


@value(frozen=True, slots=True)
class Snapshot:
    """A subscription's state as observed at one instant, in our words; `..._raw` keep the vendor's text.

    None means "not told", as do a zero time and an unset amount. Equality, `provider_updated_at` aside, is "unchanged".
    """

    ext_id: str
    status: Status
    status_raw: str
    provider: str = ""
    """Whose words these are: what another provider does not tell is no change (decide)."""
    created_at: datetime | None = None
    provider_updated_at: datetime | None = None
    reference: str | None = None
    action: Action | None = None
    action_raw: str | None = None
    customer_ext_id: str | None = None
    product_ext_id: str | None = None
    currency_ext_id: str | None = None
    price_usd: Decimal | None = None
    frequency: timedelta | None = None
    allowance: int | None = None
    allowance_usd: Decimal | None = None
    """What v1 tells instead of units. It moves with the token's price and is never compared with them."""
    maximum: int | None = None
    current_period_end_at: datetime | None = None
    last_billing_at: datetime | None = None
    next_billing_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_reason: CancelReason | None = None
    failed_attempts: int | None = None
    remaining_attempts: int | None = None
    failing_since_at: datetime | None = None
    next_attempt_at: datetime | None = None
    awaiting_maximum_since_at: datetime | None = None
    max_spending_usd: Decimal | None = None
    """The customer's own limit of a pay-as-you-go period, where an API tells it."""
    wallet: str | None = None
    subscription_hash: str | None = None
    test: bool = False
    customer: CustomerSeen | None = None
    currency: CurrencySeen | None = None


@dataclass(frozen=True, slots=True)
class FailureSeen:
    """A failed bill, from the failures list or an event; never final, never moved money (contract v2, section 3)."""

    ext_id: str
    subscription_ext_id: str | None
    bill_ext_id: str | None
    cause: Cause
    category_raw: str
    attempt: int
    at: datetime
    attempted_usd: Decimal | None = None
    attempted_units: int | None = None
    currency_ext_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """What a webhook or a row of the event log told: a link, a cause, a bill; never a state."""

    dedupe_key: str
    kind: str
    subscription_ext_id: str | None
    at: datetime
    manage_link: str | None = None
    cause: Cause | None = None
    bill_ext_id: str | None = None
    bill_tx: str | None = None
    bill_at: datetime | None = None
    bill_usd: Decimal | None = None
    bill_units: int | None = None
    balance_sufficient: bool | None = None
    test: bool = False
    payment: bool = False  # `subscription_ext_id` is a payment's id: it is read again, and nothing is folded


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read. It costs itself, not its page; `ext_id` counts as seen where it is known."""

    raw: bytes
    reason: str
    ext_id: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A slice of creation time. Both bounds are excluded by the API (contract v2, 2.2); None is open."""

    number: int
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of subscriptions. `next_cursor` None or empty: the window ends here."""

    rows: tuple[tuple[Snapshot, bytes], ...]
    """Each snapshot with its raw JSON, without the customer."""
    bad: tuple[BadRow, ...]
    next_cursor: str | None
    size: int  # rows on the wire, good, bad and unread
    unread: Unread | None = None

    def whole(self) -> Page:
        """This page with every row read."""
        read = [] if self.unread is None else [self.unread.read(raw) for raw in self.unread.raws]
        bad = tuple(row for row in read if isinstance(row, BadRow))
        rows = tuple(row for row in read if not isinstance(row, BadRow))
        return replace(self, rows=self.rows + rows, bad=self.bad + bad, unread=None)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose key this is (`GET /me`), and the API's own clock. `mode` None: the API does not tell it."""

    space_uuid: str
    mode: Mode | None
    api_at: datetime
    name: str = ""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Rows of the event log, newest first. `facts` skips rows that tell nothing; `ids` holds all."""

    facts: tuple[Fact, ...]
    ids: tuple[str, ...]
    next_cursor: str | None
    bad: tuple[BadRow, ...] = field(default=())


@value(frozen=True, slots=True)
class Told:
    """What facts (event log, webhooks, failures list) told about one subscription, newest of each."""

    manage_link: str | None = None
    manage_link_at: datetime | None = None
    bill_tx: str | None = None
    bill_at: datetime | None = None
    bill_usd: Decimal | None = None
    bill_units: int | None = None
    failure_cause: Cause | None = None
    failure_at: datetime | None = None
    failure_attempt: int | None = None
    failure_usd: Decimal | None = None
    failure_units: int | None = None
    balance_short_for_at: datetime | None = None
    """The billing date for which the wallet held too little when checked."""
    balance_checked_at: datetime | None = None
    allowance_peak: int | None = None
    """The largest allowance ever seen: a lower bound of the last approved total (forecast rules, R_known)."""
    usage: Usage | None = None
    """What the merchant measured (`import-usage`); kept in a table of its own."""
