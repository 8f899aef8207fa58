"""The JSON of API v2, key by key (contract v2, sections 2 to 5), and its damaged rows."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from monitor.sandbox import acts
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Merchant, Reason, Status, Topic
from monitor.sandbox.mangle import MANGLES
from monitor.sandbox.seeding import healthy, traps
from monitor.sandbox.transitions import cause
from monitor.sandbox.v2_shapes import Shapes, camel, duration, number

ALWAYS = {
    "uuid",
    "createdAt",
    "updatedAt",
    "from",
    "to",
    "productUuid",
    "subscriptionHash",
    "currencyId",
    "frequency",
    "allowance",
    "status",
    "priceUsd",
    "lastBillingDate",
    "test",
}
OPTIONAL = {
    "reference",
    "currency",
    "actionRequired",
    "currentPeriodEnd",
    "maxAmountPerPeriod",
    "nextBillingDate",
    "cancelledAt",
    "cancellationReason",
    "minimumCancellationDate",
    "userUuid",
    "customerUuid",
    "customerReference",
    "customer",
    "dunning",
}


def row(situation):
    world = healthy(20, trials=2)
    (ext_id,) = cause(world, {situation: 1})[situation]
    return Shapes(world).subscription(world.get(ext_id))


@pytest.mark.parametrize("seed", range(3))
def test_a_subscription_has_every_fixed_key_and_no_key_beyond_the_contract(seed):
    world = traps(30, seed=seed)
    for sub in world.subscriptions:
        keys = set(Shapes(world).subscription(sub))
        assert keys >= ALWAYS
        assert keys <= ALWAYS | OPTIONAL


def test_optional_keys_are_absent_and_never_null():
    world = traps(30)
    for sub in world.subscriptions:
        assert None not in Shapes(world).subscription(sub).values()


def test_amounts_are_texts_and_never_billed_is_the_zero_time():
    trial = row("trial_ending")
    assert (trial["allowance"], trial["lastBillingDate"], trial["subscriptionHash"]) == (
        "0",
        "0001-01-01T00:00:00Z",
        "",
    )
    assert "maxAmountPerPeriod" not in trial
    assert trial["priceUsd"] == "24"


def test_dunning_is_shown_only_while_past_due():
    waiting = row("max_amount_reached")["dunning"]
    assert (waiting["failedAttempts"], waiting["remainingAttempts"]) == (1, 4)
    assert waiting["failingSince"] == waiting["awaitingMaximumSince"] == "2026-04-01T06:00:00Z"
    assert waiting["nextAttemptAt"] == "2026-04-02T06:00:00Z"
    assert "awaitingMaximumSince" not in row("payment_failed:other")["dunning"]
    assert "dunning" not in row("low_on_funds")
    assert "dunning" not in row("cancelled:billing_failed")


def test_a_cancelled_one_has_its_reason_and_no_next_bill():
    ended = row("cancelled:merchant_closed")
    assert (ended["status"], ended["cancellationReason"]) == ("cancelled", "merchantClosed")
    assert ended["cancelledAt"] == "2026-04-01T06:00:00Z"
    assert "nextBillingDate" not in ended


def test_no_read_carries_a_management_link():
    world = healthy(3)
    assert "managementPageLink" not in json.dumps([Shapes(world).subscription(s) for s in world.subscriptions])


def test_a_deleted_customer_says_so_and_a_living_one_does_not():
    world = healthy(2)
    acts.delete_customer(world.subscriptions[0].customer)
    shown = [Shapes(world).subscription(sub)["customer"] for sub in world.subscriptions]
    assert shown[0]["deleted"] is True
    assert "deleted" not in shown[1]


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (timedelta(days=30), {"value": 1, "unit": "months"}),
        (timedelta(days=365), {"value": 1, "unit": "years"}),
        (timedelta(days=360), {"value": 12, "unit": "months"}),
        (timedelta(days=14), {"value": 2, "unit": "weeks"}),
        (timedelta(days=31), {"value": 31, "unit": "days"}),
        (timedelta(hours=36), {"value": 36, "unit": "hours"}),
        (timedelta(minutes=90), {"value": 90, "unit": "minutes"}),
        (timedelta(seconds=61), {"value": 61, "unit": "seconds"}),
        (timedelta(0), {"value": 0, "unit": "seconds"}),
    ],
)
def test_a_duration_is_written_in_its_largest_exact_unit(span, shown):
    assert duration(span) == shown


def test_usd_is_a_number_and_whole_dollars_have_no_point():
    assert json.dumps([number(Decimal("9.99")), number(Decimal("24.00"))]) == "[9.99, 24]"


def test_words_are_in_camel_case_on_the_wire():
    assert [camel(word) for word in ("past_due", "active", "top_up_allowance")] == [
        "pastDue",
        "active",
        "topUpAllowance",
    ]


def events(world, topic):
    return [Shapes(world).event(line) for line in world.happenings if line.topic is topic]


def test_events_carry_no_customer_and_no_dunning_but_a_link():
    world = healthy(20)
    cause(world, {"payment_failed:insufficient_balance": 1, "max_amount_reached": 1})
    for event in events(world, Topic.STATUS_CHANGED) + events(world, Topic.BILLING_FAILED):
        assert event["version"] == "v2"
        assert not {"customer", "dunning"} & set(event["data"])
        assert event["data"]["managementPageLink"].endswith("/manage?uuid=" + event["data"]["uuid"])


def test_a_failed_bill_tells_reason_attempt_and_what_is_left():
    world = healthy(20)
    cause(world, {"payment_failed:approval_revoked": 1})
    (event,) = events(world, Topic.BILLING_FAILED)
    data = event["data"]
    assert event["type"] == "subscription.billingFailed"
    assert (data["reason"], data["failureCode"]) == ("approvalRevoked", "approval_revoked")
    assert (data["attempt"], data["remainingAttempts"]) == (1, 4)
    assert data["nextAttemptAt"] == "2026-04-02T06:00:00Z"
    assert isinstance(data["amountUsd"], str)
    assert data["billUuid"].startswith("sub-hist@")


def test_a_reverted_bill_is_other_in_an_event_and_itself_in_the_failures():
    world = healthy(20)
    sub = world.subscriptions[0]
    sub.obstacle = Category.REVERTED
    world.advance(to=sub.next_billing_at)
    (event,) = events(world, Topic.BILLING_FAILED)
    assert event["data"]["reason"] == "other"
    assert Shapes(world).failure(world.failures[0])["category"] == "reverted"


def test_a_paid_bill_is_told_with_the_status_after_it_and_no_customer():
    world = healthy(20)
    world.advance(timedelta(days=20))
    event = events(world, Topic.BILLED)[0]
    assert event["type"] == "subscription.billed"
    assert event["data"]["subscriptionStatus"] == "active"
    assert "customer" not in event["data"]
    assert isinstance(event["data"]["amount"], int | float)


def test_an_upcoming_bill_has_a_number_and_no_link_and_a_trial_no_judgement():
    world = healthy(20)
    cause(world, {"trial_ending": 1})
    world.advance(timedelta(days=20))
    told = [event["data"] for event in events(world, Topic.UPCOMING_BILL)]
    trials = [data for data in told if data["trialEnding"]]
    bills = [data for data in told if not data["trialEnding"]]
    assert len(trials) == 1
    assert not {"balanceSufficient", "allowanceSufficient"} & set(trials[0])
    assert bills[0]["balanceSufficient"] is bills[0]["allowanceSufficient"] is True
    assert isinstance(bills[0]["amountUsd"], int | float)
    assert not any("managementPageLink" in data for data in told)


def test_changes_name_what_was_before_and_leave_out_nothing():
    world = healthy(20)
    cause(world, {"low_on_funds": 1, "paused": 1})
    (action,) = events(world, Topic.ACTION_CHANGED)
    assert action["data"]["actionRequired"] == "topUpAllowance"
    assert "previousActionRequired" not in action["data"]
    (status,) = events(world, Topic.STATUS_CHANGED)
    assert (status["data"]["previousStatus"], status["data"]["status"]) == ("active", "paused")


def test_test_mode_marks_every_object():
    world = healthy(3, merchant=Merchant(mode="test"))
    shapes = Shapes(world)
    assert shapes.me()["space"]["test"] is True
    assert shapes.subscription(world.subscriptions[0])["test"] is True
    assert shapes.product(world.products[0])["test"] is True


def test_a_members_row_names_the_member():
    world = healthy(1, merchant=Merchant(members=1))
    sub = world.subscriptions[0]
    sub.member = 0
    assert Shapes(world).subscription(sub)["userUuid"] == world.ids.member(0)
    acts.cancel(world, sub, Reason.MERCHANT)
    assert Shapes(world).event(world.happenings[-1])["userUuid"] == world.ids.member(0)


def test_a_bill_tells_amount_period_and_what_was_paid_with_the_refund():
    world = healthy(1)
    sub = world.subscriptions[0]
    (bill,) = world.bills_of(sub)
    shape = Shapes(world).bill(sub, bill)
    assert shape["amountMinUnits"] == str(bill.amount)
    assert shape["paidMinUnits"] == str(bill.amount + bill.refund)
    assert shape["periodEnd"] == Shapes(world).subscription(sub)["currentPeriodEnd"]


@pytest.mark.parametrize("name", MANGLES)
def test_every_mangle_damages_only_what_it_names(name):
    world = healthy(1)
    shape = Shapes(world).subscription(world.subscriptions[0])
    text = MANGLES[name].apply(shape)
    assert text != json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    if name not in ("five_thousand_digits", "nested_100000"):
        json.loads(text)
    assert "\ue000" not in text


def test_a_duplicate_key_ends_with_the_true_value():
    world = healthy(1)
    shape = Shapes(world).subscription(world.subscriptions[0])
    text = MANGLES["duplicate_key"].apply(shape)
    assert text.count('"status"') == 2
    assert json.loads(text)["status"] == Status.ACTIVE


def test_there_is_a_damage_of_each_verdict():
    assert {mangle.verdict for mangle in MANGLES.values()} == {"bad", "fine", "open"}
    assert sum(mangle.verdict == "bad" for mangle in MANGLES.values()) >= 20
