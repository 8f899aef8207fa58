"""The billing platform as a provider (contract billing-platform): payments of a tenant's users, and nothing else.

The platform knows no subscription, product or customer, so those questions are refused or answered by nothing. Its
contract is known in part only; every name that was assumed is configured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import httpx
import msgspec

from monitor.clock import Clock
from monitor.config import BillingSettings
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
from monitor.domain.payments import PaymentPage, PaymentSeen
from monitor.errors import ConfigError, ProviderAuthError, ProviderRefusedError, ProviderUnavailableError
from monitor.providers.answers import Answer
from monitor.providers.base import Capability, UnsupportedError
from monitor.providers.billing_platform_login import TokenCache
from monitor.providers.billing_platform_wire import payment_row, token_of
from monitor.providers.envelope import PageFaultError, read_rows
from monitor.providers.http import ApiClient, OnRequest, Retries
from monitor.providers.reading import segment
from monitor.providers.wire import RowError

PAGE_ROWS = 100
"""The maximum that the page states (contract, 1.2)."""
RETRIES = Retries(waits=(2.0, 4.0), limited=False)
"""Up to 3 attempts, 2 and 4 s apart, on 5xx and network errors; a 4xx is never tried again (contract, 1.4)."""

_STEPS_BACK = 20
_PAGES_OF_NOTHING_NEW = 3


class BillingPlatform:
    """One tenant's connection. `mode` is the account's: the platform has a tenant for each and names none."""

    name = "billing-platform"
    capabilities = frozenset({Capability.PAYMENTS})

    def __init__(
        self,
        *,
        base_url: str,
        billing: BillingSettings,
        tenant_secret: str,
        mode: Mode,
        account: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        on_request: OnRequest | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise `ConfigError` for an address or a secret that could never work. Nothing is asked yet.

        `billing` has the names of paths and fields, with the contract's own as defaults (sections 2.1 and 2.2).
        """
        if not tenant_secret.strip():
            raise ConfigError(f"accounts.{account}.api_key holds no secret: it is the tenant's own")
        self.client = ApiClient(
            base_url,
            {},
            account=account,
            clock=clock,
            sleep=sleep,
            on_request=on_request,
            retries=RETRIES,
            transport=transport,
        )
        self._account = account
        self._mode = mode
        self.billing = billing
        self._credentials = msgspec.json.encode(
            {billing.login_id_field: billing.tenant_id, billing.login_secret_field: tenant_secret}
        )
        self._token = TokenCache(self._log_in, clock, ttl_s=billing.token_ttl_s, margin_s=billing.token_margin_s)
        self._api_at = clock.now()

    async def identify(self) -> Identity:
        """See `Provider`: a fresh login, which proves the tenant and tells the time over there."""
        self._token.forget()
        await self._token.current()
        return Identity(space_uuid=self.billing.tenant_id, mode=self._mode, api_at=self._api_at)

    async def payments(self, since: datetime | None, customers: Sequence[str]) -> AsyncIterator[PaymentPage]:
        """See `PaymentSource`. The API has no filter of time, so `since` changes nothing.

        Where the whole tenant may not be listed, one walk for each of `customers`.
        """
        _ = since
        if self.billing.list_all_users:
            try:
                async for page in self._walk({}):
                    yield page
            except ProviderRefusedError as error:
                if not customers:
                    raise ProviderRefusedError(
                        f"{error}: if the platform lists one user's payments only, its users must be known: "
                        "they are those of earlier payments and of imported contacts",
                        status=error.status,
                    ) from error
            else:
                return
        for customer in customers:
            async for page in self._walk({"userId": customer}):
                yield page

    async def payments_of(self, customer: str, since: datetime) -> AsyncIterator[PaymentPage]:
        """See `PayerSource`."""
        _ = since
        async for page in self._walk({"userId": customer}):
            yield page

    async def payment(self, ext_id: str) -> PaymentSeen | None:
        """See `PaymentSource`."""
        path = self.billing.payment_path.replace("{id}", segment(ext_id))
        try:
            answer = await self._get("payment", path, {})
        except ProviderRefusedError as error:
            if error.status == 404:
                return None
            raise
        row = self._row(answer.body.strip())
        if isinstance(row, BadRow):
            raise self._fault(row.reason, answer)
        if row.ext_id != ext_id:
            raise self._fault("another payment than the one asked for", answer)
        return row

    def _row(self, raw: bytes) -> PaymentSeen | BadRow:
        return payment_row(raw, self.billing.field_map, test=self._mode is Mode.TEST)

    async def _walk(self, params: dict[str, str]) -> AsyncIterator[PaymentPage]:
        """Pages by offset, which is no snapshot (contract, 1.5): rows that come or go during the walk shift the rest.

        Each page begins on the last row of the one before it. Where it does not, rows have gone and others moved up:
        the walk steps back. Rows that came are on the first pages, which are read again at the end.
        """
        seen: set[object] = set()
        offset = back = stale = 0
        while True:
            rows = await self._page(params, offset)
            keys = [_key(row) for row in rows]
            if offset and (not keys or keys[0] not in seen):
                back += 1
                if back > _STEPS_BACK:
                    raise self._fault("the list changes faster than it can be read")
                offset = max(0, offset - PAGE_ROWS)
                continue
            fresh = [row for row, key in zip(rows, keys, strict=True) if key not in seen]
            stale = 0 if fresh else stale + 1
            seen.update(keys)
            yield _page_of(fresh)
            if len(rows) < PAGE_ROWS:
                break
            if stale >= _PAGES_OF_NOTHING_NEW:
                raise self._fault("its pages go round in a circle; the offset seems to be ignored")
            offset += PAGE_ROWS - 1
        if not offset:
            return
        offset = 0
        while True:
            rows = await self._page(params, offset)
            fresh = [row for row in rows if _key(row) not in seen]
            seen.update(map(_key, rows))
            yield _page_of(fresh)
            if len(fresh) < PAGE_ROWS:
                return
            offset += PAGE_ROWS

    async def _page(self, params: dict[str, str], offset: int) -> list[PaymentSeen | BadRow]:
        query = {**params, "limit": str(PAGE_ROWS), "offset": str(offset)}
        answer = await self._get("payments", self.billing.payments_path, query)
        try:
            raw_rows = read_rows(answer.body, "data")
        except PageFaultError as error:
            raise self._fault(str(error), answer) from error
        if len(raw_rows) > PAGE_ROWS:
            raise self._fault(f"{len(raw_rows)} rows where {PAGE_ROWS} were asked for", answer)
        return [self._row(raw) for raw in raw_rows]

    async def _get(self, endpoint: str, path: str, params: dict[str, str]) -> Answer:
        token = await self._token.current()
        try:
            return await self._ask(endpoint, path, params, token)
        except ProviderAuthError as error:
            if error.status != 401:
                raise
        return await self._ask(endpoint, path, params, await self._token.current(refused=token))

    async def _ask(self, endpoint: str, path: str, params: dict[str, str], token: str) -> Answer:
        return await self.client.get(endpoint, path, params, headers={"Authorization": f"Bearer {token}"})

    async def _log_in(self) -> tuple[str, float]:
        try:
            answer = await self.client.log_in("login", self.billing.login_path, self._credentials)
        except ProviderAuthError as error:
            raise ProviderAuthError(
                f"{error} and accounts.{self._account}.billing.tenant_id", status=error.status
            ) from error
        if answer.date is None:
            raise self._fault("no Date header, by which our clock is checked", answer)
        try:
            token = token_of(answer.body, self.billing.token_field)
        except RowError as error:
            raise self._fault(str(error), answer) from error
        self._api_at = answer.date
        return token, answer.date.timestamp()

    def _fault(self, reason: str, answer: Answer | None = None) -> ProviderUnavailableError:
        asked = "" if answer is None else f", request id {answer.request_id}"
        return ProviderUnavailableError(
            f"the billing platform: the answer is not what the contract says ({reason}){asked}: "
            f"check accounts.{self._account}.base_url and accounts.{self._account}.billing"
        )

    # What the platform does not have

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        """Raise `UnsupportedError`."""
        raise self._unsupported(f"subscriptions (window {window.number}, cursor {cursor})")

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        """Raise `UnsupportedError`."""
        raise self._unsupported(f"subscription {ext_id}")

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        """Raise `UnsupportedError`."""
        raise self._unsupported(f"failed bills of {subscription_ext_id}")

    async def log(self, cursor: str | None) -> LogPage:
        """Raise `UnsupportedError`."""
        raise self._unsupported(f"event log (cursor {cursor})")

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        """Raise `UnsupportedError`: it names a user by an id only."""
        raise self._unsupported(f"customer {ext_id}")

    async def products(self) -> tuple[ProductSeen, ...]:
        """None: a payment names no product."""
        return ()

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        """Those whose decimals the merchant told: the API does not say of what unit an amount is (contract, 1.5)."""
        return tuple(CurrencySeen(code, code, places) for code, places in sorted(self.billing.decimals.items()))

    def end_after(self, limit: timedelta | None) -> None:
        """See `Provider`."""
        self.client.end_after(limit)

    async def aclose(self) -> None:
        """See `Provider`."""
        await self._token.aclose()
        await self.client.aclose()

    def _unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self.name} has no {what}")


def _key(row: PaymentSeen | BadRow) -> object:
    """What a row is known by from page to page; one without an id, by its bytes."""
    if isinstance(row, BadRow):
        return row.ext_id or row.raw
    return row.ext_id


def _page_of(rows: Sequence[PaymentSeen | BadRow]) -> PaymentPage:
    return PaymentPage(
        rows=tuple(row for row in rows if isinstance(row, PaymentSeen)),
        bad=tuple(row for row in rows if isinstance(row, BadRow)),
    )
