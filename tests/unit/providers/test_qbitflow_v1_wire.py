"""What only some rows of API v1 carry: the spending limit of pay-as-you-go, which must never cost a row."""

import json
from decimal import Decimal

import pytest

from monitor.domain.model import BadRow
from monitor.providers.qbitflow_v1_payments import paid_row, subscription_named_in
from monitor.providers.qbitflow_v1_wire import subscription_row

ROW = {"uuid": "sub@11111111-1111-4111-8111-111111111111", "subscriptionStatus": "active"}


@pytest.mark.parametrize(
    ("token", "limit"),
    [
        ("500", Decimal(500)),
        ("500.25", Decimal("500.25")),
        ("5e2", Decimal(500)),
        ('"500.25"', Decimal("500.25")),
        *((nothing, None) for nothing in ("0", "0.0", '"0"', '""', "null")),
        *((nonsense, None) for nonsense in ("-5", '"-5"', '"lots"', "true", "{}", "[1]", "1e999", "1" * 60)),
    ],
)
def test_a_spending_limit_is_read_where_it_is_one_and_else_the_row_goes_without(token, limit):
    raw = json.dumps(ROW)[:-1] + f', "maxSpendingPerPeriod": {token}, "unitsCurrentPeriod": 12.5}}'
    snapshot, _ = subscription_row(raw.encode())
    assert snapshot.max_spending_usd == limit


def test_a_row_billed_by_usage_is_a_subscription_too():
    ext_id = ROW["uuid"].replace("sub@", "payg@")
    snapshot, _ = subscription_row(json.dumps({**ROW, "uuid": ext_id}).encode())
    assert snapshot.ext_id == ext_id
    bill = json.dumps({"uuid": "sub-hist@1", "subscriptionUUID": ext_id}).encode()
    assert (paid_row(bill).subscription_ext_id, subscription_named_in(bill)) == (ext_id, ext_id)
    assert isinstance(subscription_row(json.dumps({**ROW, "uuid": f"x{ext_id}"}).encode()), BadRow)


def test_an_ordinary_row_has_none():
    snapshot, _ = subscription_row(json.dumps(ROW).encode())
    assert snapshot.max_spending_usd is None
