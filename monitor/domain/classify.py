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


@dataclass(frozen=True, slots=True)
class Classified:
    """`cause` only while a bill is failing; `variant` is the cause, the reason or the branch that picks the words."""

    situation: Situation
    cause: Cause | None = None
    variant: str = ""


def classify(snapshot: Snapshot, told: Told, now: datetime) -> Classified:
    """The situation of one subscription at `now`, from its snapshot and what facts told."""
    conditional, situation = _OF_STATUS[snapshot.status]
    for candidate, test in conditional:
        if test(snapshot, told, now):
            situation = candidate
            break
    return _PLAIN.get(situation) or Classified(situation, *_detail(situation, snapshot, told))


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
    return snapshot.status is Status.UNKNOWN or snapshot.action is Action.UNKNOWN


def _maximum_reached(snapshot: Snapshot, told: Told, _now: datetime) -> bool:
    if snapshot.action is Action.RAISE_MAXIMUM:
        return True
    return snapshot.status is Status.PAST_DUE and cause_of(snapshot, told) is Cause.MAX_AMOUNT_EXCEEDED


def _low_on_funds(snapshot: Snapshot, told: Told, now: datetime) -> bool:
    return snapshot.action is Action.TOP_UP_ALLOWANCE or _balance_short(snapshot, told, now)


def _balance_short(snapshot: Snapshot, told: Told, now: datetime) -> bool:
    due = told.balance_short_for_at
    return due is not None and now < due and snapshot.next_billing_at == due


def _trial_ending(snapshot: Snapshot, _told: Told, now: datetime) -> bool:
    end = trial_end_of(snapshot)
    return end is not None and now >= end - trial_lead(snapshot)


_Test = Callable[[Snapshot, Told, datetime], bool]

RULES: tuple[tuple[Situation, frozenset[Status], _Test | None], ...] = (
    (Situation.CANCELLED, frozenset({Status.CANCELLED}), None),
    (Situation.UNKNOWN, frozenset({Status.UNKNOWN, Status.ACTIVE, Status.TRIAL}), _is_unknown),
    (Situation.STOPPED, frozenset({Status.STOPPED}), None),
    (Situation.PAUSED, frozenset({Status.PAUSED}), None),
    (Situation.MAX_AMOUNT_REACHED, frozenset({Status.ACTIVE, Status.PAST_DUE}), _maximum_reached),
    (Situation.PAYMENT_FAILED, frozenset({Status.PAST_DUE}), None),
    (Situation.TRIAL_EXPIRED, frozenset({Status.TRIAL_EXPIRED}), None),
    (Situation.LOW_ON_FUNDS, frozenset({Status.ACTIVE}), _low_on_funds),
    (Situation.TRIAL_ENDING, frozenset({Status.TRIAL}), _trial_ending),
    (Situation.HEALTHY, frozenset(Status), None),
)
"""Situation, the statuses that it can have, and what else must hold (None: nothing)."""


def _rules_of(status: Status) -> tuple[tuple[tuple[Situation, _Test], ...], Situation]:
    """The situations that something more must hold for, in order, and the first that needs nothing more."""
    rules = [(situation, test) for situation, statuses, test in RULES if status in statuses]
    first = next(place for place, (_, test) in enumerate(rules) if test is None)
    return tuple((situation, test) for situation, test in rules[:first] if test is not None), rules[first][0]


_OF_STATUS = {status: _rules_of(status) for status in Status}
_DETAILED = {
    Situation.MAX_AMOUNT_REACHED,
    Situation.PAYMENT_FAILED,
    Situation.CANCELLED,
    Situation.STOPPED,
    Situation.LOW_ON_FUNDS,
}
_PLAIN = {situation: Classified(situation) for situation in Situation if situation not in _DETAILED}
"""Nearly all rows are healthy: one value serves them all."""


def _detail(situation: Situation, snapshot: Snapshot, told: Told) -> tuple[Cause | None, str]:
    if situation is Situation.MAX_AMOUNT_REACHED:
        return Cause.MAX_AMOUNT_EXCEEDED, ""
    if situation is Situation.PAYMENT_FAILED:
        cause = cause_of(snapshot, told)
        return cause, cause.value
    if situation in {Situation.CANCELLED, Situation.STOPPED}:
        return None, (snapshot.cancel_reason or CancelReason.UNKNOWN).value
    return None, "allowance" if snapshot.action is Action.TOP_UP_ALLOWANCE else BALANCE
