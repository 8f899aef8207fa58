"""Webhooks of the billing platform (contract billing-platform, 2.4): every part of the scheme can be changed."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from monitor.config import BillingSettings
from monitor.providers.billing_platform_hooks import BillingPlatformHooks
from monitor.providers.hooks import Refusal, Told

BODY = b'{"eventId":"bpe-900","eventType":"payment.succeeded","data":{"paymentId":"bp-7001","userId":"u-31","amount":4990}}'
SIGNATURE = "bde3fe02b0c94e48789831169d81554bffa35b0b7498ad81433c8e831ea18a3c"
NOW = datetime(2026, 4, 2, 9, 1, tzinfo=UTC)
BILLING = BillingSettings(tenant_id="t-1")
HOOKS = BillingPlatformHooks(["bp-secret-demo"], BILLING)


def test_the_vector_is_believed():
    assert len(BODY) == 114
    assert HOOKS.refusal({"x-webhook-signature": SIGNATURE}, BODY, NOW) is None
    assert (
        BillingPlatformHooks(["old", "bp-secret-demo"], BILLING).refusal({"x-webhook-signature": SIGNATURE}, BODY, NOW)
        is None
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, Refusal.MISSING), ({"x-webhook-signature": " "}, Refusal.MISSING), ({"x-webhook-signature": SIGNATURE.upper()}, Refusal.NO_MATCH)],
)  # fmt: skip
def test_a_missing_or_wrong_signature_is_refused(given, expected):
    assert HOOKS.refusal(given, BODY, NOW) is expected


def test_another_installation_signs_in_its_own_way():
    scheme = BillingSettings(
        tenant_id="t-1", webhook_header="X-Sig", webhook_prefix="hmac=", webhook_algorithm="sha512",
        webhook_timestamp_header="X-Time", webhook_tolerance_s=10,
    )  # fmt: skip
    hooks = BillingPlatformHooks(["bp-secret-demo"], scheme)

    def given(stamp: str) -> dict[str, str]:
        made = hmac.new(b"bp-secret-demo", stamp.encode() + b"." + BODY, hashlib.sha512).hexdigest()
        return {"x-sig": f"hmac={made}", "x-time": stamp}

    now = int(NOW.timestamp())
    assert hooks.refusal(given(str(now - 10)), BODY, NOW) is None
    assert hooks.refusal(given(str(now - 11)), BODY, NOW) is Refusal.STALE
    assert hooks.refusal(given("soon"), BODY, NOW) is Refusal.MALFORMED


def test_a_payment_that_changed_is_asked_about():
    seen = HOOKS.read({}, BODY)
    assert (seen.told, seen.ask, seen.key, seen.fact.subscription_ext_id) == (Told.FACT, True, "bpe-900", "bp-7001")


def test_unknown_and_unreadable_ones_are_kept():
    value = json.loads(BODY)
    assert HOOKS.read({}, json.dumps({**value, "eventType": "tenant.moved"}).encode()).told is Told.UNKNOWN
    for broken in ({**value, "eventId": None}, {**value, "data": None}, {**value, "data": [1]}):
        assert HOOKS.read({}, json.dumps(broken).encode()).told is Told.UNREADABLE
