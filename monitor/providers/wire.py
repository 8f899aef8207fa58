"""Reading JSON that others wrote: the primitives every provider's row decoding is made of.

The fields of a wire struct are wide (msgspec checks the JSON type), and these functions narrow them to our words in one
step (contract v2, section 1, decoding rules). They raise `RowError`: the row is bad, not its page. Decisions made here:

- A key that stands twice in one object: the last one counts, as in the vendor's own decoders and in JavaScript.
- A time of the year 1, at any offset, is the API's "never" and becomes None; outside 1970 to 9000 it is refused, since
  arithmetic and time zones would overflow further in.
- NUL is refused everywhere: PostgreSQL cannot store it, and one such name must not cost a transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec

from monitor.domain.model import ZERO_TIME_YEAR, BadRow

MAX_ROW_BYTES = 64 * 1024
"""A row of the contract has about 1 kB; a larger one is refused, and quarantine keeps its first part."""
MAX_UNIT_DIGITS = 78
"""NUMERIC(78,0), which holds every 256-bit integer."""
MAX_COUNT = 2**31 - 1

_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_MAX_USD_CHARACTERS = 40
_MAX_USD_MAGNITUDE = 18  # below 10^18 USD, and no more than 30 decimal places
_MAX_USD_PLACES = 30
_USD = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_CUSTOMER_NAME = b'"customer"'
_CUSTOMER_KEY = b'"customer":'
_LONGEST_PERIOD = timedelta(days=365 * 100)
# contract v2, section 1: months are 30 days, years 365
_PERIODS = {
    "seconds": timedelta(seconds=1),
    "minutes": timedelta(minutes=1),
    "hours": timedelta(hours=1),
    "days": timedelta(days=1),
    "weeks": timedelta(weeks=1),
    "months": timedelta(days=30),
    "years": timedelta(days=365),
}

_Part = TypeVar("_Part")

Id = Annotated[str, msgspec.Meta(max_length=100)]
"""An id of the vendor. The database keeps 100 characters: a longer one must cost its row here, not the transaction."""
Symbol = Annotated[str, msgspec.Meta(max_length=40)]

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON it refuses: malformed, of another type, not UTF-8, or nested too deep."""


class RowError(ValueError):
    """A row breaks the contract; the message is the reason that quarantine keeps (no value of the row in it)."""


class Period(msgspec.Struct):
    """Duration on the wire (contract v2, section 1)."""

    value: int | float | None = None
    unit: str | None = None


def bad_row(raw: bytes, error: Exception, ext_id: str | None) -> BadRow:
    """The quarantine entry of a row that `error` refused: its first 64 KiB and the reason."""
    if isinstance(error, RowError | msgspec.ValidationError):
        reason = str(error)
    elif isinstance(error, UnicodeDecodeError):
        reason = "not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "nested too deep"
    else:
        reason = f"not JSON: {error}"
    return BadRow(raw=raw[:MAX_ROW_BYTES], reason=reason, ext_id=ext_id)


def part_of_row(name: str, read: Callable[[bytes], _Part], raw: bytes) -> _Part:
    """An object inside a row, read on its own; a refusal names it."""
    try:
        return read(raw)
    except msgspec.ValidationError as error:
        raise RowError(f"{name}: {error}") from error


def check_row(raw: bytes) -> None:
    """Refuse what no field check would see: size, invalid UTF-8 in an unknown key, NUL."""
    if len(raw) > MAX_ROW_BYTES:
        raise RowError(f"row of {len(raw)} bytes, more than {MAX_ROW_BYTES}")
    raw.decode()
    if b"\\" in raw and _ESCAPED_NUL.search(raw):
        raise RowError("NUL character in a string")


def instant(value: datetime | None) -> datetime | None:
    """The time in UTC; None for none and for the zero time. A time without an offset is refused."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise RowError("time without an offset")
    year = value.year
    if year == ZERO_TIME_YEAR:
        return None
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise RowError(f"time outside the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def units(text: str | None, field: str) -> int | None:
    """An amount of the smallest token unit from its decimal string; None when unset."""
    if not text:
        return None
    # isdecimal alone takes the digits of other scripts
    if not (text.isascii() and text.isdecimal()):
        raise RowError(f"{field} is not a whole number of token units")
    if len(text) > MAX_UNIT_DIGITS:
        raise RowError(f"{field} has more than {MAX_UNIT_DIGITS} digits")
    return int(text)


@lru_cache(maxsize=4096)
def usd(text: str | None, field: str) -> Decimal | None:
    """USD from a decimal string; None when unset or zero ("0" on old v1 subscriptions, contract v2, 2.3)."""
    if not text:
        return None
    if len(text) > _MAX_USD_CHARACTERS or not _USD.fullmatch(text):
        raise RowError(f"{field} is not a decimal amount of USD")
    return _usd_within_reason(Decimal(text), field)


@lru_cache(maxsize=4096)
def usd_number(token: bytes, field: str) -> Decimal | None:
    """USD from the bytes of a JSON number, exact: it never is a float. None when absent, null or zero."""
    if token in (b"", b"null"):
        return None
    if not token[:1].isdigit() or len(token) > _MAX_USD_CHARACTERS:
        raise RowError(f"{field} is not an amount of USD of 0 or more")
    return _usd_within_reason(Decimal(token.decode()), field)


def _usd_within_reason(value: Decimal, field: str) -> Decimal | None:
    if not value:
        return None
    exponent = value.as_tuple().exponent
    if value.adjusted() >= _MAX_USD_MAGNITUDE or not isinstance(exponent, int) or exponent < -_MAX_USD_PLACES:
        raise RowError(f"{field} is out of range")
    return Decimal(f"{value:f}")  # 1E+2 would be printed as that


def count(value: float | None, field: str, *, most: int = MAX_COUNT) -> int:
    """A whole number from 0 to `most`; 0 when absent. `8.0` and `3e0` are whole (contract v2, decoding rules)."""
    if value is None:
        return 0
    whole = int(value)
    if whole != value:
        raise RowError(f"{field} is not a whole number")
    if not 0 <= whole <= most:
        raise RowError(f"{field} is out of range")
    return whole


def period(value: Period | None, field: str) -> timedelta | None:
    """A billing interval; None when absent, 0, or of a unit we do not know."""
    if value is None:
        return None
    number = count(value.value, field)
    return _period(number, value.unit or "", field) if number else None


@lru_cache(maxsize=1024)
def _period(number: int, unit: str, field: str) -> timedelta | None:
    one = _PERIODS.get(unit)
    if one is None:
        return None
    if number > _LONGEST_PERIOD / one:
        raise RowError(f"{field} is longer than a hundred years")
    return number * one


def without_customer(raw: bytes, customer: bytes) -> bytes:
    """The row's JSON without its `customer`, whose bytes the decoder saw: an address is kept in one place only.

    The usual row is cut. One where the key could stand elsewhere too (twice, nested, escaped, as a value) is
    decoded and encoded again instead.
    """
    if b"\\" not in raw:
        at = raw.find(_CUSTOMER_NAME)
        if at < 0:
            return raw
        end = at + len(_CUSTOMER_KEY) + len(customer)
        if raw[at:end] == _CUSTOMER_KEY + customer and raw.find(_CUSTOMER_NAME, end) < 0:
            if raw[at - 1 : at] == b",":
                return raw[: at - 1] + raw[end:]
            if raw[end : end + 1] == b",":
                return raw[:at] + raw[end + 1 :]
    whole = msgspec.json.decode(raw)
    whole.pop("customer", None)
    return msgspec.json.encode(whole)
