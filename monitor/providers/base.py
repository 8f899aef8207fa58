"""What a provider is: an adapter that speaks one payment API in our words.

A provider translates and keeps the raw payload; it decides nothing, stores nothing and retries only what its contract
allows. Every method may raise `ProviderAuthError` (the key is refused), `ProviderUnavailableError` (no usable answer
after all retries), `RateLimitedError` (the asked wait is too long) or `ProviderRefusedError` (another 4xx).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

from monitor.domain.endpoint import EndpointSeen
from monitor.domain.model import (
    BadRow,
    CurrencySeen,
    CustomerSeen,
    FailureSeen,
    Identity,
    LogPage,
    Page,
    ProductSeen,
    Snapshot,
    Window,
)
from monitor.domain.payments import PaymentPage, PaymentSeen
from monitor.errors import ProviderError


class UnsupportedError(ProviderError):
    """The API cannot do this at all: a capability should have been looked at before."""


class Capability(StrEnum):
    LIST = "list"  # can walk all subscriptions
    DISCOVERY = "discovery"  # cannot: it is a `KnownReader`, whose ids are found elsewhere
    WINDOWS = "windows"  # ... in slices of creation time
    LOG = "log"  # has an event log
    FAILURES = "failures"  # tells the cause of a failed bill
    DEADLINE = "deadline"  # tells when a failing subscription ends
    PAYMENTS = "payments"  # lists payments: it is a `PaymentSource`
    SUBSCRIPTIONS = "subscriptions"  # knows subscriptions at all: reads one by id, and its customer and product
    PLANS = "plans"  # products tell their interval


class Provider(Protocol):
    """One account's connection to one payment API."""

    name: str
    capabilities: frozenset[Capability]

    async def identify(self) -> Identity:
        """The key's space and mode, and the API's clock from its Date header (aware UTC)."""
        ...

    async def subscriptions(self, window: Window, cursor: str | None) -> Page:
        """One page of the walk, newest first. A bad row lands in `Page.bad`; a bad page raises."""
        ...

    async def subscription(self, ext_id: str) -> tuple[Snapshot, bytes] | None:
        """One subscription now, with its raw JSON; None when the API says 404."""
        ...

    async def failures(self, subscription_ext_id: str) -> tuple[FailureSeen, ...]:
        """The newest failed bills of one subscription, newest first; at most one page."""
        ...

    async def log(self, cursor: str | None) -> LogPage:
        """One page of the event log, newest first, before the event `cursor`."""
        ...

    async def products(self) -> tuple[ProductSeen, ...]:
        """All products, hidden ones too."""
        ...

    async def currencies(self) -> tuple[CurrencySeen, ...]:
        """All tokens of this key's mode."""
        ...

    async def customer(self, ext_id: str) -> CustomerSeen | None:
        """One customer; None when the API says 404."""
        ...

    def end_after(self, limit: timedelta | None) -> None:
        """From now on ask for so long at most, waits included: then `RateLimitedError`. None: no limit."""
        ...

    async def aclose(self) -> None:
        """Close the connection; afterwards no method may be called."""
        ...


@runtime_checkable
class PaymentSource(Protocol):
    """A provider that lists payments (capability `PAYMENTS`)."""

    def payments(self, since: datetime | None, customers: Sequence[str]) -> AsyncIterator[PaymentPage]:
        """All payments that may have changed since then; None: all of them. May show more, and one twice.

        `customers` are the ids known so far, for an API that lists one customer's payments only. A page that cannot be
        read raises, and what came before it holds.
        """
        ...

    async def payment(self, ext_id: str) -> PaymentSeen | None:
        """One payment now; None when the API says 404."""
        ...


@runtime_checkable
class PaymentHistory(Protocol):
    """A `PaymentSource` that can be asked for the past alone, in slices: no first run has to wait for all of it."""

    def payment_history(self, before: datetime, mark: str | None) -> AsyncIterator[tuple[PaymentPage, str]]:
        """What was made before then, each page with the mark at which a later walk goes on.

        `mark` is one of an earlier walk with the same `before`, None to begin. A later walk may show again what was on
        the page of its mark, but leaves nothing out.
        """
        ...


@runtime_checkable
class PayerSource(Protocol):
    """A `PaymentSource` that can be asked for one customer's payments."""

    def payments_of(self, customer: str, since: datetime) -> AsyncIterator[PaymentPage]:
        """What this customer has paid or tried since then; may show more."""
        ...


@dataclass(frozen=True, slots=True)
class CustomerPage:
    rows: tuple[CustomerSeen, ...]
    next_cursor: str | None
    size: int


@runtime_checkable
class KnownReader(Protocol):
    """What a provider without a list can do instead (capability `DISCOVERY`).

    It is a `PaymentSource` too: the pages of its payments name subscriptions.
    """

    requests: int
    """Attempts so far, for the account's daily budget."""
    counted: int
    """How many of them the budget knows."""

    async def read(self, ext_id: str) -> tuple[Snapshot, bytes] | BadRow | None:
        """One known subscription now; None for a 404, a `BadRow` where the API answers but the row breaks rules."""
        ...

    async def customers(self, cursor: str | None) -> CustomerPage:
        """One page of all customers."""
        ...


@runtime_checkable
class TellsEndpoints(Protocol):
    """A provider whose API tells how its webhook endpoints do."""

    async def endpoints(self) -> tuple[EndpointSeen, ...]:
        """The webhook endpoints of this key's space and mode. A member's key may be refused (403)."""
        ...
