"""Spending limits: where the marks lie, one spell a billing period, and every way in which a mail stays unsent."""

from dataclasses import replace
from datetime import time, timedelta
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.domain.calendar import SendingWindow
from monitor.domain.decide import Policy
from monitor.domain.model import CustomerSeen, Kind, NotificationState, Situation, Status, Told, Track, Urgency
from monitor.domain.spending import USAGE_FRESH, faced, spending_of, why_over
from monitor.domain.still_due import Do
from monitor.domain.usage import Usage
from tests.unit.domain.scenes import (
    ACTIVE,
    BORN,
    CANCELLED,
    DAY,
    DUE,
    HOUR,
    LIVE,
    MINUTE,
    MOMENT,
    NOW,
    PAST_DUE,
    PAUSED,
    STOPPED,
    STRANGE,
    TRIAL,
    Ledger,
)

S = NotificationState
END = NOW + 20 * DAY
NEAR, REACHED = (Kind.SPENDING_LIMIT_NEAR, ""), (Kind.SPENDING_LIMIT_REACHED, "")


def used(amount, limit="500", *, at=NOW, end=END, period=END, start=None):
    """What a report told."""
    limit = None if limit is None else Decimal(limit)
    return Told(usage=Usage(Decimal(amount), limit, period, end, at, start))


def a_ledger(**policy):
    return Ledger(first=ACTIVE, **policy)


# -- where the marks lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "limit", "situation"),
    [
        ("0", "500", Situation.HEALTHY),
        ("399.999999999999", "500", Situation.HEALTHY),
        ("400", "500", Situation.SPENDING_LIMIT_NEAR),
        ("400.00", "500.00", Situation.SPENDING_LIMIT_NEAR),
        ("499.999999999999", "500", Situation.SPENDING_LIMIT_NEAR),
        ("500", "500", Situation.SPENDING_LIMIT_REACHED),
        ("500.000000000001", "500", Situation.SPENDING_LIMIT_REACHED),
        ("0.08", "0.1", Situation.SPENDING_LIMIT_NEAR),
        ("0.000000000001", "0.000000000001", Situation.SPENDING_LIMIT_REACHED),
        ("799999999999.999999999999", "1000000000000", Situation.HEALTHY),
        ("999999999999.999999999999", "999999999999.999999999999", Situation.SPENDING_LIMIT_REACHED),
    ],
)
def test_exactly_at_80_percent_is_near_and_exactly_at_the_limit_is_reached(amount, limit, situation):
    with localcontext(prec=3):  # nothing rounds, whatever context the caller is in
        assert spending_of(ACTIVE, used(amount, limit), NOW).situation is situation


def test_the_limit_of_the_api_counts_where_the_report_tells_none():
    row = replace(ACTIVE, max_spending_usd=Decimal(100))
    assert spending_of(row, used(90, None), NOW).situation is Situation.SPENDING_LIMIT_NEAR
    assert spending_of(row, used(90, "500"), NOW).situation is Situation.HEALTHY
    assert spending_of(ACTIVE, used(90, None), NOW).situation is Situation.HEALTHY


@pytest.mark.parametrize("row", [PAUSED, STOPPED, CANCELLED, TRIAL, STRANGE])
def test_only_who_is_billed_faces_a_limit(row):
    assert spending_of(row, used(500), NOW).situation is Situation.HEALTHY
    assert spending_of(PAST_DUE, used(500), NOW).situation is Situation.SPENDING_LIMIT_REACHED


def test_a_period_is_over_at_its_end_to_the_moment():
    assert spending_of(ACTIVE, used(500), END - MOMENT).situation is Situation.SPENDING_LIMIT_REACHED
    assert spending_of(ACTIVE, used(500), END).situation is Situation.HEALTHY


def test_each_track_has_its_own_situation_and_an_unknown_state_is_unknown_on_both():
    assert faced(Track.BILLING, PAST_DUE, used(500), NOW).situation is Situation.PAYMENT_FAILED
    assert faced(Track.USAGE, PAST_DUE, used(500), NOW).situation is Situation.SPENDING_LIMIT_REACHED
    assert faced(Track.USAGE, STRANGE, used(500), NOW).situation is Situation.UNKNOWN


# -- periods ---------------------------------------------------------------------------------------------------------


def figures(*, end=END, period=END, start=None, at=NOW):
    return used(1, end=end, period=period, start=start, at=at).usage


@pytest.mark.parametrize(
    ("known", "told", "now", "same"),
    [
        (figures(), figures(), NOW, True),
        (figures(), figures(end=END + DAY), NOW + DAY, True),  # an end that moves with each report
        (figures(), figures(end=END + 30 * DAY), END - MOMENT, True),
        (figures(), figures(end=END + 30 * DAY), END, False),
        (figures(end=NOW + 2 * DAY), figures(), NOW + 2 * DAY, False),  # the end was corrected to an earlier day
        (figures(end=END + DAY), figures(end=END + 2 * DAY), END, False),
        (figures(), figures(start=NOW - MOMENT), NOW + DAY, True),
        (figures(), figures(start=NOW), NOW + DAY, False),  # a reset after the last measurement
        (figures(start=NOW), figures(start=NOW), NOW + DAY, True),
    ],
)
def test_a_period_lasts_until_an_end_told_for_it_unless_a_later_one_has_started(known, told, now, same):
    assert told.is_of(known, now) is same


def test_figures_are_the_same_whenever_they_were_measured():
    known = figures()
    assert replace(known, as_of=NOW + DAY, period=END + DAY).says_as(known)
    for other in (
        replace(known, used_usd=Decimal(2)),
        replace(known, limit_usd=None),
        replace(known, period_end_at=END + DAY),
        replace(known, period_start_at=BORN),
    ):
        assert not other.says_as(known)
    assert figures(end=END + DAY, period=END + DAY).in_period_of(known) == figures(end=END + DAY)


# -- stories ---------------------------------------------------------------------------------------------------------


def test_near_is_one_event_and_one_refusable_mail_and_a_second_look_none():
    ledger = a_ledger()
    decision = ledger.tick(NOW, used(402, at=NOW - HOUR))
    (mail,) = decision.intents
    assert (mail.kind, mail.urgency, mail.not_after, mail.void) == (*NEAR[:1], Urgency.NORMAL, END - HOUR, None)
    (change,) = decision.spending.changes
    assert (change.kind, change.old, change.new) == ("spending_limit_near", "healthy", "402/500")
    assert decision.next_look_at == END
    (spell,) = ledger.of(Track.USAGE)
    assert (spell.deadline_at, spell.evidence_at, spell.opened_at) == (END, NOW - HOUR, NOW)
    assert ledger.current is None
    assert decision.after.situation is Situation.HEALTHY
    again = ledger.tick(NOW + HOUR, used(450, at=NOW + HOUR))
    assert (again.intents, again.happened) == ((), ())
    ledger.deliver(NOW + HOUR)
    assert ledger.sent == [NEAR]


def test_billing_goes_on_beside():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    decision = ledger.see(PAST_DUE, NOW + HOUR)
    assert [one.track for one in ledger.episodes.values() if one.closed_at is None] == [Track.USAGE, Track.BILLING]
    assert decision.next_look_at == END
    assert ledger.events[-2:] == ["spending_limit_near", "payment_failed"]
    ledger.see(ACTIVE, NOW + 2 * HOUR)
    (spell,) = ledger.of(Track.USAGE)
    assert spell.closed_at is None


def test_reached_takes_the_place_of_near_that_was_not_sent():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    decision = ledger.tick(NOW + HOUR, used(500, at=NOW + HOUR))
    (change,) = decision.spending.changes
    assert (change.kind, change.old, change.new) == ("spending_limit_reached", "spending_limit_near", "500/500")
    ledger.deliver(NOW + HOUR)
    assert ledger.sent == [REACHED]
    assert ledger.states() == [(*NEAR[:1], S.VOIDED, "replaced"), (*REACHED[:1], S.SENT, None)]


def test_after_reached_a_correction_to_near_tells_nobody_the_lesser_thing():
    ledger = a_ledger()
    ledger.tick(NOW, used(500))
    ledger.deliver(NOW)
    ledger.tick(NOW + HOUR, used(450, at=NOW + HOUR))
    ledger.deliver(NOW + HOUR)
    assert ledger.sent == [REACHED]
    assert ledger.states()[-1] == (*NEAR[:1], S.VOIDED, "limit_told")
    ledger.tick(NOW + 2 * HOUR, used(501, at=NOW + 2 * HOUR))
    ledger.deliver(NOW + 2 * HOUR)
    assert ledger.sent == [REACHED]


def test_reached_in_one_period_silences_near_in_no_other():
    ledger = a_ledger()
    ledger.tick(NOW, used(500))
    ledger.deliver(NOW)
    at, later = END + DAY, END + 30 * DAY
    ledger.tick(at, used(402, at=at, end=later, period=later))
    ledger.deliver(at)
    assert ledger.sent == [REACHED, NEAR]


@pytest.mark.parametrize(("amount", "mail"), [(500, REACHED), (450, NEAR)])
def test_another_customer_is_told_for_themselves(amount, mail):
    ledger = a_ledger()
    ledger.tick(NOW, used(500))
    ledger.deliver(NOW)
    other = replace(ACTIVE, customer_ext_id="c-2", customer=CustomerSeen("c-2", "bo@customer.example"))
    ledger.see(other, NOW + HOUR, used(amount, at=NOW + HOUR))
    ledger.deliver(NOW + HOUR)
    assert ledger.sent == [REACHED, mail]


def test_a_spell_that_was_muted_stays_so_when_it_comes_back():
    ledger = a_ledger(policy=Policy("acme", baselined_at=None))
    ledger.tick(NOW, used(402))
    ledger.tick(NOW + HOUR, used(100, at=NOW + HOUR))
    ledger.policy = LIVE
    ledger.tick(NOW + 2 * HOUR, used(402, at=NOW + 2 * HOUR))
    (spell,) = ledger.of(Track.USAGE)
    assert (spell.muted, spell.opened_at, spell.evidence_at) == ("baseline", NOW, NOW + 2 * HOUR)
    ledger.deliver(NOW + 2 * HOUR)
    assert ledger.sent == []


def test_near_is_told_after_all_when_reached_was_a_mistake_that_nobody_read():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    ledger.tick(NOW + HOUR, used(500, at=NOW + HOUR))
    ledger.tick(NOW + 2 * HOUR, used(410, at=NOW + 2 * HOUR))
    ledger.deliver(NOW + 2 * HOUR)
    assert ledger.sent == [NEAR]


def test_a_flap_across_the_mark_is_one_spell_of_the_period_and_the_next_period_another():
    ledger = a_ledger()
    for day, amount in enumerate((402, 390, 402, 390, 410)):
        at = NOW + day * DAY
        ledger.tick(at, used(amount, at=at))
        ledger.deliver(at)
    assert ledger.sent == [NEAR]
    assert ledger.events[-3:] == ["spending_limit_near", "spending_limit_clear", "spending_limit_near"]
    ledger.tick(END, ledger.told)
    (spell,) = ledger.of(Track.USAGE)
    assert spell.close_reason == "period_over"
    later = END + 30 * DAY
    ledger.tick(END + DAY, used(402, at=END + DAY, end=later, period=later))
    ledger.deliver(END + DAY)
    assert ledger.sent == [NEAR, NEAR]


def test_a_new_period_that_begins_near_closes_the_old_one_in_the_same_breath():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    later = END + 30 * DAY
    decision = ledger.tick(END + DAY, used(402, at=END + DAY, end=later, period=later))
    assert decision.ends[0][1] == "period_over"
    assert decision.spending.episode.deadline_at == later


@pytest.mark.parametrize(
    ("row", "reason"), [(PAUSED, "not_billed"), (STOPPED, "not_billed"), (TRIAL, "not_billed"), (CANCELLED, "ended")]
)
def test_who_is_not_billed_any_more_gets_no_mail_and_a_return_brings_it_back(row, reason):
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    decision = ledger.see(row, NOW + HOUR)
    assert [end[1] for end in decision.ends] == [reason]
    assert (Kind.SPENDING_LIMIT_NEAR, S.VOIDED, reason) in ledger.states()
    ledger.see(ACTIVE, NOW + 2 * HOUR)
    assert (Kind.SPENDING_LIMIT_NEAR, S.STAGED, None) in ledger.states()


def test_an_unknown_state_opens_and_closes_nothing():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    decision = ledger.see(STRANGE, NOW + HOUR, used(500, at=NOW + HOUR))
    assert (decision.ends, decision.spending.episode, decision.intents) == ((), None, ())
    (intent,) = ledger.waiting.values()
    assert ledger.ask(intent, NOW + HOUR).do is Do.SNOOZE


def test_a_stale_report_mails_nobody_until_a_fresh_one_comes():
    ledger = a_ledger()
    ledger.tick(NOW, used(402, at=NOW - USAGE_FRESH - MOMENT))
    assert ledger.states() == [(Kind.SPENDING_LIMIT_NEAR, S.VOIDED, "usage_stale")]
    ledger.tick(NOW + HOUR, used(402, at=NOW + HOUR))
    ledger.deliver(NOW + HOUR + USAGE_FRESH)
    assert ledger.sent == [NEAR]


@pytest.mark.parametrize("created_after", [False, True])
def test_before_the_baseline_is_complete_it_is_only_recorded(created_after):
    ledger = a_ledger(policy=Policy("acme", baselined_at=None, notify_first=created_after))
    ledger.tick(NOW, used(402))
    ledger.deliver(NOW)
    assert ledger.sent == ([NEAR] if created_after else [])
    if not created_after:
        (spell,) = ledger.of(Track.USAGE)
        ledger.episodes[spell.id] = replace(spell, muted=None)
        ledger.tick(NOW + HOUR)
        ledger.deliver(NOW + HOUR)
        assert ledger.sent == [NEAR]


def test_test_rows_are_silent():
    ledger = Ledger(first=replace(ACTIVE, test=True))
    ledger.tick(NOW, used(402))
    assert ledger.states() == [(Kind.SPENDING_LIMIT_NEAR, S.VOIDED, "test_row")]


def test_with_less_than_an_hour_of_the_period_left_nobody_is_asked():
    ledger = a_ledger()
    ledger.tick(END - HOUR + MOMENT, used(402, at=END - DAY))
    assert ledger.states() == [(Kind.SPENDING_LIMIT_NEAR, S.VOIDED, "skipped_late")]


# -- asked again just before it leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told", "at", "rule"),
    [
        (ACTIVE, used(399, at=NOW + HOUR), NOW + HOUR, "usage_lowered"),
        (ACTIVE, used(402, "1000", at=NOW + HOUR), NOW + HOUR, "usage_lowered"),
        (ACTIVE, used(500, at=NOW + HOUR), NOW + HOUR, "replaced"),
        (ACTIVE, used(402, end=NOW + HOUR, at=NOW), NOW + HOUR, "period_over"),
        (ACTIVE, used(402, period=END + DAY, at=NOW), NOW + HOUR, "period_over"),
        (ACTIVE, Told(), NOW + HOUR, "period_over"),
        (ACTIVE, used(402), NOW + USAGE_FRESH + MOMENT, "usage_stale"),
        (ACTIVE, used(402), END - HOUR + MOMENT, "expired"),
        (PAUSED, used(402), NOW + HOUR, "not_billed"),
        (CANCELLED, used(402), NOW + HOUR, "ended"),
    ],
)
def test_what_is_not_true_any_more_is_voided_with_its_rule(row, told, at, rule):
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    (intent,) = ledger.waiting.values()
    ledger.snapshot, ledger.told = row, told
    answer = ledger.ask(intent, at)
    assert (answer.do, answer.rule) == (Do.VOID, rule)
    assert answer.why


def test_who_refused_reminders_gets_no_near_but_hears_that_it_is_reached():
    for amount, do in ((402, Do.VOID), (500, Do.SEND)):
        ledger = a_ledger()
        ledger.tick(NOW, used(amount))
        (intent,) = ledger.waiting.values()
        assert ledger.ask(intent, NOW, suppressed_in=frozenset({"reminders"})).do is do


def test_a_failing_bill_does_not_hurry_a_mail_about_usage():
    ledger = Ledger(first=PAST_DUE)
    ledger.tick(NOW, used(500))
    intent = next(one for one in ledger.waiting.values() if one.kind is Kind.SPENDING_LIMIT_REACHED)
    row = replace(PAST_DUE, next_attempt_at=NOW + 2 * HOUR, remaining_attempts=1)
    ledger.snapshot = row
    night = SendingWindow(time(8), time(20))
    at = DUE.replace(hour=23)
    answer = ledger.ask(intent, at, window=night)
    assert (answer.do, answer.rule) == (Do.SNOOZE, "window")
    ledger.tick(NOW + MINUTE, used(500, end=at + 12 * HOUR, at=NOW + MINUTE))
    assert ledger.ask(intent, at, window=night).do is Do.SEND


def test_the_reason_of_an_end_is_none_while_it_goes_on():
    ledger = a_ledger()
    ledger.tick(NOW, used(402))
    (spell,) = ledger.of(Track.USAGE)
    assert why_over(spell, ACTIVE, used(402), NOW) is None


# -- any order of reports --------------------------------------------------------------------------------------------

_ROWS = st.sampled_from([ACTIVE, ACTIVE, ACTIVE, PAST_DUE, PAUSED, STRANGE])
_REPORTS = st.lists(st.tuples(st.integers(0, 600), _ROWS, st.booleans(), st.integers(1, 60)), max_size=14)


@settings(max_examples=60, deadline=None)
@given(_REPORTS)
def test_whatever_is_reported_each_mail_goes_once_a_period_and_the_lesser_never_after_the_greater(reports):
    ledger = a_ledger()
    at, known = NOW, None
    sent = []
    for amount, row, delivers, hours in reports:
        at += timedelta(hours=hours)
        told = used(amount, at=at, end=at + 30 * DAY, period=at + 30 * DAY).usage
        if known is not None and told.is_of(known, at):
            told = told.in_period_of(known)
        known = told
        ledger.see(row, at, Told(usage=told))
        if delivers:
            for one in ledger.deliver(at):
                if one.kind in {Kind.SPENDING_LIMIT_NEAR, Kind.SPENDING_LIMIT_REACHED}:
                    assert row.status in {Status.ACTIVE, Status.PAST_DUE}
                    assert amount >= (500 if one.kind is Kind.SPENDING_LIMIT_REACHED else 400)
                    sent.append((told.period, one.kind))
    assert len(sent) == len(set(sent))
    for place, (period, kind) in enumerate(sent):
        if kind is Kind.SPENDING_LIMIT_NEAR:
            assert (period, Kind.SPENDING_LIMIT_REACHED) not in sent[:place]
