"""Webhooks of API v1 (contract v1, section 7): canonical JSON as the vendor's server writes it, both kinds, both shapes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from monitor.providers.go_json import NotCanonicalError, canonical
from monitor.providers.hooks import Refusal, Told
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.providers.qbitflow_v1_hooks import MAX_BODY_BYTES, QBitFlowV1Hooks
from tests.hooks import SUB, V1_SECRET, V2_SECRET, VECTORS, at, event, sign_v1, sign_v2

HOOKS = QBitFlowV1Hooks(["whsec-of-the-other-url", V1_SECRET])
NOW = datetime(2026, 4, 2, 9, 1, tzinfo=UTC)


def headers(vector: dict, **over: str) -> dict[str, str]:
    made = {"x-webhook-signature-256": vector["signature"], "x-webhook-timestamp": vector["timestamp"]}
    return {**made, **{name.replace("_", "-"): value for name, value in over.items()}}


@pytest.mark.parametrize("vector", VECTORS["v1"], ids=lambda one: one["name"])
def test_the_vendors_vectors_are_written_and_believed(vector):
    raw = vector["raw"].encode()
    assert canonical(raw).decode() == vector["canonical"]
    sent = int(vector["timestamp"])
    assert [HOOKS.refusal(headers(vector), raw, at(sent + late)) for late in (300, -300)] == [None, None]
    assert [HOOKS.refusal(headers(vector), raw, at(sent + late)) for late in (301, -301)] == [Refusal.STALE] * 2
    assert QBitFlowV1Hooks(["other"]).refusal(headers(vector), raw, at(sent)) is Refusal.NO_MATCH


@pytest.mark.parametrize("vector", VECTORS["v1"], ids=lambda one: one["name"])
def test_a_body_that_was_written_again_still_matches(vector):
    again = json.dumps(json.loads(vector["raw"]), indent=3).encode()
    assert HOOKS.refusal(headers(vector), again, at(vector["timestamp"])) is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("[-0.0,-0,0,0.0,1E2,-1.50]", "[-0,-0,0,0,100,-1.5]"),
        ("[1e-7,0.0000015,1e-6,1.5e-7,-1e-7]", "[1e-7,0.0000015,0.000001,1.5e-7,-1e-7]"),
        (
            "[1e20,1e21,1.5e21,123456789012345680000,-1e21]",
            "[100000000000000000000,1e+21,1.5e+21,123456789012345680000,-1e+21]",
        ),
        ("[9007199254740993,1e300,1e-300]", "[9007199254740992,1e+300,1e-300]"),
        (r'["\ud800","a\udc00b","\ud83d\ude80"]', '["\ufffd","a\ufffdb","\U0001f680"]'),
        ('["\u2028\u2029","<&>","\u00e9"]', r'["\u2028\u2029","\u003c\u0026\u003e","é"]'),
        (r'["\u0008\u000c\u0001\t\/","\u007f"]', '["\\b\\f\\u0001\\t/","\x7f"]'),
        (r'{"\ud800":1,"b":{},"a":[]}', '{"a":[],"b":{},"\ufffd":1}'),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"\uffff":1,"\U00010000":2}', '{"\uffff":1,"\U00010000":2}'),  # by code point, not by UTF-16
        (" true ", "true"),
        ("null", "null"),
    ],
)
def test_every_edge_is_written_as_the_server_writes_it(raw, expected):
    assert canonical(raw.encode()).decode() == expected


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b'"\xed\xa0\x80"', b"NaN", b"[Infinity]", b"[1e999]", b"[" + b"9" * 5000 + b"]", b"1 2", b'["\x01"]', b"\xef\xbb\xbf1"],
)  # fmt: skip
def test_what_the_server_could_not_have_written_is_refused(raw):
    with pytest.raises(NotCanonicalError):
        canonical(raw)


def test_nesting_of_any_depth_is_refused_and_crashes_nothing():
    for depth in (900, 2_000, 100_000):
        try:
            canonical(b"[" * depth + b"]" * depth)
        except NotCanonicalError as error:
            assert "nested" in str(error)


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"x_webhook_signature_256": ""}, Refusal.MISSING),
        ({"x_webhook_timestamp": " "}, Refusal.MISSING),
        ({"x_webhook_timestamp": "+1767225600"}, Refusal.MALFORMED),
        ({"x_webhook_timestamp": " 1767225600"}, Refusal.MALFORMED),
        ({"x_webhook_timestamp": "1" * 5000}, Refusal.MALFORMED),
        ({"x_webhook_timestamp": "1767225600,1767225600"}, Refusal.MALFORMED),
        ({"x_webhook_timestamp": "-1767225600"}, Refusal.STALE),
        ({"x_webhook_timestamp": "1767225601"}, Refusal.NO_MATCH),
        (
            {"x_webhook_signature_256": "077701282f1c9c1226ffcd6b1403f51878124b80109adbee8d975439e8922769"},
            Refusal.NO_MATCH,
        ),
        ({"x_webhook_signature_256": VECTORS["v1"][0]["signature"].upper()}, Refusal.NO_MATCH),
        ({"x_webhook_signature_256": "sha256=é\ud800"}, Refusal.NO_MATCH),
    ],
)
def test_every_header_gets_its_verdict(over, expected):
    vector = VECTORS["v1"][0]
    assert HOOKS.refusal(headers(vector, **over), vector["raw"].encode(), at(vector["timestamp"])) is expected


def test_a_body_is_parsed_before_it_is_believed_so_its_size_is_bounded():
    vector = VECTORS["v1"][0]
    now = at(vector["timestamp"])
    assert HOOKS.refusal(headers(vector), b'"' + b"x" * MAX_BODY_BYTES, now) is Refusal.TOO_LARGE
    assert HOOKS.refusal(headers(vector), b"{", now) is Refusal.UNREADABLE


def read(value: object, **over: str):
    return HOOKS.read({"x-webhook-timestamp": str(int(NOW.timestamp())), **over}, json.dumps(value).encode())


FLAT = {
    "subscriptionUUID": SUB,
    "subscriptionReference": "acct-310",
    "previousStatus": "active",
    "currentStatus": "pending",
    "updatedAt": "2026-04-02T09:00:07Z",
}
CHANGE = {key: FLAT[key] for key in ("previousStatus", "currentStatus", "updatedAt")}
ENVELOPE = {"subscriptionUUID": SUB, "subscriptionReference": "", "type": "status_transition", "data": CHANGE}
BILL = {
    "uuid": "sub-hist@0198c001-0000-7000-8000-0000000000b7",
    "createdAt": "2026-04-02T09:00:05Z",
    "amount": 24,
    "amountMinUnits": "24000000",
    "transactionHash": "0xbb02",
    "test": False,
}
CHECKOUT = {
    "uuid": SUB,
    "status": {"status": "completed", "txHash": "0xaa01"},
    "session": {"uuid": SUB, "txType": "createSubscription", "test": True},
    "txType": "createSubscription",
    "managementPageLink": "https://qbitflow.example/manage?uuid=1",
}


def test_both_shapes_of_a_status_change_are_one_fact():
    flat, envelope = read(FLAT), read(ENVELOPE)
    assert flat == envelope
    assert (flat.told, flat.ask, flat.fact.subscription_ext_id) == (Told.FACT, True, SUB)
    assert flat.fact.at == datetime(2026, 4, 2, 9, 0, 7, tzinfo=UTC)
    assert read({**FLAT, "updatedAt": "2026-04-02T09:00:08Z"}).key != flat.key
    assert read({**FLAT, "currentStatus": "active"}).key != flat.key
    assert read({**FLAT, "updatedAt": "2026-04-02T11:00:07+02:00"}).key == flat.key


def test_a_renewal_is_known_by_its_bill():
    seen = read({"subscriptionUUID": SUB, "type": "billing", "data": BILL})
    assert (seen.told, seen.ask, seen.fact.bill_tx, seen.fact.bill_units) == (Told.FACT, True, "0xbb02", 24_000_000)
    assert seen.key == read({"subscriptionUUID": SUB, "type": "billing", "data": {**BILL, "amount": 25}}).key


def test_a_checkout_brings_the_management_link_and_asks_once_it_is_complete():
    seen = read(CHECKOUT)
    assert (seen.fact.manage_link, seen.fact.subscription_ext_id, seen.ask) == (
        CHECKOUT["managementPageLink"],
        SUB,
        True,
    )
    assert (seen.fact.test, seen.fact.at) == (True, NOW)
    waiting = read({**CHECKOUT, "status": {"status": "waitingConfirmation"}})
    assert (waiting.ask, waiting.key == seen.key) == (False, False)
    unsaid = read({**CHECKOUT, "status": None, "managementPageLink": ""})
    assert (unsaid.ask, unsaid.fact.manage_link) == (True, None)


def test_a_one_time_payment_is_kept_and_asks_nothing():
    seen = read({**CHECKOUT, "uuid": "pay@0198c001-0000-7000-8000-0000000000a2", "txType": "payment"})
    assert (seen.told, seen.ask, seen.fact.subscription_ext_id, seen.fact.manage_link) == (Told.FACT, False, None, None)


def test_the_dashboards_test_is_known_by_its_id_alone():
    assert read({"anything": 1}, **{"x-webhook-id": "test-webhook-id"}).told is Told.TEST


def test_another_type_is_kept_and_its_subscription_read():
    seen = read({**ENVELOPE, "type": "paused"})
    assert (seen.told, seen.ask, seen.fact.kind) == (Told.UNKNOWN, True, "v1.paused")
    assert read({**ENVELOPE, "type": "paused"}).key == seen.key
    assert (read({"a": 1}).told, read({"a": 1}).ask) == (Told.UNKNOWN, False)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {**FLAT, "subscriptionUUID": "x"},
        {**FLAT, "updatedAt": None},
        {**FLAT, "updatedAt": "yesterday"},
        {"subscriptionUUID": SUB, "type": "billing", "data": {}},
        {"subscriptionUUID": SUB, "type": "billing", "data": [1]},
        {**CHECKOUT, "uuid": ""},
        {**CHECKOUT, "session": 5},
        {**FLAT, "previousStatus": "a\0b"},
    ],
)
def test_what_cannot_be_read_is_kept_as_such(value):
    seen = read(value)
    assert (seen.told, seen.fact, seen.ask) == (Told.UNREADABLE, None, False)
    assert seen.bad is not None


def test_a_lone_surrogate_costs_nothing():
    body = json.dumps(FLAT).replace("acct-310", "\\ud800").encode()
    assert HOOKS.read({}, body).told is Told.FACT


BOTH = QBitFlowHooks([V2_SECRET])


def test_an_account_takes_either_dialect_by_its_header():
    assert BOTH.refusal(sign_v1(FLAT, NOW, V2_SECRET), json.dumps(FLAT).encode(), NOW) is None
    body = event("evt_1", "subscription.statusChanged", {"uuid": SUB})
    assert BOTH.refusal(sign_v2(body, NOW, V2_SECRET), body, NOW) is None
    assert BOTH.refusal({}, body, NOW) is Refusal.MISSING
    both = sign_v1(FLAT, NOW, V2_SECRET) | {"qbitflow-signature": "t=1,v1=0"}
    assert BOTH.refusal(both, json.dumps(FLAT).encode(), NOW) is Refusal.STALE
    assert BOTH.read(sign_v1(FLAT, NOW, V2_SECRET), json.dumps(FLAT).encode()).key == read(FLAT).key
    assert BOTH.read(sign_v2(body, NOW, V2_SECRET), body).key == "evt_1"


def test_an_endpoint_made_under_v1_sends_v1_bodies_signed_by_v2():
    for value in (FLAT, CHECKOUT):
        body = json.dumps(value).encode()
        seen = BOTH.read(sign_v2(body, NOW, V2_SECRET), body)
        assert (seen.told, seen.fact.at >= datetime(2026, 4, 2, 9, 0, 7, tzinfo=UTC)) == (Told.FACT, True)
    assert BOTH.read(sign_v2(b"{", NOW, V2_SECRET), b"{").told is Told.UNREADABLE
