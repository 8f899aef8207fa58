"""Episodes: what makes two spells the same one, what ends one, and what proves a recovery."""

from dataclasses import replace

import pytest

from monitor.domain.classify import classify
from monitor.domain.episodes import (
    ENDED,
    HEALED,
    RECOVERED,
    RENEWED,
    REPLACED,
    anchor_of,
    deadline_of,
    episode_id,
    evidence_of,
    notification_id,
    paid_since,
    turn,
)
from monitor.domain.model import Action, Cause, Situation, Told, Track
from monitor.domain.records import Episode
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
    STOPPED,
    STRANGE,
    TRIAL,
    TRIAL_ENDS,
    TRIAL_EXPIRED,
    paid,
    told_of,
)

SHORT = Told(balance_short_for_at=DUE, balance_checked_at=PAID)


def turned(current, snapshot, told=NOTHING, now=NOW):
    return turn(
        account="acme",
        current=current,
        after=classify(snapshot, told, now),
        snapshot=snapshot,
        told=told,
        now=now,
    )


def opened(snapshot, told=NOTHING, now=NOW):
    """The episode that this row opens where nothing was before."""
    change = turned(None, snapshot, told, now)
    assert (change.closes, change.keeps) == (None, None)
    return change.opens


# -- anchors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snapshot", "told", "now", "anchor"),
    [
        (PAST_DUE, NOTHING, NOW, PAID.isoformat()),
        (replace(PAST_DUE, last_billing_at=None), NOTHING, NOW, "-"),
        (LOW, NOTHING, BORN, f"{PAID.isoformat()}|10"),
        (replace(LOW, allowance=None), NOTHING, BORN, f"{PAID.isoformat()}|-"),
        (ACTIVE, SHORT, BORN, f"balance|{DUE.isoformat()}"),
        (OVER_MAXIMUM, NOTHING, NOW, f"{PAID.isoformat()}|60"),
        (TRIAL, NOTHING, TRIAL_ENDS - DAY, TRIAL_ENDS.isoformat()),
        (TRIAL_EXPIRED, NOTHING, NOW, TRIAL_ENDS.isoformat()),
        (STOPPED, NOTHING, NOW, DUE.isoformat()),
        (PAUSED, NOTHING, NOW, DUE.isoformat()),
        (CANCELLED, NOTHING, NOW, "final"),
    ],
)
def test_each_situation_has_its_anchor(snapshot, told, now, anchor):
    assert opened(snapshot, told, now).anchor == anchor
    assert anchor_of(classify(snapshot, told, now), snapshot, told) == anchor


def test_an_anchor_holds_no_date_of_ours():
    assert opened(PAST_DUE, now=NOW).id == opened(PAST_DUE, now=NOW + 60 * DAY).id
    assert opened(PAST_DUE).id != opened(replace(PAST_DUE, last_billing_at=PAID + DAY)).id


def test_an_id_is_of_its_account_subscription_kind_and_anchor():
    ids = {
        episode_id("a", "s", Situation.PAUSED, "x"),
        episode_id("b", "s", Situation.PAUSED, "x"),
        episode_id("a", "t", Situation.PAUSED, "x"),
        episode_id("a", "s", Situation.STOPPED, "x"),
        episode_id("a", "s", Situation.PAUSED, "y"),
    }
    assert len(ids) == 5
    assert len({notification_id(e, s, c) for e in "12" for s in "ab" for c in "xy"}) == 8


def test_ids_never_change_between_versions():
    assert episode_id("acme", "sub@1", Situation.PAYMENT_FAILED, "-") == "6c686d48-af63-58cf-972a-c919af1d53e7"
    assert notification_id("e", "first", "c-1") == "7f8a94ed-5a4c-5c0d-9a07-8829e4f48c56"


def test_an_episode_remembers_what_it_began_with():
    assert opened(PAST_DUE) == Episode(
        id=episode_id("acme", "sub@1", Situation.PAYMENT_FAILED, PAID.isoformat()),
        kind=Situation.PAYMENT_FAILED,
        variant="",
        anchor=PAID.isoformat(),
        opened_at=FAILED,
        evidence_at=None,
        opened_bill_at=PAID,
        opened_allowance=90,
        deadline_at=FAILED + 7 * DAY,
        track=Track.BILLING,
    )


@pytest.mark.parametrize(
    ("snapshot", "began"),
    [
        (PAST_DUE, FAILED),
        (OVER_MAXIMUM, FAILED),
        (replace(PAST_DUE, failing_since_at=None), NOW),
        (replace(PAST_DUE, failing_since_at=NOW + DAY), NOW),
        (TRIAL_EXPIRED, TRIAL_ENDS),
        (LOW, NOW),
        (PAUSED, NOW),
    ],
)
def test_steps_count_from_the_beginning_which_is_never_in_the_future(snapshot, began):
    assert opened(snapshot).opened_at == began


@pytest.mark.parametrize(
    ("snapshot", "now", "deadline"),
    [
        (PAST_DUE, NOW, FAILED + 7 * DAY),
        (OVER_MAXIMUM, NOW, FAILED + 7 * DAY),
        (replace(PAST_DUE, remaining_attempts=1), NOW, FAILED + DAY),
        (replace(PAST_DUE, remaining_attempts=0), NOW, None),
        (replace(PAST_DUE, failing_since_at=None), NOW, None),
        (TRIAL_EXPIRED, NOW, TRIAL_ENDS + 7 * DAY),
        (LOW, BORN, DUE),
        (TRIAL, TRIAL_ENDS - DAY, TRIAL_ENDS),
        (PAUSED, NOW, None),
        (STOPPED, NOW, None),
        (CANCELLED, NOW, None),
    ],
)
def test_each_spell_runs_towards_its_deadline(snapshot, now, deadline):
    assert opened(snapshot, now=now).deadline_at == deadline
    assert deadline_of(classify(snapshot, NOTHING, now), snapshot) == deadline


def test_an_end_is_dated_by_itself_all_else_by_the_vendors_stamp():
    def dated(snapshot):
        return evidence_of(classify(snapshot, NOTHING, NOW), snapshot)

    stamped = replace(CANCELLED, provider_updated_at=NOW + DAY)
    assert dated(stamped) == NOW
    assert dated(replace(stamped, cancelled_at=None)) == NOW + DAY
    assert dated(replace(STOPPED, cancelled_at=NOW - DAY)) == NOW
    assert dated(PAST_DUE) is None


# -- what goes on ----------------------------------------------------------------------------------------------------


def test_the_same_trouble_goes_on_and_takes_a_moved_deadline():
    spell = opened(PAST_DUE)
    change = turned(spell, replace(PAST_DUE, failed_attempts=4, remaining_attempts=1, next_attempt_at=FAILED + 4 * DAY))
    assert (change.closes, change.opens) == (None, None)
    assert change.keeps == replace(spell, deadline_at=FAILED + 4 * DAY)


def test_the_anchor_never_changes_while_the_episode_is_open():
    low = opened(LOW, now=BORN)
    assert turned(low, replace(LOW, allowance=5), now=BORN).keeps == low
    over = opened(OVER_MAXIMUM)
    assert turned(over, replace(OVER_MAXIMUM, maximum=70)).keeps == over
    trial = opened(TRIAL, now=TRIAL_ENDS - DAY)
    longer = replace(TRIAL, current_period_end_at=TRIAL_ENDS + DAY)
    assert turned(trial, longer, now=TRIAL_ENDS - DAY).keeps == replace(trial, deadline_at=TRIAL_ENDS + DAY)
    pause = opened(PAUSED)
    assert turned(pause, replace(PAUSED, last_billing_at=NOW, current_period_end_at=NOW)).keeps == pause
    stop = opened(STOPPED)
    assert turned(stop, replace(STOPPED, current_period_end_at=NOW)).keeps == stop


def test_a_new_cause_is_the_same_episode():
    spell = opened(PAST_DUE)
    for cause in set(Cause) - {Cause.MAX_AMOUNT_EXCEEDED}:
        assert turned(spell, PAST_DUE, told_of(cause)).keeps == spell


def test_an_unknown_state_opens_and_closes_nothing():
    spell = opened(PAST_DUE)
    assert turned(spell, STRANGE).keeps is spell
    assert turned(spell, replace(ACTIVE, action=Action.UNKNOWN)).closes is None
    nothing = turned(None, STRANGE)
    assert (nothing.opens, nothing.keeps, nothing.closes) == (None, None, None)


# -- what ends it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "told", "reason"),
    [
        (PAST_DUE, ACTIVE, NOTHING, HEALED),
        (PAST_DUE, paid(ACTIVE, NOW), NOTHING, RECOVERED),
        (PAST_DUE, replace(PAST_DUE, last_billing_at=NOW), NOTHING, RENEWED),
        (PAST_DUE, OVER_MAXIMUM, NOTHING, REPLACED),
        (PAST_DUE, replace(LOW, last_billing_at=NOW), NOTHING, REPLACED),
        (PAST_DUE, PAUSED, NOTHING, REPLACED),
        (PAST_DUE, CANCELLED, NOTHING, ENDED),
        (STOPPED, CANCELLED, NOTHING, ENDED),
        (OVER_MAXIMUM, ACTIVE, NOTHING, HEALED),
        (OVER_MAXIMUM, replace(ACTIVE, maximum=90), NOTHING, HEALED),
        (OVER_MAXIMUM, paid(ACTIVE, NOW), NOTHING, RECOVERED),
        (LOW, replace(ACTIVE, allowance=11), NOTHING, RECOVERED),
        (LOW, replace(ACTIVE, allowance=10), NOTHING, HEALED),
        (LOW, replace(ACTIVE, allowance=None), NOTHING, HEALED),
        (replace(LOW, allowance=None), ACTIVE, NOTHING, HEALED),
        (LOW, replace(ACTIVE, allowance=5, last_billing_at=NOW), NOTHING, RECOVERED),
        (LOW, replace(LOW, last_billing_at=NOW), NOTHING, RENEWED),
        (LOW, PAST_DUE, NOTHING, REPLACED),
        (TRIAL_EXPIRED, ACTIVE, NOTHING, HEALED),
        (TRIAL_EXPIRED, paid(ACTIVE, NOW), NOTHING, HEALED),
        (PAUSED, ACTIVE, NOTHING, HEALED),
        (PAUSED, paid(ACTIVE, NOW), NOTHING, HEALED),
        (STOPPED, PAUSED, NOTHING, REPLACED),
    ],
)
def test_each_ending_has_its_reason(before, after, told, reason):
    spell = opened(before)
    change = turned(spell, after, told)
    assert change.closes == (spell, reason)
    assert change.keeps is None
    assert (change.opens is None) == (reason in {HEALED, RECOVERED})


def test_a_lower_allowance_proves_nothing_and_an_earlier_bill_neither():
    low = opened(LOW)
    assert turned(low, replace(ACTIVE, allowance=9)).closes[1] == HEALED
    assert turned(opened(PAST_DUE), paid(ACTIVE, PAID)).closes[1] == HEALED
    assert turned(opened(PAST_DUE), paid(ACTIVE, PAID + MOMENT)).closes[1] == RECOVERED
    assert turned(opened(PAST_DUE), replace(ACTIVE, allowance=1000)).closes[1] == HEALED


def test_the_first_bill_ever_is_a_proof():
    spell = opened(replace(PAST_DUE, last_billing_at=None))
    assert paid_since(spell, ACTIVE)
    assert not paid_since(spell, replace(ACTIVE, last_billing_at=None))


# -- the wallet's shortage -------------------------------------------------------------------------------------------


def test_allowance_and_balance_are_two_spells_that_may_come_back():
    wallet = opened(ACTIVE, SHORT, BORN)
    assert wallet.variant == "balance"
    change = turned(wallet, LOW, SHORT, BORN)
    assert change.closes == (wallet, REPLACED)
    assert change.opens.variant == ""
    back = turned(change.opens, ACTIVE, SHORT, BORN)
    assert back.closes == (change.opens, REPLACED)
    assert back.opens.id == wallet.id


def test_an_approval_says_nothing_about_the_wallet():
    wallet = opened(ACTIVE, SHORT, BORN)
    assert turned(wallet, replace(ACTIVE, allowance=1000), NOTHING, BORN).closes == (wallet, HEALED)
    assert turned(wallet, paid(ACTIVE, DUE), NOTHING, NOW).closes == (wallet, RECOVERED)


def test_a_bill_paid_out_of_turn_leaves_a_shortage_for_the_next_one_what_it_is():
    wallet = opened(ACTIVE, SHORT, BORN)
    change = turned(wallet, replace(ACTIVE, last_billing_at=PAID + DAY), SHORT, BORN)
    assert (change.keeps, change.closes, change.opens) == (wallet, None, None)


# -- muted -----------------------------------------------------------------------------------------------------------


def test_learning_the_cause_of_a_muted_bill_is_no_news():
    muted = replace(opened(PAST_DUE), muted="baseline")
    assert turned(muted, OVER_MAXIMUM).opens.muted == "baseline"
    assert turned(replace(opened(OVER_MAXIMUM), muted="baseline"), PAST_DUE).opens.muted == "baseline"
    assert turned(opened(PAST_DUE), OVER_MAXIMUM).opens.muted is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PAST_DUE, replace(PAST_DUE, last_billing_at=NOW)),
        (PAST_DUE, replace(OVER_MAXIMUM, last_billing_at=NOW)),
        (LOW, PAST_DUE),
        (PAST_DUE, LOW),
        (PAST_DUE, CANCELLED),
        (TRIAL, TRIAL_EXPIRED),
    ],
)
def test_another_trouble_is_news_also_after_a_muted_one(before, after):
    muted = replace(opened(before, now=TRIAL_ENDS - HOUR), muted="baseline")
    assert turned(muted, after).opens.muted is None
