"""Asked of each mail just before it leaves: still true, allowed, timely? Each rule at its limit and one above."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.domain.calendar import SendingWindow
from monitor.domain.campaign import RECOVERED
from monitor.domain.classify import classify
from monitor.domain.episodes import turn
from monitor.domain.guard import GuardLimits
from monitor.domain.model import Cause, Kind, Urgency
from monitor.domain.still_due import FRESH, FRESH_URGENT, Do, step_of, still_due
from tests.unit.domain.scenes import (
    ACTIVE,
    ALWAYS,
    ANA,
    CANCELLED,
    DAY,
    DUE,
    FAILED,
    HOUR,
    LOW,
    MINUTE,
    MOMENT,
    NOTHING,
    NOW,
    OVER_MAXIMUM,
    PAST_DUE,
    STRANGE,
    TRIAL,
    TRIAL_ENDS,
    TRIAL_EXPIRED,
    a_case,
    told_of,
)

EMPTY = told_of(Cause.INSUFFICIENT_BALANCE)
WEEK = DUE - 7 * DAY


def spell_of(snapshot, told=NOTHING, now=NOW):
    after = classify(snapshot, told, now)
    return turn(account="acme", current=None, after=after, snapshot=snapshot, told=told, now=now).opens


def failing(snapshot=PAST_DUE, told=EMPTY, **more):
    """An urgent mail about a failed bill."""
    more.setdefault("episode", spell_of(snapshot, told))
    return a_case(snapshot, told=told, **{"urgency": Urgency.URGENT, **more})


def low(snapshot=LOW, now=WEEK, **more):
    """A reminder that may be refused."""
    more.setdefault("episode", spell_of(snapshot, now=now))
    return a_case(snapshot, **{"kind": Kind.LOW_ON_FUNDS, "urgency": Urgency.NORMAL, **more})


def clear(snapshot=ACTIVE, **more):
    """An all-clear after a failed bill."""
    ended = replace(spell_of(PAST_DUE), closed_at=NOW, close_reason="recovered")
    given = {"kind": Kind.RECOVERED, "step": RECOVERED, "urgency": Urgency.LOW, "situation_open": False}
    return a_case(snapshot, ended, **{**given, **more})


def verdict(case, now=NOW):
    answer = still_due(case, now)
    assert (answer.until is not None) == (answer.do is Do.SNOOZE)
    assert bool(answer.why) == (answer.do is not Do.SEND)
    return answer.do, answer.rule


GOES = (Do.SEND, "")


def test_what_is_true_allowed_and_timely_goes():
    assert verdict(failing()) == GOES
    assert verdict(low(), WEEK) == GOES
    assert verdict(clear()) == GOES


# -- expired ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "answer"), [(timedelta(), GOES), (MOMENT, (Do.VOID, "expired"))])
def test_a_mail_is_worth_sending_until_its_last_instant(late, answer):
    ended = clear(not_after=NOW)
    assert verdict(ended, NOW + late) == answer
    undated = replace(PAST_DUE, failing_since_at=None, next_attempt_at=None)
    assert verdict(failing(undated, not_after=NOW), NOW + late) == answer


def test_a_moved_deadline_moves_the_end_of_a_mails_worth():
    case = failing(not_after=NOW - DAY, window=ALWAYS)
    end = FAILED + 7 * DAY - HOUR
    assert verdict(case, end) == GOES
    assert verdict(case, end + MOMENT) == (Do.VOID, "expired")
    earlier = replace(case.episode, deadline_at=NOW + HOUR - MOMENT)
    assert verdict(replace(case, episode=earlier, not_after=NOW + DAY)) == (Do.VOID, "expired")


def test_a_deadline_says_nothing_about_a_notice_of_an_end():
    spell = replace(spell_of(CANCELLED), deadline_at=NOW - DAY)
    case = a_case(CANCELLED, spell, kind=Kind.CANCELLED, urgency=Urgency.LOW, not_after=NOW)
    assert verdict(replace(case, episode=replace(spell, deadline_at=None))) == GOES
    assert still_due(case, NOW).rule != "expired"


# -- still true ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["healed", "ended", "replaced", None])
def test_a_closed_episode_voids_with_its_reason(reason):
    closed = replace(spell_of(PAST_DUE), closed_at=NOW, close_reason=reason)
    assert verdict(failing(episode=closed)) == (Do.VOID, reason or "closed")


def test_while_the_state_is_unknown_mails_wait():
    assert verdict(failing(STRANGE, episode=spell_of(PAST_DUE))) == (Do.SNOOZE, "unknown_state")
    assert verdict(clear(STRANGE)) == (Do.SNOOZE, "unknown_state")
    assert still_due(clear(STRANGE), NOW).until == NOW + HOUR


@pytest.mark.parametrize("row", [ACTIVE, OVER_MAXIMUM, CANCELLED])
def test_a_mail_about_something_else_is_superseded(row):
    assert verdict(failing(row, episode=spell_of(PAST_DUE))) == (Do.VOID, "superseded")


def test_an_all_clear_needs_all_to_be_clear():
    assert verdict(clear(situation_open=True)) == (Do.VOID, "superseded")
    assert verdict(clear(LOW)) == (Do.VOID, "superseded")


@pytest.mark.parametrize(("allowance", "answer"), [(50, GOES), (51, (Do.VOID, "action_done"))])
def test_an_action_that_is_visibly_done_is_not_asked_for(allowance, answer):
    row = replace(PAST_DUE, allowance=allowance)
    assert verdict(failing(row, told_of(Cause.ALLOWANCE_EXHAUSTED, units=50))) == answer


def test_a_cause_that_often_heals_snoozes_a_mail_planned_without_one():
    answer = still_due(failing(told=told_of(Cause.OTHER)), NOW)
    assert (answer.do, answer.rule, answer.until) == (Do.SNOOZE, "not_due_yet", FAILED + DAY)
    assert verdict(failing(replace(PAST_DUE, failed_attempts=2), told_of(Cause.OTHER))) == GOES
    assert verdict(failing(told=told_of(Cause.OTHER), window=ALWAYS), FAILED + DAY) == GOES


def test_a_bill_that_moved_far_away_snoozes_its_reminder():
    far = replace(LOW, next_billing_at=WEEK + 31 * DAY)
    answer = still_due(low(far), WEEK)
    assert (answer.rule, answer.until) == ("not_due_yet", WEEK + DAY)


def test_a_mail_is_the_step_of_what_the_customer_faces_now():
    case = failing()
    assert step_of(case, classify(PAST_DUE, EMPTY, NOW)).urgency is Urgency.URGENT
    assert step_of(case, classify(ACTIVE, NOTHING, NOW)) is None
    assert step_of(replace(case, step="later"), classify(PAST_DUE, EMPTY, NOW)) is None
    assert verdict(failing(step="later", told=told_of(Cause.OTHER))) == GOES


# -- whom ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"snapshot": replace(PAST_DUE, test=True)}, "test_row"),
        ({"snapshot": replace(PAST_DUE, customer_ext_id=None)}, "no_customer"),
        ({"customer_key": "c-2"}, "customer_changed"),
        ({"deleted": True}, "customer_deleted"),
        ({"erased": True}, "erased"),
        ({"address": None}, "no_address"),
        ({"address": ""}, "no_address"),
    ],
)
def test_nobody_to_mail_is_a_reason_of_its_own(change, rule):
    assert verdict(replace(failing(), **change)) == (Do.VOID, rule)
    if "snapshot" not in change:
        assert verdict(replace(clear(), **change)) == (Do.VOID, rule)


def test_test_rows_go_where_the_account_allows_them_and_the_planned_customer_is_the_owner():
    assert verdict(replace(failing(), snapshot=replace(PAST_DUE, test=True), test_allowed=True)) == GOES
    assert verdict(failing(customer_key=ANA.ext_id)) == GOES
    assert verdict(failing(customer_key=None)) == GOES


# -- fresh -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urgency", "limit"),
    [
        (Urgency.URGENT, timedelta(minutes=5)),
        (Urgency.CRITICAL, timedelta(minutes=5)),
        (Urgency.NORMAL, timedelta(hours=6)),
        (Urgency.LOW, timedelta(hours=6)),
    ],
)
def test_facts_that_are_too_old_are_asked_for_again(urgency, limit):
    assert verdict(failing(urgency=urgency, facts_age=limit)) == GOES
    assert verdict(failing(urgency=urgency, facts_age=limit + MOMENT)) == (Do.ASK, "stale")
    assert verdict(failing(urgency=urgency, facts_age=limit + MOMENT, asked=True)) == GOES
    assert (FRESH_URGENT, FRESH) == (timedelta(minutes=5), timedelta(hours=6))


def test_nothing_is_asked_about_a_mail_that_is_void_anyway():
    assert verdict(failing(facts_age=DAY, deleted=True)) == (Do.VOID, "customer_deleted")


def test_a_refusal_is_asked_about_first_since_the_address_may_have_changed():
    assert verdict(failing(facts_age=DAY, suppressed_in=frozenset({"all"}))) == (Do.ASK, "stale")


# -- refused ---------------------------------------------------------------------------------------------------------

ALL, REMINDERS = frozenset({"all"}), frozenset({"reminders"})


def test_an_address_that_must_not_be_mailed_gets_nothing():
    for case, now in ((failing(), NOW), (low(), WEEK), (clear(), NOW)):
        assert verdict(replace(case, suppressed_in=ALL), now) == (Do.VOID, "suppressed")
        assert verdict(replace(case, suppressed_in=frozenset({"another"})), now) == GOES


def test_who_refused_reminders_gets_no_reminder_and_every_notice():
    gone = a_case(CANCELLED, spell_of(CANCELLED), kind=Kind.CANCELLED, urgency=Urgency.LOW)
    over = failing(OVER_MAXIMUM, NOTHING, kind=Kind.MAX_AMOUNT_REACHED)
    for case in (failing(), over, gone):
        assert verdict(replace(case, suppressed_in=REMINDERS)) == GOES
    ending = a_case(TRIAL, spell_of(TRIAL, now=TRIAL_ENDS - DAY), kind=Kind.TRIAL_ENDING, urgency=Urgency.NORMAL)
    expired = a_case(
        TRIAL_EXPIRED, spell_of(TRIAL_EXPIRED), kind=Kind.TRIAL_EXPIRED, urgency=Urgency.NORMAL, window=ALWAYS
    )
    refusable = [(low(), WEEK), (clear(), NOW), (ending, TRIAL_ENDS - DAY), (expired, TRIAL_ENDS + DAY)]
    for case, now in refusable:
        assert verdict(case, now) == GOES
        assert verdict(replace(case, suppressed_in=REMINDERS), now) == (Do.VOID, "unsubscribed")


def test_a_later_step_that_no_campaign_names_cannot_be_refused():
    assert verdict(replace(failing(step="later"), suppressed_in=REMINDERS)) == GOES


# -- window ----------------------------------------------------------------------------------------------------------

NIGHT = datetime(2026, 4, 2, 23, 40, tzinfo=UTC)
MORNING = datetime(2026, 4, 3, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "goes"),
    [
        (datetime(2026, 4, 3, 8, tzinfo=UTC), True),
        (datetime(2026, 4, 3, 8, tzinfo=UTC) - MOMENT, False),
        (datetime(2026, 4, 3, 20, tzinfo=UTC) - MOMENT, True),
        (datetime(2026, 4, 3, 20, tzinfo=UTC), False),
    ],
)
def test_mails_leave_between_eight_and_eight(at, goes):
    case = failing(replace(PAST_DUE, remaining_attempts=None))
    assert (verdict(case, at) == GOES) == goes
    if not goes:
        assert verdict(case, at) == (Do.SNOOZE, "window")


def test_a_mail_waits_for_the_morning_of_its_reader():
    case = failing(replace(PAST_DUE, remaining_attempts=None))
    answer = still_due(case, NIGHT)
    assert (answer.rule, answer.until) == ("window", MORNING)
    budapest = replace(case, account_zone="Europe/Budapest")
    assert still_due(budapest, NIGHT).until == MORNING - 2 * HOUR
    tokyo = replace(budapest, customer_zone="Asia/Tokyo")
    assert verdict(tokyo, NIGHT) == GOES
    assert still_due(replace(budapest, customer_zone="No/Where"), NIGHT).until == MORNING - 2 * HOUR
    assert verdict(replace(case, window=SendingWindow(MORNING.time(), NIGHT.time().replace(minute=41))), NIGHT) == GOES


@pytest.mark.parametrize(
    ("left_at_opening", "answer"),
    [(24 * HOUR, (Do.SNOOZE, "window")), (24 * HOUR - MOMENT, GOES)],
)
def test_an_urgent_mail_does_not_wait_for_a_morning_that_leaves_less_than_a_day(left_at_opening, answer):
    since = MORNING + left_at_opening - 7 * DAY
    row = replace(PAST_DUE, failing_since_at=since, next_attempt_at=None, last_billing_at=since - DAY)
    assert verdict(failing(row, told_of(Cause.INSUFFICIENT_BALANCE, at=since)), NIGHT) == answer


def test_the_estimated_end_hurries_a_mail_and_never_voids_it():
    soon = replace(PAST_DUE, failed_attempts=2, remaining_attempts=2, next_attempt_at=FAILED + 14 * HOUR)
    assert verdict(failing(soon), NIGHT) == GOES
    stale = replace(PAST_DUE, failed_attempts=5, remaining_attempts=2, next_attempt_at=FAILED + HOUR)
    assert verdict(failing(stale), NIGHT) == GOES


def test_a_reminder_never_goes_at_night_and_not_when_no_hour_would_be_left():
    bill_at = MORNING + HOUR
    row = replace(LOW, next_billing_at=bill_at)
    assert verdict(low(row, NIGHT), NIGHT) == (Do.SNOOZE, "window")
    too_late = replace(LOW, next_billing_at=bill_at - MOMENT)
    assert verdict(low(too_late, NIGHT), NIGHT) == (Do.VOID, "too_late")


def test_an_all_clear_has_no_deadline():
    ended = replace(clear(), episode=replace(clear().episode, deadline_at=NOW - DAY))
    assert verdict(ended) == GOES


# -- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urgency", "mails", "answer"),
    [
        (Urgency.LOW, 1, GOES),
        (Urgency.LOW, 2, (Do.SNOOZE, "capped")),
        (Urgency.NORMAL, 1, GOES),
        (Urgency.NORMAL, 2, (Do.SNOOZE, "capped")),
        (Urgency.URGENT, 3, GOES),
        (Urgency.URGENT, 4, (Do.HOLD, "per_address")),
        (Urgency.CRITICAL, 3, GOES),
        (Urgency.CRITICAL, 4, (Do.HOLD, "per_address")),
    ],
)
def test_one_address_gets_so_many_mails_in_a_day(urgency, mails, answer):
    assert verdict(failing(urgency=urgency, mails_24h=mails)) == answer


def test_a_capped_mail_waits_until_the_oldest_is_a_day_old():
    def until(oldest):
        return still_due(low(mails_24h=2, oldest_24h_at=oldest), WEEK).until

    assert until(WEEK - 20 * HOUR) == WEEK + 4 * HOUR
    assert until(WEEK - 23 * HOUR) == WEEK + HOUR
    assert until(WEEK - 24 * HOUR + MINUTE) == WEEK + HOUR
    assert until(None) == WEEK + 24 * HOUR


def test_an_account_may_have_its_own_caps():
    tight = GuardLimits(per_address_24h=0, per_address_urgent_24h=1)
    assert verdict(low(limits=tight), WEEK) == (Do.SNOOZE, "capped")
    assert verdict(failing(limits=tight)) == GOES
    assert verdict(failing(limits=tight, mails_24h=1)) == (Do.HOLD, "per_address")


def test_the_window_is_asked_before_the_cap():
    assert verdict(low(mails_24h=9, now=NIGHT - 8 * DAY), NIGHT - 8 * DAY) == (Do.SNOOZE, "window")
