"""Exact numbers in exact situations, and worlds to begin with."""

from datetime import timedelta

import pytest

from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Action, Reason, Status
from monitor.sandbox.naming import Ids, evm_address, solana_address
from monitor.sandbox.seeding import DEFAULT_START, healthy, traps
from monitor.sandbox.transitions import SITUATIONS, cause
from monitor.sandbox.world import RefusedError

EXPECTED = {
    "low_on_funds": (Status.ACTIVE, Action.TOP_UP_ALLOWANCE, None, None),
    "max_amount_reached": (Status.PAST_DUE, Action.RAISE_MAXIMUM, Category.MAX_AMOUNT_EXCEEDED, None),
    "payment_failed:insufficient_balance": (Status.PAST_DUE, None, Category.INSUFFICIENT_BALANCE, None),
    "payment_failed:allowance_exhausted": (
        Status.PAST_DUE,
        Action.TOP_UP_ALLOWANCE,
        Category.ALLOWANCE_EXHAUSTED,
        None,
    ),
    "payment_failed:approval_revoked": (Status.PAST_DUE, None, Category.APPROVAL_REVOKED, None),
    "payment_failed:other": (Status.PAST_DUE, None, Category.OTHER, None),
    "trial_ending": (Status.TRIAL, None, None, None),
    "trial_expired": (Status.TRIAL_EXPIRED, Action.CONFIRM_TRIAL, None, None),
    "cancelled:customer": (Status.CANCELLED, None, None, Reason.CUSTOMER),
    "cancelled:merchant": (Status.CANCELLED, None, None, Reason.MERCHANT),
    "cancelled:merchant_closed": (Status.CANCELLED, None, None, Reason.MERCHANT_CLOSED),
    "cancelled:inactive_on_chain": (Status.CANCELLED, None, None, Reason.INACTIVE_ON_CHAIN),
    "cancelled:billing_failed": (Status.CANCELLED, None, None, Reason.BILLING_FAILED),
    "cancelled:trial_not_converted": (Status.CANCELLED, None, None, Reason.TRIAL_NOT_CONVERTED),
    "stopped": (Status.STOPPED, None, None, Reason.CUSTOMER),
    "paused": (Status.PAUSED, None, None, None),
    "unknown_status": (Status.ACTIVE, None, None, None),
}


def state(sub):
    category = sub.dunning.category if sub.dunning else None
    return sub.status, sub.action, category, sub.cancel_reason


def test_every_situation_is_caused_exactly_as_often_as_wanted_and_nothing_else_moves():
    world = healthy(400, trials=20)
    before = {sub.n: sub.updated_at for sub in world.subscriptions}
    world.advance(timedelta(minutes=1))
    truth = cause(world, dict.fromkeys(EXPECTED, 3))
    caused = [ext_id for ids in truth.values() for ext_id in ids]
    assert len(caused) == len(set(caused)) == 3 * len(EXPECTED)
    for situation, ids in truth.items():
        for ext_id in ids:
            assert state(world.get(ext_id)) == EXPECTED[situation], situation
    moved = {world.id_of(sub) for sub in world.subscriptions if sub.updated_at != before[sub.n]}
    assert moved == set(caused)


def test_the_failing_recover_when_they_are_told_to():
    world = healthy(40)
    causes = [name for name in EXPECTED if name.startswith("payment_failed") or name == "max_amount_reached"]
    failing = cause(world, dict.fromkeys(causes, 1))
    healed = cause(world, {"recovered": len(causes)})["recovered"]
    assert set(healed) == {ids[0] for ids in failing.values()}
    for ext_id in healed:
        assert state(world.get(ext_id)) == (Status.ACTIVE, None, None, None)
        assert world.get(ext_id).last_billing_at == world.now


def test_an_ending_trial_ends_within_48_hours_and_long_trials_are_taken_first():
    world = healthy(10, trials=4)
    (ext_id,) = cause(world, {"trial_ending": 1})["trial_ending"]
    sub = world.get(ext_id)
    assert world.now < sub.period_end_at < world.now + timedelta(hours=48)
    assert sub.n >= 10


def test_a_trial_that_ends_within_48_hours_already_is_not_taken_for_one():
    world = healthy(10, trials=1)
    trial = world.subscriptions[10]
    trial.next_billing_at = trial.period_end_at = world.now + timedelta(hours=47)
    (ext_id,) = cause(world, {"trial_ending": 1})["trial_ending"]
    assert world.get(ext_id) is not trial


def test_rows_without_customer_or_with_a_shared_wallet_are_left_alone():
    world = healthy(4)
    alone, deleted, first, second = world.subscriptions
    alone.customer = None
    deleted.customer.deleted = True
    second.wallet = first.wallet
    with pytest.raises(RefusedError, match="only 0"):
        cause(world, {"paused": 1})


def test_a_vanished_subscription_is_found_no_more():
    world = healthy(10)
    (ext_id,) = cause(world, {"vanished": 1})["vanished"]
    assert world.find(ext_id) is None


def test_an_unknown_status_is_shown_as_text():
    world = healthy(10)
    (ext_id,) = cause(world, {"unknown_status": 1})["unknown_status"]
    assert world.get(ext_id).status_text == "frozen"


def test_too_few_subscriptions_are_refused():
    with pytest.raises(RefusedError, match="11 wanted, only 10"):
        cause(healthy(10), {"paused": 11})


def test_a_situation_that_does_not_exist_changes_nothing():
    world = healthy(10)
    with pytest.raises(KeyError, match="sleepy"):
        cause(world, {"paused": 1, "sleepy": 1})
    assert {sub.status for sub in world.subscriptions} == {Status.ACTIVE}


def test_the_same_seed_takes_the_same_subscriptions_twice():
    wanted = {"paused": 5, "low_on_funds": 5}
    assert cause(healthy(100), wanted) == cause(healthy(100), wanted)


def test_every_situation_is_tried_above():
    assert set(SITUATIONS) == {*EXPECTED, "recovered", "vanished"}


def test_what_was_caused_goes_on_by_the_rules():
    world = healthy(30, trials=2)
    truth = cause(world, {"payment_failed:other": 1, "trial_ending": 1, "stopped": 1})
    world.advance(timedelta(days=31))
    assert world.get(truth["payment_failed:other"][0]).cancel_reason is Reason.BILLING_FAILED
    assert world.get(truth["trial_ending"][0]).cancel_reason is Reason.TRIAL_NOT_CONVERTED
    assert world.get(truth["stopped"][0]).status in (Status.CANCELLED, Status.STOPPED)


def test_traps_hold_every_status_with_every_action():
    world = traps()
    pairs = {(sub.status, sub.action) for sub in world.subscriptions}
    assert pairs >= {(status, action) for status in Status for action in (None, *Action)}


def test_traps_hold_the_rows_that_break_naive_readers():
    rows = traps(5).subscriptions
    emails = [sub.customer.email for sub in rows if sub.customer]
    assert len(emails) - len(set(emails)) == 1
    assert sum(sub.customer is None for sub in rows) == 1
    assert sum(bool(sub.customer and sub.customer.deleted) for sub in rows) == 1
    assert sum(sub.price_usd == 0 and sub.maximum is None for sub in rows) == 1
    assert sum(sub.status_text is not None for sub in rows) == 1


def test_healthy_worlds_have_currencies_of_6_9_and_18_decimals():
    assert {sub.wallet.currency.decimals for sub in healthy(100).subscriptions} == {6, 9, 18}


def test_rows_are_created_in_order_before_the_start():
    world = healthy(50)
    created = [sub.created_at for sub in world.subscriptions]
    assert created == sorted(created)
    assert created[-1] < DEFAULT_START


def test_ids_are_read_with_and_without_prefix_and_only_their_own():
    ids = Ids(1, "live")
    text = ids.subscription(77)
    assert ids.read("subscription", text) == ids.read("subscription", text.removeprefix("sub@")) == 77
    assert ids.read("subscription", Ids(2, "live").subscription(77)) is None
    assert ids.read("subscription", ids.customer(77)) is None
    assert ids.read("subscription", "sub@nonsense") is None
    assert ids.api_key.startswith(f"sk_{ids.key}_live_")


def test_addresses_look_like_their_chains():
    assert len(evm_address(1, 5)) == 42
    assert len(solana_address(1, 5)) == 44
    assert evm_address(1, 5) != evm_address(2, 5)
