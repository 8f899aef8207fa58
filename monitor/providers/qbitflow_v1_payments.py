"""Payments of API v1 (contract v1, 3.2): the combined list, whose bills name their subscription, and one payment.

v1 lists what was paid. It tells no failed tries, no link to an explorer, and no order of its list; what became of a
one-time payment that was not paid is known to its transaction's status alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import Raw

from monitor.domain.model import BadRow
from monitor.domain.payments import PaymentKind, PaymentPage, PaymentSeen, PaymentStatus
from monitor.providers.base import UnsupportedError
from monitor.providers.qbitflow_payments import MAX_HASH_CHARACTERS, PAID, currency_of, known, needed, page_of, short
from monitor.providers.qbitflow_v1_wire import SUBSCRIPTION_ID
from monitor.providers.reading import Reader, segment
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row, count, instant, units, usd, usd_number

PAGE_ROWS = 50
"""v1 states no maximum; this is v2's for the same list, and the contract says to stay at or below (3.7)."""

_STATUSES = {
    "created": PaymentStatus.CREATED,
    "waitingConfirmation": PaymentStatus.PENDING,
    "pending": PaymentStatus.PENDING,
    "completed": PaymentStatus.SUCCEEDED,
    "failed": PaymentStatus.FAILED,
    "cancelled": PaymentStatus.CANCELLED,
    "expired": PaymentStatus.EXPIRED,
}
"""Contract v1, 3.4."""


class _PaidWire(msgspec.Struct, rename="camel", gc=False):
    uuid: Id | None = None
    created_at: datetime | None = None
    amount: Raw = Raw(b"")
    amount_min_units: Raw = Raw(b"")
    currency_id: int | float | None = None
    product_id: int | float | None = None
    transaction_hash: str | None = None
    customer_uuid: Id | None = msgspec.field(name="customerUUID", default=None)
    subscription_uuid: Id | None = msgspec.field(name="subscriptionUUID", default=None)
    reference: str | None = None
    test: bool | None = None


class _NamesWire(msgspec.Struct, gc=False):
    subscription_uuid: str | None = msgspec.field(name="subscriptionUUID", default=None)


class _StatusWire(msgspec.Struct, rename="camel", gc=False):
    status: str | None = None
    tx_hash: str | None = None
    message: str | None = None


_PAID_ROW = msgspec.json.Decoder(_PaidWire)
_NAMES = msgspec.json.Decoder(_NamesWire)
_STATUS = msgspec.json.Decoder(_StatusWire)
_TEXT = msgspec.json.Decoder(str)


class PaymentReader(Reader):
    """The part of API v1's provider that is a `PaymentSource`, and finds subscriptions while it is one."""

    async def payments(self, since: datetime | None, customers: Sequence[str]) -> AsyncIterator[PaymentPage]:
        """See `PaymentSource`. It ends behind `since` only while rows have come newest first, which nobody promises."""
        _ = customers
        order = _Order(since)
        async for raw_rows in self.pages("payments", "/transaction/payments/combined", {"limit": str(PAGE_ROWS)}):
            page = page_of(paid_row, raw_rows)
            named = dict.fromkeys(ext_id for raw in raw_rows if (ext_id := subscription_named_in(raw)) is not None)
            yield PaymentPage(page.rows, page.bad, tuple(named))
            if order.reached(page) or not raw_rows:
                return

    async def payment(self, ext_id: str) -> PaymentSeen | None:
        """See `PaymentSource`; a one-time payment, paid or not. Raises `UnsupportedError` for a bill.

        v1 reads a bill only in its subscription's history.
        """
        if not ext_id.startswith("pay@"):
            raise UnsupportedError(f"{ext_id}: API v1 reads single one-time payments only")
        paid = await self.one("payment", f"/transaction/payment/{segment(ext_id)}", ext_id, paid_row)
        return paid if paid is not None else await self._unpaid(ext_id)

    async def _unpaid(self, ext_id: str) -> PaymentSeen | None:
        """What the transaction's status says of a payment that no list shows; it tells no amount and no customer."""
        answer = await self.found("status", "/transaction/status", {"txUUID": ext_id, "txType": "payment"})
        if answer is None:
            return None
        try:
            wire = _STATUS.decode(answer.body)
            tx_hash = short(wire.tx_hash, "txHash", MAX_HASH_CHARACTERS)
        except (*UNREADABLE, RowError) as error:
            raise self.fault("status", answer, str(error)) from error
        word = wire.status or ""
        return PaymentSeen(
            ext_id=ext_id,
            kind=PaymentKind.ONE_OFF,
            status=_STATUSES.get(word, PaymentStatus.UNKNOWN),
            status_raw=word,
            tx_hash=tx_hash,
            reason=wire.message or None,
        )


def paid_row(raw: bytes) -> PaymentSeen | BadRow:
    """A payment or a paid bill, or why it cannot be read."""
    ext_id = None
    try:
        check_row(raw)
        wire = _PAID_ROW.decode(raw)
        ext_id = known(wire.uuid)
        subscription = _subscription(known(wire.subscription_uuid))
        product = count(wire.product_id, "productId")
        return PaymentSeen(
            ext_id=needed(ext_id),
            kind=PaymentKind.ONE_OFF if subscription is None else PaymentKind.BILL,
            status=PaymentStatus.SUCCEEDED,
            status_raw=PAID,
            created_at=instant(wire.created_at),
            customer_ext_id=known(wire.customer_uuid),
            subscription_ext_id=subscription,
            product_ext_id=str(product) if product else None,
            amount_usd=_usd(bytes(wire.amount)),
            amount_units=_units(bytes(wire.amount_min_units)),
            currency=currency_of(wire.currency_id),
            tx_hash=short(wire.transaction_hash, "transactionHash", MAX_HASH_CHARACTERS),
            reference=wire.reference or None,
            test=bool(wire.test),
        )
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, ext_id)


def _usd(token: bytes) -> Decimal | None:
    """As a number, which the contract says, or as a text, which it says of others."""
    return usd(_TEXT.decode(token), "amount") if token.startswith(b'"') else usd_number(token, "amount")


def _units(token: bytes) -> int | None:
    """As a text, which the contract says, or as a number, whose digits are taken as they stand."""
    if token in (b"", b"null"):
        return None
    text = _TEXT.decode(token) if token.startswith(b'"') else token.decode()
    return units(text, "amountMinUnits")


def subscription_named_in(raw: bytes) -> str | None:
    """Whose bill it is, whatever else is wrong with the row; None for a one-time payment and for no id."""
    try:
        check_row(raw)
        named = _NAMES.decode(raw).subscription_uuid or ""
    except (*UNREADABLE, RowError):
        return None
    return named if SUBSCRIPTION_ID.fullmatch(named) else None


def _subscription(named: str | None) -> str | None:
    if named is not None and not SUBSCRIPTION_ID.fullmatch(named):
        raise RowError("subscriptionUUID is no subscription's id")
    return named


class _Order:
    """Whether rows have come newest first so far: only then a page can be the last that matters."""

    def __init__(self, edge: datetime | None) -> None:
        self._edge = edge
        self._last: datetime | None = None
        self._falling = True

    def reached(self, page: PaymentPage) -> bool:
        """Whether everything newer than the edge has been seen with this page."""
        times = [row.created_at for row in page.rows if row.created_at is not None]
        for at in times:
            self._falling = self._falling and (self._last is None or at <= self._last)
            self._last = at
        return self._falling and self._edge is not None and bool(times) and min(times) < self._edge
