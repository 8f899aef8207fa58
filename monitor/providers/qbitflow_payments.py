"""Payments, bills and failed tries of QBitFlow (contract v2, section 3): three lists of the API, one of ours.

What the combined list shows is paid; a row of the failures list is one failed try, which is never final.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Raw

from monitor.domain.model import BadRow
from monitor.domain.payments import PaymentKind, PaymentPage, PaymentSeen, PaymentStatus
from monitor.providers.qbitflow_v2_events import cause_of
from monitor.providers.qbitflow_v2_wire import customer_seen
from monitor.providers.reading import Reader, bare, segment
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row, count, instant, units, usd_number

PAGE_ROWS = 50
"""The maximum of both lists (contract v2, section 3)."""

PAID = "completed"
_BILL = "sub-hist@"
_EDGE = timedelta(seconds=1)  # both bounds are excluded by the API
_NIL = "00000000-0000-0000-0000-000000000000"
_MAX_LINK_CHARACTERS = 2048
MAX_HASH_CHARACTERS = 200
_MAX_WORD_CHARACTERS = 100

_CHECKOUT = {
    "created": PaymentStatus.CREATED,
    "waitingConfirmation": PaymentStatus.PENDING,
    "expired": PaymentStatus.EXPIRED,
}
"""The states of a checkout that is no payment yet; a failed attempt leaves it `created` (contract v2, section 4)."""

RowReader = Callable[[bytes], PaymentSeen | BadRow]
_List = tuple[str, str, RowReader]


class _Row(msgspec.Struct, rename="camel", gc=False):
    """What both kinds of rows share."""

    uuid: Id | None = None
    created_at: datetime | None = None
    currency_id: int | float | None = None
    product_uuid: Id | None = None
    customer_uuid: Id | None = None
    subscription_uuid: Id | None = None
    tx_hash: str | None = None
    test: bool | None = None
    customer: Raw = Raw(b"")


class _PaidWire(_Row, rename="camel", gc=False):
    amount: Raw = Raw(b"")
    amount_min_units: str | None = None
    explorer_url: str | None = None
    reference: str | None = None
    subscription_reference: str | None = None


class _AttemptWire(_Row, rename="camel", gc=False):
    tx_uuid: Id | None = None
    attempt: int | float | None = None
    category: str | None = None
    attempted_usd: Raw = Raw(b"")
    attempted_min_units: str | None = None


class _CheckoutWire(msgspec.Struct, rename="camel", gc=False):
    uuid: Id | None = None
    status: str | None = None
    tx_hash: str | None = None


_CHECKOUT_ROW = msgspec.json.Decoder(_CheckoutWire)
_PAID_ROW = msgspec.json.Decoder(_PaidWire)
_ATTEMPT_ROW = msgspec.json.Decoder(_AttemptWire)


class PaymentReader(Reader):
    """The part of API v2's provider that is a `PaymentSource`."""

    async def payments(self, since: datetime | None, customers: Sequence[str]) -> AsyncIterator[PaymentPage]:
        """See `PaymentSource`: the whole space is listed, so no customer need be named."""
        _ = customers
        params = {} if since is None else {"createdAfter": _instant(since)}
        for listed in _LISTS:
            async for page in self._walk(listed, params):
                yield page

    async def payments_of(self, customer: str, since: datetime) -> AsyncIterator[PaymentPage]:
        """See `PayerSource`."""
        params = {"customerUuid": customer, "createdAfter": _instant(since - _EDGE)}
        for listed in _LISTS:
            async for page in self._walk(listed, params):
                yield page

    async def payment_history(self, before: datetime, mark: str | None) -> AsyncIterator[tuple[PaymentPage, str]]:
        """See `PaymentHistory`. A mark is a list and an instant: how long a cursor lives is not told."""
        first, until = _read_mark(mark, before)
        for number, listed in enumerate(_LISTS):
            if number < first:
                continue
            oldest = until if number == first else before
            async for page in self._walk(listed, {"createdBefore": _instant(oldest)}):
                made = [row.created_at + _EDGE for row in page.rows if row.created_at is not None]
                oldest = min([oldest, *made])
                yield page, f"{number} {oldest.isoformat()}"

    async def payment(self, ext_id: str) -> PaymentSeen | None:
        """See `PaymentSource`; a one-off payment, paid or on its way, or a bill."""
        bill = ext_id.startswith(_BILL)
        path = f"/transaction/{'subscription/bill' if bill else 'payment'}/{segment(ext_id)}"
        paid = await self.one("payment", path, ext_id, paid_row)
        return paid if paid is not None or bill else await self._checkout(ext_id)

    async def _checkout(self, ext_id: str) -> PaymentSeen | None:
        """A payment that nobody has finished: its checkout tells how far it is, and neither who pays nor how much."""
        answer = await self.found("checkout", f"/transaction/session-checkout/{segment(ext_id)}/status")
        if answer is None:
            return None
        row = checkout_row(answer.body.strip(), ext_id)
        if isinstance(row, BadRow):
            raise self.fault("checkout", answer, row.reason)
        # what is paid has a row of its own in a moment, which tells who paid and how much
        return None if row.status_raw == PAID else row

    async def _walk(self, listed: _List, params: Mapping[str, str]) -> AsyncIterator[PaymentPage]:
        endpoint, path, read = listed
        async for raw_rows in self.pages(endpoint, path, {"limit": str(PAGE_ROWS), **params}):
            yield page_of(read, raw_rows)


def paid_row(raw: bytes) -> PaymentSeen | BadRow:
    """A payment or a paid bill, or why it cannot be read."""
    ext_id = None
    try:
        check_row(raw)
        wire = _PAID_ROW.decode(raw)
        ext_id = known(wire.uuid)
        subscription = known(wire.subscription_uuid)
        return PaymentSeen(
            ext_id=needed(ext_id),
            kind=PaymentKind.ONE_OFF if subscription is None else PaymentKind.BILL,
            status=PaymentStatus.SUCCEEDED,
            status_raw=PAID,
            created_at=instant(wire.created_at),
            **_payer(wire),
            subscription_ext_id=subscription,
            product_ext_id=known(wire.product_uuid),
            amount_usd=usd_number(bytes(wire.amount), "amount"),
            amount_units=units(wire.amount_min_units, "amountMinUnits"),
            currency=currency_of(wire.currency_id),
            tx_hash=short(wire.tx_hash, "txHash", MAX_HASH_CHARACTERS),
            explorer_url=short(wire.explorer_url, "explorerUrl", _MAX_LINK_CHARACTERS),
            reference=wire.reference or wire.subscription_reference or None,
            test=bool(wire.test),
        )
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, ext_id)


def attempt_row(raw: bytes) -> PaymentSeen | BadRow:
    """One failed try, or why it cannot be read."""
    ext_id = None
    try:
        check_row(raw)
        wire = _ATTEMPT_ROW.decode(raw)
        ext_id = known(wire.uuid)
        category = short(wire.category, "category", _MAX_WORD_CHARACTERS)
        return PaymentSeen(
            ext_id=needed(ext_id),
            kind=PaymentKind.ATTEMPT,
            status=PaymentStatus.FAILED,
            status_raw=category or "",
            created_at=instant(wire.created_at),
            **_payer(wire),
            subscription_ext_id=known(wire.subscription_uuid),
            product_ext_id=known(wire.product_uuid),
            amount_usd=usd_number(bytes(wire.attempted_usd), "attemptedUsd"),
            amount_units=units(wire.attempted_min_units, "attemptedMinUnits"),
            currency=currency_of(wire.currency_id),
            tx_hash=short(wire.tx_hash, "txHash", MAX_HASH_CHARACTERS),
            of_ext_id=known(wire.tx_uuid),
            attempt=count(wire.attempt, "attempt"),
            cause=cause_of(category) if category else None,
            reason=category,
            test=bool(wire.test),
        )
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, ext_id)


def checkout_row(raw: bytes, ext_id: str) -> PaymentSeen | BadRow:
    """How far the checkout of this payment is, or why that cannot be read."""
    try:
        check_row(raw)
        wire = _CHECKOUT_ROW.decode(raw)
        status = short(wire.status, "status", _MAX_WORD_CHARACTERS) or ""
        seen = PaymentSeen(
            ext_id=ext_id,
            kind=PaymentKind.ONE_OFF,
            status=_CHECKOUT.get(status, PaymentStatus.UNKNOWN),
            status_raw=status,
            tx_hash=short(wire.tx_hash, "txHash", MAX_HASH_CHARACTERS),
        )
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, ext_id)
    if bare(wire.uuid or "") != bare(ext_id):
        return BadRow(raw, "another checkout than the one asked for", ext_id)
    return seen


_LISTS: tuple[_List, ...] = (
    ("payments", "/transaction/payments/combined", paid_row),
    ("failed_payments", "/transaction/failures", attempt_row),
)


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_mark(mark: str | None, before: datetime) -> tuple[int, datetime]:
    """The list and the instant at which a walk goes on; the beginning for a mark that is none of ours."""
    number, _, at = (mark or "").partition(" ")
    try:
        return int(number), min(datetime.fromisoformat(at), before)
    except ValueError:
        return 0, before


def page_of(read: RowReader, raw_rows: Sequence[bytes]) -> PaymentPage:
    """The good rows and the bad ones."""
    rows = [read(raw) for raw in raw_rows]
    return PaymentPage(
        rows=tuple(row for row in rows if isinstance(row, PaymentSeen)),
        bad=tuple(row for row in rows if isinstance(row, BadRow)),
    )


def known(ext_id: str | None) -> str | None:
    """None for none and for the nil UUID, which stands for nobody."""
    return None if not ext_id or bare(ext_id) == _NIL else ext_id


def _payer(wire: _Row) -> dict[str, Any]:
    """Who pays: the id, and the customer where the row carries one that can be read and is the one it names.

    A payment counts whoever made it; whom to mail is not guessed.
    """
    named, customer = known(wire.customer_uuid), None
    if bytes(wire.customer):
        with suppress(*UNREADABLE, RowError):
            customer = customer_seen(bytes(wire.customer))
    if customer is not None and named is not None and customer.ext_id != named:
        customer = None
    return {"customer_ext_id": named or (customer and customer.ext_id), "customer": customer}


def needed(ext_id: str | None) -> str:
    """Raise `RowError` for none."""
    if ext_id is None:
        raise RowError("payment without a uuid")
    return ext_id


def currency_of(number_sent: float | None) -> str | None:
    """The token's id as text. Raises `RowError` for what is no number of one."""
    number = count(number_sent, "currencyId")
    return str(number) if number else None


def short(text: str | None, field: str, most: int) -> str | None:
    """None for an empty text. Raises `RowError` for one that is too long to be what it is said to be."""
    if text and len(text) > most:
        raise RowError(f"{field} has more than {most} characters")
    return text or None
