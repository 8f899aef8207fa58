"""Which steps have come due, which end in silence, and which come back."""

from dataclasses import replace
from datetime import timedelta

import pytest

from monitor.domain.campaign import FIRST, RECOVERED
from monitor.domain.classify import classify
from monitor.domain.episodes import notification_id, turn
from monitor.domain.intents import REVIVABLE, action_done, all_clear, due_intents
from monitor.domain.model import CancelReason, Cause, CustomerSeen, Kind, NotificationState, Urgency
from monitor.domain.records import MailRecord
from tests.unit.domain.scenes import (
    ACTIVE,
    ANA,
    BORN,
    CANCELLED,
    DAY,
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
    paid,
    told_of,
)

S = NotificationState
BALANCE = told_of(Cause.INSUFFICIENT_BALANCE)


def spell_of(snapshot, told=NOTHING, now=NOW, **changes):
    after = classify(snapshot, told, now)
    opened = turn(account="acme", current=None, after=after, snapshot=snapshot, told=told, now=now).opens
    return replace(opened, **changes)


def planned(snapshot, told=NOTHING, *, now=NOW, episode=None, mails=(), test_rows=False, sibling=False):
    return due_intents(
        episode or spell_of(snapshot, told, now),
        classify(snapshot, told, now),
        snapshot,
        told,
        {mail.id: mail for mail in mails},
        now=now,
        mail_test_rows=test_rows,
        live_sibling=sibling,
    )


def silence(*args, **more):
    """The rule of silence of the only step; None: it is to be sent."""
    (intent,) = planned(*args, **more).intents
    return intent.void


def record(episode, state, reason=None, *, customer="c-1", step=FIRST, kind=Kind.PAYMENT_FAILED, sent_at=None):
    return MailRecord(
        notification_id(episode.id, step, customer), episode.id, step, customer, kind, state, reason, sent_at
    )


def test_a_due_step_is_planned_with_all_that_the_outbox_needs():
    episode = spell_of(PAST_DUE, BALANCE)
    result = planned(PAST_DUE, BALANCE)
    (intent,) = result.intents
    assert result.next_step_at is None
    assert intent.id == notification_id(episode.id, FIRST, "c-1")
    assert (intent.episode_id, intent.step, intent.customer_key) == (episode.id, FIRST, "c-1")
    assert (intent.kind, intent.variant) == (Kind.PAYMENT_FAILED, "insufficient_balance")
    assert (intent.urgency, intent.due_at, intent.not_after) == (Urgency.URGENT, FAILED, FAILED + 7 * DAY - HOUR)
    assert (intent.void, intent.for_operator, intent.revives) == (None, False, False)


def test_a_step_that_is_not_due_yet_is_looked_at_when_it_is():
    at = FAILED + 2 * HOUR
    early = planned(PAST_DUE, now=at - MOMENT)
    assert (early.intents, early.next_step_at) == ((), at)
    assert len(planned(PAST_DUE, now=at).intents) == 1


def test_where_silence_is_the_rule_nothing_is_planned():
    episode = spell_of(PAST_DUE)
    assert planned(ACTIVE, episode=episode) == planned(replace(ACTIVE, status_raw="x"), episode=episode)
    assert planned(ACTIVE, episode=episode).intents == ()


# -- silence with its rule -------------------------------------------------------------------------------------------


def test_what_the_baseline_muted_is_silent():
    assert silence(PAST_DUE, BALANCE, episode=spell_of(PAST_DUE, muted="baseline")) == "baseline"


def test_a_test_row_is_silent_unless_the_account_says_otherwise():
    row = replace(PAST_DUE, test=True)
    assert silence(row, BALANCE) == "test_row"
    assert silence(row, BALANCE, test_rows=True) is None


def test_nobody_and_the_deleted_get_nothing():
    assert silence(replace(PAST_DUE, customer_ext_id=None, customer=None), BALANCE) == "no_customer"
    assert silence(replace(PAST_DUE, customer_ext_id=""), BALANCE) == "no_customer"
    assert silence(replace(PAST_DUE, customer=replace(ANA, deleted=True)), BALANCE) == "customer_deleted"
    assert silence(replace(PAST_DUE, customer=None), BALANCE) is None


@pytest.mark.parametrize(("left", "rule"), [(HOUR, None), (HOUR - MOMENT, "skipped_late")])
def test_with_less_than_an_hour_left_no_call_to_act_is_planned(left, rule):
    assert silence(PAST_DUE, BALANCE, now=FAILED + 7 * DAY - left) == rule


@pytest.mark.parametrize("age", [timedelta(), 9 * DAY, 60 * DAY])
def test_without_a_deadline_what_still_faces_the_customer_is_never_late(age):
    (intent,) = planned(RAISE, episode=spell_of(RAISE), now=NOW + age).intents
    assert (intent.void, intent.not_after) == (None, NOW + age + 7 * DAY)
    last = replace(PAST_DUE, remaining_attempts=0)
    assert silence(last, BALANCE, episode=spell_of(last), now=NOW + age) is None


@pytest.mark.parametrize(
    ("row", "days"),
    [
        (replace(CANCELLED, cancel_reason=CancelReason.CUSTOMER), 7),
        (replace(CANCELLED, cancel_reason=CancelReason.MERCHANT), 7),
        (replace(CANCELLED, cancel_reason=CancelReason.INACTIVE_ON_CHAIN), 7),
        (replace(CANCELLED, cancel_reason=None), 7),
        (replace(CANCELLED, cancel_reason=CancelReason.BILLING_FAILED), 14),
        (replace(CANCELLED, cancel_reason=CancelReason.TRIAL_NOT_CONVERTED), 14),
        (STOPPED, 7),
        (PAUSED, 2),
    ],
)
def test_old_news_is_no_news(row, days):
    assert silence(row, now=NOW + days * DAY) is None
    assert silence(row, now=NOW + days * DAY + MOMENT) == "skipped_late"


def test_without_a_date_news_is_as_old_as_its_episode():
    undated = replace(PAUSED, provider_updated_at=None)
    assert silence(undated, episode=spell_of(undated, now=NOW), now=NOW + 2 * DAY) is None
    assert silence(undated, episode=spell_of(undated, now=NOW), now=NOW + 2 * DAY + MOMENT) == "skipped_late"


# -- an end that was told already ------------------------------------------------------------------------------------


def test_who_was_told_of_the_stop_is_not_told_of_the_end():
    stop = spell_of(STOPPED)
    told = record(stop, S.SENT, kind=Kind.STOPPED, sent_at=NOW)
    assert silence(CANCELLED, mails=[told]) == "already_told"


@pytest.mark.parametrize(
    "change",
    [
        {"state": S.VOIDED},
        {"state": S.FAILED},
        {"state": S.AMBIGUOUS},
        {"kind": Kind.PAUSED},
        {"step": RECOVERED},
    ],
)
def test_only_a_delivered_notice_of_the_stop_tells(change):
    told = replace(record(spell_of(STOPPED), S.SENT, kind=Kind.STOPPED, sent_at=NOW), **change)
    assert silence(CANCELLED, mails=[told]) is None


def test_an_end_for_another_reason_is_told_after_a_stop():
    told = record(spell_of(STOPPED), S.SENT, kind=Kind.STOPPED, sent_at=NOW)
    for reason in set(CancelReason) - {CancelReason.CUSTOMER}:
        assert silence(replace(CANCELLED, cancel_reason=reason), mails=[told]) is None


@pytest.mark.parametrize("reason", list(CancelReason))
def test_who_subscribed_again_is_not_asked_to_come_back(reason):
    row = replace(CANCELLED, cancel_reason=reason)
    asked_back = reason in {CancelReason.BILLING_FAILED, CancelReason.TRIAL_NOT_CONVERTED}
    assert silence(row, sibling=True) == ("subscribed_again" if asked_back else None)
    assert silence(row) is None


def test_a_closed_merchant_is_for_the_operator_to_explain():
    (intent,) = planned(replace(CANCELLED, cancel_reason=CancelReason.MERCHANT_CLOSED)).intents
    assert intent.for_operator
    assert not planned(CANCELLED).intents[0].for_operator


# -- a step that the outbox knows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in S if state is not S.VOIDED])
def test_a_step_in_the_outbox_is_not_planned_again(state):
    episode = spell_of(PAST_DUE)
    for reason in (None, "healed", "baseline"):
        assert planned(PAST_DUE, BALANCE, mails=[record(episode, state, reason)]).intents == ()


@pytest.mark.parametrize("reason", sorted(REVIVABLE))
def test_a_step_that_was_never_sent_comes_back_with_its_reason(reason):
    voided = record(spell_of(PAST_DUE), S.VOIDED, reason)
    (intent,) = planned(PAST_DUE, BALANCE, mails=[voided]).intents
    assert (intent.revives, intent.void, intent.id) == (True, None, voided.id)


def test_what_may_come_back_is_a_short_list():
    expected = {"healed", "replaced", "ended", "action_done", "superseded", "no_address", "customer_changed"}
    expected |= {"usage_lowered", "not_billed", "usage_stale"}
    assert expected == REVIVABLE


@pytest.mark.parametrize(
    "reason",
    ["skipped_late", "expired", "test_row", "suppressed", "unsubscribed", "already_told", "renewed", "rejected", None],
)
def test_other_silences_are_for_good(reason):
    voided = record(spell_of(PAST_DUE), S.VOIDED, reason)
    assert planned(PAST_DUE, BALANCE, mails=[voided]).intents == ()


def test_what_is_silent_again_stays_as_it_is():
    voided = record(spell_of(PAST_DUE), S.VOIDED, "healed")
    assert planned(replace(PAST_DUE, test=True), BALANCE, mails=[voided]).intents == ()


def test_a_muted_step_comes_back_when_it_is_adopted():
    episode = spell_of(PAST_DUE)
    voided = record(episode, S.VOIDED, "baseline")
    assert planned(PAST_DUE, BALANCE, episode=replace(episode, muted="baseline"), mails=[voided]).intents == ()
    (intent,) = planned(PAST_DUE, BALANCE, mails=[voided]).intents
    assert intent.revives


def test_a_step_without_an_address_comes_back_with_one():
    voided = record(spell_of(PAST_DUE), S.VOIDED, "no_address")
    assert planned(PAST_DUE, BALANCE, mails=[voided]).intents[0].revives
    for customer in (None, replace(ANA, email=None), replace(ANA, email="")):
        assert planned(replace(PAST_DUE, customer=customer), BALANCE, mails=[voided]).intents == ()


def test_another_customer_is_another_mail():
    sent = record(spell_of(PAST_DUE), S.SENT, sent_at=NOW)
    heir = replace(PAST_DUE, customer_ext_id="c-2", customer=CustomerSeen("c-2", "ben@customer.example"))
    (intent,) = planned(heir, BALANCE, mails=[sent]).intents
    assert (intent.customer_key, intent.revives) == ("c-2", False)


# -- done already ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowance", "rule"), [(50, None), (51, "action_done"), (49, None), (None, None)])
def test_an_allowance_above_the_failed_bill_needs_no_mail_an_equal_one_does(allowance, rule):
    row = replace(PAST_DUE, allowance=allowance)
    assert silence(row, told_of(Cause.ALLOWANCE_EXHAUSTED, units=50)) == rule


@pytest.mark.parametrize(("maximum", "rule"), [(50, None), (51, "action_done"), (None, None)])
def test_a_maximum_above_the_failed_bill_needs_no_mail_an_equal_one_does(maximum, rule):
    assert silence(replace(PAST_DUE, maximum=maximum), told_of(Cause.MAX_AMOUNT_EXCEEDED, units=50)) == rule


def test_while_the_api_asks_for_a_higher_maximum_it_is_not_done():
    row = replace(OVER_MAXIMUM, maximum=51)
    assert silence(row, told_of(Cause.MAX_AMOUNT_EXCEEDED, units=50)) is None


def test_figures_of_an_older_bill_prove_nothing():
    old = told_of(Cause.MAX_AMOUNT_EXCEEDED, at=PAID, units=50)
    waiting = replace(PAST_DUE, awaiting_maximum_since_at=FAILED)
    assert silence(waiting, old) is None
    assert silence(waiting, replace(old, failure_at=FAILED)) == "action_done"


@pytest.mark.parametrize("cause", [Cause.INSUFFICIENT_BALANCE, Cause.APPROVAL_REVOKED, Cause.OTHER])
def test_only_limits_can_be_seen_to_be_raised(cause):
    row = replace(PAST_DUE, failed_attempts=2, allowance=10**6, maximum=10**6)
    assert silence(row, told_of(cause)) is None


def test_nothing_is_done_where_no_bill_fails_or_no_figure_is_told():
    told = told_of(Cause.ALLOWANCE_EXHAUSTED, units=50)
    after = classify(PAST_DUE, told, NOW)
    assert action_done(after, PAST_DUE, told)
    assert not action_done(after, ACTIVE, told)
    assert not action_done(after, PAST_DUE, replace(told, failure_units=None))
    assert not action_done(after, PAST_DUE, replace(told, failure_cause=Cause.OTHER))


def test_a_step_that_was_done_comes_back_only_with_the_next_failure():
    told = told_of(Cause.ALLOWANCE_EXHAUSTED, units=50)
    voided = record(spell_of(PAST_DUE), S.VOIDED, "action_done")
    assert planned(PAST_DUE, told, mails=[voided]).intents == ()
    again = told_of(Cause.INSUFFICIENT_BALANCE, at=FAILED + DAY)
    assert planned(PAST_DUE, again, mails=[voided]).intents[0].variant == "insufficient_balance"


# -- the all-clear ---------------------------------------------------------------------------------------------------


def cleared(before, after, *mails, now=NOW, test_rows=False, **changes):
    return all_clear(
        spell_of(before, now=BORN, **changes),
        after,
        {mail.id: mail for mail in mails},
        now=now,
        mail_test_rows=test_rows,
    )


WARNED = record(spell_of(PAST_DUE), S.SENT, sent_at=NOW - DAY)
PAID_NOW = paid(PAST_DUE, NOW)


def test_who_was_warned_is_told_that_all_is_well():
    intent = cleared(PAST_DUE, PAID_NOW, WARNED)
    assert (intent.kind, intent.step, intent.variant) == (Kind.RECOVERED, RECOVERED, "payment_failed")
    assert (intent.urgency, intent.due_at, intent.not_after) == (Urgency.LOW, NOW, NOW + 2 * DAY)
    assert intent.void is None


@pytest.mark.parametrize(
    "change",
    [
        {"state": S.VOIDED},
        {"state": S.AMBIGUOUS},
        {"state": S.UNSETTLED},
        {"sent_at": None},
        {"episode_id": "another"},
        {"customer_key": "c-2"},
    ],
)
def test_who_was_not_warned_hears_nothing(change):
    assert cleared(PAST_DUE, PAID_NOW) is None
    assert cleared(PAST_DUE, PAID_NOW, replace(WARNED, **change)) is None


def test_all_is_well_only_once():
    before = record(spell_of(PAST_DUE), S.VOIDED, "superseded", step=RECOVERED, kind=Kind.RECOVERED)
    assert cleared(PAST_DUE, PAID_NOW, WARNED, before) is None


@pytest.mark.parametrize(("age", "told"), [(7 * DAY, True), (7 * DAY + MOMENT, False)])
def test_a_warning_of_low_funds_is_forgotten_after_a_week(age, told):
    low = record(spell_of(LOW, now=BORN), S.SENT, kind=Kind.LOW_ON_FUNDS, sent_at=NOW - age)
    assert (cleared(LOW, paid(LOW, NOW), low) is not None) == told
    failed = replace(WARNED, sent_at=NOW - age)
    assert cleared(PAST_DUE, PAID_NOW, failed) is not None


@pytest.mark.parametrize(("late", "rule"), [(2 * DAY, None), (2 * DAY + MOMENT, "skipped_late")])
def test_late_reassurance_is_noise(late, rule):
    assert cleared(PAST_DUE, PAID_NOW, WARNED, now=NOW + late).void == rule
    undated = replace(PAID_NOW, provider_updated_at=None)
    assert cleared(PAST_DUE, undated, WARNED, now=NOW + late).void == rule


def test_a_proof_is_dated_by_the_newest_of_what_the_vendor_says():
    nominal = replace(PAID_NOW, last_billing_at=NOW - 5 * DAY)
    assert cleared(PAST_DUE, nominal, WARNED).not_after == NOW + 2 * DAY
    ahead = replace(PAID_NOW, provider_updated_at=NOW + DAY)
    assert cleared(PAST_DUE, ahead, WARNED).not_after == NOW + 2 * DAY
    low = record(spell_of(LOW, now=BORN), S.SENT, kind=Kind.LOW_ON_FUNDS, sent_at=NOW - DAY)
    raised = replace(ACTIVE, allowance=100)
    assert cleared(LOW, raised, low).not_after == NOW + 2 * DAY


def test_an_all_clear_obeys_the_same_silences():
    assert cleared(PAST_DUE, replace(PAID_NOW, test=True), WARNED).void == "test_row"
    assert cleared(PAST_DUE, replace(PAID_NOW, test=True), WARNED, test_rows=True).void is None
    assert cleared(PAST_DUE, replace(PAID_NOW, customer=replace(ANA, deleted=True)), WARNED).void == "customer_deleted"
