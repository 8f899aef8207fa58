"""Webhooks of the billing platform (contract billing-platform, 1.3 and 2.4).

The body is a fact; how it is signed is assumed, so every part of that is a setting.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from monitor.domain.model import BadRow, Fact
from monitor.providers.hooks import (
    LONGEST_KIND,
    TOLERANCE_S,
    HookSeen,
    Refusal,
    Told,
    is_stale,
    keys_of,
    matches,
    unix_seconds,
)
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row

EVENTS = frozenset({"payment.succeeded", "payment.failed", "payment.expired", "payment.cancelled"})
"""Only the first is known for certain."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How this installation of the platform signs."""

    header: str = "X-Webhook-Signature"
    prefix: str = ""
    algorithm: str = "sha256"
    timestamp_header: str | None = None
    """Where there is one, its text and a dot stand before the body."""
    tolerance_s: int = TOLERANCE_S
    events: Collection[str] = EVENTS
    """The types that are known; others are kept and counted."""


class BillingPlatformHooks:
    """Deliveries signed with one of these secrets."""

    def __init__(self, secrets: Sequence[str], scheme: Scheme | None = None) -> None:
        """Raise ValueError without a secret, for an empty one, and for an algorithm that Python does not have."""
        self._secrets = keys_of(secrets)
        self._scheme = scheme or Scheme()
        hashlib.new(self._scheme.algorithm)

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """See `HookDialect`."""
        scheme = self._scheme
        signature, signed = headers.get(scheme.header.lower(), ""), b""
        if not signature.strip():
            return Refusal.MISSING
        if scheme.timestamp_header is not None:
            stamp = headers.get(scheme.timestamp_header.lower(), "")
            seconds = unix_seconds(stamp)
            if seconds is None:
                return Refusal.MALFORMED
            if is_stale(seconds, now, scheme.tolerance_s):
                return Refusal.STALE
            signed = stamp.encode() + b"."
        expected = [
            scheme.prefix.encode() + hmac.new(secret, signed + body, scheme.algorithm).hexdigest().encode()
            for secret in self._secrets
        ]
        return None if matches([signature.strip()], expected) else Refusal.NO_MATCH

    def read(self, headers: Mapping[str, str], body: bytes) -> HookSeen:
        """See `HookDialect`. It has no time of its own; what counts is the payment, which is read again."""
        _ = headers
        try:
            check_row(body)
            wire = _EVENT.decode(body)
        except (*UNREADABLE, RowError) as error:
            return HookSeen(Told.UNREADABLE, bad=bad_row(body, error, None))
        if not wire.event_id:
            return HookSeen(Told.UNREADABLE, bad=bad_row(body, RowError("event without an id"), None))
        kind = (wire.event_type or "")[:LONGEST_KIND]
        payment = wire.data.payment_id if wire.data is not None else None
        fact = Fact(wire.event_id, kind, payment, _NEVER, payment=payment is not None)
        if kind not in self._scheme.events:
            said = f"event of a type that is not known: {kind}"
            return HookSeen(Told.UNKNOWN, fact, bad=BadRow(body, said, wire.event_id))
        if payment is None:
            return HookSeen(Told.UNREADABLE, bad=bad_row(body, RowError("event without a payment"), wire.event_id))
        return HookSeen(Told.FACT, fact, ask=True)


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class _Data(msgspec.Struct, rename="camel", gc=False):
    payment_id: Id | None = None


class _Event(msgspec.Struct, rename="camel", gc=False):
    event_id: Id | None = None
    event_type: str | None = None
    data: _Data | None = None


_EVENT = msgspec.json.Decoder(_Event)
