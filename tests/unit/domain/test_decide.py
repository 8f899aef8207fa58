"""Whole stories, judged observation by observation: which episode, which mail, which event, and which silence."""

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from monitor.domain.calendar import SendingWindow
from monitor.domain.decide import Policy
from monitor.domain.model import (
    Action,
    CancelReason,
    Cause,
    CustomerSeen,
    Kind,
    NotificationState,
    Situation,
    Status,
    Told,
)
from monitor.domain.still_due import Do
from tests.unit.domain.scenes import (
    ACTIVE,
    ANA,
    BORN,
    CANCELLED,
    DAY,
    DUE,
    FAILED,
    HOUR,
    LIVE,
    LOW,
    MINUTE,
    MOMENT,
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
    Ledger,
    paid,
    told_of,
)

S = NotificationState
NIGHT = {"window": SendingWindow(), "account_zone": "UTC"}
EMPTY = told_of(Cause.INSUFFICIENT_BALANCE)
SPENT = told_of(Cause.ALLOWANCE_EXHAUSTED)
FAILED_MAIL = (Kind.PAYMENT_FAILED, "insufficient_balance")


def kinds(ledger):
    return [kind for kind, _ in ledger.sent]


# -- the ordinary stories --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told", "at", "mail"),
    [
        (PAST_DUE, EMPTY, NOW, FAILED_MAIL),
        (replace(PAST_DUE, allowance=10), SPENT, NOW, (Kind.PAYMENT_FAILED, "allowance_exhausted")),
        (OVER_MAXIMUM, None, NOW, (Kind.MAX_AMOUNT_REACHED, "")),
        (LOW, None, DUE - 9 * DAY, (Kind.LOW_ON_FUNDS, "allowance")),
        (TRIAL_EXPIRED, None, TRIAL_ENDS + DAY, (Kind.TRIAL_EXPIRED, "")),
        (PAUSED, None, NOW, (Kind.PAUSED, "")),
        (STOPPED, None, NOW, (Kind.STOPPED, "customer")),
        (CANCELLED, None, NOW, (Kind.CANCELLED, "customer")),
    ],
)
def test_a_change_is_one_event_and_one_mail_and_a_second_look_none(row, told, at, mail):
    ledger = Ledger(first=ACTIVE)
    decision = ledger.see(row, at, told)
    assert decision.changes[-1].kind == decision.after.situation.value
    assert len(ledger.deliver(at)) == 1
    again = ledger.see(row, at + MINUTE)
    assert (again.changes, again.intents, again.opens, again.closes) == ((), (), None, None)
    assert ledger.deliver(at + HOUR) == []
    assert ledger.sent == [mail]


def test_a_trial_is_mailed_when_its_time_comes_with_nothing_changed():
    ledger = Ledger(first=TRIAL)
    assert ledger.see(TRIAL, BORN + DAY).next_look_at == TRIAL_ENDS - 7 * DAY
    decision = ledger.tick(TRIAL_ENDS - 7 * DAY)
    assert [change.kind for change in decision.changes] == ["trial_ending"]
    ledger.deliver(TRIAL_ENDS - 7 * DAY)
    ledger.see(TRIAL_EXPIRED, TRIAL_ENDS + HOUR)
    ledger.deliver(TRIAL_ENDS + HOUR)
    assert kinds(ledger) == [Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED]


def test_a_confirmed_trial_ends_the_asking():
    ledger = Ledger(first=TRIAL)
    ledger.tick(TRIAL_ENDS - 7 * DAY)
    ledger.see(ACTIVE, TRIAL_ENDS - 6 * DAY)
    assert ledger.deliver(TRIAL_ENDS - 6 * DAY) == []
    assert ledger.states() == [(Kind.TRIAL_ENDING, S.VOIDED, "healed")]


def test_a_bill_that_nobody_explains_waits_two_hours_for_its_cause():
    ledger = Ledger(first=ACTIVE)
    assert ledger.see(PAST_DUE, FAILED).keeps is None
    assert ledger.current.next_step_at == FAILED + 2 * HOUR
    ledger.tick(FAILED + 2 * HOUR - MOMENT)
    assert ledger.deliver(FAILED + 2 * HOUR - MOMENT) == []
    ledger.tick(FAILED + 2 * HOUR)
    ledger.deliver(FAILED + 2 * HOUR)
    assert ledger.sent == [(Kind.PAYMENT_FAILED, "unknown")]


def test_the_cause_that_arrives_is_told_at_once():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, FAILED)
    decision = ledger.tick(FAILED + MINUTE, EMPTY)
    assert [change.kind for change in decision.changes] == ["cause_changed"]
    ledger.deliver(FAILED + MINUTE)
    assert ledger.sent == [FAILED_MAIL]
    assert ledger.tick(FAILED + HOUR).intents == ()


@pytest.mark.parametrize("attempts", [1, 2])
def test_what_often_heals_by_itself_waits_for_the_second_attempt_or_a_day(attempts):
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, FAILED, told_of(Cause.OTHER))
    second = FAILED + (6 * HOUR if attempts == 2 else DAY)
    ledger.tick(second - MOMENT)
    assert ledger.deliver(second - MOMENT) == []
    ledger.see(replace(PAST_DUE, failed_attempts=attempts), second)
    ledger.deliver(second)
    assert ledger.sent == [(Kind.PAYMENT_FAILED, "other")]


def test_what_healed_before_its_mail_was_due_gets_none():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, FAILED, told_of(Cause.OTHER))
    ledger.see(paid(PAST_DUE, FAILED + 6 * HOUR), FAILED + 7 * HOUR)
    assert ledger.deliver(FAILED + 2 * DAY) == []
    assert ledger.events[-2:] == ["bill_paid", "healthy"]


def test_the_cause_is_the_maximum_and_the_mail_is_about_the_maximum():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, FAILED + 2 * HOUR)
    ledger.tick(FAILED + 3 * HOUR, told_of(Cause.MAX_AMOUNT_EXCEEDED, units=60))
    ledger.deliver(FAILED + 3 * HOUR)
    assert kinds(ledger) == [Kind.MAX_AMOUNT_REACHED]
    assert ledger.states()[0] == (Kind.PAYMENT_FAILED, S.VOIDED, "replaced")


def test_a_low_allowance_is_told_thirty_days_before_its_bill():
    far = replace(LOW, next_billing_at=DUE + 60 * DAY)
    ledger = Ledger(first=ACTIVE)
    ledger.see(far, NOW)
    assert ledger.current.next_step_at == DUE + 30 * DAY
    ledger.tick(DUE + 30 * DAY - MOMENT)
    assert ledger.deliver(DUE + 30 * DAY - MOMENT) == []
    ledger.tick(DUE + 30 * DAY)
    assert len(ledger.deliver(DUE + 30 * DAY)) == 1


def test_a_short_wallet_is_told_once_and_forgotten_with_its_bill():
    short = Told(balance_short_for_at=DUE, balance_checked_at=DUE - 3 * DAY)
    ledger = Ledger(first=ACTIVE)
    assert ledger.tick(DUE - 3 * DAY, short).next_look_at == DUE
    ledger.deliver(DUE - 3 * DAY)
    decision = ledger.tick(DUE)
    assert decision.closes[1] == "healed"
    assert ledger.sent == [(Kind.LOW_ON_FUNDS, "balance")]


# -- recovered -------------------------------------------------------------------------------------------------------


def test_a_paid_bill_after_a_warning_is_told():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    decision = ledger.see(paid(PAST_DUE, NOW + DAY), NOW + DAY)
    assert decision.closes[1] == "recovered"
    ledger.deliver(NOW + DAY)
    assert ledger.sent == [FAILED_MAIL, (Kind.RECOVERED, "payment_failed")]


def test_a_status_alone_is_no_proof():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    assert ledger.see(ACTIVE, NOW + DAY).intents == ()


def test_without_a_delivered_warning_there_is_no_all_clear():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    assert ledger.see(paid(PAST_DUE, NOW + DAY), NOW + DAY).intents == ()
    assert ledger.states() == [(Kind.PAYMENT_FAILED, S.VOIDED, "recovered")]


def test_a_higher_allowance_is_the_proof_of_a_top_up():
    ledger = Ledger(first=ACTIVE)
    ledger.see(LOW, DUE - 9 * DAY)
    ledger.deliver(DUE - 9 * DAY)
    ledger.see(replace(ACTIVE, allowance=100), DUE - 8 * DAY)
    ledger.deliver(DUE - 8 * DAY)
    assert kinds(ledger) == [Kind.LOW_ON_FUNDS, Kind.RECOVERED]


def test_an_all_clear_that_is_not_true_any_more_stays_unsent():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    ledger.see(paid(PAST_DUE, NOW + DAY), NOW + DAY)
    ledger.see(replace(LOW, last_billing_at=NOW + DAY), NOW + DAY + HOUR)
    ledger.deliver(NOW + DAY + HOUR)
    assert Kind.RECOVERED not in kinds(ledger)
    assert (Kind.RECOVERED, S.VOIDED, "superseded") in ledger.states()


# -- one spell, one mail ---------------------------------------------------------------------------------------------


def local(*when, zone="Europe/Berlin"):
    return datetime(*when, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    "times",
    [
        [NOW + n * MINUTE for n in range(0, 60, 10)],
        [local(2026, 4, 2, 23, 50), local(2026, 4, 2, 23, 59), local(2026, 4, 3, 0, 1), local(2026, 4, 3, 0, 30)],
        [local(2026, 10, 25, 2, 30), local(2026, 10, 25, 2, 30).replace(minute=31), local(2026, 10, 25, 3, 5)],
        [local(2026, 3, 29, 1, 59), local(2026, 3, 29, 3, 0), local(2026, 3, 29, 3, 1)],
        [NOW, NOW + 30 * DAY, NOW + 61 * DAY],
    ],
    ids=["within an hour", "over midnight", "autumn's clock change", "spring's clock change", "two months later"],
)
def test_a_flap_with_no_paid_bill_in_between_is_one_mail(times):
    ledger = Ledger(first=ACTIVE)
    bare = replace(PAST_DUE, failing_since_at=None, next_attempt_at=None, remaining_attempts=None)
    told = told_of(Cause.INSUFFICIENT_BALANCE, at=PAID + DAY)
    for at in times:
        ledger.see(bare, at, told)
        ledger.deliver(at)
        ledger.see(ACTIVE, at + 5 * MINUTE)
        ledger.deliver(at + 5 * MINUTE)
    assert ledger.sent == [FAILED_MAIL]
    assert len(ledger.episodes) == 1


@pytest.mark.parametrize("gap", [30 * MINUTE, DAY, 61 * DAY])
def test_a_paid_bill_in_between_makes_two_spells_and_two_mails(gap):
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    ledger.see(paid(PAST_DUE, NOW + MINUTE), NOW + MINUTE)
    later = NOW + MINUTE + gap
    again = replace(PAST_DUE, last_billing_at=NOW + MINUTE, failing_since_at=later, next_attempt_at=later + DAY)
    ledger.see(again, later, told_of(Cause.INSUFFICIENT_BALANCE, at=later))
    ledger.deliver(later)
    assert ledger.sent == [FAILED_MAIL, FAILED_MAIL]
    assert len(ledger.episodes) == 2


def test_a_bill_that_was_paid_unseen_makes_two_spells_too():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    later = replace(PAST_DUE, last_billing_at=NOW + DAY, failing_since_at=NOW + 31 * DAY)
    decision = ledger.see(later, NOW + 31 * DAY, told_of(Cause.INSUFFICIENT_BALANCE, at=NOW + 31 * DAY))
    assert decision.closes[1] == "renewed"
    assert [change.kind for change in decision.changes] == ["bill_paid", "payment_failed"]
    ledger.deliver(NOW + 31 * DAY)
    assert ledger.sent == [FAILED_MAIL, FAILED_MAIL]


def test_reopening_keeps_the_beginning_and_takes_the_new_deadline():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.see(ACTIVE, NOW + HOUR)
    moved = replace(PAST_DUE, remaining_attempts=1, next_attempt_at=FAILED + 4 * DAY, provider_updated_at=NOW + DAY)
    decision = ledger.see(moved, NOW + DAY)
    assert decision.reopens
    assert decision.opens.opened_at == FAILED
    assert decision.opens.deadline_at == FAILED + 4 * DAY
    assert decision.opens.evidence_at == NOW + DAY
    assert (decision.opens.closed_at, decision.opens.close_reason) == (None, None)


@pytest.mark.parametrize("between", [ACTIVE, PAUSED, CANCELLED], ids=["healed", "replaced", "ended"])
def test_a_mail_that_never_left_comes_back_with_its_spell(between):
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.see(between, NOW + MINUTE)
    ledger.see(PAST_DUE, NOW + HOUR)
    ledger.deliver(NOW + HOUR)
    assert ledger.sent == [FAILED_MAIL]


def test_a_pause_that_comes_back_is_as_fresh_as_its_newest_date():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAUSED, NOW)
    ledger.see(ACTIVE, NOW + MINUTE)
    later = NOW + 5 * DAY
    ledger.see(replace(PAUSED, provider_updated_at=later), later)
    ledger.deliver(later)
    assert kinds(ledger) == [Kind.PAUSED]


def test_the_shortage_changes_its_name_and_back_and_no_mail_is_lost():
    short = Told(balance_short_for_at=DUE, balance_checked_at=DUE - 9 * DAY)
    ledger = Ledger(first=ACTIVE)
    ledger.see(LOW, DUE - 9 * DAY, short)
    ledger.see(replace(LOW, action=None), DUE - 9 * DAY + MINUTE)
    ledger.see(LOW, DUE - 9 * DAY + 2 * MINUTE)
    ledger.deliver(DUE - 8 * DAY)
    assert ledger.sent == [(Kind.LOW_ON_FUNDS, "allowance")]


def test_a_maximum_that_was_raised_and_passed_again_is_new():
    ledger = Ledger(first=ACTIVE)
    ledger.see(RAISE, NOW)
    ledger.deliver(NOW)
    ledger.see(replace(ACTIVE, maximum=70), NOW + DAY)
    ledger.see(replace(RAISE, maximum=70), NOW + 2 * DAY)
    ledger.deliver(NOW + 2 * DAY)
    assert kinds(ledger) == [Kind.MAX_AMOUNT_REACHED] * 2


# -- an unknown state ------------------------------------------------------------------------------------------------


def test_an_unknown_state_is_an_event_once_and_opens_and_closes_nothing():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    spell = ledger.current
    decision = ledger.see(STRANGE, NOW + MINUTE)
    assert [change.kind for change in decision.changes] == ["unknown"]
    assert (decision.intents, decision.opens, decision.closes) == ((), None, None)
    assert ledger.current == spell
    assert ledger.see(replace(STRANGE, allowance=1), NOW + HOUR).changes == ()
    assert ledger.deliver(NOW + HOUR) == []
    ledger.see(PAST_DUE, NOW + 2 * HOUR)
    ledger.deliver(NOW + 2 * HOUR)
    assert ledger.sent == [FAILED_MAIL]


def test_an_unknown_state_forgets_no_step_that_is_to_come():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, FAILED)
    ledger.see(STRANGE, FAILED + MINUTE)
    assert ledger.current.next_step_at == FAILED + 2 * HOUR


def test_another_unknown_word_is_noted_as_such():
    ledger = Ledger(first=ACTIVE)
    ledger.see(STRANGE, NOW)
    assert [one.kind for one in ledger.see(replace(STRANGE, status_raw="odd"), NOW).changes] == ["status_changed"]


def test_a_first_look_at_an_unknown_state_is_one_event():
    ledger = Ledger()
    assert [one.kind for one in ledger.see(STRANGE, NOW).changes] == ["created", "unknown"]
    assert ledger.current is None


# -- the baseline ----------------------------------------------------------------------------------------------------

FIRST_CONTACT = Policy("acme", baselined_at=None)
BASELINED = Policy("acme", baselined_at=NOW - 10 * DAY)
SITUATIONS = [PAST_DUE, OVER_MAXIMUM, LOW, TRIAL_EXPIRED, PAUSED, STOPPED, CANCELLED]


@pytest.mark.parametrize("policy", [FIRST_CONTACT, BASELINED], ids=["first contact", "seen late"])
@pytest.mark.parametrize("row", SITUATIONS, ids=lambda row: row.status_raw)
def test_what_was_there_before_us_is_recorded_in_silence(row, policy):
    ledger = Ledger(policy)
    decision = ledger.see(row, DUE - 20 * DAY, EMPTY)
    assert decision.opens.muted == "baseline"
    assert [one.kind for one in decision.changes] == [decision.after.situation.value]
    assert ledger.deliver(DUE - 20 * DAY) == []
    assert {reason for _, _, reason in ledger.states()} == {"baseline"}


def test_a_healthy_row_of_the_baseline_is_no_event():
    ledger = Ledger(FIRST_CONTACT)
    assert ledger.see(ACTIVE, NOW).changes == ()


@pytest.mark.parametrize(
    ("created_at", "muted"),
    [(BASELINED.baselined_at, "baseline"), (BASELINED.baselined_at + MOMENT, None), (None, "baseline")],
)
def test_only_what_was_created_after_the_baseline_is_mailed_at_first_sight(created_at, muted):
    ledger = Ledger(BASELINED)
    decision = ledger.see(replace(PAST_DUE, created_at=created_at), NOW, EMPTY)
    assert decision.opens.muted == muted
    assert len(ledger.deliver(NOW)) == (muted is None)
    assert ("created" in ledger.events) == (muted is None)


def test_a_change_after_the_baseline_is_one_mail():
    ledger = Ledger(BASELINED, first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    assert len(ledger.deliver(NOW)) == 1


def test_before_the_baseline_is_complete_a_second_look_is_silent_too():
    ledger = Ledger(FIRST_CONTACT, first=ACTIVE)
    assert ledger.see(PAST_DUE, NOW, EMPTY).opens.muted == "baseline"
    assert ledger.deliver(NOW) == []


def test_a_cause_that_arrives_after_the_baseline_is_no_change():
    ledger = Ledger(FIRST_CONTACT)
    ledger.see(PAST_DUE, NOW)
    ledger.policy = Policy("acme", baselined_at=NOW)
    ledger.tick(NOW + HOUR, told_of(Cause.MAX_AMOUNT_EXCEEDED, units=60))
    assert ledger.current.kind is Situation.MAX_AMOUNT_REACHED
    assert ledger.deliver(NOW + HOUR) == []


def test_a_flap_of_a_muted_spell_stays_muted_and_a_new_bill_speaks():
    ledger = Ledger(FIRST_CONTACT)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.policy = Policy("acme", baselined_at=NOW)
    ledger.see(ACTIVE, NOW + HOUR)
    ledger.see(PAST_DUE, NOW + 2 * HOUR)
    assert ledger.deliver(NOW + 2 * HOUR) == []
    later = NOW + 30 * DAY
    ledger.see(paid(PAST_DUE, NOW + DAY), NOW + DAY)
    ledger.see(
        replace(PAST_DUE, last_billing_at=NOW + DAY, failing_since_at=later),
        later,
        told_of(Cause.INSUFFICIENT_BALANCE, at=later),
    )
    assert len(ledger.deliver(later)) == 1


@pytest.mark.parametrize("row", SITUATIONS, ids=lambda row: row.status_raw)
def test_with_notify_only_what_still_needs_an_action_is_mailed(row):
    ledger = Ledger(Policy("acme", baselined_at=None, notify_first=True))
    at = TRIAL_ENDS + DAY if row is TRIAL_EXPIRED else DUE - 20 * DAY if row is LOW else NOW
    ledger.see(row, at, EMPTY)
    asks = row.status not in {Status.PAUSED, Status.STOPPED, Status.CANCELLED}
    assert len(ledger.deliver(at)) == asks


def test_with_notify_an_ending_trial_is_mailed():
    ledger = Ledger(Policy("acme", baselined_at=None, notify_first=True))
    ledger.see(TRIAL, TRIAL_ENDS - DAY)
    assert len(ledger.deliver(TRIAL_ENDS - DAY)) == 1


def test_adopting_brings_the_muted_mail_back():
    ledger = Ledger(FIRST_CONTACT)
    ledger.see(PAST_DUE, NOW, EMPTY)
    assert ledger.states() == [(Kind.PAYMENT_FAILED, S.VOIDED, "baseline")]
    ledger.adopt(NOW + DAY)
    ledger.deliver(NOW + DAY)
    assert ledger.sent == [FAILED_MAIL]
    assert ledger.tick(NOW + 2 * DAY).intents == ()


# -- ends ------------------------------------------------------------------------------------------------------------


def test_an_end_of_a_closed_merchant_waits_for_the_operator():
    ledger = Ledger(first=ACTIVE)
    closed = replace(CANCELLED, cancel_reason=CancelReason.MERCHANT_CLOSED)
    ledger.see(closed, NOW)
    ledger.deliver(NOW)
    assert ledger.states() == [(Kind.CANCELLED, S.HELD, None)]
    ledger.see(ACTIVE, NOW + HOUR)
    ledger.see(closed, NOW + 2 * HOUR)
    assert ledger.states() == [(Kind.CANCELLED, S.HELD, None)]


def test_who_subscribed_again_hears_no_farewell():
    ledger = Ledger(first=PAST_DUE, live_sibling=True)
    ledger.see(replace(CANCELLED, cancel_reason=CancelReason.BILLING_FAILED), NOW)
    assert ledger.states()[-1] == (Kind.CANCELLED, S.VOIDED, "subscribed_again")


# -- whom ------------------------------------------------------------------------------------------------------------


def test_a_new_owner_gets_the_mail_and_the_former_one_nothing_more():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    heir = replace(PAST_DUE, customer_ext_id="c-2", customer=CustomerSeen("c-2", "ben@customer.example"))
    decision = ledger.see(heir, NOW + MINUTE)
    assert [one.kind for one in decision.changes] == ["customer_changed"]
    (intent,) = ledger.deliver(NOW + MINUTE)
    assert intent.customer_key == "c-2"
    assert [reason for _, _, reason in ledger.states()] == ["customer_changed", None]
    ledger.see(PAST_DUE, NOW + HOUR)
    assert [intent.customer_key for intent in ledger.deliver(NOW + HOUR)] == ["c-1"]


def test_only_who_was_warned_hears_that_all_is_well():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    heir = replace(paid(PAST_DUE, NOW + DAY), customer_ext_id="c-2", customer=CustomerSeen("c-2", "b@c.example"))
    assert ledger.see(heir, NOW + DAY).intents == ()


def test_a_deleted_customer_gets_nothing():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAST_DUE, customer=replace(ANA, deleted=True)), NOW, EMPTY)
    assert ledger.states() == [(Kind.PAYMENT_FAILED, S.VOIDED, "customer_deleted")]


# -- judgement cases (campaigns, section 6) --------------------------------------------------------------------------


def test_case_1_a_topped_up_allowance_silences_the_mail_until_the_next_attempt_fails():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAST_DUE, allowance=10), NOW, SPENT)
    ledger.see(replace(PAST_DUE, allowance=51), NOW + HOUR)
    assert ledger.deliver(NOW + HOUR) == []
    assert ledger.states() == [(Kind.PAYMENT_FAILED, S.VOIDED, "action_done")]
    assert ledger.tick(NOW + 2 * HOUR).intents == ()
    retried = replace(PAST_DUE, allowance=51, failed_attempts=2)
    ledger.see(retried, FAILED + DAY, told_of(Cause.INSUFFICIENT_BALANCE, at=FAILED + DAY))
    ledger.deliver(FAILED + DAY)
    assert ledger.sent == [FAILED_MAIL]


def test_case_2_tokens_in_a_wallet_cannot_be_seen_so_the_mail_goes():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    assert len(ledger.deliver(NOW + 10 * MINUTE)) == 1


LATE = datetime(2026, 4, 8, 23, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "leaves"),
    [(20 * HOUR, None), (50 * HOUR, datetime(2026, 4, 9, 8, tzinfo=UTC))],
    ids=["case 4: twenty hours left, at once", "case 5: fifty hours left, at eight"],
)
def test_cases_4_and_5_found_late_in_the_evening(left, leaves):
    since = LATE + left - 7 * DAY
    ledger = Ledger(first=ACTIVE)
    row = replace(PAST_DUE, failing_since_at=since, next_attempt_at=None, last_billing_at=since - 30 * DAY)
    ledger.see(row, LATE, told_of(Cause.INSUFFICIENT_BALANCE, at=since))
    (intent,) = ledger.waiting.values()
    answer = ledger.ask(intent, LATE, **NIGHT)
    assert (answer.do, answer.until) == ((Do.SEND, None) if leaves is None else (Do.SNOOZE, leaves))


def test_case_6_three_flaps_in_a_day_are_one_mail_and_no_all_clear():
    ledger = Ledger(first=ACTIVE)
    for n in range(3):
        ledger.see(PAST_DUE, NOW + n * 3 * HOUR, EMPTY)
        ledger.deliver(NOW + n * 3 * HOUR)
        ledger.see(ACTIVE, NOW + n * 3 * HOUR + HOUR)
        ledger.deliver(NOW + n * 3 * HOUR + HOUR)
    assert ledger.sent == [FAILED_MAIL]
    assert len(ledger.episodes) == 1


def test_case_7_a_bill_paid_within_the_hour_is_an_all_clear_and_a_new_mail():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW)
    ledger.see(paid(PAST_DUE, NOW + 20 * MINUTE), NOW + 20 * MINUTE)
    ledger.deliver(NOW + 20 * MINUTE)
    again = NOW + 40 * MINUTE
    ledger.see(
        replace(PAST_DUE, last_billing_at=NOW + 20 * MINUTE, failing_since_at=again),
        again,
        told_of(Cause.INSUFFICIENT_BALANCE, at=again),
    )
    ledger.deliver(again)
    assert kinds(ledger) == [Kind.PAYMENT_FAILED, Kind.RECOVERED, Kind.PAYMENT_FAILED]


def test_case_8_after_five_days_down_one_mail_and_no_burst():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAST_DUE, failed_attempts=5, remaining_attempts=2), FAILED + 5 * DAY, EMPTY)
    ledger.deliver(FAILED + 5 * DAY)
    assert ledger.sent == [FAILED_MAIL]


def test_case_9_failed_and_healed_while_the_worker_was_down_is_no_mail():
    ledger = Ledger(first=ACTIVE)
    decision = ledger.see(paid(PAST_DUE, FAILED + 2 * DAY), FAILED + 5 * DAY, EMPTY)
    assert [one.kind for one in decision.changes] == ["bill_paid"]
    assert (decision.intents, decision.opens) == ((), None)


def test_case_10_a_changed_address_moves_a_waiting_mail_and_repeats_no_sent_one():
    moved = replace(PAST_DUE, customer=replace(ANA, email="ana@new.example"))
    waiting = Ledger(first=ACTIVE)
    waiting.see(PAST_DUE, NOW, EMPTY)
    waiting.see(moved, NOW + MINUTE)
    assert len(waiting.deliver(NOW + MINUTE, address="ana@new.example")) == 1
    sent = Ledger(first=ACTIVE)
    sent.see(PAST_DUE, NOW, EMPTY)
    sent.deliver(NOW)
    assert sent.see(moved, NOW + MINUTE).intents == ()


def test_case_12_stopped_but_past_due_is_confirmed_and_never_dunned():
    ledger = Ledger(first=ACTIVE)
    stopped = replace(OVER_MAXIMUM, status=Status.STOPPED, status_raw="past_due", provider_updated_at=NOW)
    ledger.see(stopped, NOW, EMPTY)
    ledger.deliver(NOW)
    assert kinds(ledger) == [Kind.STOPPED]


def test_case_13_paused_and_low_is_asked_for_nothing_until_it_resumes():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAUSED, action=Action.TOP_UP_ALLOWANCE), NOW)
    ledger.deliver(NOW)
    assert kinds(ledger) == [Kind.PAUSED]
    resumed = replace(LOW, next_billing_at=DUE + 10 * DAY)
    ledger.see(resumed, NOW + DAY)
    ledger.deliver(NOW + DAY)
    assert kinds(ledger) == [Kind.PAUSED, Kind.LOW_ON_FUNDS]


def test_case_14_a_stop_that_was_confirmed_needs_no_word_at_its_end():
    ledger = Ledger(first=ACTIVE)
    ledger.see(STOPPED, NOW)
    ledger.deliver(NOW)
    ledger.see(CANCELLED, NOW + DAY)
    ledger.deliver(NOW + DAY)
    assert kinds(ledger) == [Kind.STOPPED]
    assert ledger.states()[-1] == (Kind.CANCELLED, S.VOIDED, "already_told")


def test_case_15_a_revoked_approval_is_told_as_such():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAST_DUE, allowance=0), NOW, told_of(Cause.APPROVAL_REVOKED))
    ledger.deliver(NOW)
    assert ledger.sent == [(Kind.PAYMENT_FAILED, "approval_revoked")]


def test_case_17_an_allowance_that_equals_the_bill_is_not_enough():
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(PAST_DUE, allowance=50), NOW, SPENT)
    assert len(ledger.deliver(NOW)) == 1


def test_case_18_a_maximum_to_raise_on_an_active_plan_is_urgent_and_has_no_date():
    ledger = Ledger(first=ACTIVE)
    decision = ledger.see(RAISE, NOW)
    assert decision.opens.deadline_at is None
    assert decision.intents[0].urgency == "urgent"
    ledger.deliver(NOW)
    assert kinds(ledger) == [Kind.MAX_AMOUNT_REACHED]


def test_case_19_a_sweep_that_shows_the_end_voids_the_call_and_sends_one_farewell():
    ledger = Ledger(first=ACTIVE)
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.see(replace(CANCELLED, cancel_reason=CancelReason.BILLING_FAILED), NOW + HOUR)
    ledger.deliver(NOW + HOUR)
    assert ledger.states()[0] == (Kind.PAYMENT_FAILED, S.VOIDED, "ended")
    assert ledger.sent == [(Kind.CANCELLED, "billing_failed")]


def test_case_20_low_at_nine_in_the_evening_for_a_bill_at_three_is_a_quiet_night():
    bill_at = datetime(2026, 4, 2, 3, tzinfo=UTC)
    ledger = Ledger(first=ACTIVE)
    ledger.see(replace(LOW, next_billing_at=bill_at), bill_at - 6 * HOUR)
    ledger.deliver(bill_at - 6 * HOUR, **NIGHT)
    assert ledger.states() == [(Kind.LOW_ON_FUNDS, S.VOIDED, "too_late")]
    failed = replace(PAST_DUE, failing_since_at=bill_at)
    ledger.see(failed, bill_at + HOUR, told_of(Cause.ALLOWANCE_EXHAUSTED, at=bill_at, units=90))
    ledger.deliver(bill_at + 8 * HOUR, **NIGHT)
    assert ledger.sent == [(Kind.PAYMENT_FAILED, "allowance_exhausted")]


def test_case_22_who_refused_reminders_still_hears_of_a_failed_bill():
    refused = {"suppressed_in": frozenset({"reminders"})}
    ledger = Ledger(first=ACTIVE)
    ledger.see(LOW, DUE - 9 * DAY)
    ledger.deliver(DUE - 9 * DAY, **refused)
    assert ledger.states() == [(Kind.LOW_ON_FUNDS, S.VOIDED, "unsubscribed")]
    ledger.see(PAST_DUE, NOW, EMPTY)
    ledger.deliver(NOW, **refused)
    assert ledger.sent == [FAILED_MAIL]


def test_case_25_test_rows_and_a_first_contact_send_nothing():
    test_row = Ledger(first=ACTIVE)
    test_row.see(replace(PAST_DUE, test=True), NOW, EMPTY)
    assert test_row.states() == [(Kind.PAYMENT_FAILED, S.VOIDED, "test_row")]
    allowed = Ledger(replace(LIVE, mail_test_rows=True), first=ACTIVE)
    allowed.see(replace(PAST_DUE, test=True), NOW, EMPTY)
    assert len(allowed.deliver(NOW, test_allowed=True)) == 1
    for n in range(300):
        contact = Ledger(FIRST_CONTACT)
        contact.see(replace(PAST_DUE, ext_id=f"sub@{n}"), NOW, EMPTY)
        assert contact.deliver(NOW) == []
