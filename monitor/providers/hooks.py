"""What every webhook dialect shares: why a delivery is refused, and what one that is genuine told.

A dialect is pure: headers, raw body and the instant go in. A webhook is a hint; it never carries a state further in.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from monitor.domain.model import BadRow, Fact

MAX_BODY_BYTES = 2**20
"""Contract v2, 5.1. The other systems name no limit and send far less."""
TOLERANCE_S = 300
"""Exactly so old passes."""

LONGEST_KIND = 60
"""Characters of a type that the database keeps."""

_SECONDS = re.compile(r"-?[0-9]+")
_MOST_DIGITS = 19
_INT64 = 2**63 - 1


class Refusal(StrEnum):
    """Why a delivery is not believed; stable words for logs (contract v2, 5.3)."""

    MISSING = "missing_header"
    MALFORMED = "malformed_header"
    STALE = "timestamp_outside_tolerance"
    NO_MATCH = "no_matching_signature"
    UNREADABLE = "unreadable_body"
    TOO_LARGE = "too_large"


class Told(StrEnum):
    """What kind of delivery it is, once believed."""

    FACT = "fact"
    TEST = "test"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class HookSeen:
    """A genuine delivery. `fact` is absent for a test and for what cannot be read.

    `ask`: the subscription that the fact names should be read again. `bad` keeps what is not understood, to be looked
    at: an unknown type has both.
    """

    told: Told
    fact: Fact | None = None
    ask: bool = False
    bad: BadRow | None = None

    @property
    def key(self) -> str:
        """What makes it the same delivery as another: its fact's key, else the hash of its body."""
        if self.fact is not None:
            return self.fact.dedupe_key
        return "" if self.bad is None else hashlib.sha256(self.bad.raw).hexdigest()


class HookDialect(Protocol):
    """How one vendor signs and writes its webhooks. Header names come in lower case."""

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """Why this is not from the vendor; None when it is."""
        ...

    def read(self, headers: Mapping[str, str], body: bytes) -> HookSeen:
        """What a genuine delivery told. Raises nothing: what cannot be read is said so."""
        ...


def keys_of(secrets: Sequence[str]) -> tuple[bytes, ...]:
    """The secrets as keys. Raises ValueError for none and for an empty one, which would believe everybody."""
    if not secrets or not all(secrets):
        raise ValueError("a webhook secret is empty")
    return tuple(secret.encode() for secret in secrets)


def key_of(*parts: str) -> str:
    """A dedupe key for what has no id of its own: short, whatever the parts are."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{parts[0]}:{digest[:40]}"


def mac(secret: bytes, *parts: bytes) -> bytes:
    """Lower-case hexadecimal HMAC-SHA256 of the parts in a row."""
    made = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        made.update(part)
    return made.hexdigest().encode()


def matches(given: Iterable[str], expected: Iterable[bytes]) -> bool:
    """Whether any of the given texts is any of the expected ones; every pair is compared, in constant time."""
    texts = [text.encode("utf-8", "surrogatepass") for text in given]
    found = False
    for mine in expected:
        for theirs in texts:
            found |= hmac.compare_digest(mine, theirs)
    return found


def is_stale(seconds: int, now: datetime, tolerance_s: int = TOLERANCE_S) -> bool:
    """More than the tolerance away from now, in either direction; exactly it is not."""
    return abs(int(now.timestamp()) - seconds) > tolerance_s


def unix_seconds(text: str, *, negative: bool = False) -> int | None:
    """A time stamp of ASCII digits that fits 64 bits, else None; a text of any length costs nothing."""
    if not _SECONDS.fullmatch(text) or (text.startswith("-") and not negative):
        return None
    digits = text.lstrip("-").lstrip("0")
    if len(digits) > _MOST_DIGITS:
        return None
    seconds = int(digits or "0")
    if seconds > _INT64:
        return None
    return -seconds if text.startswith("-") else seconds
