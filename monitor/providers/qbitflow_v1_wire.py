"""Subscription, customer, product, currency of API v1: from a row's bytes to our words (contract v1, 3.1 and 3.3).

v1 tells no maximum, no price of the subscription, no cause and no deadline: they stay None, never a guess. Its
allowance is an amount of USD and lands in a field of its own, so that it never meets v2's token units.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
from msgspec import Raw

from monitor.domain.model import Action, BadRow, CustomerSeen, Mode, ProductSeen, Snapshot, Status
from monitor.providers.qbitflow_v2_wire import currency_seen
from monitor.providers.wire import (
    UNREADABLE,
    Id,
    RowError,
    bad_row,
    check_row,
    count,
    instant,
    part_of_row,
    usd,
    usd_number,
)

NAME = "qbitflow-v1"
SUBSCRIPTION_ID = re.compile(r"(?:sub|payg)@[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""An id as v1 gives it: `payg@` where the subscription is billed by usage."""
_NIL_UUID = re.compile(r"[0-]+")
_ZERO_USD = re.compile(r"0+(?:\.0+)?")
_LONGEST_FREQUENCY = 365 * 100 * 86400

# contract v1, section 4, with the pairs of contract v2, 2.5
_STATUSES: dict[str, tuple[Status, Action | None]] = {
    "trial": (Status.TRIAL, None),
    "trial_expired": (Status.TRIAL_EXPIRED, Action.CONFIRM_TRIAL),
    "active": (Status.ACTIVE, None),
    "low_on_funds": (Status.ACTIVE, Action.TOP_UP_ALLOWANCE),
    "pending": (Status.PAST_DUE, Action.RAISE_MAXIMUM),
    "past_due": (Status.PAST_DUE, None),
    "cancelled": (Status.CANCELLED, None),
}
_STOPPABLE = frozenset({Status.ACTIVE, Status.PAST_DUE, Status.TRIAL, Status.TRIAL_EXPIRED})


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """A JSON object of the contract: unknown keys are ignored, every key may be absent or null."""


class _SubscriptionWire(_Wire):
    uuid: str | None = None
    status: str | None = msgspec.field(name="subscriptionStatus", default=None)
    stopped: bool | None = None
    reference: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    wallet: str | None = msgspec.field(name="from", default=None)
    product_id: int | float | None = None
    subscription_hash: str | None = None
    currency_id: int | float | None = None
    currency: Raw = Raw(b"")
    frequency: int | float | None = None
    allowance: Raw = Raw(b"")
    max_spending_per_period: Raw = Raw(b"")
    last_billing_date: datetime | None = None
    next_billing_date: datetime | None = None
    test: bool | None = None
    customer_uuid: Id | None = msgspec.field(name="customerUUID", default=None)
    customer_uuid_too: Id | None = msgspec.field(name="customerUuid", default=None)


class _CustomerWire(_Wire):
    uuid: Id | None = None
    name: str | None = None
    last_name: str | None = None
    email: str | None = None
    reference: str | None = None
    test: bool | None = None


class _ProductWire(_Wire):
    id: int | float | None = None
    name: str | None = None
    price: Raw = Raw(b"")
    reference: str | None = None
    is_active: bool | None = None
    test: bool | None = None


class _UserWire(_Wire):
    id: int | float | None = None
    organization_id: int | float | None = None
    name: str | None = None


class _TestWire(_Wire):
    test: bool | None = None


_SUBSCRIPTION = msgspec.json.Decoder(_SubscriptionWire)
_CUSTOMER = msgspec.json.Decoder(_CustomerWire | None)
_PRODUCT = msgspec.json.Decoder(_ProductWire)
_USER = msgspec.json.Decoder(_UserWire)
_TEST = msgspec.json.Decoder(_TestWire)
_AMOUNT_TEXT = msgspec.json.Decoder(str)


def subscription_row(raw: bytes) -> tuple[Snapshot, bytes] | BadRow:
    """A row's snapshot with its JSON (it carries no customer), or why it cannot be read."""
    try:
        check_row(raw)
        return _snapshot(_SUBSCRIPTION.decode(raw)), raw
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, None)


def _snapshot(wire: _SubscriptionWire) -> Snapshot:
    ext_id = wire.uuid or ""
    if not SUBSCRIPTION_ID.fullmatch(ext_id):
        raise RowError("uuid is not a subscription id")
    word = wire.status or ""
    status, action = _STATUSES.get(word, (Status.UNKNOWN, None))
    next_billing_at = instant(wire.next_billing_date)
    stopped = bool(wire.stopped) and status in _STOPPABLE
    currency = part_of_row("currency", currency_seen, bytes(wire.currency)) if wire.currency else None
    number = count(wire.currency_id, "currencyId")
    currency_ext_id = str(number) if number else None
    if currency is not None and currency_ext_id not in (None, currency.ext_id):
        currency = None  # a token that the row carries but does not name would make every amount wrong
    elif currency is not None:
        currency_ext_id = currency.ext_id
    product = count(wire.product_id, "productId")
    frequency = count(wire.frequency, "frequency", most=_LONGEST_FREQUENCY)
    return Snapshot(
        ext_id=ext_id,
        provider=NAME,
        status=Status.STOPPED if stopped else status,
        status_raw=word,
        created_at=instant(wire.created_at),
        provider_updated_at=instant(wire.updated_at),
        reference=wire.reference or None,
        action=action,
        # the one word says both; of an unknown one nobody knows which
        action_raw=None if action is None else word,
        customer_ext_id=_named(wire.customer_uuid or wire.customer_uuid_too),
        product_ext_id=str(product) if product else None,
        currency_ext_id=currency_ext_id,
        frequency=timedelta(seconds=frequency) if frequency else None,
        allowance_usd=_allowance(bytes(wire.allowance)),
        max_spending_usd=_max_spending(bytes(wire.max_spending_per_period)),
        # for a stopped one the next date is its end (contract v1, 3.1); otherwise no period is told
        current_period_end_at=next_billing_at if stopped else None,
        last_billing_at=instant(wire.last_billing_date),
        next_billing_at=next_billing_at,
        wallet=wire.wallet or None,
        subscription_hash=wire.subscription_hash or None,
        test=bool(wire.test),
        currency=currency,
    )


def _named(uuid: str | None) -> str | None:
    """None for the nil UUID, which stands where there is no customer."""
    return None if not uuid or _NIL_UUID.fullmatch(uuid) else uuid


def _allowance(token: bytes) -> Decimal | None:
    """USD from a decimal string, or from a JSON number as older servers sent it. A zero is told, and no absence."""
    if token in (b"", b"null"):
        return None
    if token[:1] != b'"':
        return usd_number(token, "allowance") or Decimal(0)
    text = _AMOUNT_TEXT.decode(token)
    if not text:
        return None
    return Decimal(0) if _ZERO_USD.fullmatch(text) else usd(text, "allowance")


def _max_spending(token: bytes) -> Decimal | None:
    """The spending limit that only pay-as-you-go rows carry, USD. Whatever it is else costs nobody their row.

    The vendor's client models it as a number of 0 or more and does not say what 0 means: it is taken for "not told".
    """
    try:
        if token[:1] == b'"':
            return usd(_AMOUNT_TEXT.decode(token), "maxSpendingPerPeriod")
        return usd_number(token, "maxSpendingPerPeriod")
    except (*UNREADABLE, RowError, ArithmeticError):
        return None


def customer_seen(raw: bytes) -> CustomerSeen | None:
    """A customer. None for null. Raises `RowError` or what msgspec raises."""
    wire = _CUSTOMER.decode(raw)
    if wire is None:
        return None
    if not wire.uuid:
        raise RowError("customer without a uuid")
    return CustomerSeen(
        ext_id=wire.uuid,
        email=wire.email or None,
        name=wire.name or None,
        last_name=wire.last_name or None,
        reference=wire.reference or None,
    )


def product_seen(raw: bytes) -> ProductSeen:
    """A product; v1 tells neither its interval nor a link. Raises `RowError` or what msgspec raises."""
    wire = _PRODUCT.decode(raw)
    number = count(wire.id, "id")
    if not number:
        raise RowError("product without an id")
    return ProductSeen(
        ext_id=str(number),
        name=wire.name or "",
        price_usd=usd_number(bytes(wire.price), "price"),
        reference=wire.reference or None,
        active=bool(wire.is_active),
    )


def owner_of_key(body: bytes) -> tuple[str, str]:
    """(what tells one merchant's key from another's, name) from `/user/`. Raises `RowError` or what msgspec raises."""
    wire = _USER.decode(body)
    user, organization = count(wire.id, "id"), count(wire.organization_id, "organizationId")
    if not user:
        raise RowError("no user id: this is not an API key's answer")
    # the numbers of another API than v2's: marked, so that they are never compared with a space's UUID
    return f"v1:{organization}/{user}", wire.name or ""


def mode_of(raw: bytes) -> Mode | None:
    """The mode that any object of the key tells by its `test`; None where it tells nothing."""
    test = _TEST.decode(raw).test
    return None if test is None else Mode.TEST if test else Mode.LIVE
