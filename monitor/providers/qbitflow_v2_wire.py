"""Subscription, customer, product, currency, key of API v2: from a row's bytes to our words (contract v2, 2.3, 4).

Unknown words of the vendor are kept (`status_raw`, `action_raw`) and become `unknown`; a wrong type makes a `BadRow`.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

import msgspec
from msgspec import Raw

from monitor.domain.model import (
    Action,
    BadRow,
    CancelReason,
    CurrencySeen,
    CustomerSeen,
    Mode,
    ProductSeen,
    Snapshot,
    Status,
)
from monitor.providers.wire import (
    UNREADABLE,
    Id,
    Period,
    RowError,
    Symbol,
    bad_row,
    check_row,
    count,
    instant,
    part_of_row,
    period,
    units,
    usd,
    usd_number,
    without_customer,
)

NAME = "qbitflow-v2"
SUBSCRIPTION_ID = re.compile(r"sub@[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID_IN_BYTES = re.compile(rb'"uuid"\s*:\s*"(' + SUBSCRIPTION_ID.pattern.encode() + rb')"')
_MOST_DECIMALS = 77  # of a 256-bit integer; more would make every amount zero

_STATUSES = {
    "trial": Status.TRIAL,
    "trialExpired": Status.TRIAL_EXPIRED,
    "active": Status.ACTIVE,
    "pastDue": Status.PAST_DUE,
    "paused": Status.PAUSED,
    "stopped": Status.STOPPED,
    "cancelled": Status.CANCELLED,
}
_ACTIONS = {
    "topUpAllowance": Action.TOP_UP_ALLOWANCE,
    "raiseMaximum": Action.RAISE_MAXIMUM,
    "confirmTrial": Action.CONFIRM_TRIAL,
}
_CANCEL_REASONS = {
    "customer": CancelReason.CUSTOMER,
    "merchant": CancelReason.MERCHANT,
    "billingFailed": CancelReason.BILLING_FAILED,
    "trialNotConverted": CancelReason.TRIAL_NOT_CONVERTED,
    "merchantClosed": CancelReason.MERCHANT_CLOSED,
    "inactiveOnChain": CancelReason.INACTIVE_ON_CHAIN,
}


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """A JSON object of the contract: unknown keys are ignored, every key may be absent or null."""


class _DunningWire(_Wire):
    failed_attempts: int | float | None = None
    remaining_attempts: int | float | None = None
    failing_since: datetime | None = None
    next_attempt_at: datetime | None = None
    awaiting_maximum_since: datetime | None = None


class _CustomerWire(_Wire):
    uuid: Id | None = None
    name: str | None = None
    last_name: str | None = None
    email: str | None = None
    reference: str | None = None
    deleted: bool | None = None


class _MainCurrencyWire(_Wire):
    id: int | float | None = None
    symbol: Symbol | None = None


class _CurrencyWire(_Wire):
    id: int | float | None = None
    name: str | None = None
    symbol: Symbol | None = None
    decimals: int | float | None = None
    address: str | None = None
    main_currency_id: int | float | None = None
    main_currency: _MainCurrencyWire | None = None
    test: bool | None = None


class _SubscriptionWire(_Wire):
    uuid: str | None = None
    status: str | None = None
    reference: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    wallet: str | None = msgspec.field(name="from", default=None)
    product_uuid: Id | None = None
    subscription_hash: str | None = None
    currency_id: int | float | None = None
    currency: Raw = Raw(b"")
    frequency: Period | None = None
    allowance: str | None = None
    action_required: str | None = None
    current_period_end: datetime | None = None
    price_usd: str | None = None
    max_amount_per_period: str | None = None
    last_billing_date: datetime | None = None
    next_billing_date: datetime | None = None
    cancelled_at: datetime | None = None
    cancellation_reason: str | None = None
    test: bool | None = None
    customer_uuid: Id | None = None
    customer: Raw = Raw(b"")
    dunning: _DunningWire | None = None


class _SubscriptionPlanWire(_Wire):
    frequency: Period | None = None


class _ProductWire(_Wire):
    uuid: Id | None = None
    name: str | None = None
    price: Raw = Raw(b"")
    is_active: bool | None = None
    reference: str | None = None
    subscription: _SubscriptionPlanWire | None = None
    payment_link: str | None = None


class _SpaceWire(_Wire):
    uuid: Id | None = None
    organization_name: str | None = None
    test: bool | None = None


class _MeWire(_Wire):
    space: _SpaceWire | None = None


_SUBSCRIPTION = msgspec.json.Decoder(_SubscriptionWire)
_CUSTOMER = msgspec.json.Decoder(_CustomerWire | None)
_CURRENCY = msgspec.json.Decoder(_CurrencyWire | None)
_PRODUCT = msgspec.json.Decoder(_ProductWire)
_ME = msgspec.json.Decoder(_MeWire)
_NO_DUNNING = _DunningWire()


def subscription_row(raw: bytes) -> tuple[Snapshot, bytes] | BadRow:
    """The snapshot and its raw JSON without the customer, or why the row cannot be read. Raises nothing."""
    try:
        check_row(raw)
        wire = _SUBSCRIPTION.decode(raw)
        customer = bytes(wire.customer)
        return _snapshot(wire, customer), without_customer(raw, customer)
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, subscription_id_in(raw))


def subscription_id_in(raw: bytes) -> str | None:
    """The subscription id of a row that cannot be decoded: no other object's uuid looks like it."""
    found = _ID_IN_BYTES.search(raw)
    return found[1].decode() if found else None


def _snapshot(wire: _SubscriptionWire, customer_raw: bytes) -> Snapshot:
    ext_id = wire.uuid or ""
    if not SUBSCRIPTION_ID.fullmatch(ext_id):
        raise RowError("uuid is not a subscription id" if ext_id else "uuid is missing")
    status, action, reason = wire.status or "", wire.action_required or None, wire.cancellation_reason or None
    customer = part_of_row("customer", customer_seen, customer_raw) if customer_raw else None
    currency_ext_id, currency = _currency(wire)
    failing = wire.dunning
    dunning = failing or _NO_DUNNING
    return Snapshot(
        ext_id=ext_id,
        provider=NAME,
        status=_STATUSES.get(status, Status.UNKNOWN),
        status_raw=status,
        created_at=instant(wire.created_at),
        provider_updated_at=instant(wire.updated_at),
        reference=wire.reference or None,
        action=_ACTIONS.get(action, Action.UNKNOWN) if action else None,
        action_raw=action,
        customer_ext_id=_customer_id(wire, customer),
        product_ext_id=wire.product_uuid or None,
        currency_ext_id=currency_ext_id,
        price_usd=usd(wire.price_usd, "priceUsd"),
        frequency=period(wire.frequency, "frequency"),
        allowance=units(wire.allowance, "allowance"),
        maximum=units(wire.max_amount_per_period, "maxAmountPerPeriod"),
        current_period_end_at=instant(wire.current_period_end),
        last_billing_at=instant(wire.last_billing_date),
        next_billing_at=instant(wire.next_billing_date),
        cancelled_at=instant(wire.cancelled_at),
        cancel_reason=_CANCEL_REASONS.get(reason, CancelReason.UNKNOWN) if reason else None,
        failed_attempts=count(dunning.failed_attempts, "failedAttempts") if failing else None,
        remaining_attempts=count(dunning.remaining_attempts, "remainingAttempts") if failing else None,
        failing_since_at=instant(dunning.failing_since),
        next_attempt_at=instant(dunning.next_attempt_at),
        awaiting_maximum_since_at=instant(dunning.awaiting_maximum_since),
        wallet=wire.wallet or None,
        subscription_hash=wire.subscription_hash or None,
        test=bool(wire.test),
        customer=customer,
        currency=currency,
    )


def _customer_id(wire: _SubscriptionWire, customer: CustomerSeen | None) -> str | None:
    """The customer's id; a row that names one and carries another is refused, since nobody knows whom to mail."""
    if customer is None:
        return wire.customer_uuid or None
    if wire.customer_uuid and wire.customer_uuid != customer.ext_id:
        raise RowError("customer is not the one whose id the row names")
    return customer.ext_id


def _currency(wire: _SubscriptionWire) -> tuple[str | None, CurrencySeen | None]:
    """The token's id and the token; one that the row carries but does not name would make every amount wrong."""
    currency = part_of_row("currency", currency_seen, bytes(wire.currency)) if wire.currency else None
    ext_id = _id_text(wire.currency_id)
    if currency is None or ext_id in (None, currency.ext_id):
        return currency.ext_id if currency else ext_id, currency
    return ext_id, None


def _id_text(value: float | None) -> str | None:
    number = count(value, "currencyId")
    return str(number) if number else None


def customer_seen(raw: bytes) -> CustomerSeen | None:
    """A customer of a read. None for null. Raises `RowError` or what msgspec raises."""
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
        deleted=bool(wire.deleted),
    )


@lru_cache(maxsize=512)  # an account has a few tokens, every row repeats one of them
def currency_seen(raw: bytes) -> CurrencySeen | None:
    """A token. None for null. Raises `RowError` or what msgspec raises."""
    wire = _CURRENCY.decode(raw)
    if wire is None:
        return None
    number, symbol = count(wire.id, "currency.id"), wire.symbol or ""
    if not number:
        raise RowError("currency without an id")
    if wire.main_currency is not None:
        chain = wire.main_currency.symbol or ""
    else:  # a native coin is its own chain; a token that does not carry its own leaves it open
        chain = "" if count(wire.main_currency_id, "currency.mainCurrencyId") else symbol
    return CurrencySeen(
        ext_id=str(number),
        symbol=symbol,
        decimals=count(wire.decimals, "currency.decimals", most=_MOST_DECIMALS),
        name=wire.name or "",
        address=wire.address or "",
        chain=chain,
        test=bool(wire.test),
    )


def product_seen(raw: bytes) -> ProductSeen:
    """A product. Raises `RowError` or what msgspec raises."""
    wire = _PRODUCT.decode(raw)
    if not wire.uuid:
        raise RowError("product without a uuid")
    return ProductSeen(
        ext_id=wire.uuid,
        name=wire.name or "",
        price_usd=usd_number(bytes(wire.price), "price"),
        frequency=period(wire.subscription.frequency, "frequency") if wire.subscription else None,
        payment_link=wire.payment_link or None,
        reference=wire.reference or None,
        active=bool(wire.is_active),
    )


def space_of_key(body: bytes) -> tuple[str, Mode, str]:
    """Space uuid, mode and organization name from `/me`. Raises `RowError` or what msgspec raises."""
    space = _ME.decode(body).space
    if space is None or not space.uuid:
        raise RowError("no space: this is not an API key's answer")
    return space.uuid, Mode.TEST if space.test else Mode.LIVE, space.organization_name or ""
