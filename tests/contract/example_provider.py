"""A provider of one page, as docs/adding-a-provider.md tells it: payments of an API with a key and a paged list.

It reads the sandbox's API v2, of which it uses as little as an API of payments needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

import msgspec

from monitor.clock import Clock
from monitor.domain.model import (
    BadRow,
    CurrencySeen,
    CustomerSeen,
    FailureSeen,
    Identity,
    LogPage,
    Mode,
    Page,
    ProductSeen,
    Snapshot,
    Window,
)
from monitor.domain.payments import PaymentKind, PaymentPage, PaymentSeen, PaymentStatus
from monitor.errors import ProviderUnavailableError
from monitor.providers.base import Capability, UnsupportedError
from monitor.providers.http import ApiClient
from monitor.providers.reading import Reader, segment
from monitor.providers.wire import UNREADABLE, Id, RowError, bad_row, check_row, instant, units


class _Wire(msgspec.Struct, rename="camel"):
    """The fields we use, each optional: the type is checked here, what it means is checked below."""

    uuid: Id | None = None
    created_at: datetime | None = None
    amount_min_units: str | None = None
    tx_hash: str | None = None


_ROW = msgspec.json.Decoder(_Wire)


def payment_row(raw: bytes) -> PaymentSeen | BadRow:
    """One row in our words, or why it cannot be read: a bad row costs itself, not its page."""
    try:
        check_row(raw)
        wire = _ROW.decode(raw)
        if not wire.uuid:
            raise RowError("payment without an id")
        return PaymentSeen(
            ext_id=wire.uuid,
            kind=PaymentKind.ONE_OFF,
            status=PaymentStatus.SUCCEEDED,
            status_raw="paid",
            created_at=instant(wire.created_at),
            amount_units=units(wire.amount_min_units, "amountMinUnits"),
            tx_hash=wire.tx_hash or None,
        )
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, None)


class ExampleProvider(Reader):
    """One account's connection. `Reader` and `ApiClient` bring time-outs, retries, limits and the mapping of errors."""

    name = "example"
    capabilities = frozenset({Capability.PAYMENTS})

    def __init__(
        self, *, base_url: str, api_key: str, account: str, clock: Clock, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        client = ApiClient(base_url, {"X-API-Key": api_key}, account=account, clock=clock, sleep=sleep)
        super().__init__(client, account, None)

    async def identify(self) -> Identity:
        """Prove the key, and tell the time over there, by which our clock is checked."""
        answer = await self.client.get("me", "/me")
        if answer.date is None:
            raise self.fault("me", answer, "no Date header")
        try:
            space = msgspec.json.decode(answer.body)["space"]
            return Identity(space["uuid"], Mode.TEST if space["test"] else Mode.LIVE, answer.date)
        except (*UNREADABLE, KeyError, TypeError) as error:
            raise self.fault("me", answer, "no space in it") from error

    async def payments(self, since: datetime | None, customers: Sequence[str]) -> AsyncIterator[PaymentPage]:
        """Every page of the list; what this API cannot narrow, it need not."""
        cursor: str | None = None
        used: set[str] = set()
        while True:
            raw_rows, cursor = await self.page("payments", "/transaction/payments/combined", {"limit": "50"}, cursor)
            rows = [payment_row(raw) for raw in raw_rows]
            yield PaymentPage(
                tuple(row for row in rows if isinstance(row, PaymentSeen)),
                tuple(row for row in rows if isinstance(row, BadRow)),
            )
            if cursor is None:
                return
            if cursor in used:
                raise ProviderUnavailableError("payments: the cursors go round in a circle")
            used.add(cursor)

    async def payment(self, ext_id: str) -> PaymentSeen | None:
        """One payment now; None when the API says 404."""
        bill = "subscription/bill" if ext_id.startswith("sub-hist@") else "payment"
        answer = await self.found("payment", f"/transaction/{bill}/{segment(ext_id)}")
        if answer is None:
            return None
        row = payment_row(answer.body)
        if isinstance(row, BadRow):
            raise self.fault("payment", answer, row.reason)
        return row

    # What this API does not have: nobody asks, since no capability says that it has it.

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        raise UnsupportedError(f"{self.name} has no subscriptions")

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        raise UnsupportedError(f"{self.name} has no subscriptions")

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        raise UnsupportedError(f"{self.name} has no list of failed bills")

    async def log(self, cursor: str | None) -> LogPage:
        raise UnsupportedError(f"{self.name} has no event log")

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        raise UnsupportedError(f"{self.name} has no customers")

    async def products(self) -> tuple[ProductSeen, ...]:
        return ()

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        return ()

    async def aclose(self) -> None:
        await self.client.aclose()
