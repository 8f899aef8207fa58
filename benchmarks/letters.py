"""Letters of the delivery benchmark: one kind, as many customers as wanted, every fact known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from monitor.domain.letter import Letter
from monitor.domain.model import Kind
from monitor.mail.samples import sample


def letters(count: int) -> Iterator[Letter]:
    """Different customers and ids, else alike."""
    first = sample(Kind.LOW_ON_FUNDS)
    for n in range(count):
        mail_id = str(UUID(int=n + 1))
        yield replace(
            first,
            recipient=f"customer{n}@customer.example",
            notification_id=mail_id,
            message_id=f"<{mail_id}@acme.example>",
        )
