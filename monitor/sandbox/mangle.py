"""Rows as broken servers send them: one entry for each trap of the contract's decoding rules, and for worse.

`verdict` says what the contract makes of the row: `bad` (a response fault), `fine` (accepted as it stands), or `open`
(the contract does not say; a reader may do either, but must not crash or lose the page).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
_RAW = "\ue000"  # a private character: no world contains it


@dataclass(frozen=True, slots=True)
class Mangle:
    """One kind of damage."""

    verdict: str
    apply: Callable[[Row], str]
    """From the row as it should be to its JSON text."""


def _dump(row: object) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _set(**fields: object) -> Callable[[Row], str]:
    return lambda row: _dump({**row, **fields})


def _raw(key: str, text: str) -> Callable[[Row], str]:
    """`key` with exactly this JSON text, which `json` itself would not write."""
    return lambda row: _dump({**row, key: _RAW}).replace(f'"{_RAW}"', text, 1)


def _without(*keys: str) -> Callable[[Row], str]:
    return lambda row: _dump({key: value for key, value in row.items() if key not in keys})


def _twice(key: str, first: object) -> Callable[[Row], str]:
    """`key` stands twice; the last one is the true one."""
    return lambda row: "{" + f"{_dump(key)}:{_dump(first)}," + _dump(row)[1:]


def _text(text: str) -> Callable[[Row], str]:
    return lambda _row: text


def _nested(depth: int) -> Callable[[Row], str]:
    return _raw("extra", "[" * depth + "]" * depth)


MANGLES: dict[str, Mangle] = {
    # ids
    "null_id": Mangle("bad", _set(uuid=None)),
    "missing_id": Mangle("bad", _without("uuid")),
    "empty_id": Mangle("bad", _set(uuid="")),
    "number_for_id": Mangle("bad", _set(uuid=17)),
    "fractional_currency_id": Mangle("bad", _raw("currencyId", "8.5")),
    "negative_currency_id": Mangle("bad", _raw("currencyId", "-8")),
    "boolean_for_number": Mangle("bad", _set(currencyId=True)),
    "text_for_number": Mangle("bad", _set(currencyId="8")),
    "float_for_number": Mangle("fine", _raw("currencyId", "8.0")),
    "exponent_for_number": Mangle("fine", _raw("currencyId", "8e0")),
    "huge_exponent": Mangle("bad", _raw("currencyId", "1e400")),
    "not_a_number": Mangle("bad", _raw("currencyId", "NaN")),
    "infinity": Mangle("bad", _raw("currencyId", "-Infinity")),
    "five_thousand_digits": Mangle("bad", _raw("currencyId", "9" * 5000)),
    # wrong types
    "number_for_text": Mangle("bad", _set(status=3)),
    "number_for_amount": Mangle("bad", _set(allowance=18_400_000)),
    "number_for_boolean": Mangle("bad", _set(test=1)),
    "number_for_time": Mangle("bad", _set(updatedAt=1_775_000_000)),
    "text_for_object": Mangle("bad", _set(frequency="monthly")),
    "list_for_object": Mangle("bad", _set(customer=[])),
    "object_for_text": Mangle("bad", _set(reference={"id": 1})),
    "row_is_null": Mangle("bad", _text("null")),
    "row_is_text": Mangle("bad", _text('"sub"')),
    "row_is_list": Mangle("bad", _text("[]")),
    # amounts
    "empty_amount": Mangle("open", _set(allowance="")),
    "fractional_amount": Mangle("bad", _set(allowance="12.5")),
    "negative_amount": Mangle("bad", _set(allowance="-1")),
    "exponent_amount": Mangle("bad", _set(allowance="1e6")),
    "arabic_digits": Mangle("bad", _set(allowance="١٢٣")),
    "price_not_a_number": Mangle("bad", _set(priceUsd="NaN")),
    "price_with_comma": Mangle("bad", _set(priceUsd="9,99")),
    # times
    "naive_time": Mangle("bad", _set(updatedAt="2026-03-01T10:00:00")),
    "no_time": Mangle("bad", _set(nextBillingDate="soon")),
    "impossible_day": Mangle("bad", _set(nextBillingDate="2026-02-30T10:00:00Z")),
    "zero_time": Mangle("open", _set(createdAt="0001-01-01T00:00:00Z")),
    "zero_time_with_offset": Mangle("open", _set(createdAt="0001-01-01T00:00:00+02:00")),
    "year_9999": Mangle("open", _set(nextBillingDate="9999-12-31T23:59:59-02:00")),
    "offset_and_nanoseconds": Mangle("fine", _set(cancelledAt="2026-03-01T10:00:00.123456789+02:00")),
    # text
    "lone_surrogate": Mangle("bad", _raw("reference", '"\\ud800"')),
    "nul": Mangle("open", _raw("reference", '"a\\u0000b"')),
    "megabyte": Mangle("open", _set(reference="x" * 1_000_000)),
    "bidirectional_name": Mangle("fine", _set(reference="\u202egpj.exe")),
    # structure
    "duplicate_key": Mangle("open", _twice("status", "cancelled")),
    "nested_500": Mangle("open", _nested(500)),
    "nested_100000": Mangle("bad", _nested(100_000)),
    "unknown_key": Mangle("fine", _set(loyaltyTier="gold")),
    "null_for_text": Mangle("fine", _set(productUuid=None)),
    "null_for_optional": Mangle("fine", _set(actionRequired=None, customer=None, dunning=None)),
    "absent_optional": Mangle("fine", _without("currency", "customer", "currentPeriodEnd")),
    "absent_fields": Mangle("fine", _without("from", "to", "test", "productUuid")),
    # values nobody has told us of
    "unknown_status": Mangle("fine", _set(status="hibernating")),
    "status_in_capitals": Mangle("fine", _set(status="ACTIVE")),
    "unknown_action": Mangle("fine", _set(actionRequired="signAgain")),
    "unknown_reason": Mangle("fine", _set(cancellationReason="meteorite")),
}
