"""Every fact of a mail, from what is stored: what is asked for, what is dated, and what is left out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.domain.amounts import NO_AMOUNTS, Token, agreed_price, amounts_for, due_bill, failure_is_current
from monitor.domain.letter import Brand
from monitor.domain.letters import Mailing, StoredFacts, fill_letter, greeting_name, tail_of
from monitor.domain.model import (
    Action,
    CancelReason,
    Cause,
    CurrencySeen,
    Kind,
    Situation,
    Snapshot,
    Status,
    Told,
    Urgency,
)
from monitor.domain.records import Episode
from monitor.domain.usage import Usage

DUE = datetime(2026, 4, 2, 9, tzinfo=UTC)
FAILED = DUE + timedelta(seconds=30)
PAID = datetime(2026, 3, 3, 9, tzinfo=UTC)
NOW = DUE + timedelta(hours=3)
DAY = timedelta(days=1)
USDC = CurrencySeen("8", "USDC", 6, chain="BASE")
WETH = CurrencySeen("9", "WETH", 18, chain="ETH")
TX = "0x" + "ab" * 32

SAMPLE = Snapshot(
    ext_id="sub@0198d002-0000-7000-8000-0000000000a1",
    status=Status.PAST_DUE,
    status_raw="pastDue",
    created_at=datetime(2026, 1, 3, 9, tzinfo=UTC),
    reference="acct-310",
    action=Action.RAISE_MAXIMUM,
    price_usd=Decimal(24),
    frequency=30 * DAY,
    allowance=18_400_000,
    maximum=23_500_000,
    current_period_end_at=DUE,
    last_billing_at=PAID,
    next_billing_at=DUE,
    failed_attempts=1,
    remaining_attempts=4,
    failing_since_at=FAILED,
    next_attempt_at=FAILED + DAY,
    awaiting_maximum_since_at=FAILED,
    wallet="0x00000000000000000000000000000000000000f1",
    subscription_hash="0xaa01",
    currency=USDC,
)
"""The sample subscription of contract v2, 2.3: two limits fail, the API names one."""
FAILURE = Told(failure_cause=Cause.MAX_AMOUNT_EXCEEDED, failure_at=FAILED, failure_units=24_000_000)
BILL = Told(bill_tx=TX, bill_at=PAID, bill_usd=Decimal(24), bill_units=24_000_000)
ACTIVE = replace(
    SAMPLE,
    status=Status.ACTIVE,
    action=Action.TOP_UP_ALLOWANCE,
    maximum=60_000_000,
    current_period_end_at=DUE,
    failed_attempts=None,
    remaining_attempts=None,
    failing_since_at=None,
    next_attempt_at=None,
    awaiting_maximum_since_at=None,
)
EARLIER = DUE - 5 * DAY


NOTHING = Told()


def letter(kind, snapshot=SAMPLE, told=NOTHING, variant="", now=NOW, shared=False, **stored):
    mailing = Mailing(
        kind=kind,
        variant=variant,
        step="first",
        urgency=Urgency.URGENT,
        notification_id="n-1",
        first_in_episode=True,
        locale="en",
        zone="Europe/Budapest",
        brand=Brand("Acme", "https://acme.example", "#3456d1"),
        sender="Acme Billing <billing@acme.example>",
        reply_to="help@acme.example",
        recipient="ines@customer.example",
        refusable=False,
        shared_address=shared,
        unsubscribe_url="https://acme.example/u",
        in_reply_to="<a@acme.example>",
        message_id="<b@acme.example>",
        date_header="Thu, 02 Apr 2026 12:00:00 +0000",
    )
    return fill_letter(mailing, StoredFacts(snapshot, told, **stored), now)


def amounts(kind, snapshot=SAMPLE, told=FAILURE, variant="", currency=USDC, gas=0, now=NOW):
    price = agreed_price(snapshot, None)
    return amounts_for(
        kind=kind, variant=variant, snapshot=snapshot, told=told, price_usd=price, currency=currency, gas=gas, now=now
    )


# -- the contract's sample: both changes are asked for ---------------------------------------------------------------


def test_the_sample_asks_for_both_changes_though_the_api_names_one():
    mail = letter(Kind.MAX_AMOUNT_REACHED, told=FAILURE, product_name="Studio plan")
    assert str(mail.amount_due) == "24.00"
    assert mail.amount_due_as_of == FAILED
    assert not mail.amounts_uncertain
    assert (str(mail.maximum_now), str(mail.maximum_to_set)) == ("23.50", "26.40")
    assert (str(mail.allowance_left), str(mail.approve_more), str(mail.approve_total)) == ("18.40", "53.61", "72.01")
    assert mail.approve_bills == 3
    assert (mail.product, mail.token, mail.price_usd, mail.period) == ("Studio plan", "USDC", Decimal(24), 30 * DAY)


def test_the_sample_names_its_dates_and_its_proofs():
    mail = letter(Kind.MAX_AMOUNT_REACHED, told=replace(FAILURE, **told_fields(BILL)))
    assert mail.next_attempt_at == FAILED + DAY
    assert mail.cancellation_at == FAILED + 7 * DAY
    assert mail.failed_at == FAILED
    assert mail.paid_until_at == DUE
    assert mail.next_bill_at is None
    assert (mail.trial_end_at, mail.ends_at, mail.ended_at, mail.paused_since_at) == (None,) * 4
    assert (mail.last_bill_at, mail.last_bill_tx, mail.last_bill_usd) == (PAID, TX, Decimal(24))
    assert (mail.sub_tail, mail.wallet_tail) == ("aa01", "0000f1")
    assert (mail.reference, mail.signed_up_at) == ("acct-310", SAMPLE.created_at)


def told_fields(told):
    return {"bill_tx": told.bill_tx, "bill_at": told.bill_at, "bill_usd": told.bill_usd, "bill_units": told.bill_units}


def test_the_frame_is_carried_over_as_it_is():
    mail = letter(Kind.PAYMENT_FAILED, variant="unknown", manage_link="https://m", product_link="https://p")
    assert (mail.kind, mail.variant, mail.step, mail.urgency) == (
        Kind.PAYMENT_FAILED,
        "unknown",
        "first",
        Urgency.URGENT,
    )
    assert (mail.notification_id, mail.first_in_episode, mail.refusable) == ("n-1", True, False)
    assert (mail.locale, mail.zone, mail.brand.name) == ("en", "Europe/Budapest", "Acme")
    assert (mail.sender, mail.reply_to) == ("Acme Billing <billing@acme.example>", "help@acme.example")
    assert (mail.recipient, mail.now) == ("ines@customer.example", NOW)
    assert (mail.manage_link, mail.product_link) == ("https://m", "https://p")
    assert (mail.unsubscribe_url, mail.in_reply_to) == ("https://acme.example/u", "<a@acme.example>")
    assert (mail.message_id, mail.date_header) == ("<b@acme.example>", "Thu, 02 Apr 2026 12:00:00 +0000")


# -- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [None, Decimal(0), Decimal("NaN"), Decimal(-1)])
def test_a_missing_price_is_the_products(own):
    assert letter(
        Kind.PAYMENT_FAILED, replace(SAMPLE, price_usd=own), product_price_usd=Decimal("9.5")
    ).price_usd == Decimal("9.5")
    assert letter(Kind.PAYMENT_FAILED, replace(SAMPLE, price_usd=own)).price_usd is None


def test_a_price_may_be_cents():
    assert letter(Kind.PAYMENT_FAILED, replace(SAMPLE, price_usd=Decimal("0.50"))).price_usd == Decimal("0.50")


def test_an_agreed_price_wins_over_the_products():
    assert letter(Kind.PAYMENT_FAILED, product_price_usd=Decimal(99)).price_usd == Decimal(24)


# -- the bill --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snapshot", "at", "current"),
    [
        (SAMPLE, FAILED, True),
        (SAMPLE, FAILED - timedelta(hours=1), True),
        (SAMPLE, FAILED - timedelta(hours=1, seconds=1), False),  # an older spell
        (SAMPLE, None, False),
        (replace(SAMPLE, failing_since_at=None), PAID, False),  # that bill is paid
        (replace(SAMPLE, failing_since_at=None), PAID + DAY, True),
        (replace(SAMPLE, failing_since_at=None, last_billing_at=None), PAID, True),
        (replace(SAMPLE, status=Status.ACTIVE), FAILED, True),  # it waits for the maximum
        (replace(SAMPLE, status=Status.ACTIVE, action=None), FAILED, False),  # it has healed
    ],
)
def test_a_failure_counts_only_for_the_bill_that_fails_now(snapshot, at, current):
    assert failure_is_current(snapshot, Told(failure_at=at)) is current


def bill(snapshot=ACTIVE, told=BILL, price=Decimal(24), currency=USDC, now=EARLIER):
    return due_bill(snapshot, told, price, Token.of(currency), now)


def test_a_stable_token_is_due_as_at_the_last_bill_and_uncertain():
    found = bill()
    assert (found.units, found.as_of, found.uncertain) == (24_000_000, PAID, True)


def test_another_price_meets_the_cent_that_the_last_bill_was_rounded_by():
    assert bill(price=Decimal(48)).units == 48_010_005  # at the lowest price that the bill allows


def test_a_volatile_token_is_known_for_a_day_only():
    told = replace(BILL, bill_units=9_600_000_000_000_000)
    assert bill(told=told, currency=WETH, now=PAID + DAY).units == 9_600_000_000_000_000
    assert bill(told=told, currency=WETH, now=PAID + DAY + timedelta(seconds=1)) is None


def test_a_stable_name_with_an_unstable_price_is_no_stable_token():
    assert bill(told=replace(BILL, bill_units=26_000_000)) is None
    assert bill(told=replace(BILL, bill_units=26_000_000), now=PAID + DAY) is not None


@pytest.mark.parametrize(("usd", "steady"), [("22.80", True), ("22.79", False), ("25.20", True), ("25.21", False)])
def test_within_a_twentieth_of_a_dollar_a_token_is_stable(usd, steady):
    assert (bill(told=replace(BILL, bill_usd=Decimal(usd))) is not None) is steady


def test_a_bill_of_years_ago_tells_nothing():
    assert bill(now=PAID + 400 * DAY) is not None
    assert bill(now=PAID + 401 * DAY) is None


@pytest.mark.parametrize(
    "told",
    [Told(), replace(BILL, bill_usd=None), replace(BILL, bill_units=None), replace(BILL, bill_at=None)],
)
def test_without_a_bill_no_amount_is_named(told):
    assert bill(told=told) is None


def test_without_a_price_no_amount_is_named():
    assert bill(price=None) is None


@pytest.mark.parametrize("units", [None, 0])
def test_a_failure_without_tokens_falls_back_to_the_last_bill(units):
    told = replace(BILL, failure_at=FAILED, failure_units=units)
    assert bill(SAMPLE, told, now=NOW).uncertain
    mail = letter(Kind.PAYMENT_FAILED, told=told, variant="insufficient_balance")
    assert (str(mail.amount_due), mail.amounts_uncertain, mail.amount_due_as_of) == ("24.00", True, PAID)


# -- what is asked for -----------------------------------------------------------------------------------------------


def test_an_allowance_that_equals_the_bill_is_not_enough_and_strictly_more_is_asked_for():
    snapshot = replace(ACTIVE, allowance=24_000_000)
    mail = letter(Kind.LOW_ON_FUNDS, snapshot, BILL, "allowance", EARLIER)
    assert (str(mail.allowance_left), str(mail.approve_more), str(mail.approve_total)) == ("24.00", "48.01", "72.01")
    assert mail.amounts_uncertain
    assert (mail.maximum_now, mail.maximum_to_set) == (None, None)
    assert mail.next_bill_at == DUE


def test_the_total_and_the_addition_agree_with_the_rest_that_is_shown():
    found = amounts(Kind.LOW_ON_FUNDS, replace(ACTIVE, allowance=18_405_000), BILL, "allowance", now=EARLIER)
    assert found.approve_total == found.allowance_left + found.approve_more


def test_a_new_total_exceeds_the_largest_that_was_ever_seen():
    told = replace(FAILURE, allowance_peak=620_000_000)
    found = amounts(Kind.PAYMENT_FAILED, told=told, variant="allowance_exhausted")
    assert str(found.approve_total) == "620.01"


def test_gas_is_part_of_what_is_due():
    found = amounts(Kind.MAX_AMOUNT_REACHED, gas=500_000)
    assert str(found.due) == "24.50"
    assert str(found.approve_total) == "73.50"


def test_a_maximum_that_only_the_gas_passes_is_asked_for_when_the_failure_is_known():
    snapshot = replace(SAMPLE, action=None, maximum=24_100_000, allowance=500_000_000)
    found = amounts(Kind.PAYMENT_FAILED, snapshot, variant="insufficient_balance", gas=200_000)
    assert str(found.maximum_to_set) == "26.40"
    assert found.approve_total is None


def test_an_uncertain_bill_asks_only_for_what_would_certainly_fail():
    tight = replace(ACTIVE, action=None, maximum=24_100_000, allowance=24_100_000)
    found = amounts(Kind.LOW_ON_FUNDS, tight, BILL, "balance", gas=200_000, now=EARLIER)
    assert (found.maximum_to_set, found.approve_total) == (None, None)
    certain = replace(ACTIVE, action=None, maximum=24_000_000, allowance=24_000_000)
    found = amounts(Kind.LOW_ON_FUNDS, certain, BILL, "balance", gas=200_000, now=EARLIER)
    assert (str(found.maximum_to_set), str(found.approve_total)) == ("26.40", "72.60")


def test_gas_above_the_room_still_fits_under_the_new_maximum():
    found = amounts(Kind.MAX_AMOUNT_REACHED, gas=10_000_000)
    assert str(found.maximum_to_set) == "34.00"
    unknown = replace(SAMPLE, maximum=None)  # the last bill may have come close to this one
    assert str(amounts(Kind.MAX_AMOUNT_REACHED, unknown, gas=10_000_000).maximum_to_set) == "44.00"


def test_a_maximum_that_nobody_told_can_still_be_raised():
    found = amounts(Kind.MAX_AMOUNT_REACHED, replace(SAMPLE, maximum=None))
    assert (found.maximum_now, str(found.maximum_to_set)) == (None, "26.40")


def test_whoever_names_the_maximum_it_is_asked_for():
    by_failure = replace(SAMPLE, action=None)
    assert amounts(Kind.MAX_AMOUNT_REACHED, by_failure, Told()).maximum_now is not None
    found = amounts(Kind.PAYMENT_FAILED, SAMPLE, Told(), "insufficient_balance")
    assert found.maximum_now is not None
    assert amounts(Kind.PAYMENT_FAILED, by_failure, Told(), "insufficient_balance").maximum_now is None


def test_where_our_figures_contradict_the_api_no_figure_is_named():
    snapshot = replace(SAMPLE, maximum=26_400_000, allowance=72_000_001)
    found = amounts(Kind.MAX_AMOUNT_REACHED, snapshot)
    assert (str(found.maximum_now), found.maximum_to_set) == ("26.40", None)
    enough = replace(ACTIVE, allowance=72_000_001)
    found = amounts(Kind.LOW_ON_FUNDS, enough, BILL, "allowance", now=EARLIER)
    assert (found.approve_total, found.approve_more) == (None, None)
    almost = replace(ACTIVE, allowance=72_000_000)
    found = amounts(Kind.LOW_ON_FUNDS, almost, BILL, "allowance", now=EARLIER)
    assert str(found.approve_total) == "72.01"


def test_a_removed_approval_is_given_again_whatever_is_left_of_it():
    snapshot = replace(SAMPLE, action=None, maximum=60_000_000, allowance=500_000_000)
    found = amounts(Kind.PAYMENT_FAILED, snapshot, variant="approval_revoked")
    assert (str(found.approve_total), found.approve_more, found.maximum_to_set) == ("500.01", None, None)


def test_an_unknown_allowance_names_no_approval():
    found = amounts(Kind.PAYMENT_FAILED, replace(SAMPLE, allowance=None), variant="allowance_exhausted")
    assert (found.allowance_left, found.approve_more, found.approve_total) == (None, None, None)
    assert found.due is not None


def test_an_unknown_allowance_with_a_known_peak_names_the_total_alone():
    told = replace(FAILURE, allowance_peak=5)
    found = amounts(Kind.PAYMENT_FAILED, replace(SAMPLE, allowance=None), told, "allowance_exhausted")
    assert (found.approve_more, str(found.approve_total)) == (None, "72.01")


def test_without_any_amount_the_rest_is_still_told():
    found = amounts(Kind.LOW_ON_FUNDS, ACTIVE, Told(), "allowance", now=EARLIER)
    assert (found.due, found.approve_total, str(found.allowance_left)) == (None, None, "18.40")
    assert not found.uncertain
    found = amounts(Kind.MAX_AMOUNT_REACHED, SAMPLE, Told())
    assert (str(found.maximum_now), found.maximum_to_set) == ("23.50", None)


@pytest.mark.parametrize("cause", [Cause.OTHER, Cause.UNKNOWN])
def test_where_the_cause_is_not_known_no_figure_hints_at_one(cause):
    assert amounts(Kind.PAYMENT_FAILED, variant=cause.value) == NO_AMOUNTS


@pytest.mark.parametrize("kind", [Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED, Kind.CANCELLED, Kind.STOPPED, Kind.PAUSED])
def test_who_owes_nothing_is_asked_for_nothing(kind):
    assert amounts(kind) == NO_AMOUNTS


def test_without_a_currency_no_amount_can_be_named():
    assert amounts(Kind.MAX_AMOUNT_REACHED, currency=None) == NO_AMOUNTS
    mail = letter(Kind.MAX_AMOUNT_REACHED, replace(SAMPLE, currency=None), FAILURE)
    assert (mail.token, mail.amount_due) == (None, None)


def test_a_stored_currency_wins_over_the_snapshots():
    mail = letter(Kind.MAX_AMOUNT_REACHED, told=FAILURE, currency=replace(USDC, symbol="USDT", decimals=8))
    assert (mail.token, str(mail.amount_due)) == ("USDT", "0.24")


def test_a_token_that_is_not_stable_has_six_decimals_and_more_room():
    snapshot = replace(SAMPLE, allowance=1, maximum=9_500_000_000_000_001)
    told = replace(FAILURE, failure_units=9_600_000_000_000_000)
    found = amounts(Kind.MAX_AMOUNT_REACHED, snapshot, told, currency=WETH)
    assert (str(found.due), str(found.maximum_now), str(found.maximum_to_set)) == ("0.009600", "0.009500", "0.012000")
    assert str(found.allowance_left) == "0"


def test_nothing_left_is_a_plain_zero():
    assert str(amounts(Kind.PAYMENT_FAILED, replace(SAMPLE, allowance=0)).allowance_left) == "0"


# -- dates -----------------------------------------------------------------------------------------------------------


def test_an_announcement_that_has_passed_is_left_out():
    mail = letter(Kind.PAYMENT_FAILED, now=FAILED + 8 * DAY)
    assert (mail.next_attempt_at, mail.cancellation_at) == (None, None)
    assert letter(Kind.LOW_ON_FUNDS, ACTIVE, now=DUE).next_bill_at is None


def test_a_bill_that_fails_has_an_attempt_ahead_and_no_next_bill():
    assert letter(Kind.MAX_AMOUNT_REACHED, replace(SAMPLE, next_billing_at=DUE + 30 * DAY)).next_bill_at is None


def test_with_no_attempt_left_neither_attempt_nor_end_is_dated():
    mail = letter(Kind.PAYMENT_FAILED, replace(SAMPLE, remaining_attempts=0))
    assert (mail.next_attempt_at, mail.cancellation_at) == (None, None)


def test_the_last_attempt_is_the_printed_end():
    assert letter(Kind.PAYMENT_FAILED, replace(SAMPLE, remaining_attempts=1)).cancellation_at == FAILED + DAY


def test_the_planned_end_is_never_printed():
    assert letter(Kind.PAYMENT_FAILED, replace(SAMPLE, remaining_attempts=2)).cancellation_at == FAILED + 7 * DAY


def test_a_passed_period_stays_paid_until_its_end():
    mail = letter(Kind.PAYMENT_FAILED, now=DUE + 2 * DAY)
    assert mail.paid_until_at == DUE
    assert mail.ended_at is None


def test_who_never_paid_has_paid_until_nothing():
    trial = Snapshot("sub@1", Status.CANCELLED, "cancelled", current_period_end_at=DUE)
    assert letter(Kind.CANCELLED, trial).paid_until_at is None


def test_a_raised_maximum_wait_without_dunning_has_no_date():
    waiting = replace(ACTIVE, action=Action.RAISE_MAXIMUM, maximum=23_500_000)
    mail = letter(Kind.MAX_AMOUNT_REACHED, waiting, now=EARLIER)
    assert (mail.cancellation_at, mail.next_attempt_at, mail.failed_at) == (None, None, None)
    assert mail.next_bill_at == DUE


def test_the_failed_bill_is_dated_by_the_best_that_is_known():
    silent = replace(SAMPLE, failing_since_at=None)
    assert letter(Kind.PAYMENT_FAILED, silent, FAILURE).failed_at == FAILED
    assert letter(Kind.PAYMENT_FAILED, silent).failed_at == DUE
    assert letter(Kind.PAYMENT_FAILED, silent, now=EARLIER).failed_at is None
    assert letter(Kind.PAYMENT_FAILED, replace(silent, current_period_end_at=None)).failed_at is None


def test_a_trial_names_its_end_and_after_it_the_last_day_to_confirm():
    trial = Snapshot("sub@1", Status.TRIAL, "trial", current_period_end_at=DUE, currency=USDC)
    mail = letter(Kind.TRIAL_ENDING, trial, now=EARLIER)
    assert (mail.trial_end_at, mail.cancellation_at, mail.next_bill_at) == (DUE, None, None)
    expired = replace(trial, status=Status.TRIAL_EXPIRED)
    mail = letter(Kind.TRIAL_EXPIRED, expired)
    assert (mail.trial_end_at, mail.cancellation_at) == (DUE, DUE + 7 * DAY)
    assert (mail.failed_at, mail.next_attempt_at) == (None, None)


def test_a_stopped_subscription_ends_ahead():
    stopped = replace(SAMPLE, status=Status.STOPPED, next_billing_at=DUE + DAY, cancel_reason=CancelReason.CUSTOMER)
    assert letter(Kind.STOPPED, stopped).ends_at == DUE + DAY
    assert (
        letter(Kind.STOPPED, replace(stopped, next_billing_at=None, current_period_end_at=DUE + DAY)).ends_at
        == DUE + DAY
    )
    assert letter(Kind.STOPPED, stopped, now=DUE + DAY).ends_at is None


def test_a_cancelled_subscription_ended_when_the_api_says():
    assert letter(Kind.CANCELLED, replace(SAMPLE, status=Status.CANCELLED, cancelled_at=FAILED)).ended_at == FAILED


def episode(kind, **fields):
    return Episode("e-1", kind, "", "anchor", opened_at=PAID + DAY, **fields)


def test_a_pause_is_dated_by_the_vendors_own_account():
    paused = replace(SAMPLE, status=Status.PAUSED)
    spell = episode(Situation.PAUSED, evidence_at=DUE)
    assert letter(Kind.PAUSED, paused, episode=spell).paused_since_at == DUE
    assert letter(Kind.PAUSED, paused).paused_since_at is None


def test_a_balance_check_is_dated_only_for_the_bill_that_comes_next():
    told = Told(balance_short_for_at=DUE, balance_checked_at=EARLIER)
    quiet = replace(ACTIVE, action=None)
    assert letter(Kind.LOW_ON_FUNDS, quiet, told, "balance", EARLIER).balance_checked_at == EARLIER
    assert (
        letter(Kind.LOW_ON_FUNDS, quiet, replace(told, balance_short_for_at=PAID), now=EARLIER).balance_checked_at
        is None
    )
    assert (
        letter(Kind.LOW_ON_FUNDS, quiet, replace(told, balance_short_for_at=None), now=EARLIER).balance_checked_at
        is None
    )
    assert letter(Kind.PAYMENT_FAILED, told=told).balance_checked_at is None


# -- recovered -------------------------------------------------------------------------------------------------------


def test_a_paid_bill_is_what_recovered():
    told = Told(bill_tx=TX, bill_at=FAILED, bill_usd=Decimal(24))
    healed = replace(ACTIVE, action=None, last_billing_at=FAILED, next_billing_at=DUE + 30 * DAY)
    for kind in (Situation.PAYMENT_FAILED, Situation.LOW_ON_FUNDS):
        mail = letter(Kind.RECOVERED, healed, told, kind.value, episode=episode(kind, opened_bill_at=PAID))
        assert (mail.last_bill_at, mail.last_bill_tx, mail.approved) == (FAILED, TX, None)
        assert mail.next_bill_at == DUE + 30 * DAY
        assert mail.amount_due is None


def test_a_top_up_is_what_recovered_where_no_bill_was_paid():
    healed = replace(ACTIVE, action=None, allowance=72_019_999)
    spell = episode(Situation.LOW_ON_FUNDS, opened_bill_at=PAID)
    assert str(letter(Kind.RECOVERED, healed, episode=spell).approved) == "72.01"
    assert letter(Kind.RECOVERED, healed).approved is None
    assert letter(Kind.RECOVERED, replace(healed, allowance=None), episode=spell).approved is None
    assert letter(Kind.RECOVERED, replace(healed, currency=None), episode=spell).approved is None
    assert letter(Kind.RECOVERED, healed, episode=episode(Situation.LOW_ON_FUNDS)).approved is None
    never_billed = replace(healed, last_billing_at=None)
    assert str(letter(Kind.RECOVERED, never_billed, episode=episode(Situation.LOW_ON_FUNDS)).approved) == "72.01"


# -- proofs and names ------------------------------------------------------------------------------------------------


def test_a_newer_bill_than_we_were_told_shows_its_date_without_another_bills_hash():
    mail = letter(Kind.PAYMENT_FAILED, told=replace(BILL, bill_at=PAID - 30 * DAY))
    assert (mail.last_bill_at, mail.last_bill_tx, mail.last_bill_usd) == (PAID, None, None)


def test_the_clocks_of_bill_and_billing_may_differ_by_an_hour():
    hour = timedelta(hours=1)
    assert letter(Kind.PAYMENT_FAILED, told=replace(BILL, bill_at=PAID - hour)).last_bill_tx == TX
    assert letter(Kind.PAYMENT_FAILED, told=replace(BILL, bill_at=PAID - hour - DAY / 86400)).last_bill_tx is None


def test_a_bill_that_only_the_log_told_is_the_last_one():
    mail = letter(Kind.PAYMENT_FAILED, replace(SAMPLE, last_billing_at=None), BILL)
    assert (mail.last_bill_at, mail.last_bill_tx) == (PAID, TX)


def test_a_bill_that_lies_ahead_is_no_last_bill():
    mail = letter(Kind.PAYMENT_FAILED, told=replace(BILL, bill_at=NOW + DAY))
    assert (mail.last_bill_at, mail.last_bill_tx) == (PAID, None)


def test_who_was_never_billed_has_no_last_bill():
    mail = letter(Kind.TRIAL_ENDING, Snapshot("sub@1", Status.TRIAL, "trial"))
    assert (mail.last_bill_at, mail.last_bill_tx, mail.sub_tail, mail.wallet_tail) == (None,) * 4


@pytest.mark.parametrize(
    ("text", "tail"),
    [("0x1234567890ab", "7890ab"), ("0xaa01", "aa01"), ("9xQeWv", "9xQeWv"), ("0x", None), ("", None), (None, None)],
)
def test_a_tail_is_the_last_six_characters(text, tail):
    assert tail_of(text) == tail


@pytest.mark.parametrize(
    ("name", "greeted"),
    [
        ("Ines", "Ines"),
        ("  Mary \n Ann ", "Mary Ann"),
        ("Zoë O'Brien-Ünal", "Zoë O'Brien-Ünal"),
        ("山田", "山田"),
        (None, None),
        ("", None),
        ("   ", None),
        ("ines@customer.example", None),
        ("Click https://evil.example", None),
        ("www.evil.example", None),
        ("Click evil.example", None),
        ("http:evil", None),
        ("J. R. Smith", "J. R. Smith"),
        ("J.R. Smith", "J.R. Smith"),
        ("Ines \u202egro.live", None),
        ("Ines \ud800", None),
        ("<b>Ines</b>", None),
        ("Ines\x00", None),
        ("{{ brand }}", None),
        ("x" * 61, None),
        ("x" * 60, "x" * 60),
    ],
)
def test_only_a_name_is_greeted(name, greeted):
    assert greeting_name(name, shared_address=False) == greeted
    assert letter(Kind.PAUSED, customer_name=name).customer_name == greeted


def test_nobody_is_greeted_by_name_on_a_shared_address():
    assert letter(Kind.PAYMENT_FAILED, customer_name="Ines", shared=True).customer_name is None


def test_a_product_without_a_name_is_the_brands():
    assert letter(Kind.PAUSED).product == "Acme"


def test_a_token_without_a_symbol_is_not_named():
    assert letter(Kind.PAUSED, currency=replace(USDC, symbol="")).token is None


@pytest.mark.parametrize("kind", [Kind.SPENDING_LIMIT_NEAR, Kind.SPENDING_LIMIT_REACHED])
def test_a_mail_about_a_spending_limit_tells_its_figures_and_nothing_of_a_bill_to_come(kind):
    usage = Usage(Decimal("402.50"), Decimal(500), DUE + 20 * DAY, DUE + 21 * DAY, NOW - DAY)
    made = letter(kind, ACTIVE, replace(BILL, usage=usage), now=EARLIER)
    assert (made.used_usd, made.limit_usd) == (Decimal("402.50"), Decimal(500))
    assert (made.period_ends_at, made.measured_at) == (DUE + 21 * DAY, NOW - DAY)
    assert (made.next_bill_at, made.amount_due, made.allowance_left) == (None, None, None)
    limited = replace(ACTIVE, max_spending_usd=Decimal(450))
    told = Told(usage=replace(usage, limit_usd=None))
    assert letter(kind, limited, told).limit_usd == Decimal(450)
    assert letter(kind, ACTIVE).used_usd is None
