"""When an episode opens, goes on, closes, and what makes it the same one again.

An episode's identity is (subscription, kind, anchor); the anchor holds the last paid bill, so a status that flaps with
no paid bill in between is one episode, and the next failure after a paid bill is a new one. While an episode is open
its anchor never changes, so that reading the same facts through another API re-keys nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid5

from monitor.domain.calendar import deadline_of as ending_of
from monitor.domain.calendar import trial_end_of
from monitor.domain.classify import BALANCE, Classified
from monitor.domain.model import Situation, Snapshot, Told
from monitor.domain.records import Episode

NAMESPACE = UUID("6d2f1a52-8f0b-5c39-9a44-0d6a1f1f7c11")

RECOVERED, HEALED, REPLACED, RENEWED, ENDED = "recovered", "healed", "replaced", "renewed", "ended"
USAGE_LOWERED, PERIOD_OVER, NOT_BILLED = "usage_lowered", "period_over", "not_billed"
"""How spells of the track `usage` end, beside `replaced` and `ended`."""

_MONEY = frozenset({Situation.PAYMENT_FAILED, Situation.MAX_AMOUNT_REACHED, Situation.LOW_ON_FUNDS})
_FAILING = frozenset({Situation.PAYMENT_FAILED, Situation.MAX_AMOUNT_REACHED})
_QUIET = frozenset({Situation.HEALTHY, Situation.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Turn:
    """What one observation does to the open episode. At most one closes and at most one is wanted open."""

    closes: tuple[Episode, str] | None = None
    keeps: Episode | None = None
    opens: Episode | None = None


def episode_id(account: str, subscription: str, kind: Situation, anchor: str) -> str:
    """Stable for life: the same in a dry run, in the real run and after a restore."""
    return str(uuid5(NAMESPACE, f"episode|{account}|{subscription}|{kind.value}|{anchor}"))


def notification_id(episode: str, step: str, customer_key: str) -> str:
    """One mail to one customer for one step; the address is no part of it."""
    return str(uuid5(NAMESPACE, f"notification|{episode}|{step}|{customer_key}"))


def anchor_of(after: Classified, snapshot: Snapshot, told: Told) -> str:
    """What makes this spell this spell (engine, table episodes)."""
    paid = _text(snapshot.last_billing_at)
    match after.situation:
        case Situation.TRIAL_ENDING | Situation.TRIAL_EXPIRED:
            return _text(trial_end_of(snapshot))
        case Situation.PAYMENT_FAILED:
            return paid
        case Situation.LOW_ON_FUNDS if after.variant == BALANCE:
            return f"{BALANCE}|{_text(told.balance_short_for_at)}"
        case Situation.LOW_ON_FUNDS:
            return f"{paid}|{_number(snapshot.allowance)}"
        case Situation.MAX_AMOUNT_REACHED:
            return f"{paid}|{_number(snapshot.maximum)}"
        case Situation.STOPPED | Situation.PAUSED:
            return _text(snapshot.current_period_end_at)
        case _:
            return "final"


def deadline_of(after: Classified, snapshot: Snapshot) -> datetime | None:
    """The instant this spell runs towards, at the latest; None where nobody tells."""
    match after.situation:
        case Situation.PAYMENT_FAILED | Situation.MAX_AMOUNT_REACHED | Situation.TRIAL_EXPIRED:
            return ending_of(snapshot).cancellation_at
        case Situation.LOW_ON_FUNDS:
            return snapshot.next_billing_at
        case Situation.TRIAL_ENDING:
            return trial_end_of(snapshot)
        case _:
            return None


def turn(
    *,
    account: str,
    current: Episode | None,
    after: Classified,
    snapshot: Snapshot,
    told: Told,
    now: datetime,
) -> Turn:
    """What `after` means for the open episode. An unknown situation opens and closes nothing."""
    if after.situation is Situation.UNKNOWN:
        return Turn(keeps=current)
    if current is not None and _goes_on(current, after, snapshot):
        return Turn(keeps=replace(current, deadline_at=deadline_of(after, snapshot)))
    closes = None if current is None else (current, _close_reason(current, after, snapshot))
    if after.situation in _QUIET:
        return Turn(closes=closes)
    anchor = anchor_of(after, snapshot, told)
    identity = episode_id(account, snapshot.ext_id, after.situation, anchor)
    if current is not None and current.id == identity:
        # The same anchor is the same spell, whatever else the data says: a paid bill does not end a shortage whose
        # bill is still to come.
        return Turn(keeps=replace(current, deadline_at=deadline_of(after, snapshot)))
    fresh = Episode(
        id=identity,
        kind=after.situation,
        variant=BALANCE if after.variant == BALANCE else "",
        anchor=anchor,
        opened_at=_began_at(after, snapshot, now),
        evidence_at=evidence_of(after, snapshot),
        opened_bill_at=snapshot.last_billing_at,
        opened_allowance=snapshot.allowance,
        deadline_at=deadline_of(after, snapshot),
        muted=current.muted if current is not None and _same_bill(current, after, snapshot) else None,
    )
    return Turn(closes=closes, opens=fresh)


def evidence_of(after: Classified, snapshot: Snapshot) -> datetime | None:
    """When it happened by the vendor's own account, for mails that grow old."""
    if after.situation is Situation.CANCELLED and snapshot.cancelled_at is not None:
        return snapshot.cancelled_at
    return snapshot.provider_updated_at


def _began_at(after: Classified, snapshot: Snapshot, now: datetime) -> datetime:
    """Steps count from the beginning, which may lie before the day we looked."""
    began = None
    if after.situation in _FAILING:
        began = snapshot.failing_since_at
    elif after.situation is Situation.TRIAL_EXPIRED:
        began = trial_end_of(snapshot)
    return now if began is None else min(began, now)


def paid_since(episode: Episode, snapshot: Snapshot) -> bool:
    """A bill newer than the episode: the proof that an all-clear needs."""
    if snapshot.last_billing_at is None:
        return False
    return episode.opened_bill_at is None or snapshot.last_billing_at > episode.opened_bill_at


def _goes_on(current: Episode, after: Classified, snapshot: Snapshot) -> bool:
    if current.kind is not after.situation:
        return False
    if (current.variant == BALANCE) != (after.variant == BALANCE):
        return False
    return not (current.kind in _MONEY and paid_since(current, snapshot))


def _same_bill(current: Episode, after: Classified, snapshot: Snapshot) -> bool:
    """Two names of one failing bill: learning its cause is no news to somebody who was muted."""
    return current.kind in _FAILING and after.situation in _FAILING and not paid_since(current, snapshot)


def _close_reason(current: Episode, after: Classified, snapshot: Snapshot) -> str:
    if after.situation is Situation.HEALTHY:
        return RECOVERED if _proved(current, snapshot) else HEALED
    if after.situation is Situation.CANCELLED:
        return ENDED
    return RENEWED if after.situation is current.kind and paid_since(current, snapshot) else REPLACED


def _proved(current: Episode, snapshot: Snapshot) -> bool:
    if current.kind not in _MONEY:
        return False
    if paid_since(current, snapshot):
        return True
    return (
        current.kind is Situation.LOW_ON_FUNDS
        and current.variant != BALANCE  # an approval says nothing about what the wallet holds
        and current.opened_allowance is not None
        and snapshot.allowance is not None
        and snapshot.allowance > current.opened_allowance
    )


def _text(at: datetime | None) -> str:
    return "-" if at is None else at.isoformat()


def _number(units: int | None) -> str:
    return "-" if units is None else str(units)
