"""Payments in the JSON of API v2 (contract v2, section 3): the combined list, single reads, failed one-off payments."""

from __future__ import annotations

from typing import Any

from monitor.sandbox.entities import Bill, Purchase, Subscription
from monitor.sandbox.naming import hash_of
from monitor.sandbox.v2_shapes import Shapes, instant, number
from monitor.sandbox.world import World

Json = dict[str, Any]
EXPLORER = "https://explorer.example/tx"


class Payments:
    """Everything that was paid, newest first; put together once for as long as nothing more is paid."""

    def __init__(self, world: World, shapes: Shapes) -> None:
        self._world = world
        self._shapes = shapes
        self._made_for = (-1, -1, -1)
        self._combined: list[Json] = []

    def combined(self) -> list[Json]:
        """Rows of the combined list."""
        world = self._world
        paid = [purchase for purchase in world.purchases if purchase.paid_at is not None]
        state = (world.bills_paid, len(world.subscriptions), len(paid))
        if state != self._made_for:
            rows = [(bill.at, self._bill(sub, bill)) for sub in world.subscriptions for bill in world.bills_of(sub)]
            rows += [(purchase.paid_at or purchase.created_at, self.payment(purchase)) for purchase in paid]
            rows.sort(key=lambda one: (one[0], one[1]["uuid"]), reverse=True)
            self._combined = [row for _, row in rows]
            self._made_for = (world.bills_paid, len(world.subscriptions), len(paid))
        return self._combined

    def payment(self, purchase: Purchase) -> Json:
        """A one-off payment; only one that is paid is shown by any read."""
        tx_hash = hash_of(self._world.seed, purchase.n, 7)
        shape: Json = {
            "source": "payment",
            "uuid": self._world.ids.payment(purchase.n),
            "createdAt": instant(purchase.paid_at or purchase.created_at),
            **self._money(purchase),
            "txHash": tx_hash,
            "explorerUrl": f"{EXPLORER}/{tx_hash}",
            "reference": purchase.reference,
            "name": purchase.product.name,
            "description": purchase.product.description,
            "test": self._world.test,
        }
        return {key: value for key, value in shape.items() if value is not None}

    def checkout(self, purchase: Purchase) -> Json:
        """How far a checkout is (contract v2, section 4); a failed try is no state of it."""
        paid, expired = purchase.paid_at is not None, purchase.expired_at is not None
        waits = "waitingConfirmation" if purchase.confirming_at is not None else "created"
        shape: Json = {
            "uuid": self._world.ids.payment(purchase.n),
            "status": "completed" if paid else "expired" if expired else waits,
        }
        if paid or purchase.confirming_at is not None:
            shape["txHash"] = hash_of(self._world.seed, purchase.n, 7)
        if purchase.failed_at is not None:
            failed_at = instant(purchase.failed_at)
            shape["lastAttempt"] = {"status": "failed", "code": str(purchase.category), "at": failed_at}
        return shape

    def ended(self) -> list[tuple[int, bool]]:
        """One-off payments that were completed (True) or whose checkout expired (False), by number."""
        made = [(one.n, one.paid_at is not None) for one in self._world.purchases if one.paid_at or one.expired_at]
        return sorted(made)

    def event(self, n: int, *, completed: bool) -> Json:
        """The envelope that tells how a one-off payment ended (contract v2, 5.2). The sandbox's log has none."""
        purchase = self._world.purchases[n]
        at = purchase.paid_at if completed else purchase.expired_at
        session: Json = {
            "uuid": self._world.ids.payment(n),
            "reference": purchase.reference,
            "productUuid": self._world.ids.product(purchase.product.n),
            "productName": purchase.product.name,
            "price": number(purchase.product.price_usd),
            "organizationName": "Acme",
            "txType": "payment",
            "availableCurrencyIds": [purchase.currency.id],
            "createdAt": instant(purchase.created_at),
            "test": self._world.test,
        }
        data = self.payment(purchase) if completed else session
        data.pop("source", None)  # the combined list alone says it
        return {
            "id": self._world.ids.event(10**9 + 2 * n + completed),
            "type": "payment.completed" if completed else "checkout.expired",
            "version": "v2",
            "createdAt": instant(at or self._world.now),
            "test": self._world.test,
            "data": {key: value for key, value in data.items() if value is not None},
        }

    def failures(self) -> list[Json]:
        """Failed tries at one-off payments, newest first, as rows of the failures list."""
        failed = [one for one in self._world.purchases if one.failed_at is not None]
        return [self._failure(one) for one in sorted(failed, key=lambda one: (one.failed_at, one.n), reverse=True)]

    def _failure(self, purchase: Purchase) -> Json:
        money = self._money(purchase)
        return {
            "uuid": self._world.ids.failure(10**6 + purchase.n),
            "kind": "payment",
            "txUuid": self._world.ids.payment(purchase.n),
            "attempt": 1,
            "code": "reverted",
            "category": str(purchase.category),
            "attemptedUsd": money.pop("amount"),
            "attemptedMinUnits": money.pop("amountMinUnits"),
            **money,
            "createdAt": instant(purchase.failed_at or purchase.created_at),
            "test": self._world.test,
        }

    def _money(self, purchase: Purchase) -> Json:
        shape: Json = {
            "amount": number(purchase.product.price_usd),
            "amountMinUnits": str(purchase.amount),
            "currencyId": purchase.currency.id,
            "currency": self._shapes.currency(purchase.currency),
            "productUuid": self._world.ids.product(purchase.product.n),
        }
        if purchase.customer is not None:
            shape["customerUuid"] = self._world.ids.customer(purchase.customer.n)
            shape["customer"] = self._shapes.embedded_customer(purchase.customer)
        return shape

    def _bill(self, sub: Subscription, bill: Bill) -> Json:
        shape = self._shapes.bill(sub, bill)
        return {"source": "subscriptionHistory", **shape, "explorerUrl": f"{EXPLORER}/{shape['txHash']}"}
