"""What a provider is: an adapter that speaks one payment API in our words.

A provider translates and keeps the raw payload; it decides nothing, stores nothing and retries only what its contract
allows. Every method may raise `ProviderAuthError` (the key is refused), `ProviderUnavailableError` (no usable answer
after all retries), `RateLimitedError` (the asked wait is too long) or `ProviderRefusedError` (another 4xx).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from monitor.domain.model import (
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


class Capability(StrEnum):
    LIST = "list"  # can walk all subscriptions
    WINDOWS = "windows"  # ... in slices of creation time
    LOG = "log"  # has an event log
    FAILURES = "failures"  # tells the cause of a failed bill
    DEADLINE = "deadline"  # tells when a failing subscription ends


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

    async def aclose(self) -> None:
        """Close the connection; afterwards no method may be called."""
        ...
