"""What the customer faces: every pair of status and action, causes, and what time alone changes."""

from dataclasses import replace
from datetime import timedelta

import pytest

from monitor.domain.classify import RULES, Classified, cause_of, classify, next_look, trial_lead
from monitor.domain.model import Action, CancelReason, Cause, Situation, Status, Told
from monitor.domain.spending import SPENDING
from tests.unit.domain.scenes import (
    ACTIVE,
    BORN,
    CANCELLED,
    DAY,
    DUE,
    FAILED,
    HOUR,
    LOW,
    MOMENT,
    NOTHING,
    NOW,
    OVER_MAXIMUM,
    PAID,
    PAST_DUE,
    PAUSED,
    RAISE,
    STOPPED,
    STRANGE,
    TRIAL,
    TRIAL_ENDS,
    TRIAL_EXPIRED,
    told_of,
)

TABLE = """
status         | -                  top_up_allowance   raise_maximum       confirm_trial      unknown
---------------+-------------------------------------------------------------------------------------------
trial          | healthy            healthy            healthy             healthy            unknown
trial_expired  | trial_expired      trial_expired      trial_expired       trial_expired      trial_expired
active         | healthy            low_on_funds       max_amount_reached  healthy            unknown
past_due       | payment_failed     payment_failed     max_amount_reached  payment_failed     payment_failed
paused         | paused             paused             paused              paused             paused
stopped        | stopped            stopped            stopped             stopped            stopped
cancelled      | cancelled          cancelled          cancelled           cancelled          cancelled
unknown        | unknown            unknown            unknown             unknown            unknown
"""
HEAD, _, *LINES = TABLE.strip().splitlines()
ACTIONS = [None if word == "-" else Action(word) for word in HEAD.split("|")[1].split()]
PAIRS = [
    (Status(line.split("|")[0].strip()), action, Situation(word))
    for line in LINES
    for action, word in zip(ACTIONS, line.split("|")[1].split(), strict=True)
]
ASKS_FOR_MONEY = {Situation.MAX_AMOUNT_REACHED, Situation.PAYMENT_FAILED, Situation.LOW_ON_FUNDS}


@pytest.mark.parametrize(("status", "action", "situation"), PAIRS)
def test_each_pair_of_status_and_action_has_its_situation(status, action, situation):
    row = replace(ACTIVE, status=status, action=action)
    assert classify(row, NOTHING, BORN).situation is situation


def test_the_table_names_every_status_and_every_action():
    assert {pair[0] for pair in PAIRS} == set(Status)
    assert {pair[1] for pair in PAIRS} == {None, *Action}
    assert len(PAIRS) == 40


def test_the_rules_stand_in_the_order_of_the_words():
    assert [situation for situation, _, _ in RULES] == [one for one in Situation if one not in SPENDING]


@pytest.mark.parametrize("status", [Status.STOPPED, Status.CANCELLED, Status.PAUSED, Status.TRIAL])
@pytest.mark.parametrize("action", [None, *Action])
def test_who_has_left_or_gets_no_bill_is_never_asked_to_pay(status, action):
    row = replace(OVER_MAXIMUM, status=status, action=action)
    told = told_of(Cause.MAX_AMOUNT_EXCEEDED, balance_short_for_at=DUE, balance_checked_at=NOW)
    assert classify(row, told, DUE - HOUR).situation not in ASKS_FOR_MONEY


def test_an_end_wins_over_a_status_that_asks():
    assert classify(replace(CANCELLED, action=Action.UNKNOWN), NOTHING, NOW).situation is Situation.CANCELLED
    assert classify(replace(STOPPED, action=Action.RAISE_MAXIMUM), NOTHING, NOW).situation is Situation.STOPPED
    assert classify(PAUSED, NOTHING, NOW) == Classified(Situation.PAUSED)
    assert classify(STRANGE, NOTHING, NOW) == Classified(Situation.UNKNOWN)


# -- causes and variants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.MAX_AMOUNT_EXCEEDED])
def test_a_failed_bill_is_told_with_its_cause(cause):
    assert classify(PAST_DUE, told_of(cause), NOW) == Classified(Situation.PAYMENT_FAILED, cause, cause.value)


def test_a_bill_over_the_maximum_is_one_situation_whoever_names_it():
    over = Classified(Situation.MAX_AMOUNT_REACHED, Cause.MAX_AMOUNT_EXCEEDED)
    assert classify(OVER_MAXIMUM, NOTHING, NOW) == over
    assert classify(PAST_DUE, told_of(Cause.MAX_AMOUNT_EXCEEDED), NOW) == over
    assert classify(replace(PAST_DUE, awaiting_maximum_since_at=FAILED), NOTHING, NOW) == over
    assert classify(RAISE, NOTHING, NOW) == over


def test_a_waiting_maximum_needs_a_failing_bill_or_the_apis_word():
    waiting = replace(ACTIVE, awaiting_maximum_since_at=FAILED)
    assert classify(waiting, NOTHING, NOW).situation is Situation.HEALTHY


def test_the_apis_word_wins_over_an_older_cause():
    assert cause_of(OVER_MAXIMUM, told_of(Cause.INSUFFICIENT_BALANCE)) is Cause.MAX_AMOUNT_EXCEEDED


def test_a_cause_of_a_bill_that_is_paid_explains_nothing():
    assert cause_of(PAST_DUE, NOTHING) is Cause.UNKNOWN
    old = told_of(Cause.ALLOWANCE_EXHAUSTED, at=PAID)
    assert cause_of(PAST_DUE, old) is Cause.UNKNOWN
    assert cause_of(PAST_DUE, replace(old, failure_at=FAILED)) is Cause.ALLOWANCE_EXHAUSTED
    assert cause_of(PAST_DUE, Told(failure_at=FAILED)) is Cause.UNKNOWN


@pytest.mark.parametrize("reason", list(CancelReason))
@pytest.mark.parametrize("row", [STOPPED, CANCELLED], ids=["stopped", "cancelled"])
def test_an_end_carries_its_reason(row, reason):
    assert classify(replace(row, cancel_reason=reason), NOTHING, NOW).variant == reason.value
    assert classify(replace(row, cancel_reason=None), NOTHING, NOW).variant == "unknown"


# -- low on funds ----------------------------------------------------------------------------------------------------


def test_a_wallet_that_held_too_little_is_low_until_that_bill():
    short = Told(balance_short_for_at=DUE, balance_checked_at=DUE - DAY)
    low = Classified(Situation.LOW_ON_FUNDS, None, "balance")
    assert classify(ACTIVE, short, DUE - MOMENT) == low
    assert classify(ACTIVE, short, DUE).situation is Situation.HEALTHY
    assert classify(replace(ACTIVE, next_billing_at=DUE + DAY), short, DUE - DAY).situation is Situation.HEALTHY
    assert classify(replace(ACTIVE, next_billing_at=None), short, DUE - DAY).situation is Situation.HEALTHY
    assert next_look(ACTIVE, short, DUE - MOMENT) == DUE
    assert next_look(ACTIVE, short, DUE) is None


def test_the_allowance_is_named_before_the_balance():
    short = Told(balance_short_for_at=DUE, balance_checked_at=DUE - DAY)
    assert classify(LOW, short, DUE - DAY).variant == "allowance"


def test_a_past_due_row_is_not_low_but_failed():
    row = replace(PAST_DUE, action=Action.TOP_UP_ALLOWANCE)
    assert classify(row, NOTHING, NOW).situation is Situation.PAYMENT_FAILED


# -- trials ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "lead"),
    [
        (30 * DAY, 7 * DAY),
        (21 * DAY, 7 * DAY),
        (21 * DAY - MOMENT, 48 * HOUR),
        (5 * DAY, 48 * HOUR),
        (5 * DAY - MOMENT, 24 * HOUR),
        (2 * DAY, 24 * HOUR),
    ],
)
def test_a_trial_is_worth_a_mail_in_time_for_its_length(length, lead):
    trial = replace(TRIAL, current_period_end_at=BORN + length)
    at = BORN + length - lead
    assert trial_lead(trial) == lead
    assert classify(trial, NOTHING, at - MOMENT).situation is Situation.HEALTHY
    assert classify(trial, NOTHING, at) == Classified(Situation.TRIAL_ENDING)
    assert next_look(trial, NOTHING, at - MOMENT) == at
    assert next_look(trial, NOTHING, at) is None


def test_a_trial_of_unknown_length_gets_two_days_and_one_of_unknown_end_nothing():
    assert trial_lead(replace(TRIAL, created_at=None)) == timedelta(hours=48)
    endless = replace(TRIAL, current_period_end_at=None, next_billing_at=None)
    assert trial_lead(endless) == timedelta(hours=48)
    assert classify(endless, NOTHING, TRIAL_ENDS).situation is Situation.HEALTHY
    assert next_look(endless, NOTHING, BORN) is None
    by_bill = replace(TRIAL, current_period_end_at=None)
    assert classify(by_bill, NOTHING, TRIAL_ENDS - DAY).situation is Situation.TRIAL_ENDING


def test_only_time_has_to_be_waited_for_where_time_changes_something():
    assert next_look(ACTIVE, NOTHING, BORN) is None
    assert next_look(replace(TRIAL_EXPIRED), NOTHING, BORN) is None
