"""API v2 of QBitFlow as a provider (contract v2). It translates; when a walk ends is decided by whoever walks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import quote

import httpx

from monitor.clock import Clock
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
from monitor.errors import (
    ConfigError,
    ProviderAuthError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from monitor.providers.answers import Answer
from monitor.providers.base import Capability
from monitor.providers.envelope import PageFaultError, read_list, read_page
from monitor.providers.http import ApiClient, OnRequest
from monitor.providers.qbitflow_v2_events import event_row, failure_row
from monitor.providers.qbitflow_v2_wire import (
    currency_seen,
    customer_seen,
    product_seen,
    space_of_key,
    subscription_row,
)
from monitor.providers.wire import UNREADABLE, RowError, bad_row, check_row

PAGE_ROWS = 100
"""The maximum of the subscriptions list and of the event log (contract v2, 2.2 and 5)."""
FAILURE_ROWS = 50

_KEY = re.compile(r"sk_[\x21-\x7e]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NIL_UUID = re.compile(r"[0-]+")

OnBadRow = Callable[[str, BadRow], None]
"""endpoint, row: for rows of lists whose answer type has no place for a bad one."""

_Seen = TypeVar("_Seen")


class QBitFlowV2:
    """One account's connection to API v2.

    `account` is the account's name in messages. `client.deadline` may be set by the run: no wait passes it.
    """

    name = "qbitflow-v2"
    capabilities = frozenset(
        {Capability.LIST, Capability.WINDOWS, Capability.LOG, Capability.FAILURES, Capability.DEADLINE}
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
        if not _KEY.fullmatch(api_key):
            raise ConfigError(
                f"accounts.{account}.api_key_file holds no QBitFlow key: it begins with sk_ and has no spaces"
            )
        headers = {"X-API-Key": api_key}
        if on_behalf_of:
            if not _UUID.fullmatch(on_behalf_of) or _NIL_UUID.fullmatch(on_behalf_of):
                raise ConfigError(f"accounts.{account}.on_behalf_of must be a member's user UUID, or be left out")
            headers["On-Behalf-Of"] = on_behalf_of
        self.client = ApiClient(
            base_url,
            headers,
            account=account,
            clock=clock,
            sleep=sleep,
            on_request=on_request,
            transport=transport,
        )
        self._account = account
        self._on_bad_row = on_bad_row
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
            raise self._fault("me", answer, "no Date header, by which our clock is checked")
        try:
            space, mode, name = space_of_key(answer.body)
        except (*UNREADABLE, RowError) as error:
            raise self._fault("me", answer, str(error)) from error
        self._mode = mode
        return Identity(space_uuid=space, mode=mode, api_at=answer.date, name=name)

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        """See `Provider`: at most 100 rows, newest first, cancelled ones included."""
        params = {"limit": str(PAGE_ROWS)}
        if window.created_after is not None:
            params["createdAfter"] = _rfc3339(window.created_after)
        if window.created_before is not None:
            params["createdBefore"] = _rfc3339(window.created_before)
        raw_rows, next_cursor = await self._page("subscriptions", "/transaction/subscriptions", params, cursor)
        rows: list[tuple[Snapshot, bytes]] = []
        bad: list[BadRow] = []
        for raw in raw_rows:
            row = subscription_row(raw)
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                rows.append(row)
        return Page(rows=tuple(rows), bad=tuple(bad), next_cursor=next_cursor, size=len(raw_rows))

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        """See `Provider`. A row that cannot be read, or another's, is a fault of the answer: it raises."""
        answer = await self._found("subscription", f"/transaction/subscription/{_segment(ext_id)}")
        if answer is None:
            return None
        row = subscription_row(answer.body.strip())
        if isinstance(row, BadRow):
            raise self._fault("subscription", answer, row.reason)
        if _bare(row[0].ext_id) != _bare(ext_id):
            raise self._fault("subscription", answer, "another subscription than the one asked for")
        return row

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        """See `Provider`. Rows of another subscription, should the filter be ignored, are left out."""
        params = {"limit": str(FAILURE_ROWS), "kind": "bill", "subscriptionUuid": subscription_ext_id}
        raw_rows, _ = await self._page("failures", "/transaction/failures", params, None)
        seen = self._readable("failures", map(failure_row, raw_rows))
        asked = _bare(subscription_ext_id)
        return tuple(row for row in seen if row.subscription_ext_id and _bare(row.subscription_ext_id) == asked)

    async def log(self, cursor: str | None) -> LogPage:
        """See `Provider`; `cursor` is an event id."""
        raw_rows, next_cursor = await self._page("log", "/webhooks/events", {"limit": str(PAGE_ROWS)}, cursor)
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

    async def products(self) -> tuple[ProductSeen, ...]:
        """See `Provider`."""
        return await self._list("products", "/product", {"includeHidden": "true"}, product_seen)

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        """See `Provider`. The mode is the key's own, asked once. 60 requests a minute per address are allowed."""
        mode = self._mode or (await self.identify()).mode
        params = {"test": "true"} if mode is Mode.TEST else {}
        return await self._list("currencies", "/utils/all-available-currencies", params, currency_seen)

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        """See `Provider`."""
        answer = await self._found("customer", f"/customer/uuid/{_segment(ext_id)}")
        if answer is None:
            return None
        try:
            check_row(answer.body)
            seen = customer_seen(answer.body)
        except (*UNREADABLE, RowError) as error:
            raise self._fault("customer", answer, str(error)) from error
        if seen is None or _bare(seen.ext_id) != _bare(ext_id):
            raise self._fault("customer", answer, "not the customer asked for")
        return seen

    async def aclose(self) -> None:
        """See `Provider`."""
        await self.client.aclose()

    async def _found(self, endpoint: str, path: str) -> Answer | None:
        """The answer, or None where the API itself (not a gateway before it) says 404."""
        try:
            return await self.client.get(endpoint, path)
        except ProviderRefusedError as error:
            if error.status == 404:
                return None
            raise

    async def _page(
        self, endpoint: str, path: str, params: dict[str, str], cursor: str | None
    ) -> tuple[list[bytes], str | None]:
        answer = await self.client.get(endpoint, path, {**params, "cursor": cursor} if cursor else params)
        try:
            return read_page(answer.body)
        except PageFaultError as error:
            raise self._fault(endpoint, answer, str(error)) from error

    async def _list(
        self, endpoint: str, path: str, params: dict[str, str], read: Callable[[bytes], _Seen | None]
    ) -> tuple[_Seen, ...]:
        """The readable rows of an array that is not paged."""
        answer = await self.client.get(endpoint, path, params)
        try:
            raw_rows = read_list(answer.body)
        except PageFaultError as error:
            raise self._fault(endpoint, answer, str(error)) from error
        return tuple(self._readable(endpoint, (_read_or_bad(raw, read) for raw in raw_rows)))

    def _readable(self, endpoint: str, rows: Iterable[_Seen | BadRow]) -> list[_Seen]:
        seen: list[_Seen] = []
        for row in rows:
            if not isinstance(row, BadRow):
                seen.append(row)
            elif self._on_bad_row is not None:
                self._on_bad_row(endpoint, row)
        return seen

    def _fault(self, endpoint: str, answer: Answer, reason: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"{self._account}: {endpoint}: the answer is not what the contract says ({reason}), "
            f"request id {answer.request_id}: check accounts.{self._account}.base_url"
        )


def _read_or_bad(raw: bytes, read: Callable[[bytes], _Seen | None]) -> _Seen | BadRow:
    try:
        check_row(raw)
        seen = read(raw)
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, None)
    return bad_row(raw, RowError("null instead of an object"), None) if seen is None else seen


def _segment(text: str) -> str:
    """A path segment (contract v2, section 1); dots alone are escaped too, or they would name another path."""
    escaped = quote(text, safe="@:+,=$&;")
    return escaped if escaped.strip(".") else escaped.replace(".", "%2E")


def _bare(ext_id: str) -> str:
    """The UUID of an id: paths and filters take it with or without its prefix (contract v2, ids)."""
    return ext_id.rpartition("@")[2].casefold()


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
