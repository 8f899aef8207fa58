"""The campaigns as a table: which mail, how urgent, refusable or not, due when, worth sending until when."""

from datetime import timedelta

import pytest

from monitor.domain.campaign import ALL_CLEAR, CAMPAIGNS, FIRST, Step, campaign_for
from monitor.domain.model import CancelReason, Cause, Kind, Situation, Urgency
from tests.unit.domain.scenes import DAY, DUE, HOUR, MOMENT, NOW

TABLE = """
cancelled          customer              cancelled           low      no   0h   7d-old
cancelled          merchant              cancelled           low      no   0h   7d-old
cancelled          inactive_on_chain     cancelled           low      no   0h   7d-old
cancelled          unknown               cancelled           low      no   0h   7d-old
cancelled          merchant_closed       cancelled           low      no   0h   7d-old
cancelled          billing_failed        cancelled           normal   no   0h   14d-old
cancelled          trial_not_converted   cancelled           low      yes  0h   14d-old
max_amount_reached -                     max_amount_reached  urgent   no   0h   deadline
payment_failed     insufficient_balance  payment_failed      urgent   no   0h   deadline
payment_failed     allowance_exhausted   payment_failed      urgent   no   0h   deadline
payment_failed     approval_revoked      payment_failed      urgent   no   0h   deadline
payment_failed     other                 payment_failed      urgent   no   24h  deadline
payment_failed     unknown               payment_failed      urgent   no   2h   deadline
low_on_funds       allowance             low_on_funds        normal   yes  0h   deadline
low_on_funds       balance               low_on_funds        normal   yes  0h   deadline
trial_ending       -                     trial_ending        normal   yes  0h   deadline
trial_expired      -                     trial_expired       normal   yes  0h   deadline
paused             -                     paused              low      no   0h   2d-old
stopped            customer              stopped             low      no   0h   7d-old
stopped            merchant              stopped             low      no   0h   7d-old
stopped            billing_failed        stopped             low      no   0h   7d-old
stopped            trial_not_converted   stopped             low      no   0h   7d-old
stopped            merchant_closed       stopped             low      no   0h   7d-old
stopped            inactive_on_chain     stopped             low      no   0h   7d-old
stopped            unknown               stopped             low      no   0h   7d-old
spending_limit_near -                    spending_limit_near normal   yes  0h   deadline
spending_limit_reached -                 spending_limit_reached urgent no  0h   deadline
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize(("situation", "variant", "kind", "urgency", "refusable", "after", "until"), ROWS)
def test_each_row_of_the_default_campaigns(situation, variant, kind, urgency, refusable, after, until):
    campaign = campaign_for(Situation(situation), "" if variant == "-" else variant)
    (step,) = campaign.steps
    assert (campaign.kind, step.name, step.urgency) == (Kind(kind), FIRST, Urgency(urgency))
    assert step.refusable == (refusable == "yes")
    delay = timedelta(hours=int(after[:-1]))
    assert step.due_at(NOW, None, 1) == NOW + delay
    happened = NOW - 3 * HOUR
    assert step.not_after(NOW, happened, DUE) == (
        DUE - HOUR if until == "deadline" else happened + int(until.split("d")[0]) * DAY
    )


def test_every_campaign_is_in_the_table_and_silence_is_the_rule_elsewhere():
    assert {(row[0], "" if row[1] == "-" else row[1]) for row in ROWS} == {(s.value, v) for s, v in CAMPAIGNS}
    assert campaign_for(Situation.HEALTHY, "") is None
    assert campaign_for(Situation.UNKNOWN, "") is None
    assert campaign_for(Situation.PAYMENT_FAILED, Cause.MAX_AMOUNT_EXCEEDED) is None
    assert {v for s, v in CAMPAIGNS if s is Situation.CANCELLED} == set(CancelReason)


def test_only_what_the_merchant_alone_can_explain_waits_for_an_operator():
    held = {key for key, campaign in CAMPAIGNS.items() if any(step.for_operator for step in campaign.steps)}
    assert held == {(Situation.CANCELLED, CancelReason.MERCHANT_CLOSED)}


def test_a_cause_that_heals_by_itself_waits_for_the_second_attempt_or_a_day():
    (step,) = campaign_for(Situation.PAYMENT_FAILED, Cause.OTHER).steps
    assert step.due_at(NOW, None, None) == NOW + DAY
    assert step.due_at(NOW, None, 1) == NOW + DAY
    assert step.due_at(NOW, None, 2) == NOW
    assert step.due_at(NOW, None, 3) == NOW


def test_a_low_allowance_is_told_thirty_days_before_the_bill_at_the_earliest():
    (step,) = campaign_for(Situation.LOW_ON_FUNDS, "allowance").steps
    assert step.due_at(NOW, NOW + 31 * DAY, None) == NOW + DAY
    assert step.due_at(NOW, NOW + 30 * DAY, None) == NOW
    assert step.due_at(NOW, NOW + DAY, None) == NOW
    assert step.due_at(NOW, None, None) == NOW


def test_without_a_deadline_a_mail_keeps_a_week_from_when_it_was_planned():
    (step,) = campaign_for(Situation.MAX_AMOUNT_REACHED, "").steps
    assert step.not_after(NOW, NOW - 30 * DAY, None) == NOW + 7 * DAY


def test_an_all_clear_is_low_refusable_and_old_after_two_days():
    assert (ALL_CLEAR.urgency, ALL_CLEAR.refusable) == (Urgency.LOW, True)
    assert ALL_CLEAR.not_after(NOW + MOMENT, NOW, DUE) == NOW + 2 * DAY


def test_a_step_may_outlive_its_deadline():
    assert Step("x", Urgency.LOW, until_deadline=None).not_after(NOW, NOW, DUE) == NOW + 7 * DAY


def test_a_changed_campaign_has_another_fingerprint():
    prints = {campaign.fingerprint for campaign in CAMPAIGNS.values()}
    assert len(prints) == len({repr(campaign) for campaign in CAMPAIGNS.values()})
    assert all(len(one) == 16 for one in prints)
