"""Which mail a situation causes, when its steps come due, and until when they are worth sending.

The situation picks the campaign, the variant (cause, reason) its row. A step is a value: today each campaign has its
first step only, and the later ones are added here without touching who reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from monitor.domain.model import CancelReason, Cause, Kind, Situation, Urgency

FIRST = "first"
RECOVERED = "recovered"

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Step:
    """One mail of a campaign. Offsets count from the episode's beginning unless named otherwise."""

    name: str
    urgency: Urgency
    refusable: bool = False
    """Whether the customer may refuse this kind of mail (reminders and trial mails)."""
    after: timedelta = timedelta()
    """How long after the beginning it comes due."""
    not_before_deadline: timedelta | None = None
    """Not earlier than this long before the deadline (an allowance may run low months ahead)."""
    attempts: int | None = None
    """Also due at this failed attempt, whichever comes first."""
    until_deadline: timedelta | None = _HOUR
    """Expires this long before the deadline; with less time no call to act leaves."""
    keep: timedelta = 7 * _DAY
    """Where no deadline is known: expires this long after it was planned; what still faces the customer is not late."""
    too_old: timedelta | None = None
    """Not sent when what it tells happened longer ago than this."""
    for_operator: bool = False
    """Is held for an operator's decision, whatever the guard says."""

    def due_at(self, opened_at: datetime, deadline_at: datetime | None, failed_attempts: int | None) -> datetime:
        """When this step comes due (UTC)."""
        if self.attempts is not None and (failed_attempts or 0) >= self.attempts:
            return opened_at
        due = opened_at + self.after
        if self.not_before_deadline is not None and deadline_at is not None:
            due = max(due, deadline_at - self.not_before_deadline)
        return due

    def not_after(self, planned_at: datetime, evidence_at: datetime, deadline_at: datetime | None) -> datetime:
        """The instant after which this mail would be late news (UTC)."""
        if self.too_old is not None:
            return evidence_at + self.too_old
        if self.until_deadline is not None and deadline_at is not None:
            return deadline_at - self.until_deadline
        return planned_at + self.keep


@dataclass(frozen=True, slots=True)
class Campaign:
    """The ordered steps that one kind of episode runs through."""

    kind: Kind
    steps: tuple[Step, ...]

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the campaign: an episode remembers which one it began under."""
        return sha256(repr(self).encode()).hexdigest()[:16]


def _one(kind: Kind, step: Step) -> Campaign:
    return Campaign(kind, (step,))


_MONEY = Step(FIRST, Urgency.URGENT)
_GONE = Step(FIRST, Urgency.LOW, too_old=7 * _DAY, until_deadline=None)

CAMPAIGNS: Mapping[tuple[Situation, str], Campaign] = {
    (Situation.CANCELLED, CancelReason.CUSTOMER): _one(Kind.CANCELLED, _GONE),
    (Situation.CANCELLED, CancelReason.MERCHANT): _one(Kind.CANCELLED, _GONE),
    (Situation.CANCELLED, CancelReason.INACTIVE_ON_CHAIN): _one(Kind.CANCELLED, _GONE),
    (Situation.CANCELLED, CancelReason.UNKNOWN): _one(Kind.CANCELLED, _GONE),
    (Situation.CANCELLED, CancelReason.BILLING_FAILED): _one(
        Kind.CANCELLED, Step(FIRST, Urgency.NORMAL, too_old=14 * _DAY, until_deadline=None)
    ),
    (Situation.CANCELLED, CancelReason.TRIAL_NOT_CONVERTED): _one(
        Kind.CANCELLED, Step(FIRST, Urgency.LOW, refusable=True, too_old=14 * _DAY, until_deadline=None)
    ),
    # It hits everybody at once, and only the merchant can explain it.
    (Situation.CANCELLED, CancelReason.MERCHANT_CLOSED): _one(
        Kind.CANCELLED, Step(FIRST, Urgency.LOW, too_old=7 * _DAY, until_deadline=None, for_operator=True)
    ),
    (Situation.MAX_AMOUNT_REACHED, ""): _one(Kind.MAX_AMOUNT_REACHED, _MONEY),
    (Situation.PAYMENT_FAILED, Cause.INSUFFICIENT_BALANCE): _one(Kind.PAYMENT_FAILED, _MONEY),
    (Situation.PAYMENT_FAILED, Cause.ALLOWANCE_EXHAUSTED): _one(Kind.PAYMENT_FAILED, _MONEY),
    (Situation.PAYMENT_FAILED, Cause.APPROVAL_REVOKED): _one(Kind.PAYMENT_FAILED, _MONEY),
    # Often heals by itself: ask only when the customer must act.
    (Situation.PAYMENT_FAILED, Cause.OTHER): _one(
        Kind.PAYMENT_FAILED, Step(FIRST, Urgency.URGENT, after=_DAY, attempts=2)
    ),
    # Two hours for the cause to arrive; then a check list instead of a guess.
    (Situation.PAYMENT_FAILED, Cause.UNKNOWN): _one(Kind.PAYMENT_FAILED, Step(FIRST, Urgency.URGENT, after=2 * _HOUR)),
    (Situation.LOW_ON_FUNDS, "allowance"): _one(
        Kind.LOW_ON_FUNDS, Step(FIRST, Urgency.NORMAL, refusable=True, not_before_deadline=30 * _DAY)
    ),
    (Situation.LOW_ON_FUNDS, "balance"): _one(Kind.LOW_ON_FUNDS, Step(FIRST, Urgency.NORMAL, refusable=True)),
    (Situation.TRIAL_ENDING, ""): _one(Kind.TRIAL_ENDING, Step(FIRST, Urgency.NORMAL, refusable=True)),
    (Situation.TRIAL_EXPIRED, ""): _one(Kind.TRIAL_EXPIRED, Step(FIRST, Urgency.NORMAL, refusable=True)),
    (Situation.PAUSED, ""): _one(Kind.PAUSED, Step(FIRST, Urgency.LOW, too_old=2 * _DAY, until_deadline=None)),
    (Situation.SPENDING_LIMIT_NEAR, ""): _one(Kind.SPENDING_LIMIT_NEAR, Step(FIRST, Urgency.NORMAL, refusable=True)),
    (Situation.SPENDING_LIMIT_REACHED, ""): _one(Kind.SPENDING_LIMIT_REACHED, _MONEY),
    **{(Situation.STOPPED, reason.value): _one(Kind.STOPPED, _GONE) for reason in CancelReason},
}

ALL_CLEAR = Step(RECOVERED, Urgency.LOW, refusable=True, too_old=2 * _DAY, until_deadline=None)
"""Closes the worry that a warning opened; late reassurance is noise."""


def campaign_for(situation: Situation, variant: str) -> Campaign | None:
    """The campaign of an episode; None where silence is the rule (healthy, unknown)."""
    return CAMPAIGNS.get((situation, variant))
