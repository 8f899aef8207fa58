"""Reading what an answer says beside its body: the error it means, how long to wait, what time it is over there.

The vendor's errors are mapped to ours here and nowhere else (contract v2, section 6: branch on the code, never on the
message; any key may be missing, and gateways answer HTML).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

from monitor.errors import (
    ProviderAuthError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

LONGEST_ASKED = 365 * 86400.0
"""Seconds; a Retry-After beyond a year says no more than that, and `timedelta` must not overflow."""

_KEY_FAULTS = {
    401: "the API key is refused",
    403: "this key may not do that, it needs the right to read the space's subscriptions",
    410: "the merchant's space is closed",
}
_DIGITS = re.compile(r"[0-9]+")
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; its body is at most `http.MAX_BODY_BYTES` long.

    `date` is the API's clock where it told it, `received_at` ours: aware UTC both.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]
    request_id: str
    received_at: datetime
    date: datetime | None


class _ErrorWire(msgspec.Struct):
    code: msgspec.Raw = msgspec.Raw(b"")
    details: msgspec.Raw = msgspec.Raw(b"")


class _WaitWire(msgspec.Struct, rename="camel"):
    retry_after_seconds: int | float | None = None


_ERROR = msgspec.json.Decoder(_ErrorWire)
_TEXT = msgspec.json.Decoder(str)
_WAIT = msgspec.json.Decoder(_WaitWire)


def failure(answer: Answer, *, account: str, endpoint: str) -> ProviderError:
    """Our error for an answer that is not 2xx, most specific first. Its message names the fix, never the key."""
    status, code = answer.status, error_code(answer)
    said = f"{status} {code}" if code else str(status)
    where = f"{endpoint}: {said}, request id {answer.request_id}"
    key, base_url = f"accounts.{account}.api_key", f"accounts.{account}.base_url"
    if status in _KEY_FAULTS:
        return ProviderAuthError(f"{where}: {_KEY_FAULTS[status]}: check {key}", status=status)
    error: ProviderError
    if status == 429:
        asked = retry_after(answer)
        wait = None if asked is None else timedelta(seconds=asked)
        wish = "" if wait is None else f", it asks for a wait of {wait}"
        error = RateLimitedError(f"{where}: too many requests{wish}: run it later", retry_after=wait)
    elif 300 <= status < 400:
        error = ProviderUnavailableError(f"{where}: a redirect, which is never followed: check {base_url}")
    elif 400 <= status < 500 and is_object(answer.body):
        why = f"nothing is there, check {base_url}" if status == 404 else "refused"
        error = ProviderRefusedError(f"{where}: {why}", status=status, code=code)
    elif 400 <= status < 500:
        # a gateway's own 404 must never become "there is no such subscription"
        error = ProviderUnavailableError(f"{where}: not the API answers but something before it: check {base_url}")
    else:
        error = ProviderUnavailableError(f"{where}: the API failed; the next run asks again")
    return error


def error_code(answer: Answer) -> str | None:
    """The machine code of an error body, None where there is none that can be printed."""
    try:
        code = _TEXT.decode(_ERROR.decode(answer.body).code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return code if _SAFE.fullmatch(code) else None


def is_object(body: bytes) -> bool:
    """Whether the body is a JSON object, as every error of the API itself is."""
    try:
        _ERROR.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def retry_after(answer: Answer) -> float | None:
    """Seconds that a 429 asks for, 0 to a year: the header as seconds or as an HTTP date, else the details; or None.

    A date counts from the answer's own Date, so that two clocks that differ shorten no wait.
    """
    header = answer.headers.get("retry-after", "").strip()
    if _DIGITS.fullmatch(header):
        return min(float(header.lstrip("0")[:20] or 0), LONGEST_ASKED)
    until = http_date(header)
    if until is not None:
        return min(max(0.0, (until - (answer.date or answer.received_at)).total_seconds()), LONGEST_ASKED)
    return _from_details(answer.body)


def _from_details(body: bytes) -> float | None:
    try:
        seconds = _WAIT.decode(_ERROR.decode(body).details).retry_after_seconds
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if seconds is None else float(min(max(seconds, 0), LONGEST_ASKED))


def http_date(text: str | None) -> datetime | None:
    """An HTTP date (RFC 9110 5.6.7) as aware UTC; None for anything else."""
    if not text:
        return None
    try:
        at = parsedate_to_datetime(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
