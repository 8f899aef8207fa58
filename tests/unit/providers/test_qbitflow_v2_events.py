"""Rows of the event log and of the failures list as facts (contract v2, 3 and 5.2)."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.domain.model import BadRow, Cause, Fact, FailureSeen
from monitor.providers.qbitflow_v2_events import MAX_LINK_CHARACTERS, cause_of, event_row, failure_row

SUB = "sub@0198d002-0000-7000-8000-0000000000a1"
BILL = "sub-hist@0198d002-0000-7000-8000-0000000000b9"
AT = datetime(2026, 4, 2, 9, 0, 31, tzinfo=UTC)
LINK = "https://qbitflow.example/manage?uuid=x"


def event(type_: str, data, **changed) -> bytes:
    envelope = {
        "id": "evt_1",
        "type": type_,
        "version": "v2",
        "createdAt": "2026-04-02T09:00:31Z",
        "test": False,
        "data": data,
        **changed,
    }
    return json.dumps(envelope).encode()


def told(raw: bytes) -> Fact | None:
    found = event_row(raw)
    assert not isinstance(found, BadRow), found
    assert found[0] == "evt_1"
    return found[1]


@pytest.mark.parametrize(
    "kind", ["subscription.created", "subscription.statusChanged", "subscription.actionRequiredChanged"]
)
def test_a_change_of_state_tells_a_link_and_never_the_state(kind):
    data = {"uuid": SUB, "status": "pastDue", "managementPageLink": LINK}
    assert told(event(kind, data)) == Fact("evt_1", kind, SUB, AT, manage_link=LINK)


def test_a_failed_bill_tells_its_cause():
    data = {
        "uuid": SUB,
        "reason": "maxAmountExceeded",
        "billUuid": BILL,
        "amountUsd": "24.5",
        "managementPageLink": LINK,
    }
    kind = "subscription.billingFailed"
    assert told(event(kind, data)) == Fact(
        "evt_1",
        kind,
        SUB,
        AT,
        manage_link=LINK,
        cause=Cause.MAX_AMOUNT_EXCEEDED,
        bill_ext_id=BILL,
        bill_usd=Decimal("24.5"),
    )


def test_a_paid_bill_tells_its_transaction():
    data = {
        "uuid": BILL,
        "subscriptionUuid": SUB,
        "subscriptionStatus": "active",
        "txHash": "0xbeef",
        "amount": 24.5,
        "amountMinUnits": "24500000",
        "confirmedAt": "2026-04-02T09:00:20Z",
        "createdAt": "2026-04-02T09:00:10Z",
    }
    kind = "subscription.billed"
    assert told(event(kind, data, test=True)) == Fact(
        "evt_1",
        kind,
        SUB,
        AT,
        bill_ext_id=BILL,
        bill_tx="0xbeef",
        bill_at=datetime(2026, 4, 2, 9, 0, 20, tzinfo=UTC),
        bill_usd=Decimal("24.5"),
        bill_units=24500000,
        test=True,
    )
    del data["confirmedAt"]
    unconfirmed = told(event(kind, data))
    assert unconfirmed is not None
    assert unconfirmed.bill_at == datetime(2026, 4, 2, 9, 0, 10, tzinfo=UTC)


@pytest.mark.parametrize("sufficient", [True, False, None])
def test_an_upcoming_bill_tells_whether_the_balance_is_enough(sufficient):
    data = {"uuid": SUB, "billingDate": "2026-04-05T09:00:00Z", "amountUsd": 24, "balanceSufficient": sufficient}
    fact = told(event("subscription.upcomingBill", data))
    assert fact is not None
    assert fact.balance_sufficient is sufficient
    assert (fact.bill_at, fact.bill_usd) == (datetime(2026, 4, 5, 9, tzinfo=UTC), Decimal(24))
    assert (fact.cause, fact.manage_link, fact.bill_ext_id) == (None, None, None)


@pytest.mark.parametrize(
    "raw",
    [
        event("payment.completed", {"uuid": "pay@1"}, version="v1"),
        event("webhook.test", {"endpointUuid": "e", "message": "ping"}),
        event("subscription.teleported", {"uuid": SUB}),
        event("member.joined", None),
        event(None, []),
        event("subscription.created", {"uuid": SUB}, version="v1"),
        event("subscription.created", {"uuid": SUB}, version=None),
        event("subscription.created", "anything", version="v3"),
    ],
)
def test_other_types_and_versions_are_counted_and_tell_nothing(raw):
    assert told(raw) is None


@pytest.mark.parametrize("kind", ["payment.completed", "checkout.expired"])
@pytest.mark.parametrize(
    ("ext_id", "asked"), [("pay@0198-a1", "pay@0198-a1"), (SUB, None), ("pay@", None), (None, None)]
)
def test_a_payments_event_has_that_payment_read_again_and_tells_no_more(kind, ext_id, asked):
    fact = told(event(kind, {"uuid": ext_id, "txType": "payment", "managementPageLink": LINK}))
    assert (fact.subscription_ext_id, fact.payment, fact.manage_link, fact.kind) == (
        asked,
        asked is not None,
        None,
        kind,
    )


@pytest.mark.parametrize(
    ("raw", "ext_id"),
    [
        (event("subscription.created", {"uuid": SUB}, id=None), None),
        (event("subscription.created", {"uuid": SUB}, id=5), None),
        (event("subscription.created", {"uuid": "pay@1"}), "evt_1"),
        (event("subscription.billed", {"uuid": SUB}), "evt_1"),
        (event("subscription.created", []), "evt_1"),
        (event("subscription.created", None), "evt_1"),
        (event("subscription.created", {"uuid": SUB}, createdAt=None), "evt_1"),
        (event("subscription.created", {"uuid": SUB}, createdAt="2026-04-02T09:00:31"), "evt_1"),
        (event("subscription.created", {"uuid": SUB, "managementPageLink": 5}), "evt_1"),
        (event("subscription.created", {"uuid": SUB, "managementPageLink": "h" * (MAX_LINK_CHARACTERS + 1)}), "evt_1"),
        (event("subscription.billingFailed", {"uuid": SUB, "amountUsd": 24}), "evt_1"),
        (event("subscription.upcomingBill", {"uuid": SUB, "amountUsd": "24"}), "evt_1"),
        (event("subscription.upcomingBill", {"uuid": SUB, "balanceSufficient": 1}), "evt_1"),
        (event("subscription.created", {"uuid": SUB}, id="e" * 101), None),
        (event("subscription.billingFailed", {"uuid": SUB, "billUuid": "b" * 101}), "evt_1"),
        (b'{"id":"evt_1","type":NaN}', None),
        (b"[]", None),
    ],
)
def test_an_event_that_cannot_be_read_is_a_bad_row(raw, ext_id):
    found = event_row(raw)
    assert isinstance(found, BadRow)
    assert found.ext_id == ext_id
    assert found.reason


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("insufficientBalance", Cause.INSUFFICIENT_BALANCE),
        ("allowanceExhausted", Cause.ALLOWANCE_EXHAUSTED),
        ("approvalRevoked", Cause.APPROVAL_REVOKED),
        ("maxAmountExceeded", Cause.MAX_AMOUNT_EXCEEDED),
        ("reverted", Cause.OTHER),
        ("notConfirmed", Cause.OTHER),
        ("signatureRejected", Cause.OTHER),
        ("other", Cause.OTHER),
        ("cosmicRays", Cause.UNKNOWN),
        ("", Cause.UNKNOWN),
        (None, Cause.UNKNOWN),
    ],
)
def test_a_category_is_a_cause(text, ours):
    assert cause_of(text) is ours


FAILURE = {
    "uuid": "f-1",
    "kind": "bill",
    "txUuid": BILL,
    "attempt": 2,
    "subscriptionUuid": SUB,
    "code": "insufficient_funds",
    "category": "insufficientBalance",
    "attemptedUsd": 24.1,
    "attemptedMinUnits": "24100000",
    "currencyId": 8,
    "createdAt": "2026-04-02T09:00:31Z",
}


def test_a_failure_is_in_our_words():
    assert failure_row(json.dumps(FAILURE).encode()) == FailureSeen(
        ext_id="f-1",
        subscription_ext_id=SUB,
        bill_ext_id=BILL,
        cause=Cause.INSUFFICIENT_BALANCE,
        category_raw="insufficientBalance",
        attempt=2,
        at=AT,
        attempted_usd=Decimal("24.1"),
        attempted_units=24100000,
        currency_ext_id="8",
    )


def test_a_failed_checkout_names_no_bill():
    found = failure_row(json.dumps({**FAILURE, "txUuid": SUB, "kind": "subscriptionCheckout"}).encode())
    assert isinstance(found, FailureSeen)
    assert found.bill_ext_id is None


@pytest.mark.parametrize(
    "changed", [{"uuid": ""}, {"createdAt": None}, {"attempt": -1}, {"attemptedUsd": "24"}, {"attemptedMinUnits": 5}]
)
def test_a_failure_that_cannot_be_read_is_a_bad_row(changed):
    assert isinstance(failure_row(json.dumps({**FAILURE, **changed}).encode()), BadRow)


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.lists(st.none(), max_size=1)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["uuid", "reason", "amountUsd", "billUuid", "managementPageLink"]), JSON), JSON)
def test_any_event_and_any_failure_is_read_or_bad(data, anything):
    assert event_row(event("subscription.billingFailed", {"uuid": SUB, **data}))
    assert event_row(event("subscription.billed", anything))
    assert failure_row(json.dumps({**FAILURE, "attempt": anything, "category": anything}).encode())
