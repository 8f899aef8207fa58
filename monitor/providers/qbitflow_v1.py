"""API v1 of QBitFlow as a provider (contract v1). It cannot list subscriptions.

Their ids are found elsewhere, and rows are read one by one.

The two GETs of v1 that cancel or bill something are never called.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx

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
from monitor.errors import ConfigError, ProviderAuthError, ProviderRefusedError, ProviderUnavailableError
from monitor.providers import qbitflow_v1_wire as wire
from monitor.providers.answers import is_object
from monitor.providers.base import Capability, CustomerPage, UnsupportedError
from monitor.providers.http import OnRequest
from monitor.providers.qbitflow import qbitflow_client
from monitor.providers.qbitflow_v1_payments import PaymentReader
from monitor.providers.qbitflow_v2_wire import currency_seen
from monitor.providers.reading import OnBadRow, read_or_bad, segment
from monitor.providers.wire import UNREADABLE, RowError

CUSTOMER_ROWS = 100
"""v1 states no maximum; this is v2's for the same list, and the contract says to stay at or below (3.7)."""

_MEMBER = re.compile(r"[1-9][0-9]{0,17}")


class QBitFlowV1(PaymentReader):
    """One account's connection to API v1; `account` is its name in messages.

    `requests` counts every attempt, for the account's daily budget.
    """

    name = wire.NAME
    capabilities = frozenset({Capability.DISCOVERY, Capability.SUBSCRIPTIONS, Capability.PAYMENTS})

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        account: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        on_behalf_of: str | None = None,
        on_request: OnRequest | None = None,
        on_bad_row: OnBadRow | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise `ConfigError` for a key, member or address that could never work. Nothing is asked yet."""
        if on_behalf_of and not _MEMBER.fullmatch(on_behalf_of):
            raise ConfigError(
                f"accounts.{account}.on_behalf_of must be a member's number on API v1 (not 0), or be left out"
            )
        self.requests = self.counted = 0
        self._tell = on_request
        client = qbitflow_client(
            base_url,
            api_key,
            account=account,
            clock=clock,
            sleep=sleep,
            on_behalf_of=on_behalf_of,
            on_request=self._count,
            transport=transport,
        )
        super().__init__(client, account, on_bad_row)
        self._on_behalf_of = on_behalf_of
        self._mode: Mode | None = None

    def _count(self, endpoint: str, status: int | None, seconds: float) -> None:
        self.requests += 1
        if self._tell is not None:
            self._tell(endpoint, status, seconds)

    async def identify(self) -> Identity:
        """See `Provider`. v1 names no mode: the first product or customer tells it, and without any it is None."""
        try:
            answer = await self.client.get("user", "/user/")
        except ProviderRefusedError as error:
            if error.status not in (400, 404) or not self._on_behalf_of:
                raise
            raise ProviderAuthError(
                f"{error}: the key may not act for this member: check accounts.{self._account}.on_behalf_of"
            ) from error
        if answer.date is None:
            raise self.fault("user", answer, "no Date header, by which our clock is checked")
        try:
            owner, name = wire.owner_of_key(answer.body)
        except (*UNREADABLE, RowError) as error:
            raise self.fault("user", answer, str(error)) from error
        self._mode = await self._any_mode()
        return Identity(space_uuid=owner, mode=self._mode, api_at=answer.date, name=name)

    async def _any_mode(self) -> Mode | None:
        rows = (
            await self.rows("products", "/product/", {})
            or (await self.page("customers", "/customer/all", {"limit": "1"}, None))[0]
        )
        for raw in rows:
            try:
                mode = wire.mode_of(raw)
            except UNREADABLE:
                continue
            if mode is not None:
                return mode
        return None

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        """Raise `UnsupportedError`: v1 has no list (contract v1, section 2)."""
        raise UnsupportedError(f"{self.name} cannot list subscriptions (window {window.number}, cursor {cursor})")

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        """See `Provider`: with its customer, as of now. A row that cannot be read raises."""
        row = await self.read(ext_id)
        if isinstance(row, BadRow):
            raise ProviderUnavailableError(
                f"subscription: the answer is not what the contract says ({row.reason}): "
                f"check accounts.{self._account}.base_url"
            )
        if row is None or row[0].customer_ext_id is None:
            return row
        # whoever asks for one is about to mail: a customer who was deleted or moved since the last sweep matters then
        whom = await self.customer(row[0].customer_ext_id) or CustomerSeen(row[0].customer_ext_id, deleted=True)
        return (replace(row[0], customer=whom), row[1]) if whom.email or whom.deleted else row

    async def read(self, ext_id: str) -> tuple[Snapshot, bytes] | BadRow | None:
        """See `KnownReader`. Only a subscription's id is ever asked for: beside it lie GETs that cancel and bill."""
        if not wire.SUBSCRIPTION_ID.fullmatch(ext_id):
            return None
        answer = await self.found("subscription", f"/transaction/subscription/{segment(ext_id)}")
        if answer is None:
            return None
        body = answer.body.strip()
        row = wire.subscription_row(body)
        if isinstance(row, BadRow):
            if not is_object(body):
                raise self.fault("subscription", answer, row.reason)
            return replace(row, ext_id=ext_id)
        self.check_id("subscription", answer, row[0].ext_id, ext_id)
        return row

    async def customers(self, cursor: str | None) -> CustomerPage:
        """See `KnownReader`."""
        raw_rows, next_cursor = await self.page("customers", "/customer/all", {"limit": str(CUSTOMER_ROWS)}, cursor)
        rows = self.readable("customers", (read_or_bad(raw, wire.customer_seen) for raw in raw_rows))
        return CustomerPage(rows=tuple(rows), next_cursor=next_cursor, size=len(raw_rows))

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        """Raise `UnsupportedError`: v1 tells no causes."""
        raise UnsupportedError(f"{self.name} tells no causes of failed bills ({subscription_ext_id})")

    async def log(self, cursor: str | None) -> LogPage:
        """Raise `UnsupportedError`: v1 has no event log."""
        raise UnsupportedError(f"{self.name} has no event log (cursor {cursor})")

    async def products(self) -> tuple[ProductSeen, ...]:
        """See `Provider`; v1's products tell no interval."""
        return await self.listed("products", "/product/", {}, wire.product_seen)

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        """See `Provider`. The mode is the key's own, asked once."""
        mode = self._mode or (await self.identify()).mode
        params = {"test": "true"} if mode is Mode.TEST else {}
        return await self.listed("currencies", "/utils/all-available-currencies", params, currency_seen)

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        """See `Provider`."""
        return await self.one(
            "customer", f"/customer/uuid/{segment(ext_id)}", ext_id, lambda raw: read_or_bad(raw, wire.customer_seen)
        )

    async def aclose(self) -> None:
        """See `Provider`."""
        await self.client.aclose()
