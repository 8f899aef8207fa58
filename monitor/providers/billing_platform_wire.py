"""The billing platform's JSON in our words (contract billing-platform, 1.2 and 2.2); its names are configured."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from monitor.config import PaymentFields
from monitor.domain.model import BadRow
from monitor.domain.payments import PaymentKind, PaymentSeen, PaymentStatus
from monitor.providers.wire import UNREADABLE, RowError, bad_row, check_row, instant

STATUSES: Mapping[str, PaymentStatus] = {
    "CREATED": PaymentStatus.CREATED,
    "PROVIDER_PENDING": PaymentStatus.PENDING,
    "SUCCEEDED": PaymentStatus.SUCCEEDED,
    "FAILED": PaymentStatus.FAILED,
    "EXPIRED": PaymentStatus.EXPIRED,
    "CANCELLED": PaymentStatus.CANCELLED,
}
MAX_ID_CHARACTERS = 100
MAX_REASON_CHARACTERS = 200
MAX_AMOUNT = 2**53
"""Up to here a JSON number is exact; the contract's largest amount is 10^9."""

_TOKEN = re.compile(r"[\x21-\x7e]{1,16000}")


def payment_row(raw: bytes, names: PaymentFields, *, test: bool) -> PaymentSeen | BadRow:
    """One payment, or why it cannot be read. `test`: the tenant's mode, which no payment names."""
    ext_id: str | None = None
    try:
        check_row(raw)
        row = msgspec.json.decode(raw)
        if not isinstance(row, dict):
            raise RowError("not an object")  # noqa: TRY301  # a row's fault, whatever it is
        ext_id = _text(row, names.id, "id")
        return _payment(row, names, ext_id, test=test)
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, ext_id)


def _payment(row: dict[str, Any], names: PaymentFields, ext_id: str | None, *, test: bool) -> PaymentSeen:
    status = _text(row, names.status, "status")
    if ext_id is None or status is None:
        raise RowError(f"no {names.id if ext_id is None else names.status}")
    reason = row.get(names.reason)
    return PaymentSeen(
        ext_id=ext_id,
        kind=PaymentKind.ONE_OFF,
        status=STATUSES.get(status, PaymentStatus.UNKNOWN),
        status_raw=status,
        created_at=_instant(row, names.created_at),
        provider_updated_at=_instant(row, names.updated_at),
        customer_ext_id=_text(row, names.user, "user"),
        amount_units=_amount(row, names.amount),
        currency=_text(row, names.currency, "currency"),
        reference=_text(row, names.order, "order"),
        reason=reason[:MAX_REASON_CHARACTERS] if isinstance(reason, str) and reason else None,
        test=test,
    )


def token_of(body: bytes, field: str) -> str:
    """The access token of a login's answer. Raises `RowError` where there is none that a header can carry."""
    try:
        answer = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise RowError("not JSON") from error
    token = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RowError(f"no token under {field}")
    return token


def expiry_of(token: str) -> float | None:
    """The `exp` that a JWT names, in seconds since 1970; None where it names none, or is no JWT.

    Nothing is verified: the token is not ours to judge, and a wrong `exp` only costs a login.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, *UNREADABLE):  # of base64, of its text, of the JSON in it
        return None
    exp = claims.get("exp") if isinstance(claims, dict) else None
    return float(exp) if isinstance(exp, int | float) and not isinstance(exp, bool) and 0 < exp < 1e12 else None


def _text(row: Mapping[str, Any], name: str, what: str) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RowError(f"{name} is not a text")
    if len(value) > MAX_ID_CHARACTERS:
        raise RowError(f"{what} has more than {MAX_ID_CHARACTERS} characters")
    return value


def _amount(row: Mapping[str, Any], name: str) -> int:
    """As received: the contract does not say whether it counts minor units (1.5)."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is not a number")
    if not 0 <= value <= MAX_AMOUNT or int(value) != value:
        raise RowError(f"{name} is not a whole number from 0 to {MAX_AMOUNT}")
    return int(value)


def _instant(row: Mapping[str, Any], name: str) -> datetime | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        return instant(msgspec.convert(value, datetime))
    except msgspec.ValidationError as error:
        raise RowError(f"{name} is not a time") from error
