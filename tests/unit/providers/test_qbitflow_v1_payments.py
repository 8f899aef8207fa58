"""Rows of v1's combined payments: what is read however it is written, and what makes a row bad."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from monitor.domain.model import BadRow
from monitor.domain.payments import PaymentKind
from monitor.providers.qbitflow_v1_payments import paid_row, subscription_named_in

SUB = "sub@11111111-1111-4111-8111-111111111111"
NOBODY = "00000000-0000-0000-0000-000000000000"


def row(**fields: object) -> bytes:
    return json.dumps({"uuid": "pay@1", "createdAt": "2026-03-03T09:00:05Z", **fields}).encode()


@pytest.mark.parametrize("customer", [NOBODY, None, ""])
def test_nobody_is_nobody_however_it_is_said(customer):
    seen = paid_row(row(customerUUID=customer, subscriptionUUID=None))
    assert (seen.customer_ext_id, seen.subscription_ext_id, seen.kind) == (None, None, PaymentKind.ONE_OFF)
    assert paid_row(row()).customer_ext_id is None


@pytest.mark.parametrize(
    ("at", "told"), [("0001-01-01T00:00:00Z", None), ("0001-01-01T00:00:00+02:00", None), (None, None)]
)
def test_a_zero_time_is_no_time(at, told):
    assert paid_row(row(createdAt=at)).created_at is told


@pytest.mark.parametrize(
    ("usd", "units", "expected"),
    [
        (24, "24000000", (Decimal(24), 24_000_000)),
        (24.5, 24_500_000, (Decimal("24.5"), 24_500_000)),
        ("24.50", str(10**30), (Decimal("24.50"), 10**30)),
        (0, "0", (None, 0)),
        (None, None, (None, None)),
        ("", "", (None, None)),
    ],
)
def test_an_amount_is_exact_as_a_number_or_as_a_text(usd, units, expected):
    seen = paid_row(row(amount=usd, amountMinUnits=units))
    assert (seen.amount_usd, seen.amount_units) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": "many"},
        {"amount": -1},
        {"amount": [24]},
        {"amountMinUnits": 1.5},
        {"amountMinUnits": "0x10"},
        {"amountMinUnits": True},
        {"createdAt": "soon"},
        {"createdAt": "2026-03-03T09:00:05"},
        {"subscriptionUUID": "sub@x"},
        {"uuid": None},
        {"uuid": NOBODY},
        {"transactionHash": "x" * 201},
        {"currencyId": 1.5},
        {"customerUUID": 7},
    ],
)
def test_a_row_that_breaks_the_contract_is_bad_and_tells_why(fields):
    bad = paid_row(row(**fields))
    assert isinstance(bad, BadRow)
    assert bad.reason


@pytest.mark.parametrize("raw", [b"null", b"[]", b"<html>", b"", b"\xff"])
def test_what_is_no_object_names_nothing(raw):
    assert isinstance(paid_row(raw), BadRow)
    assert subscription_named_in(raw) is None


def test_a_bad_bill_still_names_its_subscription():
    raw = row(amount="many", subscriptionUUID=SUB)
    assert isinstance(paid_row(raw), BadRow)
    assert subscription_named_in(raw) == SUB
    assert subscription_named_in(row(subscriptionUUID="sub@x")) is None
