"""Every row of the decoding table of contract v2, section 1, on the subscription and what it carries."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.domain.model import Action, BadRow, CancelReason, CurrencySeen, CustomerSeen, Mode, Snapshot, Status
from monitor.providers.qbitflow_v2_wire import (
    customer_seen,
    product_seen,
    space_of_key,
    subscription_row,
)
from monitor.providers.wire import MAX_ROW_BYTES, RowError
from tests.scale import sized

ID = "sub@0198d002-0000-7000-8000-0000000000a1"
CUSTOMER = {
    "uuid": "cus-1",
    "name": "Ines",
    "lastName": "Moreau",
    "email": "ines@customer.example",
    "reference": "crm-77",
}
TOKEN = {
    "id": 8,
    "name": "USD Coin",
    "symbol": "USDC",
    "decimals": 6,
    "address": "0xc8",
    "mainCurrencyId": 3,
    "mainCurrency": {"id": 3, "name": "Base", "symbol": "BASE", "decimals": 18, "mainCurrency": None},
    "test": False,
}
ROW = {
    "uuid": ID,
    "reference": "acct-310",
    "createdAt": "2026-01-03T09:00:00Z",
    "updatedAt": "2026-04-02T09:01:00Z",
    "from": "0xf1",
    "to": "0xf2",
    "productUuid": "prod-1",
    "subscriptionHash": "0xaa01",
    "currencyId": 8,
    "currency": TOKEN,
    "frequency": {"value": 1, "unit": "months"},
    "allowance": "18400000",
    "status": "pastDue",
    "actionRequired": "raiseMaximum",
    "currentPeriodEnd": "2026-04-02T09:00:00Z",
    "priceUsd": "24",
    "maxAmountPerPeriod": "23500000",
    "lastBillingDate": "2026-03-03T09:00:00Z",
    "nextBillingDate": "2026-04-02T09:00:00Z",
    "test": False,
    "customerUuid": "cus-1",
    "customerReference": "crm-77",
    "customer": CUSTOMER,
    "dunning": {
        "failedAttempts": 1,
        "remainingAttempts": 4,
        "failingSince": "2026-04-02T09:00:30Z",
        "nextAttemptAt": "2026-04-03T09:00:30Z",
        "awaitingMaximumSince": "2026-04-02T09:00:30Z",
    },
}


def row_bytes(without=(), **changed) -> bytes:
    row = {key: value for key, value in {**ROW, **changed}.items() if key not in without}
    return json.dumps(row, separators=(",", ":")).encode()


def read(**changed) -> Snapshot:
    found = subscription_row(row_bytes(**changed))
    assert not isinstance(found, BadRow), found
    return found[0]


def refusal(raw: bytes) -> str:
    found = subscription_row(raw)
    assert isinstance(found, BadRow), found
    assert found.raw == raw[:MAX_ROW_BYTES]
    return found.reason


def with_token(name: str, token: str) -> bytes:
    """The row with a JSON token that json.dumps would not write."""
    return row_bytes(**{name: "@@"}).replace(b'"@@"', token.encode())


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_a_whole_row_arrives_in_our_words():
    assert read() == Snapshot(
        ext_id=ID,
        status=Status.PAST_DUE,
        status_raw="pastDue",
        provider="qbitflow-v2",
        created_at=at(2026, 1, 3, 9),
        provider_updated_at=at(2026, 4, 2, 9, 1),
        reference="acct-310",
        action=Action.RAISE_MAXIMUM,
        action_raw="raiseMaximum",
        customer_ext_id="cus-1",
        product_ext_id="prod-1",
        currency_ext_id="8",
        price_usd=Decimal(24),
        frequency=timedelta(days=30),
        allowance=18400000,
        maximum=23500000,
        current_period_end_at=at(2026, 4, 2, 9),
        last_billing_at=at(2026, 3, 3, 9),
        next_billing_at=at(2026, 4, 2, 9),
        failed_attempts=1,
        remaining_attempts=4,
        failing_since_at=at(2026, 4, 2, 9, 0, 30),
        next_attempt_at=at(2026, 4, 3, 9, 0, 30),
        awaiting_maximum_since_at=at(2026, 4, 2, 9, 0, 30),
        wallet="0xf1",
        subscription_hash="0xaa01",
        customer=CustomerSeen("cus-1", "ines@customer.example", "Ines", "Moreau", "crm-77"),
        currency=CurrencySeen("8", "USDC", 6, "USD Coin", "0xc8", "BASE"),
    )


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_a_key_that_is_absent_or_null_is_not_told(absent):
    keys = [key for key in ROW if key != "uuid"]
    found = subscription_row(row_bytes(without=keys) if absent else row_bytes(**dict.fromkeys(keys)))
    assert not isinstance(found, BadRow)
    assert found[0] == Snapshot(ext_id=ID, status=Status.UNKNOWN, status_raw="", provider="qbitflow-v2")


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("trial", Status.TRIAL),
        ("trialExpired", Status.TRIAL_EXPIRED),
        ("active", Status.ACTIVE),
        ("pastDue", Status.PAST_DUE),
        ("paused", Status.PAUSED),
        ("stopped", Status.STOPPED),
        ("cancelled", Status.CANCELLED),
        ("Active", Status.UNKNOWN),
        ("hibernating", Status.UNKNOWN),
    ],
)
def test_a_status_keeps_its_text_and_an_unknown_one_is_unknown(wire, ours):
    found = read(status=wire)
    assert (found.status, found.status_raw) == (ours, wire)


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("topUpAllowance", Action.TOP_UP_ALLOWANCE),
        ("raiseMaximum", Action.RAISE_MAXIMUM),
        ("confirmTrial", Action.CONFIRM_TRIAL),
        ("danceOnce", Action.UNKNOWN),
    ],
)
def test_an_action_keeps_its_text_and_an_unknown_one_is_unknown(wire, ours):
    found = read(actionRequired=wire)
    assert (found.action, found.action_raw) == (ours, wire)


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("customer", CancelReason.CUSTOMER),
        ("merchant", CancelReason.MERCHANT),
        ("billingFailed", CancelReason.BILLING_FAILED),
        ("trialNotConverted", CancelReason.TRIAL_NOT_CONVERTED),
        ("merchantClosed", CancelReason.MERCHANT_CLOSED),
        ("inactiveOnChain", CancelReason.INACTIVE_ON_CHAIN),
        ("boredom", CancelReason.UNKNOWN),
    ],
)
def test_a_reason_of_the_end_is_in_our_words(wire, ours):
    assert read(cancellationReason=wire).cancel_reason is ours


def test_unknown_keys_are_ignored():
    assert read(brandNew={"deep": [1, 2.5, None, "x"]}) == read()


@pytest.mark.parametrize("token", ["8.0", "8e0", "80e-1", "8"])
def test_an_integral_float_is_an_int(token):
    found = subscription_row(with_token("currencyId", token))
    assert not isinstance(found, BadRow)
    assert found[0].currency_ext_id == "8"


def test_an_exponent_is_a_number():
    raw = row_bytes(without=["currency"]).replace(b'"currencyId":8', b'"currencyId":1e2')
    found = subscription_row(raw)
    assert not isinstance(found, BadRow)
    assert found[0].currency_ext_id == "100"


WRONG = {
    "a number for a string": ("status", "5"),
    "a string for a number": ("currencyId", '"8"'),
    "1 for a bool": ("test", "1"),
    "a number for a time": ("createdAt", "1772352000"),
    "an object for a list, the other way": ("dunning", "[]"),
    "a text for an object": ("frequency", '"monthly"'),
    "an object for a text": ("allowance", "{}"),
    "a product id that no column holds": ("productUuid", f'"{"p" * 101}"'),
    "a customer id that no column holds": ("customerUuid", f'"{"c" * 101}"'),
    "a symbol that no column holds": ("currency", '{"id":8,"symbol":"' + "S" * 41 + '"}'),
    "a number for min units": ("allowance", "18400000"),
    "a fractional id": ("currencyId", "8.5"),
    "a negative id": ("currencyId", "-8"),
    "true for a number": ("currencyId", "true"),
    "a number out of range": ("currencyId", "1e400"),
    "a number of 5,000 digits": ("currencyId", "7" * 5000),
    "a customer that is a list": ("customer", "[]"),
    "a customer with a number for an address": ("customer", '{"uuid":"cus-1","email":5}'),
    "a customer without a uuid": ("customer", '{"email":"a@b.example"}'),
    "another customer than the one named": ("customer", '{"uuid":"cus-2"}'),
    "decimals that make every amount zero": ("currency", '{"id":8,"symbol":"X","decimals":78}'),
    "a time without an offset": ("createdAt", '"2026-01-03T09:00:00"'),
    "a date for a time": ("createdAt", '"2026-01-03"'),
    "an empty time": ("createdAt", '""'),
    "a day that is none": ("createdAt", '"2026-02-30T09:00:00Z"'),
    "the year 9999": ("nextBillingDate", '"9999-12-31T23:59:59-05:00"'),
    "the year 1969": ("createdAt", '"1969-12-31T23:59:59Z"'),
    "min units with a sign": ("allowance", '"-5"'),
    "min units with a point": ("allowance", '"5.0"'),
    "min units with an exponent": ("maxAmountPerPeriod", '"1e9"'),
    "min units in other digits": ("allowance", '"٣"'),
    "min units of 79 digits": ("allowance", f'"{"9" * 79}"'),
    "min units of 5,000 digits": ("allowance", f'"{"9" * 5000}"'),
    "a price that is NaN": ("priceUsd", '"NaN"'),
    "a price that is infinite": ("priceUsd", '"Infinity"'),
    "a price of 1e400": ("priceUsd", '"1e400"'),
    "a negative price": ("priceUsd", '"-24"'),
    "a price with a comma": ("priceUsd", '"24,00"'),
    "a price beyond reason": ("priceUsd", f'"{"9" * 19}"'),
    "a price with 31 places": ("priceUsd", f'"0.{"0" * 30}1"'),
    "a price as a number": ("priceUsd", "24"),
    "half a period": ("frequency", '{"value":0.5,"unit":"days"}'),
    "a negative period": ("frequency", '{"value":-1,"unit":"days"}'),
    "a period of 101 years": ("frequency", '{"value":101,"unit":"years"}'),
    "a negative number of attempts": ("dunning", '{"remainingAttempts":-1}'),
    "a lone surrogate": ("reference", '"\\ud800 and more text"'),
    "a lone surrogate where nobody looks": ("novel", '"\\udc00"'),
    "NUL": ("reference", '"a\\u0000b"'),
    "NUL where nobody looks": ("novel", '"\\\\\\u0000"'),
    "a row of a megabyte": ("reference", f'"{"x" * 1_000_000}"'),
    "deep nesting": ("novel", "[" * 5000 + "]" * 5000),
    "no id": ("uuid", "null"),
    "an empty id": ("uuid", '""'),
    "an id of something else": ("uuid", '"pay@0198d002-0000-7000-8000-0000000000a1"'),
    "an id with a path in it": ("uuid", f'"{ID}/../x"'),
}


@pytest.mark.parametrize(("name", "token"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_costs_the_row_and_says_why(name, token):
    reason = refusal(with_token(name, token))
    assert reason
    assert "ines@" not in reason


def test_the_reason_names_the_place_also_inside_the_customer():
    assert refusal(with_token("status", "5")).endswith("$.status`")
    assert refusal(with_token("customer", '{"uuid":"cus-1","email":5}')) == (
        "customer: Expected `str | null`, got `int` - at `$.email`"
    )


@pytest.mark.parametrize("raw", [b"null", b"[]", b"5", b'"x"', b"", b"{", b"\xff", b'{"uuid":NaN}'])
def test_what_is_no_object_is_a_bad_row(raw):
    refusal(raw)


@pytest.mark.parametrize("name", ["status", "createdAt", "novel"])
def test_a_bad_row_still_gives_its_id_away(name):
    token = '"\\ud800"' if name == "novel" else "5"
    found = subscription_row(with_token(name, token))
    assert isinstance(found, BadRow)
    assert found.ext_id == ID


def test_the_id_of_a_bad_row_is_never_another_objects():
    found = subscription_row(row_bytes(uuid=5))
    assert isinstance(found, BadRow)
    assert found.ext_id is None


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("2026-03-01T10:00:00Z", at(2026, 3, 1, 10)),
        ("2026-03-01T10:00:00.250000+02:00", datetime(2026, 3, 1, 8, 0, 0, 250000, tzinfo=UTC)),
        ("2026-03-01T10:00:00.1234567Z", datetime(2026, 3, 1, 10, 0, 0, 123457, tzinfo=UTC)),
        ("2026-03-01T10:00:00.5-11:30", datetime(2026, 3, 1, 21, 30, 0, 500000, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("0001-01-01T00:00:00-12:00", None),
    ],
)
def test_a_time_is_utc_and_the_zero_time_is_none(wire, ours):
    found = read(lastBillingDate=wire).last_billing_at
    assert found == ours
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("wire", "ours"),
    [("0", None), ("0.00", None), ("", None), ("10.0", Decimal(10)), ("0.000000000000000001", Decimal("1e-18"))],
)
def test_a_price_is_exact_and_zero_is_unset(wire, ours):
    assert read(priceUsd=wire).price_usd == ours


@pytest.mark.parametrize(("wire", "ours"), [("", None), ("0", 0), ("007", 7), ("9" * 78, 10**78 - 1)])
def test_min_units_are_whole_numbers(wire, ours):
    assert read(allowance=wire).allowance == ours


@pytest.mark.parametrize(
    ("value", "unit", "ours"),
    [
        (90, "seconds", timedelta(seconds=90)),
        (5, "minutes", timedelta(minutes=5)),
        (12, "hours", timedelta(hours=12)),
        (7, "days", timedelta(days=7)),
        (2, "weeks", timedelta(days=14)),
        (3, "months", timedelta(days=90)),
        (100, "years", timedelta(days=36500)),
        (0, "", None),
        (1, "fortnights", None),
    ],
)
def test_a_period_counts_months_as_30_days_and_years_as_365(value, unit, ours):
    assert read(frequency={"value": value, "unit": unit}).frequency == ours


def test_a_period_of_zero_needs_no_unit():
    assert read(frequency={"value": 0}).frequency is None


def test_dunning_that_says_nothing_counts_zero_attempts():
    found = read(dunning={})
    assert (found.failed_attempts, found.remaining_attempts, found.failing_since_at) == (0, 0, None)


def test_a_deleted_customer_is_marked():
    found = read(customer={**CUSTOMER, "deleted": True, "email": ""}).customer
    assert found is not None
    assert found.deleted
    assert found.email is None


def test_the_customer_names_itself_where_the_row_does_not():
    found = subscription_row(row_bytes(without=["customerUuid"]))
    assert not isinstance(found, BadRow)
    assert found[0].customer_ext_id == "cus-1"


def test_a_token_that_the_row_does_not_name_is_not_believed():
    found = read(currencyId=9)
    assert (found.currency_ext_id, found.currency) == ("9", None)


def test_the_token_names_itself_where_the_row_does_not():
    found = read(currencyId=None)
    assert found.currency_ext_id == "8"
    assert found.currency is not None


@pytest.mark.parametrize(
    ("changed", "chain"),
    [
        ({}, "BASE"),
        ({"mainCurrency": None}, ""),
        ({"mainCurrency": None, "mainCurrencyId": None, "symbol": "ETH"}, "ETH"),
    ],
)
def test_the_chain_is_the_main_currency_or_the_coin_itself(changed, chain):
    found = read(currency={**TOKEN, **changed}).currency
    assert found is not None
    assert found.chain == chain


def test_the_last_of_two_equal_keys_counts():
    found = subscription_row(row_bytes().replace(b'"status"', b'"status":"active","status"'))
    assert not isinstance(found, BadRow)
    assert found[0].status is Status.PAST_DUE


CARRIERS = {
    "last": json.dumps(
        {**{k: v for k, v in ROW.items() if k != "customer"}, "customer": CUSTOMER}, separators=(",", ":")
    ),
    "first": json.dumps({"customer": CUSTOMER, **ROW}, separators=(",", ":")),
    "spaced": json.dumps(ROW, indent=1),
    "alone beside the id": json.dumps({"uuid": ID, "customer": CUSTOMER}),
    "also a value": json.dumps({**ROW, "cancellationReason": "customer"}, separators=(",", ":")),
    "escaped key": json.dumps(ROW, separators=(",", ":")).replace('"customer":', '"\\u0063ustomer":'),
    "twice": json.dumps(ROW, separators=(",", ":"))[:-1]
    + ',"customer":'
    + json.dumps(CUSTOMER, separators=(",", ":"))
    + "}",
    "twice, spaced": json.dumps(ROW, separators=(",", ":"))[:-1] + ',"customer" : ' + json.dumps(CUSTOMER) + "}",
    "with an escape": json.dumps({**ROW, "customer": {**CUSTOMER, "name": "Inès"}}, separators=(",", ":")),
    "null": json.dumps({**ROW, "customer": None}),
}


@pytest.mark.parametrize("text", CARRIERS.values(), ids=CARRIERS.keys())
def test_the_kept_json_is_the_row_without_its_customer(text):
    found = subscription_row(text.encode())
    assert not isinstance(found, BadRow), found
    expected = json.loads(text)
    expected.pop("customer")
    assert json.loads(found[1]) == expected
    assert b"ines@customer.example" not in found[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def storable(text: str | None) -> bool:
    if text is None:
        return True
    text.encode()
    return "\0" not in text


@settings(max_examples=sized(2_000, 120), deadline=None)
@given(st.dictionaries(st.sampled_from([*ROW, "novel"]), JSON, max_size=4))
def test_any_value_in_any_place_gives_a_snapshot_or_a_bad_row(changed):
    raw = json.dumps({**ROW, **changed}).encode()
    found = subscription_row(raw)
    if isinstance(found, BadRow):
        assert found.reason
    else:
        snapshot, kept = found
        assert "customer" not in json.loads(kept)
        assert all(map(storable, (snapshot.reference, snapshot.status_raw, snapshot.action_raw, snapshot.wallet)))
        assert snapshot.price_usd is None or (snapshot.price_usd.is_finite() and snapshot.price_usd > 0)


@settings(max_examples=sized(2_000, 120), deadline=None)
@given(st.data())
def test_any_damage_to_the_bytes_gives_a_snapshot_or_a_bad_row(data):
    raw = bytearray(row_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        end = start + data.draw(st.integers(0, 6))
        raw[start:end] = data.draw(st.binary(max_size=6))
    assert subscription_row(bytes(raw))


def test_a_product_is_in_our_words():
    raw = (
        b'{"uuid":"p","name":"Pro","price":24.10,"isActive":true,"reference":"","legacyId":4,'
        b'"subscription":{"frequency":{"value":1,"unit":"weeks"}},"paymentLink":"https://pay.example/p"}'
    )
    found = product_seen(raw)
    assert (found.ext_id, found.name, str(found.price_usd)) == ("p", "Pro", "24.10")
    assert (found.frequency, found.payment_link) == (timedelta(days=7), "https://pay.example/p")
    assert (found.reference, found.active) == (None, True)


@pytest.mark.parametrize(
    ("token", "ours"), [("0.1", "0.1"), ("1e2", "100"), ("0.30000000000000004", "0.30000000000000004")]
)
def test_a_price_that_is_a_number_never_becomes_a_float(token, ours):
    assert str(product_seen(b'{"uuid":"p","price":' + token.encode() + b"}").price_usd) == ours


@pytest.mark.parametrize("token", ["-1", "1e400", '"24"', "true", "[]", "1e-31"])
def test_a_price_that_is_no_sane_number_is_refused(token):
    with pytest.raises(RowError):
        product_seen(b'{"uuid":"p","price":' + token.encode() + b"}")


@pytest.mark.parametrize("raw", [b"{}", b'{"uuid":""}'])
def test_products_and_customers_need_an_id(raw):
    with pytest.raises(RowError):
        product_seen(raw)
    with pytest.raises(RowError):
        customer_seen(raw)


def test_the_key_names_its_space_and_mode():
    raw = b'{"credential":"apiKey","space":{"uuid":"s","organizationName":"Acme","test":true}}'
    assert space_of_key(raw) == ("s", Mode.TEST, "Acme")
    assert space_of_key(b'{"space":{"uuid":"s"}}') == ("s", Mode.LIVE, "")


@pytest.mark.parametrize("raw", [b"{}", b'{"space":null}', b'{"space":{"test":true}}'])
def test_a_key_without_a_space_is_refused(raw):
    with pytest.raises(RowError):
        space_of_key(raw)
