"""What a payment's states mean: one thing is one event, and time alone brings one more."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.domain.payments import (
    PENDING_LONG,
    PaymentEvent,
    PaymentKind,
    PaymentSeen,
    PaymentStatus,
    Verdict,
    judge_payment,
)

NOW = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
SEEN = PaymentSeen("bp-1", PaymentKind.ONE_OFF, PaymentStatus.CREATED, "CREATED", created_at=NOW)
ENDS = {
    PaymentStatus.SUCCEEDED: PaymentEvent.SUCCEEDED,
    PaymentStatus.FAILED: PaymentEvent.FAILED,
    PaymentStatus.EXPIRED: PaymentEvent.EXPIRED,
    PaymentStatus.CANCELLED: PaymentEvent.CANCELLED,
}


def judge(before, status, *, look_at=None, now=NOW, **fields) -> Verdict:
    return judge_payment(before, look_at, replace(SEEN, status=status, **fields), now)


@pytest.mark.parametrize("status", PaymentStatus)
@pytest.mark.parametrize("before", [None, *PaymentStatus])
def test_an_end_is_told_when_it_comes_and_never_again(before, status):
    if status is PaymentStatus.PENDING:
        return
    told = ENDS.get(status) if before is not status else None
    assert judge(before, status) == Verdict(event=told)


def test_pending_is_looked_at_a_day_after_it_began_by_the_vendors_clock():
    began = NOW - timedelta(hours=5)
    for fields in ({"provider_updated_at": began}, {"created_at": began}):
        assert judge(None, PaymentStatus.PENDING, **fields) == Verdict(next_look_at=began + PENDING_LONG)
    assert judge(None, PaymentStatus.PENDING, created_at=None) == Verdict(next_look_at=NOW + PENDING_LONG)
    ahead = judge(None, PaymentStatus.PENDING, created_at=NOW + timedelta(days=9))
    assert ahead == Verdict(next_look_at=NOW + PENDING_LONG)


def test_pending_for_long_is_told_once_at_its_look_or_late():
    look_at = NOW - timedelta(seconds=1)
    pending = PaymentStatus.PENDING
    assert judge(pending, pending, look_at=look_at) == Verdict(event=PaymentEvent.PENDING_LONG)
    assert judge(pending, pending, look_at=NOW) == Verdict(event=PaymentEvent.PENDING_LONG)
    assert judge(pending, pending, look_at=NOW + timedelta(seconds=1)).event is None
    assert judge(pending, pending) == Verdict()
    assert judge(PaymentStatus.CREATED, pending, created_at=NOW - timedelta(days=2)).event is PaymentEvent.PENDING_LONG


def test_a_vendors_touch_moves_no_look():
    look_at = NOW + timedelta(hours=1)
    touched = judge(PaymentStatus.PENDING, PaymentStatus.PENDING, look_at=look_at, provider_updated_at=NOW)
    assert touched == Verdict(next_look_at=look_at)


def test_bills_and_failed_tries_at_them_are_the_subscriptions_story():
    for kind, told in (
        (PaymentKind.BILL, None),
        (PaymentKind.ATTEMPT, None),
        (PaymentKind.ONE_OFF, PaymentEvent.FAILED),
    ):
        assert judge(None, PaymentStatus.FAILED, kind=kind, subscription_ext_id="sub@1").event is told
    assert judge(None, PaymentStatus.FAILED, kind=PaymentKind.ATTEMPT).event is PaymentEvent.FAILED
