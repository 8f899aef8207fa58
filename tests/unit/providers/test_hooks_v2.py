"""Webhooks of API v2 (contract v2, 5.3 and 5.4): the vectors, the traps of the header, and what a delivery tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from monitor.domain.model import Cause
from monitor.providers.hooks import Refusal, Told, unix_seconds
from monitor.providers.qbitflow_v2_hooks import QBitFlowV2Hooks, sent_at
from tests.hooks import SUB, V2_PREVIOUS, V2_SECRET, VECTORS, at, event, sign_v2

CURRENT = QBitFlowV2Hooks([V2_SECRET])
ROTATING = QBitFlowV2Hooks([V2_SECRET, V2_PREVIOUS])
ONE, TWO, THREE = VECTORS["v2"]
NOW = datetime(2026, 4, 2, 9, 1, tzinfo=UTC)


def judged(
    vector: dict,
    hooks: QBitFlowV2Hooks = CURRENT,
    *,
    header: str | None = None,
    late: int = 0,
    body: bytes | None = None,
):
    raw = vector["body"].encode() if body is None else body
    given = vector["header"] if header is None else header
    return hooks.refusal({"qbitflow-signature": given}, raw, at(int(vector["t"]) + late))


@pytest.mark.parametrize("vector", VECTORS["v2"], ids=lambda one: f"vector {one['vector']}")
def test_the_vendors_vectors_are_believed_with_one_secret_or_two(vector):
    assert len(vector["body"].encode()) == vector["bytes"]
    assert judged(vector) is None
    assert judged(vector, ROTATING, late=60) is None


def test_while_secrets_rotate_the_previous_one_alone_is_enough_and_no_other():
    assert judged(THREE, QBitFlowV2Hooks([V2_PREVIOUS])) is None
    assert judged(ONE, QBitFlowV2Hooks([V2_PREVIOUS])) is Refusal.NO_MATCH
    assert judged(THREE, QBitFlowV2Hooks(["whsec_other"])) is Refusal.NO_MATCH


def test_300_seconds_pass_and_301_do_not_in_either_direction():
    assert [judged(ONE, late=late) for late in (300, -300)] == [None, None]
    assert [judged(ONE, late=late) for late in (301, -301)] == [Refusal.STALE, Refusal.STALE]


def test_a_body_that_was_written_again_does_not_match():
    again = json.dumps(json.loads(TWO["body"])).encode()
    assert judged(TWO, body=again) is Refusal.NO_MATCH


SIGNATURE = ONE["header"].partition("v1=")[2]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Refusal.MISSING),
        ("  ", Refusal.MISSING),
        ("t=1772352000", Refusal.MALFORMED),
        (f"v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=1772352000,V1={SIGNATURE}", Refusal.MALFORMED),
        (f"T=1772352000,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=+1772352000,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=-1772352000,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=1772352000.0,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=1772352000,t=1772352000,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t={'9' * 5000},v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=9223372036854775808,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=9223372036854775807,v1={SIGNATURE}", Refusal.STALE),
        (f"t=١٧٧٢,v1={SIGNATURE}", Refusal.MALFORMED),
        (f"t=1772352000,v1={SIGNATURE.upper()}", Refusal.NO_MATCH),
        (f"t=1772352000,v1={SIGNATURE[:-1]}", Refusal.NO_MATCH),
        ("t=1772352000,v1=", Refusal.NO_MATCH),
        ("t=1772352000,v1=é\ud800", Refusal.NO_MATCH),
        (f"t=01772352000,v1={SIGNATURE}", Refusal.NO_MATCH),  # signed as received, zeros and all
        (f"t=1772352000,v1=00,v1={SIGNATURE}", None),
        (f" t = 1772352000 , v1 = {SIGNATURE} , v2=x, nonsense", None),
    ],
)
def test_every_header_gets_its_verdict(header, expected):
    assert judged(ONE, header=header) is expected


def test_time_is_judged_before_the_signature():
    assert judged(ONE, header="t=1,v1=00") is Refusal.STALE


def test_leading_zeros_are_a_part_of_what_is_signed():
    stamp = "000" + ONE["t"]
    import hashlib
    import hmac

    made = hmac.new(V2_SECRET.encode(), f"{stamp}.".encode() + ONE["body"].encode(), hashlib.sha256).hexdigest()
    assert judged(ONE, header=f"t={stamp},v1={made}") is None
    assert sent_at(f"t={stamp},v1={made}") == at(ONE["t"])


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_a", ""]])
def test_an_empty_secret_believes_nobody_it_is_refused(secrets):
    with pytest.raises(ValueError, match="empty"):
        QBitFlowV2Hooks(secrets)


def test_seconds_are_digits_that_fit_64_bits():
    assert unix_seconds("-5", negative=True) == -5
    assert (unix_seconds("-5"), unix_seconds("0"), unix_seconds("000"), unix_seconds("")) == (None, 0, 0, None)


FAILED = {
    "uuid": SUB,
    "reason": "maxAmountExceeded",
    "billUuid": "sub-hist@0198d002-0000-7000-8000-0000000000b9",
    "amountUsd": "24",
    "managementPageLink": "https://qbitflow.example/manage?uuid=1",
}


def test_a_failed_bill_is_a_fact_with_its_cause_and_link_and_asks_for_a_reading():
    seen = CURRENT.read({}, event("evt_1", "subscription.billingFailed", FAILED))
    assert (seen.told, seen.ask, seen.key) == (Told.FACT, True, "evt_1")
    assert (seen.fact.subscription_ext_id, seen.fact.cause) == (SUB, Cause.MAX_AMOUNT_EXCEEDED)
    assert seen.fact.manage_link == FAILED["managementPageLink"]


def test_a_test_delivery_tells_nothing():
    seen = CURRENT.read({}, ONE["body"].encode())
    assert (seen.told, seen.fact, seen.ask) == (Told.TEST, None, False)


def test_a_detail_that_cannot_be_read_costs_the_detail_not_the_reading():
    body = event("evt_1", "subscription.billingFailed", {**FAILED, "amountUsd": 24})
    seen = CURRENT.read({}, body)
    assert (seen.told, seen.ask, seen.fact.subscription_ext_id) == (Told.FACT, True, SUB)
    assert (seen.fact.cause, "amountUsd" in seen.bad.reason) == (None, True)
    billed = {"uuid": "sub-hist@0198d002-0000-7000-8000-0000000000b9", "subscriptionUuid": SUB, "amount": "24"}
    assert CURRENT.read({}, event("evt_2", "subscription.billed", billed)).fact.subscription_ext_id == SUB


@pytest.mark.parametrize(
    ("kind", "over", "sub"),
    [
        ("subscription.frozen", {}, SUB),
        ("subscription.statusChanged", {"version": "v3"}, SUB),
        ("wallet.blessed", {"data": {"name": "x"}}, None),
        ("wallet.blessed", {"data": [1]}, None),
        ("x" * 500, {}, SUB),
    ],
)
def test_an_unknown_type_is_kept_and_the_subscription_it_names_is_read(kind, over, sub):
    seen = CURRENT.read({}, event("evt_1", kind, **{"data": {"uuid": SUB}, **over}))
    assert (seen.told, seen.fact.subscription_ext_id, seen.ask) == (Told.UNKNOWN, sub, sub is not None)
    assert len(seen.fact.kind) <= 60
    assert seen.bad is not None


def test_a_known_type_about_no_subscription_is_kept_and_asks_nothing():
    seen = CURRENT.read({}, event("evt_1", "refund.completed", {"uuid": "refund@1"}, test=True))
    assert (seen.told, seen.ask, seen.fact.subscription_ext_id, seen.fact.test) == (Told.FACT, False, None, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"id":"evt_1"}',
        b'{"type":"subscription.billed","createdAt":"2026-04-02T09:00:31Z"}',
        event("evt_1", "subscription.statusChanged", {"uuid": "no id"}),
        event("evt_1", "subscription.statusChanged", {"uuid": f"{SUB}\0"}),
        event("evt_1", "subscription.statusChanged", {"uuid": SUB}, createdAt="0001-01-01T00:00:00Z"),
        event("evt_" + "1" * 200, "subscription.statusChanged", {"uuid": SUB}),
        b"[" * 100_000,
        event("evt_1", "subscription.statusChanged", {"uuid": SUB, "note": "x" * 70_000}),
    ],
)
def test_what_cannot_be_read_is_kept_as_such(body):
    seen = CURRENT.read({}, body)
    assert (seen.told, seen.fact, seen.ask) == (Told.UNREADABLE, None, False)
    assert len(seen.bad.raw) <= 64 * 1024
    assert len(seen.key) == 64


def test_signing_as_a_sender_does_is_believed():
    body = event("evt_1", "subscription.statusChanged", {"uuid": SUB})
    assert CURRENT.refusal(sign_v2(body, NOW, "whsec_x", V2_SECRET), body, NOW + timedelta(minutes=4)) is None
