"""A webhook endpoint as a vendor keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """A webhook endpoint as the vendor keeps it (contract v2, section 5)."""

    url: str
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    failing_since_at: datetime | None = None
