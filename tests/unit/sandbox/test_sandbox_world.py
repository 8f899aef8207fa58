"""What time and people do to subscriptions (contract v2, 2.4; forecast rules, 1.2 and 1.3)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.sandbox import acts, billing
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Action, DunningRules, Merchant, Reason, Status, Topic
from monitor.sandbox.seeding import add_customer, furnish, healthy
from monitor.sandbox.world import RefusedError, World

START = datetime(2026, 4, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
COST = 10_000_000 + 10_000  # Starter at 9.99 is 9,990,000 and its refund 10,000


def a_world(**how) -> World:
    world = World(start=START, **how)
    furnish(world, 1)
    return world


def subscribed(world, *, plan=0, token="USDC", balance=10**12):
    wallet = acts.add_wallet(world, token, balance)
    return acts.subscribe(world, world.products[plan], wallet, add_customer(world, world.now))


def topics(world, since=0):
    return [line.topic for line in world.happenings if line.n >= since]


def test_the_first_bill_is_paid_at_creation_and_the_next_after_thirty_days():
    world = a_world()
    sub = subscribed(world)
    assert (sub.status, sub.last_billing_at) == (Status.ACTIVE, START)
    assert sub.next_billing_at == sub.period_end_at == START + 30 * DAY
    world.advance(to=START + 30 * DAY - timedelta(microseconds=1))
    assert sub.last_billing_at == START
    world.advance(to=START + 30 * DAY)
    assert sub.last_billing_at == START + 30 * DAY


def test_a_paid_bill_takes_amount_and_refund_from_wallet_and_allowance():
    world = a_world()
    sub = subscribed(world, balance=10**9)
    assert sub.wallet.balance == 10**9 - 10_000_000
    assert sub.allowance == sub.approved - 10_000_000
    assert sub.last_amount == 9_990_000
    (bill,) = world.bills_of(sub)
    assert (bill.amount, bill.refund, bill.price_usd) == (9_990_000, 10_000, Decimal("9.99"))
    assert (bill.period_start_at, bill.period_end_at) == (START, START + 30 * DAY)


def test_a_failing_bill_is_tried_five_times_a_day_apart_and_then_cancelled():
    world = a_world()
    sub = subscribed(world)
    acts.drain_wallet(sub.wallet)
    due_at = START + 30 * DAY
    seen = []
    for day in range(4):
        world.advance(to=due_at + day * DAY)
        dunning = sub.dunning
        seen.append((sub.status, dunning.failed_attempts, dunning.remaining_attempts, dunning.next_attempt_at))
        assert dunning.failing_since_at == due_at
    assert seen == [(Status.PAST_DUE, n + 1, 4 - n, due_at + (n + 1) * DAY) for n in range(4)]
    world.advance(to=due_at + 4 * DAY)
    assert (sub.status, sub.cancel_reason, sub.cancelled_at) == (
        Status.CANCELLED,
        Reason.BILLING_FAILED,
        due_at + 4 * DAY,
    )
    assert (sub.next_billing_at, sub.dunning, sub.action) == (None, None, None)
    assert [failure.attempt for failure in world.failures] == [1, 2, 3, 4, 5]
    assert len({failure.bill_n for failure in world.failures}) == 1


def test_retries_end_after_seven_days_however_many_attempts_are_left():
    world = a_world(merchant=Merchant(rules=DunningRules(attempts=50, spacing=2 * DAY)))
    sub = subscribed(world)
    acts.drain_wallet(sub.wallet)
    world.advance(to=START + 37 * DAY - timedelta(seconds=1))
    assert (sub.status, sub.dunning.failed_attempts) == (Status.PAST_DUE, 4)
    world.advance(to=START + 37 * DAY)
    assert (sub.status, sub.cancelled_at) == (Status.CANCELLED, START + 37 * DAY)
    assert [failure.at for failure in world.failures] == [START + day * DAY for day in (30, 32, 34, 36, 37)]


def test_a_late_payment_heals_and_does_not_move_the_calendar():
    world = a_world()
    sub = subscribed(world)
    acts.drain_wallet(sub.wallet)
    world.advance(to=START + 31 * DAY)
    acts.fund_wallet(sub.wallet, 10**9)
    world.advance(to=START + 32 * DAY)
    assert (sub.status, sub.dunning, sub.last_billing_at) == (Status.ACTIVE, None, START + 32 * DAY)
    assert sub.next_billing_at == START + 60 * DAY
    assert [line.topic for line in world.happenings][-2:] == [Topic.STATUS_CHANGED, Topic.BILLED]


@pytest.mark.parametrize(
    ("spoil", "category", "action"),
    [
        (lambda w, s: acts.drain_wallet(s.wallet), Category.INSUFFICIENT_BALANCE, None),
        (lambda w, s: acts.revoke_approval(s.wallet), Category.APPROVAL_REVOKED, None),
        (lambda w, s: setattr(s, "allowance", 9_990_000), Category.ALLOWANCE_EXHAUSTED, Action.TOP_UP_ALLOWANCE),
        (lambda w, s: setattr(s, "maximum", 9_990_000), Category.MAX_AMOUNT_EXCEEDED, Action.RAISE_MAXIMUM),
        (lambda w, s: setattr(s, "obstacle", Category.OTHER), Category.OTHER, None),
    ],
)
def test_each_cause_of_a_failed_bill_says_what_it_asks_of_the_customer(spoil, category, action):
    world = a_world()
    sub = subscribed(world)
    spoil(world, sub)
    world.advance(to=START + 30 * DAY)
    assert (sub.status, sub.dunning.category, sub.action) == (Status.PAST_DUE, category, action)
    waits = START + 30 * DAY if action is Action.RAISE_MAXIMUM else None
    assert sub.dunning.awaiting_maximum_since_at == waits


def test_waiting_for_the_maximum_is_counted_from_its_first_failure():
    world = a_world()
    sub = subscribed(world)
    sub.maximum = 9_990_000
    world.advance(to=START + 32 * DAY)
    assert sub.dunning.failed_attempts == 3
    assert sub.dunning.awaiting_maximum_since_at == START + 30 * DAY


def test_raising_the_maximum_pays_the_waiting_bill_at_once():
    world = a_world()
    sub = subscribed(world)
    world.set_price("USDC", Decimal("0.4"))
    world.advance(to=START + 30 * DAY)
    assert sub.action is Action.RAISE_MAXIMUM
    acts.raise_maximum(world, sub)
    assert (sub.status, sub.action, sub.last_billing_at) == (Status.ACTIVE, None, START + 30 * DAY)


def test_a_bill_paid_ahead_of_its_retry_is_not_tried_again_at_the_old_time():
    world = a_world()
    sub = subscribed(world)
    acts.drain_wallet(sub.wallet)
    world.advance(to=START + 30 * DAY)
    acts.fund_wallet(sub.wallet, 10**9)
    acts.retry(world, sub)
    world.advance(2 * DAY)
    assert (sub.status, len(world.bills_of(sub)), len(world.failures)) == (Status.ACTIVE, 2, 1)


def test_on_solana_a_new_maximum_resets_what_was_used_of_the_allowance():
    world = a_world()
    evm, solana = subscribed(world), subscribed(world, token="WSOL")
    left = evm.allowance
    for sub in (evm, solana):
        acts.raise_maximum(world, sub)
    assert evm.allowance == left
    assert solana.allowance == solana.approved - world.refund_of(solana.wallet.currency)


def test_subscriptions_of_one_wallet_share_its_balance_but_not_their_allowances():
    world = a_world()
    wallet = acts.add_wallet(world, "USDC", 5 * 9_990_000)
    subs = [acts.subscribe(world, world.products[0], wallet, None) for _ in range(3)]
    assert wallet.balance == 5 * 9_990_000 - 3 * 10_000_000
    world.advance(to=START + 30 * DAY)
    assert [sub.status for sub in subs] == [Status.ACTIVE, Status.PAST_DUE, Status.PAST_DUE]
    assert len({sub.allowance for sub in subs}) == 2


def test_a_new_maximum_must_exceed_the_last_bill_and_its_refund():
    world = a_world()
    sub = subscribed(world)
    with pytest.raises(RefusedError):
        acts.raise_maximum(world, sub, 9_990_000)
    with pytest.raises(RefusedError):
        acts.raise_maximum(world, sub, 9_999_999)
    acts.raise_maximum(world, sub, 10_000_000)
    assert sub.maximum == 10_000_000


def test_an_approval_must_exceed_the_last_total_and_replaces_it():
    world = a_world()
    sub = subscribed(world)
    before = sub.approved
    with pytest.raises(RefusedError):
        acts.top_up(world, sub, before)
    assert sub.approved == before
    acts.top_up(world, sub, before + 1)
    assert (sub.approved, sub.allowance) == (before + 1, before + 1 - 10_000)


def test_an_allowance_too_low_for_the_next_bill_asks_for_a_top_up_and_the_top_up_ends_it():
    world = a_world()
    sub = subscribed(world)
    sub.allowance = 9_990_000
    billing.judge_allowance(world, sub)
    assert (sub.status, sub.action) == (Status.ACTIVE, Action.TOP_UP_ALLOWANCE)
    acts.top_up(world, sub)
    assert sub.action is None
    assert topics(world)[-2:] == [Topic.ACTION_CHANGED, Topic.ACTION_CHANGED]


def test_the_allowance_runs_out_by_paying_bills():
    world = a_world()
    sub = subscribed(world)
    sub.allowance = 2 * 10_000_000 + 1
    world.advance(to=START + 30 * DAY)
    assert (sub.allowance, sub.action) == (10_000_001, None)
    world.advance(to=START + 60 * DAY)
    assert (sub.status, sub.allowance, sub.action) == (Status.ACTIVE, 1, Action.TOP_UP_ALLOWANCE)


def test_a_falling_price_makes_an_allowance_too_low_and_a_rising_one_mends_it():
    world = a_world()
    sub = subscribed(world)
    sub.allowance = 12_000_000
    world.set_price("USDC", Decimal("0.8"))
    assert sub.action is Action.TOP_UP_ALLOWANCE
    world.set_price("USDC", Decimal(1))
    assert sub.action is None


def test_a_price_path_is_walked_in_time():
    world = a_world()
    sub = subscribed(world, token="WETH", balance=10**20)
    world.at(START + 10 * DAY, lambda w: w.set_price("WETH", Decimal(500)))
    world.advance(to=START + 30 * DAY)
    assert sub.dunning.category is Category.MAX_AMOUNT_EXCEEDED


def test_an_unconfirmed_trial_expires_at_its_end_and_is_cancelled_seven_days_later():
    world = a_world()
    sub = subscribed(world, plan=1)
    assert (sub.status, sub.maximum, sub.allowance, sub.last_billing_at) == (Status.TRIAL, None, 0, None)
    assert sub.next_billing_at == sub.period_end_at == START + 14 * DAY
    world.advance(to=START + 14 * DAY)
    assert (sub.status, sub.action) == (Status.TRIAL_EXPIRED, Action.CONFIRM_TRIAL)
    world.advance(to=START + 21 * DAY - timedelta(seconds=1))
    assert sub.status is Status.TRIAL_EXPIRED
    world.advance(to=START + 21 * DAY)
    assert (sub.status, sub.cancel_reason, sub.action) == (Status.CANCELLED, Reason.TRIAL_NOT_CONVERTED, None)


def test_a_trial_confirmed_in_time_is_billed_at_its_end():
    world = a_world()
    sub = subscribed(world, plan=1)
    world.advance(5 * DAY)
    acts.confirm_trial(world, sub)
    assert (sub.status, sub.last_billing_at, sub.next_billing_at) == (Status.ACTIVE, None, START + 14 * DAY)
    world.advance(to=START + 14 * DAY)
    assert (sub.last_billing_at, sub.next_billing_at) == (START + 14 * DAY, START + 44 * DAY)


def test_an_expired_trial_confirmed_late_is_billed_at_once():
    world = a_world()
    sub = subscribed(world, plan=1)
    world.advance(16 * DAY)
    acts.confirm_trial(world, sub)
    assert (sub.status, sub.action, sub.last_billing_at) == (Status.ACTIVE, None, START + 16 * DAY)
    assert sub.next_billing_at == START + 46 * DAY


def test_a_stopped_subscription_ends_at_its_next_billing_date_unbilled():
    world = a_world()
    sub = subscribed(world)
    acts.stop(world, sub)
    assert (sub.status, sub.cancel_reason) == (Status.STOPPED, Reason.CUSTOMER)
    world.advance(to=START + 30 * DAY)
    assert (sub.status, sub.cancel_reason, sub.cancelled_at) == (
        Status.CANCELLED,
        Reason.CUSTOMER,
        START + 30 * DAY,
    )
    assert len(world.bills_of(sub)) == 1


def test_a_paused_subscription_is_not_billed_until_resumed_and_then_once():
    world = a_world()
    sub = subscribed(world)
    acts.pause(world, sub)
    world.advance(100 * DAY)
    assert (sub.status, len(world.bills_of(sub))) == (Status.PAUSED, 1)
    acts.resume(world, sub)
    assert (sub.status, len(world.bills_of(sub))) == (Status.ACTIVE, 2)
    assert sub.next_billing_at == START + 130 * DAY


def test_what_has_ended_takes_no_more_acts():
    world = a_world()
    sub = subscribed(world)
    acts.cancel(world, sub, Reason.MERCHANT)
    for act in (
        acts.top_up,
        acts.raise_maximum,
        acts.pause,
        acts.resume,
        acts.stop,
        acts.confirm_trial,
        acts.retry,
    ):
        with pytest.raises(RefusedError):
            act(world, sub)
    with pytest.raises(RefusedError):
        acts.cancel(world, sub, Reason.CUSTOMER)


def test_a_customer_cannot_stop_what_is_overdue():
    world = a_world()
    sub = subscribed(world)
    acts.pause(world, sub)
    world.advance(40 * DAY)
    with pytest.raises(RefusedError):
        acts.stop(world, sub)
    acts.stop(world, sub, Reason.MERCHANT)
    assert sub.status is Status.CANCELLED


def test_an_upcoming_bill_is_announced_three_days_before_and_once():
    world = a_world()
    sub = subscribed(world)
    before = sub.updated_at
    world.advance(to=START + 27 * DAY - timedelta(seconds=1))
    assert Topic.UPCOMING_BILL not in topics(world)
    world.advance(to=START + 29 * DAY)
    assert topics(world).count(Topic.UPCOMING_BILL) == 1
    assert sub.updated_at == before
    world.advance(to=START + 58 * DAY)
    assert topics(world).count(Topic.UPCOMING_BILL) == 2


def test_every_change_moves_updated_at_and_tells_what_changed():
    world = a_world()
    sub = subscribed(world)
    world.advance(DAY)
    acts.pause(world, sub)
    assert sub.updated_at == START + DAY
    line = world.happenings[-1]
    assert (line.topic, line.previous_status, line.subscription.status) == (
        Topic.STATUS_CHANGED,
        Status.ACTIVE,
        Status.PAUSED,
    )


def test_history_keeps_the_subscription_of_that_instant():
    world = a_world()
    sub = subscribed(world)
    acts.pause(world, sub)
    acts.resume(world, sub)
    assert [line.subscription.status for line in world.happenings][-2:] == [Status.PAUSED, Status.ACTIVE]


def test_bills_due_at_different_instants_are_handled_in_their_order():
    world = healthy(200)
    world.advance(15 * DAY)
    at = [line.at for line in world.happenings]
    assert at == sorted(at)
    assert len(at) > 100


def test_the_same_seed_and_calls_give_the_same_world():
    def story(seed):
        world = healthy(60, seed=seed, trials=3)
        world.advance(45 * DAY)
        return [
            (s.status, s.allowance, s.wallet.balance, s.next_billing_at, s.customer.name) for s in world.subscriptions
        ]

    assert story(5) == story(5)
    assert story(5) != story(6)


def test_healthy_rows_stay_healthy_over_their_next_bill():
    world = healthy(300)
    world.advance(7 * DAY)
    assert {sub.status for sub in world.subscriptions} == {Status.ACTIVE}
    assert not world.failures


def test_advancing_in_steps_or_at_once_is_the_same():
    small, large = healthy(80, trials=4), healthy(80, trials=4)
    for world in (small, large):
        for sub in world.subscriptions[::7]:
            acts.drain_wallet(sub.wallet)
    large.advance(40 * DAY)
    for _ in range(160):
        small.advance(timedelta(hours=6))
    assert [(line.topic, line.at, line.subscription.n) for line in small.happenings] == [
        (line.topic, line.at, line.subscription.n) for line in large.happenings
    ]


def test_virtual_time_never_goes_back():
    world = a_world()
    world.advance(to=START - DAY)
    assert world.now == START
    with pytest.raises(ValueError, match="back"):
        world.clock.advance(-DAY)


def test_a_world_needs_an_aware_start():
    with pytest.raises(ValueError, match="aware"):
        World(start=datetime(2026, 1, 1))  # noqa: DTZ001


def test_what_is_gone_is_found_no_more_and_bills_no_more():
    world = a_world()
    sub = subscribed(world)
    acts.remove(sub)
    assert world.find(world.id_of(sub)) is None
    with pytest.raises(KeyError):
        world.get(world.id_of(sub))
    world.advance(40 * DAY)
    assert len(world.bills_of(sub)) == 1
