"""Is this notice still true, allowed and timely? As `still_due` asks it of the mails of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.domain.intents import SUPERSEDED
from monitor.domain.model import Kind, Snapshot, Status
from monitor.domain.notices import NOTICES, TELLS, is_welcomed
from monitor.domain.payments import PaymentSeen, PaymentStatus
from monitor.domain.still_due import FRESH, FRESH_URGENT, LOOK_AGAIN, Answer, Do, Post, may_leave, nobody

TRIED_AGAIN = "tried_again"
IN_ALL_CLEAR = "in_all_clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeCase(Post):
    """One notice with everything that decides about it: a payment's, or a new subscription's."""

    about: PaymentSeen | Snapshot
    tried_again: bool = False
    """A later payment of the same order has succeeded or is open, or the one that was tried has."""
    in_all_clear: bool = False
    """The all-clear of the payment's subscription tells of the same bill."""


def notice_still_due(case: NoticeCase, now: datetime) -> Answer:
    """The answer for one notice at `now` (aware UTC)."""
    about = case.about
    untrue = _untrue(case, about, now) if isinstance(about, PaymentSeen) else _left_again(about, now)
    answer = _expired(case, now) or untrue or nobody(case, test=about.test, customer=about.customer_ext_id)
    if answer is not None:
        return answer
    if not case.asked and case.facts_age > _fresh_for(case):
        return Answer(Do.ASK, "stale", f"last read {case.facts_age} ago")
    return may_leave(case, now, refusable=NOTICES[case.kind].refusable, acts_by=None)


def _expired(case: NoticeCase, now: datetime) -> Answer | None:
    if case.not_after is None or now <= case.not_after:
        return None
    return Answer(Do.VOID, "expired", f"it was worth sending until {case.not_after:%Y-%m-%d %H:%M} UTC")


def _untrue(case: NoticeCase, payment: PaymentSeen, now: datetime) -> Answer | None:
    if payment.status is PaymentStatus.UNKNOWN:
        return Answer(Do.SNOOZE, "unknown_state", "the payment's status is not known now", now + LOOK_AGAIN)
    if payment.status is not TELLS[case.kind]:
        return Answer(Do.VOID, SUPERSEDED, f"the payment is {payment.status.value} now")
    if case.tried_again:
        return Answer(Do.VOID, TRIED_AGAIN, "the customer has tried again")
    if case.in_all_clear:
        return Answer(Do.VOID, IN_ALL_CLEAR, "the all-clear tells of the same bill")
    return None


def _left_again(snapshot: Snapshot, now: datetime) -> Answer | None:
    if snapshot.status is Status.UNKNOWN:
        return Answer(Do.SNOOZE, "unknown_state", "the state is not known now", now + LOOK_AGAIN)
    if not is_welcomed(snapshot.status):
        return Answer(Do.VOID, SUPERSEDED, f"the subscription is {snapshot.status.value.replace('_', ' ')} now")
    return None


def _fresh_for(case: NoticeCase) -> timedelta:
    """How old the facts may be: what has succeeded stays so; of the rest a minute may make an end."""
    if case.kind is Kind.PAYMENT_SUCCEEDED:
        return timedelta.max
    return FRESH_URGENT if isinstance(case.about, PaymentSeen) else FRESH
