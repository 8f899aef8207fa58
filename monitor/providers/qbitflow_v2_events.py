"""Events and failed bills of API v2 as facts (contract v2, 3 and 5.2): a link, a cause, a bill; never a state.

The event log and the webhooks carry the same envelope, so both give the same fact under the same key, the event id.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import Raw

from monitor.domain.endpoint import EndpointSeen
from monitor.domain.model import BadRow, Cause, Fact, FailureSeen
from monitor.providers.qbitflow_v2_wire import SUBSCRIPTION_ID
from monitor.providers.wire import (
    UNREADABLE,
    Id,
    RowError,
    bad_row,
    check_row,
    count,
    instant,
    part_of_row,
    units,
    usd,
    usd_number,
)

MAX_LINK_CHARACTERS = 2048

_CAUSES = {
    "insufficientBalance": Cause.INSUFFICIENT_BALANCE,
    "allowanceExhausted": Cause.ALLOWANCE_EXHAUSTED,
    "approvalRevoked": Cause.APPROVAL_REVOKED,
    "maxAmountExceeded": Cause.MAX_AMOUNT_EXCEEDED,
    "reverted": Cause.OTHER,
    "notConfirmed": Cause.OTHER,
    "signatureRejected": Cause.OTHER,
    "other": Cause.OTHER,
}


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """A JSON object of the contract: unknown keys are ignored, every key may be absent or null."""


class _EventWire(_Wire):
    id: Id | None = None
    type: str | None = None
    version: str | None = None
    created_at: datetime | None = None
    test: bool | None = None
    data: Raw = Raw(b"")


class _DataWire(_Wire):
    uuid: Id | None = None
    management_page_link: str | None = None
    # subscription.billingFailed
    reason: str | None = None
    bill_uuid: Id | None = None
    # subscription.upcomingBill
    billing_date: datetime | None = None
    balance_sufficient: bool | None = None
    amount_usd: Raw = Raw(b"")  # a string in billingFailed, a number in upcomingBill
    # subscription.billed: a Bill
    subscription_uuid: Id | None = None
    tx_hash: str | None = None
    amount: Raw = Raw(b"")
    amount_min_units: str | None = None
    confirmed_at: datetime | None = None
    created_at: datetime | None = None


class _FailureWire(_Wire):
    uuid: Id | None = None
    kind: str | None = None
    tx_uuid: Id | None = None
    attempt: int | float | None = None
    subscription_uuid: Id | None = None
    category: str | None = None
    attempted_usd: Raw = Raw(b"")
    attempted_min_units: str | None = None
    currency_id: int | float | None = None
    created_at: datetime | None = None


class _EndpointWire(_Wire):
    url: str | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    failing_since: datetime | None = None


_EVENT = msgspec.json.Decoder(_EventWire)
_ENDPOINT = msgspec.json.Decoder(_EndpointWire)
_DATA = msgspec.json.Decoder(_DataWire)
_FAILURE = msgspec.json.Decoder(_FailureWire)
_TEXT = msgspec.json.Decoder(str | None)

_BILLED = "subscription.billed"
_FAILED = "subscription.billingFailed"
_UPCOMING = "subscription.upcomingBill"
TOLD_KINDS = {
    "subscription.created",
    "subscription.statusChanged",
    "subscription.actionRequiredChanged",
    _BILLED,
    _FAILED,
    _UPCOMING,
}


PAYMENT_KINDS = {"payment.completed", "checkout.expired"}
"""Types that have a payment read again. A checkout may also be that of a subscription, which then never came to be."""
_PAYMENT_ID = re.compile(r"pay@[0-9A-Za-z-]{1,80}", re.ASCII)


def cause_of(category: str | None) -> Cause:
    """Our word for a failure category or a `reason`; an unknown text, or none, is `unknown`."""
    return _CAUSES.get(category or "", Cause.UNKNOWN)


def event_row(raw: bytes) -> tuple[str, Fact | None] | BadRow:
    """The event's id and what it told: nothing for a type that is not about a subscription, or of another version."""
    event_id = None
    try:
        check_row(raw)
        wire = _EVENT.decode(raw)
        event_id = wire.id or None
        return _event(wire)
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, event_id)


def _event(wire: _EventWire) -> tuple[str, Fact | None]:
    if not wire.id:
        raise RowError("event without an id")
    told = wire.version == "v2" and wire.type in TOLD_KINDS | PAYMENT_KINDS
    return wire.id, _fact(wire.id, wire) if told else None


def _fact(event_id: str, wire: _EventWire) -> Fact:
    kind, at = wire.type or "", instant(wire.created_at)
    if at is None:
        raise RowError("event without a time")
    data = part_of_row("data", _DATA.decode, wire.data)
    if kind in PAYMENT_KINDS:
        paid = data.uuid if _PAYMENT_ID.fullmatch(data.uuid or "") else None
        return Fact(event_id, kind, paid, at, test=bool(wire.test), payment=paid is not None)
    billed, failed, upcoming = kind == _BILLED, kind == _FAILED, kind == _UPCOMING
    return Fact(
        dedupe_key=event_id,
        kind=kind,
        subscription_ext_id=_subscription_id(data.subscription_uuid if billed else data.uuid),
        at=at,
        manage_link=manage_link(data.management_page_link),
        cause=cause_of(data.reason) if failed else None,
        bill_ext_id=(data.uuid if billed else data.bill_uuid if failed else None) or None,
        bill_tx=data.tx_hash or None if billed else None,
        bill_at=_bill_at(kind, data),
        bill_usd=_bill_usd(kind, data),
        bill_units=units(data.amount_min_units, "amountMinUnits") if billed else None,
        balance_sufficient=data.balance_sufficient if upcoming else None,
        test=bool(wire.test),
    )


def _bill_at(kind: str, data: _DataWire) -> datetime | None:
    if kind == _BILLED:
        return instant(data.confirmed_at) or instant(data.created_at)
    return instant(data.billing_date) if kind == _UPCOMING else None


def _bill_usd(kind: str, data: _DataWire) -> Decimal | None:
    """A number, except in billingFailed: there the contract sends a string."""
    if kind == _BILLED:
        return usd_number(bytes(data.amount), "amount")
    if kind == _UPCOMING:
        return usd_number(bytes(data.amount_usd), "amountUsd")
    if kind == _FAILED and data.amount_usd:
        return usd(part_of_row("amountUsd", _TEXT.decode, data.amount_usd), "amountUsd")
    return None


def _subscription_id(ext_id: str | None) -> str:
    if not SUBSCRIPTION_ID.fullmatch(ext_id or ""):
        raise RowError("event without a subscription id")
    return ext_id or ""


def manage_link(link: str | None) -> str | None:
    """The management link as sent; which hosts a mail may link to is decided where mails are made."""
    if link and len(link) > MAX_LINK_CHARACTERS:
        raise RowError(f"management link of more than {MAX_LINK_CHARACTERS} characters")
    return link or None


def failure_row(raw: bytes) -> FailureSeen | BadRow:
    """One failed attempt of the failures list, or why it cannot be read. Raises nothing."""
    try:
        check_row(raw)
        return _failure(_FAILURE.decode(raw))
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, None)


def _failure(wire: _FailureWire) -> FailureSeen:
    at, tx_id = instant(wire.created_at), wire.tx_uuid or ""
    if not wire.uuid or at is None:
        raise RowError("failure without a uuid or a time")
    currency = count(wire.currency_id, "currencyId")
    return FailureSeen(
        ext_id=wire.uuid,
        subscription_ext_id=wire.subscription_uuid or None,
        bill_ext_id=tx_id if tx_id.startswith("sub-hist@") else None,
        cause=cause_of(wire.category),
        category_raw=wire.category or "",
        attempt=count(wire.attempt, "attempt"),
        at=at,
        attempted_usd=usd_number(bytes(wire.attempted_usd), "attemptedUsd"),
        attempted_units=units(wire.attempted_min_units, "attemptedMinUnits"),
        currency_ext_id=str(currency) if currency else None,
    )


def endpoint_seen(raw: bytes) -> EndpointSeen:
    """One webhook endpoint. Raises what `wire.UNREADABLE` names, and `RowError`."""
    wire = _ENDPOINT.decode(raw)
    return EndpointSeen(
        url=wire.url or "",
        disabled_at=instant(wire.disabled_at),
        disabled_reason=wire.disabled_reason or None,
        failing_since_at=instant(wire.failing_since),
    )
