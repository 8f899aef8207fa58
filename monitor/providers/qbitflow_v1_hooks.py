"""Webhooks of API v1: two payload kinds, the second in two shapes, signed over canonical JSON (contract v1, section 7).

There is no event id: a status change is known by what changed when, a renewal by its bill, a transaction by its status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from monitor.domain.model import BadRow, Fact
from monitor.providers.go_json import NotCanonicalError, canonical
from monitor.providers.hooks import (
    LONGEST_KIND,
    HookSeen,
    Refusal,
    Told,
    is_stale,
    key_of,
    keys_of,
    mac,
    matches,
    unix_seconds,
)
from monitor.providers.qbitflow_v1_wire import SUBSCRIPTION_ID
from monitor.providers.qbitflow_v2_events import manage_link
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row, instant, units, usd_number

SIGNATURE = "x-webhook-signature-256"
TIMESTAMP = "x-webhook-timestamp"
WEBHOOK_ID = "x-webhook-id"
TEST_ID = "test-webhook-id"
MAX_BODY_BYTES = 256 * 1024
"""A body of the contract has 2 kB at most. It is parsed before it is believed, so a megabyte would cost too much."""

_NOT_YET = {"created", "waitingConfirmation", "pending", "failed", "cancelled", "expired"}
"""Statuses of a checkout (contract v1, 3.4) that leave no subscription to read."""


class QBitFlowV1Hooks:
    """Deliveries signed with one of these secrets: each of the two URLs has its own (contract v1, section 7)."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raise ValueError without a secret, or for an empty one."""
        self._secrets = keys_of(secrets)

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """See `HookDialect`. Time is judged before the body is parsed."""
        signature, stamp = headers.get(SIGNATURE, ""), headers.get(TIMESTAMP, "")
        if not signature.strip() or not stamp.strip():
            return Refusal.MISSING
        seconds = unix_seconds(stamp, negative=True)
        if seconds is None:
            return Refusal.MALFORMED
        if is_stale(seconds, now):
            return Refusal.STALE
        if len(body) > MAX_BODY_BYTES:
            return Refusal.TOO_LARGE
        try:
            text = canonical(body)
        except NotCanonicalError:
            return Refusal.UNREADABLE
        signed = stamp.encode() + b"."
        expected = [b"sha256=" + mac(secret, signed, text) for secret in self._secrets]
        return None if matches([signature], expected) else Refusal.NO_MATCH

    def read(self, headers: Mapping[str, str], body: bytes) -> HookSeen:
        """See `HookDialect`. The dashboard's test is known by its id alone, its body is made up."""
        if headers.get(WEBHOOK_ID) == TEST_ID:
            return HookSeen(Told.TEST)
        return read_payload(body, datetime.fromtimestamp(unix_seconds(headers.get(TIMESTAMP, "")) or 0, UTC))


def read_payload(body: bytes, sent_at: datetime) -> HookSeen:
    """One payload of either kind; `sent_at` dates what has no time of its own."""
    try:
        text = canonical(body)  # a lone surrogate is mended here, and what the vendor signed is what is read
        check_row(text)
        wire = _PAYLOAD.decode(text)
        return _read(wire, text, sent_at)
    except (*UNREADABLE, NotCanonicalError, RowError) as error:
        bad = bad_row(body, error if isinstance(error, RowError) else RowError(str(error)), None)
        return HookSeen(Told.UNREADABLE, bad=bad)


def _read(wire: _Payload, text: bytes, sent_at: datetime) -> HookSeen:
    if wire.session:
        return _transaction(wire, sent_at)
    if wire.type and wire.data:
        if wire.type == "status_transition":
            return _transition(wire, _TRANSITION.decode(wire.data))
        if wire.type == "billing":
            return _bill(wire, _BILL.decode(wire.data), sent_at)
    elif wire.current_status is not None:
        return _transition(wire, wire)
    kind = f"v1.{wire.type or 'unknown'}"[:LONGEST_KIND]
    key = key_of("v1.unknown", wire.subscription_id or "", text.decode())
    bad = BadRow(text, f"a payload of a type that is not known: {kind}", None)
    ext_id = wire.subscription_id if SUBSCRIPTION_ID.fullmatch(wire.subscription_id or "") else None
    return HookSeen(Told.UNKNOWN, Fact(key, kind, ext_id, sent_at), ask=ext_id is not None, bad=bad)


def _transition(wire: _Payload, change: _Transition | _Payload) -> HookSeen:
    ext_id, at = _subscription(wire), instant(change.updated_at)
    if at is None:
        raise RowError("status change without a time")
    key = key_of("v1.status", ext_id, change.previous_status or "", change.current_status or "", at.isoformat())
    return HookSeen(Told.FACT, Fact(key, "v1.status_transition", ext_id, at), ask=True)


def _bill(wire: _Payload, bill: _Bill, sent_at: datetime) -> HookSeen:
    ext_id, at = _subscription(wire), instant(bill.created_at)
    if not bill.uuid:
        raise RowError("bill without a uuid")
    fact = Fact(
        key_of("v1.bill", bill.uuid),
        "v1.billing",
        ext_id,
        at or sent_at,
        bill_ext_id=bill.uuid,
        bill_tx=bill.transaction_hash or None,
        bill_at=at,
        bill_usd=usd_number(bytes(bill.amount), "amount"),
        bill_units=units(bill.amount_min_units, "amountMinUnits"),
        test=bool(bill.test),
    )
    return HookSeen(Told.FACT, fact, ask=True)


def _transaction(wire: _Payload, sent_at: datetime) -> HookSeen:
    """A checkout. The only place where v1 gives the management link (contract v1, 7.1)."""
    if not wire.uuid:
        raise RowError("transaction without a uuid")
    status = (_STATUS.decode(wire.status) or _Status()).status if wire.status else None
    session = _SESSION.decode(wire.session) or _Session()
    ext_id = wire.uuid if SUBSCRIPTION_ID.fullmatch(wire.uuid) else None
    fact = Fact(
        key_of("v1.transaction", wire.uuid, status or ""),
        f"v1.{wire.tx_type or 'transaction'}"[:LONGEST_KIND],
        ext_id,
        sent_at,
        manage_link=None if ext_id is None else manage_link(wire.management_page_link),
        test=bool(session.test),
    )
    return HookSeen(Told.FACT, fact, ask=ext_id is not None and status not in _NOT_YET)


def _subscription(wire: _Payload) -> str:
    if not SUBSCRIPTION_ID.fullmatch(wire.subscription_id or ""):
        raise RowError("payload without a subscription id")
    return wire.subscription_id or ""


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """Unknown keys are ignored, every key may be absent or null (contract v1, section 1)."""


class _Payload(_Wire):
    subscription_id: Id | None = msgspec.field(name="subscriptionUUID", default=None)
    type: str | None = None
    data: Raw = Raw(b"")
    previous_status: str | None = None
    current_status: str | None = None
    updated_at: datetime | None = None
    uuid: Id | None = None
    status: Raw = Raw(b"")
    session: Raw = Raw(b"")
    tx_type: str | None = None
    management_page_link: str | None = None


class _Transition(_Wire):
    previous_status: str | None = None
    current_status: str | None = None
    updated_at: datetime | None = None


class _Bill(_Wire):
    uuid: Id | None = None
    created_at: datetime | None = None
    amount: Raw = Raw(b"")
    amount_min_units: str | None = None
    transaction_hash: str | None = None
    test: bool | None = None


class _Status(_Wire):
    status: str | None = None


class _Session(_Wire):
    test: bool | None = None


_PAYLOAD = msgspec.json.Decoder(_Payload)
_TRANSITION = msgspec.json.Decoder(_Transition)
_BILL = msgspec.json.Decoder(_Bill)
_STATUS: Any = msgspec.json.Decoder(_Status | None)
_SESSION: Any = msgspec.json.Decoder(_Session | None)
