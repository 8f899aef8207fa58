"""The payments that a world's customers make through the billing platform (contract billing-platform, 1.2).

The platform has users and payments and knows no subscription: it takes one-time money from the same customers. Nothing
happens here by itself; `stock` makes a history, and whoever plays with the world moves payments on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.sandbox.naming import mix
from monitor.sandbox.world import World

STATUSES = ("CREATED", "PROVIDER_PENDING", "SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED")
CURRENCIES = ("EUR", "USD", "HUF")
_ENDS = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED")
_REASONS = ("card declined", "insufficient funds", None)


@dataclass(slots=True)
class Payment:
    """One payment. `amount` is an integer of the platform's own unit; `status` is its text, known or not."""

    n: int
    user: int
    amount: int
    currency: str
    status: str
    created_at: datetime
    updated_at: datetime
    order: str | None = None
    reason: str | None = None


class Till:
    """All payments of one tenant, oldest first."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.payments: list[Payment] = []
        self.listeners: list[Callable[[Payment], None]] = []
        """Told of each payment that moved: a webhook sender, a test."""
        self._count = 0

    @property
    def tenant_id(self) -> str:
        return f"tenant-{mix(self.world.seed, 11):016x}"

    @property
    def tenant_secret(self) -> str:
        return f"ts_{self.world.merchant.mode}_{mix(self.world.seed, 12):016x}"

    @staticmethod
    def id_of(payment: Payment) -> str:
        return f"bp-{7001 + payment.n}"

    @staticmethod
    def user_id(customer: int) -> str:
        """The platform's id of the world's customer of that number."""
        return f"u-{customer}"

    def find(self, ext_id: str) -> Payment | None:
        return next((payment for payment in self.payments if self.id_of(payment) == ext_id), None)

    def newest_first(self, user: str | None = None) -> Iterator[Payment]:
        """All payments, or one user's."""
        return (one for one in reversed(self.payments) if user is None or self.user_id(one.user) == user)

    def pay(
        self, user: int, amount: int = 4990, currency: str = "EUR", *, order: str | None = None, status: str = "CREATED"
    ) -> Payment:
        """A new payment of now."""
        now = self.world.now
        payment = Payment(self._count, user, amount, currency, status, now, now, order)
        self._count += 1
        self.payments.append(payment)
        return payment

    def move(self, payment: Payment, status: str, reason: str | None = None) -> Payment:
        """Another status; listeners hear of it."""
        payment.status, payment.reason, payment.updated_at = status, reason, self.world.now
        for tell in self.listeners:
            tell(payment)
        return payment

    def remove(self, payment: Payment) -> None:
        """No list shows it any more: what was below it moves up by one."""
        self.payments.remove(payment)


def stock(till: Till, size: int, *, apart: timedelta = timedelta(hours=1)) -> list[Payment]:
    """`size` payments of the past, `apart` from each other, the newest of now; all have ended."""
    now, seed = till.world.now, till.world.seed
    users = max(1, len(till.world.customers))
    made = []
    for n in range(size):
        draw = mix(seed, n, 13)
        payment = till.pay(
            draw % users, 500 + draw % 90_000, CURRENCIES[draw % len(CURRENCIES)], order=f"order-{n}", status="CREATED"
        )
        payment.created_at = now - (size - 1 - n) * apart
        payment.updated_at = payment.created_at + timedelta(minutes=draw % 50)
        payment.status = _ENDS[draw % len(_ENDS)]
        payment.reason = _REASONS[draw % len(_REASONS)] if payment.status == "FAILED" else None
        made.append(payment)
    return made
