"""Rows of the payment lists: amounts stay exact, nobody is nobody, and a bad row costs itself."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.domain.model import BadRow, Cause
from monitor.domain.payments import PaymentKind, PaymentStatus
from monitor.providers.qbitflow_payments import _read_mark, attempt_row, checkout_row, paid_row

NOW = datetime(2026, 4, 2, 9, 0, tzinfo=UTC)
AT = "2026-04-02T09:00:00.25+02:00"
PAID = {
    "source": "subscriptionHistory",
    "uuid": "sub-hist@1",
    "createdAt": AT,
    "amount": 24.5,
    "amountMinUnits": "24500000",
    "currencyId": 8,
    "txHash": "0xaa",
    "explorerUrl": "https://explorer.example/0xaa",
    "productUuid": "p-1",
    "customerUuid": "c-1",
    "subscriptionUuid": "sub@1",
    "subscriptionReference": "acct-1",
    "test": True,
    "customer": {"email": "ines@customer.example"},
}
FAILED = {
    "uuid": "f-1",
    "kind": "payment",
    "txUuid": "pay@1",
    "attempt": 2,
    "category": "insufficientBalance",
    "attemptedUsd": 5,
    "attemptedMinUnits": "5000000",
    "currencyId": 8,
    "createdAt": AT,
}


def dumped(row, **fields) -> bytes:
    return json.dumps({**row, **fields}).encode()


def test_a_bill_keeps_its_money_its_hash_and_whose_it_is():
    row = paid_row(dumped(PAID))
    assert (row.kind, row.status, row.ext_id) == (PaymentKind.BILL, PaymentStatus.SUCCEEDED, "sub-hist@1")
    assert (row.amount_usd, row.amount_units, row.currency) == (Decimal("24.5"), 24_500_000, "8")
    assert (row.tx_hash, row.explorer_url) == ("0xaa", "https://explorer.example/0xaa")
    assert (row.customer_ext_id, row.subscription_ext_id, row.product_ext_id) == ("c-1", "sub@1", "p-1")
    assert (row.reference, row.test) == ("acct-1", True)
    assert row.created_at == datetime(2026, 4, 2, 7, 0, 0, 250_000, tzinfo=UTC)


def test_a_one_off_payment_has_no_subscription_and_the_nil_customer_is_nobody():
    nil = "00000000-0000-0000-0000-000000000000"
    row = paid_row(
        dumped(PAID, uuid="pay@1", subscriptionUuid=None, reference="order-1", customerUuid=nil, currencyId=0)
    )
    assert (row.kind, row.reference, row.customer_ext_id, row.currency) == (PaymentKind.ONE_OFF, "order-1", None, None)


def test_a_failed_try_names_what_it_was_a_try_at():
    row = attempt_row(dumped(FAILED))
    assert (row.kind, row.status, row.of_ext_id, row.attempt) == (PaymentKind.ATTEMPT, PaymentStatus.FAILED, "pay@1", 2)
    assert (row.cause, row.reason) == (Cause.INSUFFICIENT_BALANCE, "insufficientBalance")
    assert row.status_raw == "insufficientBalance"
    assert (row.amount_usd, row.amount_units, row.subscription_ext_id) == (Decimal(5), 5_000_000, None)
    untold = attempt_row(dumped(FAILED, category=None))
    assert (untold.cause, untold.reason, untold.status_raw) == (None, None, "")
    assert attempt_row(dumped(FAILED, category="sunspots")).cause is Cause.UNKNOWN


@pytest.mark.parametrize("read", [paid_row, attempt_row])
@pytest.mark.parametrize(
    "fields",
    [
        {"uuid": None},
        {"uuid": 5},
        {"createdAt": "2026-04-02T09:00:00"},
        {"currencyId": 1.5},
        {"test": 1},
        {"txHash": "x" * 201},
        {"customerUuid": "a\u0000b"},
    ],
    ids=str,
)
def test_a_row_that_breaks_the_contract_is_bad(read, fields):
    row = read(dumped(PAID if read is paid_row else FAILED, **fields))
    assert isinstance(row, BadRow)
    assert row.reason


def test_amounts_of_another_type_are_bad_and_the_row_is_known_by_its_id():
    for fields in ({"amount": "24.5"}, {"amount": -1}, {"amountMinUnits": 5}, {"amountMinUnits": "1e6"}):
        assert isinstance(paid_row(dumped(PAID, **fields)), BadRow)
    assert paid_row(dumped(PAID, amount="24.5")).ext_id == "sub-hist@1"
    assert paid_row(dumped(PAID, explorerUrl="h" * 2049)).ext_id == "sub-hist@1"
    assert attempt_row(dumped(FAILED, attempt=1.5)).ext_id == "f-1"
    assert attempt_row(dumped(FAILED, category="x" * 101)).ext_id == "f-1"


@pytest.mark.parametrize(
    ("fields", "ext_id", "address"),
    [
        ({"customer": {"uuid": "c-1", "email": "ines@customer.example"}}, "c-1", "ines@customer.example"),
        ({"customerUuid": None, "customer": {"uuid": "c-2", "email": "x@y.example"}}, "c-2", "x@y.example"),
        ({"customer": {"uuid": "c-9", "email": "somebody@else.example"}}, "c-1", None),
        ({"customer": {"email": "ines@customer.example"}}, "c-1", None),
        ({"customer": "ines"}, "c-1", None),
        ({"customer": None}, "c-1", None),
        ({"customerUuid": None, "customer": None}, None, None),
    ],
    ids=str,
)
def test_a_payment_brings_its_customer_where_the_row_carries_the_one_that_it_names(fields, ext_id, address):
    for read, row in ((paid_row, PAID), (attempt_row, {**FAILED, "customerUuid": "c-1"})):
        seen = read(dumped(row, **fields))
        assert seen.customer_ext_id == ext_id
        assert (seen.customer and seen.customer.email) == address
        assert seen == replace(seen, customer=None)  # who pays is no part of what was paid


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        ("created", PaymentStatus.CREATED),
        ("waitingConfirmation", PaymentStatus.PENDING),
        ("expired", PaymentStatus.EXPIRED),
        ("completed", PaymentStatus.UNKNOWN),
        ("frozen", PaymentStatus.UNKNOWN),
        (None, PaymentStatus.UNKNOWN),
    ],
)
def test_a_checkout_tells_how_far_its_payment_is(status, ours):
    row = checkout_row(json.dumps({"uuid": "pay@1", "status": status, "txHash": "0xaa"}).encode(), "pay@1")
    assert (row.ext_id, row.kind, row.status, row.status_raw) == ("pay@1", PaymentKind.ONE_OFF, ours, status or "")
    assert (row.tx_hash, row.customer_ext_id, row.created_at) == ("0xaa", None, None)


@pytest.mark.parametrize("raw", [b"[]", b'{"uuid":"pay@2","status":"created"}', b'{"uuid":"pay@1","status":5}', b"{}"])
def test_a_checkout_that_cannot_be_read_or_is_another_is_bad(raw):
    row = checkout_row(raw, "pay@1")
    assert isinstance(row, BadRow)
    assert row.ext_id == "pay@1"


@pytest.mark.parametrize("mark", [None, "", "x y", "1", "9", "0 yesterday"])
def test_a_mark_that_is_none_of_ours_begins_anew(mark):
    assert _read_mark(mark, NOW) == (0, NOW)


def test_a_mark_goes_on_where_it_says_and_never_after_the_bound():
    earlier = NOW - timedelta(days=3)
    assert _read_mark(f"1 {earlier.isoformat()}", NOW) == (1, earlier)
    assert _read_mark(f"0 {(NOW + timedelta(days=3)).isoformat()}", NOW) == (0, NOW)
