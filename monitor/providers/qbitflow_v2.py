"""API v2 of QBitFlow as a provider (contract v2). It translates; when a walk ends is decided by whoever walks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx

from monitor.clock import Clock
from monitor.domain.endpoint import EndpointSeen
from monitor.domain.model import (
    BadRow,
    CurrencySeen,
    CustomerSeen,
    Fact,
    FailureSeen,
    Identity,
    LogPage,
    Mode,
    Page,
    ProductSeen,
    Snapshot,
    Window,
)
from monitor.domain.unread import Unread
from monitor.errors import (
    ConfigError,
    ProviderAuthError,
    ProviderRefusedError,
)
from monitor.providers.base import Capability
from monitor.providers.http import OnRequest
from monitor.providers.qbitflow import qbitflow_client
from monitor.providers.qbitflow_payments import PaymentReader
from monitor.providers.qbitflow_v2_events import endpoint_seen, event_row, failure_row
from monitor.providers.qbitflow_v2_wire import (
    NAME,
    currency_seen,
    customer_seen,
    product_seen,
    space_of_key,
    subscription_id_in,
    subscription_row,
)
from monitor.providers.reading import OnBadRow, bare, read_or_bad, segment
from monitor.providers.wire import UNREADABLE, RowError

PAGE_ROWS = 100
"""The maximum of the subscriptions list and of the event log (contract v2, 2.2 and 5)."""
FAILURE_ROWS = 50

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NIL_UUID = re.compile(r"[0-]+")


class QBitFlowV2(PaymentReader):
    """One account's connection to API v2.

    `account` is the account's name in messages.
    """

    name = NAME
    capabilities = frozenset(
        {
            Capability.SUBSCRIPTIONS,
            Capability.PAYMENTS,
            Capability.LIST,
            Capability.WINDOWS,
            Capability.LOG,
            Capability.FAILURES,
            Capability.DEADLINE,
            Capability.PLANS,
        }
    )

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
        if on_behalf_of and (not _UUID.fullmatch(on_behalf_of) or _NIL_UUID.fullmatch(on_behalf_of)):
            raise ConfigError(f"accounts.{account}.on_behalf_of must be a member's user UUID, or be left out")
        client = qbitflow_client(
            base_url,
            api_key,
            account=account,
            clock=clock,
            sleep=sleep,
            on_behalf_of=on_behalf_of,
            on_request=on_request,
            transport=transport,
        )
        super().__init__(client, account, on_bad_row)
        self._on_behalf_of = on_behalf_of
        self._mode: Mode | None = None

    async def identify(self) -> Identity:
        """See `Provider`. A 404 here means that the key may not act for `on_behalf_of` (contract v2, section 1)."""
        try:
            answer = await self.client.get("me", "/me")
        except ProviderRefusedError as error:
            if error.status != 404 or not self._on_behalf_of:
                raise
            raise ProviderAuthError(
                f"{error}: the key knows no such member of its mode: check accounts.{self._account}.on_behalf_of"
            ) from error
        if answer.date is None:
            raise self.fault("me", answer, "no Date header, by which our clock is checked")
        try:
            space, mode, name = space_of_key(answer.body)
        except (*UNREADABLE, RowError) as error:
            raise self.fault("me", answer, str(error)) from error
        self._mode = mode
        return Identity(space_uuid=space, mode=mode, api_at=answer.date, name=name)

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        """See `Provider`: at most 100 rows, newest first, cancelled ones included."""
        params = {"limit": str(PAGE_ROWS)}
        if window.created_after is not None:
            params["createdAfter"] = _rfc3339(window.created_after)
        if window.created_before is not None:
            params["createdBefore"] = _rfc3339(window.created_before)
        raw_rows, next_cursor = await self.page("subscriptions", "/transaction/subscriptions", params, cursor)
        unread = Unread(tuple(raw_rows), subscription_id_in, subscription_row)
        return Page(rows=(), bad=(), next_cursor=next_cursor, size=len(raw_rows), unread=unread)

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        """See `Provider`. A row that cannot be read, or another's, is a fault of the answer: it raises."""
        answer = await self.found("subscription", f"/transaction/subscription/{segment(ext_id)}")
        if answer is None:
            return None
        row = subscription_row(answer.body.strip())
        if isinstance(row, BadRow):
            raise self.fault("subscription", answer, row.reason)
        self.check_id("subscription", answer, row[0].ext_id, ext_id)
        return row

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        """See `Provider`. Rows of another subscription, should the filter be ignored, are left out."""
        params = {"limit": str(FAILURE_ROWS), "kind": "bill", "subscriptionUuid": subscription_ext_id}
        raw_rows, _ = await self.page("failures", "/transaction/failures", params, None)
        seen = self.readable("failures", map(failure_row, raw_rows))
        asked = bare(subscription_ext_id)
        return tuple(row for row in seen if row.subscription_ext_id and bare(row.subscription_ext_id) == asked)

    async def log(self, cursor: str | None) -> LogPage:
        """See `Provider`; `cursor` is an event id."""
        raw_rows, next_cursor = await self.page("log", "/webhooks/events", {"limit": str(PAGE_ROWS)}, cursor)
        facts: list[Fact] = []
        ids: list[str] = []
        bad: list[BadRow] = []
        for row in map(event_row, raw_rows):
            if isinstance(row, BadRow):
                bad.append(row)
                ids.extend([row.ext_id] if row.ext_id else ())
            else:
                event_id, fact = row
                ids.append(event_id)
                facts.extend([fact] if fact else ())
        return LogPage(facts=tuple(facts), ids=tuple(ids), next_cursor=next_cursor, bad=tuple(bad))

    async def endpoints(self) -> tuple[EndpointSeen, ...]:
        """See `TellsEndpoints`."""
        return await self.listed("endpoints", "/webhooks/endpoints", {}, endpoint_seen)

    async def products(self) -> tuple[ProductSeen, ...]:
        """See `Provider`."""
        return await self.listed("products", "/product", {"includeHidden": "true"}, product_seen)

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        """See `Provider`. The mode is the key's own, asked once. 60 requests a minute per address are allowed."""
        mode = self._mode or (await self.identify()).mode
        params = {"test": "true"} if mode is Mode.TEST else {}
        return await self.listed("currencies", "/utils/all-available-currencies", params, currency_seen)

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        """See `Provider`."""
        return await self.one(
            "customer", f"/customer/uuid/{segment(ext_id)}", ext_id, lambda raw: read_or_bad(raw, customer_seen)
        )

    async def aclose(self) -> None:
        """See `Provider`."""
        await self.client.aclose()


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
