"""What the customer faces, and why: one table, first rule that matches wins.

Somebody who has left is never asked to pay, and nobody is asked to pay for a bill that will not come: the money
situations exist only while the status is `active` or `past_due`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.domain.amounts import failure_is_current
from monitor.domain.calendar import trial_end_of
from monitor.domain.model import Action, CancelReason, Cause, Situation, Snapshot, Status, Told

BALANCE = "balance"

_BILLED = frozenset({Status.ACTIVE, Status.PAST_DUE})
_LIVE_ACTIONS = frozenset({Status.ACTIVE, Status.TRIAL})


@dataclass(frozen=True, slots=True)
class Classified:
    """`cause` only while a bill is failing; `variant` is the cause, the reason or the branch that picks the words."""

    situation: Situation
    cause: Cause | None = None
    variant: str = ""


def classify(snapshot: Snapshot, told: Told, now: datetime) -> Classified:
    """The situation of one subscription at `now`, from its snapshot and what facts told."""
    situation = next(situation for situation, matches in RULES if matches(snapshot, told, now))
    return Classified(situation, *_detail(situation, snapshot, told))


def cause_of(snapshot: Snapshot, told: Told) -> Cause:
    """Why the bill of this spell failed; `unknown` when nobody told, or what was told belongs to an older spell."""
    if snapshot.action is Action.RAISE_MAXIMUM or snapshot.awaiting_maximum_since_at is not None:
        return Cause.MAX_AMOUNT_EXCEEDED
    if told.failure_cause is None or not failure_is_current(snapshot, told):
        return Cause.UNKNOWN
    return told.failure_cause


def trial_lead(snapshot: Snapshot) -> timedelta:
    """How long before its end a trial is worth a mail: 7 days from 21 days on, 48 hours from 5 days on, else 24."""
    end = trial_end_of(snapshot)
    if end is None or snapshot.created_at is None:
        return timedelta(hours=48)
    length = end - snapshot.created_at
    if length >= timedelta(days=21):
        return timedelta(days=7)
    return timedelta(hours=48) if length >= timedelta(days=5) else timedelta(hours=24)


def next_look(snapshot: Snapshot, told: Told, now: datetime) -> datetime | None:
    """The next instant at which time alone changes the situation; None when only news can."""
    end = trial_end_of(snapshot)
    if snapshot.status is Status.TRIAL and end is not None and now < end - trial_lead(snapshot):
        return end - trial_lead(snapshot)
    if _balance_short(snapshot, told, now):
        return told.balance_short_for_at
    return None


def _is_unknown(snapshot: Snapshot, _told: Told, _now: datetime) -> bool:
    # A word that we do not know asks for something that we cannot name. Where the status itself already says what
    # matters (past due, paused, ...), it decides.
    return snapshot.status is Status.UNKNOWN or (snapshot.action is Action.UNKNOWN and snapshot.status in _LIVE_ACTIONS)


def _maximum_reached(snapshot: Snapshot, told: Told, _now: datetime) -> bool:
    if snapshot.status not in _BILLED:
        return False
    if snapshot.action is Action.RAISE_MAXIMUM:
        return True
    return snapshot.status is Status.PAST_DUE and cause_of(snapshot, told) is Cause.MAX_AMOUNT_EXCEEDED


def _low_on_funds(snapshot: Snapshot, told: Told, now: datetime) -> bool:
    if snapshot.status is not Status.ACTIVE:
        return False
    return snapshot.action is Action.TOP_UP_ALLOWANCE or _balance_short(snapshot, told, now)


def _balance_short(snapshot: Snapshot, told: Told, now: datetime) -> bool:
    due = told.balance_short_for_at
    return due is not None and now < due and snapshot.next_billing_at == due


def _trial_ending(snapshot: Snapshot, _told: Told, now: datetime) -> bool:
    end = trial_end_of(snapshot)
    return snapshot.status is Status.TRIAL and end is not None and now >= end - trial_lead(snapshot)


def _status(status: Status) -> Callable[[Snapshot, Told, datetime], bool]:
    return lambda snapshot, _told, _now: snapshot.status is status


RULES: tuple[tuple[Situation, Callable[[Snapshot, Told, datetime], bool]], ...] = (
    (Situation.CANCELLED, _status(Status.CANCELLED)),
    (Situation.UNKNOWN, _is_unknown),
    (Situation.STOPPED, _status(Status.STOPPED)),
    (Situation.PAUSED, _status(Status.PAUSED)),
    (Situation.MAX_AMOUNT_REACHED, _maximum_reached),
    (Situation.PAYMENT_FAILED, _status(Status.PAST_DUE)),
    (Situation.TRIAL_EXPIRED, _status(Status.TRIAL_EXPIRED)),
    (Situation.LOW_ON_FUNDS, _low_on_funds),
    (Situation.TRIAL_ENDING, _trial_ending),
    (Situation.HEALTHY, lambda _snapshot, _told, _now: True),
)


def _detail(situation: Situation, snapshot: Snapshot, told: Told) -> tuple[Cause | None, str]:
    if situation is Situation.MAX_AMOUNT_REACHED:
        return Cause.MAX_AMOUNT_EXCEEDED, ""
    if situation is Situation.PAYMENT_FAILED:
        cause = cause_of(snapshot, told)
        return cause, cause.value
    if situation in {Situation.CANCELLED, Situation.STOPPED}:
        return None, (snapshot.cancel_reason or CancelReason.UNKNOWN).value
    if situation is Situation.LOW_ON_FUNDS:
        return None, "allowance" if snapshot.action is Action.TOP_UP_ALLOWANCE else BALANCE
    return None, ""
