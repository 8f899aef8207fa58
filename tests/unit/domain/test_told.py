"""What facts tell: the newest of each kind wins, in whatever order they come."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations

import pytest

from monitor.domain.model import Cause, Fact, FailureSeen, Told
from monitor.domain.told import ONE_FAILURE, fold_facts, fold_failure, raise_peak
from tests.unit.domain.scenes import DAY, DUE, FAILED, MOMENT, NOTHING, PAID

LINK = Fact("e-1", "subscription.created", "sub@1", PAID, manage_link="https://pay.example/1")
BILL = Fact(
    "e-2",
    "subscription.billed",
    "sub@1",
    PAID,
    bill_ext_id="b-1",
    bill_tx="0xab",
    bill_at=PAID,
    bill_usd=Decimal(24),
    bill_units=24,
)
LATER_BILL = replace(BILL, dedupe_key="e-3", bill_ext_id="b-2", bill_at=DUE, at=DUE, bill_tx="0xcd")
SHORT = Fact("e-4", "subscription.upcomingBill", "sub@1", DUE - 2 * DAY, bill_at=DUE, balance_sufficient=False)
ENOUGH = replace(SHORT, dedupe_key="e-5", at=DUE - DAY, balance_sufficient=True)
FAILURE = Fact(
    "e-6", "subscription.billingFailed", "sub@1", FAILED, cause=Cause.OTHER, bill_ext_id="b-3", bill_usd=Decimal(24)
)
ROW = FailureSeen(
    "f-1", "sub@1", "b-3", Cause.OTHER, "reverted", 1, FAILED, attempted_usd=Decimal(24), attempted_units=24
)


def test_six_facts_tell_the_same_in_all_720_orders():
    facts = (LINK, BILL, LATER_BILL, SHORT, ENOUGH, FAILURE)
    expected = Told(
        manage_link="https://pay.example/1",
        manage_link_at=PAID,
        bill_tx="0xcd",
        bill_at=DUE,
        bill_usd=Decimal(24),
        bill_units=24,
        failure_cause=Cause.OTHER,
        failure_at=FAILED,
        failure_usd=Decimal(24),
        balance_short_for_at=None,
        balance_checked_at=DUE - DAY,
    )
    for order in permutations(facts):
        one_by_one = NOTHING
        for fact in order:
            one_by_one = fold_facts(one_by_one, [fact])
        assert one_by_one == expected
        assert fold_facts(NOTHING, order) == expected


def test_an_older_look_at_the_wallet_changes_nothing():
    enough = fold_facts(NOTHING, [ENOUGH])
    assert enough.balance_short_for_at is None
    assert fold_facts(enough, [SHORT]) == enough
    assert fold_facts(NOTHING, [SHORT]).balance_short_for_at == DUE


def test_a_look_at_the_wallet_is_no_paid_bill():
    assert fold_facts(NOTHING, [SHORT]).bill_at is None


def test_a_failed_bill_is_no_paid_bill():
    assert fold_facts(NOTHING, [FAILURE]).bill_at is None
    assert fold_facts(NOTHING, [replace(FAILURE, bill_at=DUE, cause=None, bill_ext_id=None)]) == NOTHING


def test_an_older_failure_changes_nothing():
    told = fold_facts(NOTHING, [FAILURE])
    older = replace(FAILURE, at=FAILED - DAY, cause=Cause.APPROVAL_REVOKED)
    assert fold_facts(told, [older]) == told
    assert fold_failure(told, replace(ROW, at=FAILED - DAY)) == told
    assert fold_facts(told, [replace(FAILURE, cause=Cause.APPROVAL_REVOKED)]) == told


# -- the event and the list tell of one attempt ----------------------------------------------------------------------


def test_the_list_adds_the_amounts_of_the_attempt_that_an_event_told():
    told = fold_failure(fold_facts(NOTHING, [FAILURE]), ROW)
    assert (told.failure_units, told.failure_attempt, told.failure_at) == (24, 1, FAILED)
    assert fold_failure(NOTHING, ROW).failure_units == 24
    assert fold_failure(told, replace(ROW, attempted_units=25)).failure_units == 25


@pytest.mark.parametrize("late", [timedelta(), timedelta(seconds=1), ONE_FAILURE])
def test_an_event_dated_a_little_later_is_the_same_attempt(late):
    event = replace(FAILURE, at=FAILED + late)
    told = fold_failure(fold_facts(NOTHING, [event]), ROW)
    assert (told.failure_units, told.failure_at) == (24, FAILED + late)
    known = fold_failure(NOTHING, ROW)
    assert fold_facts(known, [event]).failure_units == 24


def test_an_event_of_the_next_attempt_forgets_the_amounts_of_the_last():
    known = fold_failure(NOTHING, ROW)
    after = fold_facts(known, [replace(FAILURE, at=FAILED + ONE_FAILURE + MOMENT)])
    assert (after.failure_units, after.failure_attempt) == (None, None)
    assert fold_failure(after, ROW) == after
    other = fold_facts(known, [replace(FAILURE, at=FAILED + MOMENT, cause=Cause.APPROVAL_REVOKED)])
    assert other.failure_cause is Cause.APPROVAL_REVOKED


def test_the_list_names_the_cause_that_an_event_did_not():
    vague = replace(FAILURE, at=FAILED + MOMENT, cause=Cause.UNKNOWN)
    assert fold_failure(fold_facts(NOTHING, [vague]), ROW).failure_cause is Cause.OTHER
    assert fold_facts(fold_failure(NOTHING, ROW), [vague]).failure_cause is Cause.OTHER
    differs = fold_facts(NOTHING, [replace(vague, cause=Cause.APPROVAL_REVOKED)])
    assert fold_failure(differs, ROW) == differs


def test_a_newer_row_of_the_list_wins():
    second = replace(ROW, attempt=2, at=FAILED + DAY, cause=Cause.INSUFFICIENT_BALANCE)
    told = fold_failure(fold_failure(NOTHING, ROW), second)
    assert (told.failure_attempt, told.failure_cause, told.failure_at) == (
        2,
        Cause.INSUFFICIENT_BALANCE,
        FAILED + DAY,
    )
    assert fold_failure(told, ROW) == told


# -- the largest allowance -------------------------------------------------------------------------------------------


def test_the_largest_allowance_ever_seen_is_kept():
    peak = raise_peak(NOTHING, 10)
    assert peak.allowance_peak == 10
    assert raise_peak(peak, 10) is peak
    assert raise_peak(peak, 9) is peak
    assert raise_peak(peak, None) is peak
    assert raise_peak(peak, 11).allowance_peak == 11
    assert raise_peak(NOTHING, 0).allowance_peak == 0


def test_a_link_that_was_told_earlier_never_replaces_a_later_one():
    later = replace(LINK, dedupe_key="e-9", at=PAID + timedelta(days=3), manage_link="https://pay.example/9")
    assert fold_facts(fold_facts(Told(), [later]), [LINK]).manage_link == "https://pay.example/9"
