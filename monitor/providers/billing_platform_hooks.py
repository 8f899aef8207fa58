"""Webhooks of the billing platform (contract billing-platform, 1.3 and 2.4).

The body is a fact; how it is signed is assumed, so every part of that is a setting.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from monitor.config import BillingSettings
from monitor.domain.model import BadRow, Fact
from monitor.providers.hooks import (
    LONGEST_KIND,
    HookSeen,
    Refusal,
    Told,
    is_stale,
    keys_of,
    matches,
    unix_seconds,
)
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row


class BillingPlatformHooks:
    """Deliveries signed with one of these secrets, as `billing` says that this installation of the platform signs."""

    def __init__(self, secrets: Sequence[str], billing: BillingSettings) -> None:
        """Raise ValueError without a secret, and for an empty one."""
        self._secrets = keys_of(secrets)
        self._billing = billing

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """See `HookDialect`."""
        scheme = self._billing
        signature, signed = headers.get(scheme.webhook_header.lower(), ""), b""
        if not signature.strip():
            return Refusal.MISSING
        if scheme.webhook_timestamp_header is not None:
            stamp = headers.get(scheme.webhook_timestamp_header.lower(), "")
            seconds = unix_seconds(stamp)
            if seconds is None:
                return Refusal.MALFORMED
            if is_stale(seconds, now, scheme.webhook_tolerance_s):
                return Refusal.STALE
            signed = stamp.encode() + b"."
        expected = [
            scheme.webhook_prefix.encode()
            + hmac.new(secret, signed + body, scheme.webhook_algorithm).hexdigest().encode()
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
        if kind not in self._billing.event_map:
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
