"""Webhooks of API v2: the signed raw body (contract v2, 5.3) and the envelope that the event log has too (5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from monitor.domain.model import BadRow, Fact
from monitor.providers.hooks import LONGEST_KIND, HookSeen, Refusal, Told, is_stale, keys_of, mac, matches, unix_seconds
from monitor.providers.qbitflow_v2_events import PAYMENT_KINDS, TOLD_KINDS, event_row
from monitor.providers.qbitflow_v2_wire import SUBSCRIPTION_ID
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row, instant

SIGNATURE = "qbitflow-signature"
_TEST = "webhook.test"
_OTHER_KINDS = {
    "refund.requested",
    "refund.completed",
    "refund.denied",
    "member.joined",
    "member.removed",
    "heldFunds.released",
}
"""Types of the contract that tell nothing about a subscription or a payment."""


class QBitFlowV2Hooks:
    """Deliveries signed with one of these secrets; two while they are rotated (contract v2, 5.3)."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raise ValueError without a secret, or for an empty one."""
        self._secrets = keys_of(secrets)

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """See `HookDialect`. Time is judged before the signature."""
        header = headers.get(SIGNATURE, "")
        if not header.strip():
            return Refusal.MISSING
        stamps, signatures = _parts(header)
        seconds = unix_seconds(stamps[0]) if len(stamps) == 1 else None
        if seconds is None or not signatures:
            return Refusal.MALFORMED
        if is_stale(seconds, now):
            return Refusal.STALE
        signed = stamps[0].encode() + b"."
        expected = [mac(secret, signed, body) for secret in self._secrets]
        return None if matches(signatures, expected) else Refusal.NO_MATCH

    def read(self, headers: Mapping[str, str], body: bytes) -> HookSeen:
        """See `HookDialect`; the headers only repeat what the body says."""
        _ = headers
        return read_event(body)


def read_event(body: bytes) -> HookSeen:
    """One envelope. A known type whose details cannot be read still names its subscription, which is read again."""
    try:
        check_row(body)
        wire = _ENVELOPE.decode(body)
        at = instant(wire.created_at)
    except (*UNREADABLE, RowError) as error:
        return HookSeen(Told.UNREADABLE, bad=bad_row(body, error, None))
    kind = wire.type or ""
    if not wire.id or at is None:
        return HookSeen(Told.UNREADABLE, bad=bad_row(body, RowError("event without an id or a time"), wire.id))
    bare = Fact(wire.id, kind[:LONGEST_KIND], None, at, test=bool(wire.test))
    if kind == _TEST:
        return HookSeen(Told.TEST)
    if wire.version != "v2" or kind not in TOLD_KINDS | PAYMENT_KINDS | _OTHER_KINDS:
        said = f"event of a type that is not known: {kind[:LONGEST_KIND]}, version {str(wire.version)[:10]}"
        ext_id = _subscription_of(body)
        fact = replace(bare, subscription_ext_id=ext_id)
        return HookSeen(Told.UNKNOWN, fact, ask=ext_id is not None, bad=BadRow(body, said, wire.id))
    if kind in _OTHER_KINDS:
        return HookSeen(Told.FACT, bare)
    row = event_row(body)
    if not isinstance(row, BadRow):
        return HookSeen(Told.FACT, row[1], ask=True)
    ext_id = _subscription_of(body)
    if ext_id is None:
        return HookSeen(Told.UNREADABLE, bad=row)
    return HookSeen(Told.FACT, replace(bare, subscription_ext_id=ext_id), ask=True, bad=row)


def sent_at(header: str) -> datetime:
    """When a delivery with this header, which was found genuine, was sent."""
    return datetime.fromtimestamp(unix_seconds(_parts(header)[0][0]) or 0, UTC)


def _subscription_of(body: bytes) -> str | None:
    """The subscription that an event is about, whatever else of it can be read."""
    try:
        data = _LEAST.decode(body).data
    except UNREADABLE:
        return None
    named = (data.subscription_uuid, data.uuid)  # a bill has both ids, and its own is the second
    return next((one for one in named if one and SUBSCRIPTION_ID.fullmatch(one)), None)


def _parts(header: str) -> tuple[list[str], list[str]]:
    """The values of `t` and of `v1`; keys are case-sensitive, others are ignored (contract v2, 5.3, step 2)."""
    stamps: list[str] = []
    signatures: list[str] = []
    for part in header.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip(" \t") == "t":
            stamps.append(value.strip(" \t"))
        elif equals and key.strip(" \t") == "v1":
            signatures.append(value.strip(" \t"))
    return stamps, signatures


class _Envelope(msgspec.Struct, rename="camel", gc=False):
    id: Id | None = None
    type: str | None = None
    version: str | None = None
    created_at: datetime | None = None
    test: bool | None = None


class _LeastData(msgspec.Struct, rename="camel", gc=False):
    uuid: Id | None = None
    subscription_uuid: Id | None = None


class _LeastEvent(msgspec.Struct, gc=False):
    data: _LeastData


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_LEAST = msgspec.json.Decoder(_LeastEvent)
