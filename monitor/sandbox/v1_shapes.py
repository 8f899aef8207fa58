"""What API v1 shows of a world, as JSON values: keys, units and absences as in contract v1, section 3.

The traps of the contract are in the values themselves: some times carry another offset or a zero time, some
subscriptions have no reference or customer, and a price, a maximum, a cause or a deadline is never told.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from monitor.sandbox.chain import ChainKind
from monitor.sandbox.entities import Action, Bill, Currency, Customer, Product, Purchase, Status, Subscription
from monitor.sandbox.naming import evm_address, hash_of, solana_address
from monitor.sandbox.v2_shapes import ZERO_TIME, instant, number, usd_of
from monitor.sandbox.world import World

Json = dict[str, Any]
NOBODY = "00000000-0000-0000-0000-000000000000"
"""The customer of a combined row that has none."""
ORGANIZATION = 5
FIRST_USER, FIRST_MEMBER = 41, 101
FIRST_PRODUCT = 12
_ELSEWHERE = timezone(timedelta(hours=2))
_NOT_COMBINED = {"reference", "organizationId", "userId"}
_ACTIVE, _LOW, _WAITING, _FAILED = "active", "low_on_funds", "pending", "past_due"


def status_of(sub: Subscription) -> str:
    """v1's one word for its status and action."""
    return sub.status_text if sub.status_text is not None else word_of(sub.status, sub.action)


def word_of(status: Status, action: Action | None) -> str:
    """One word for both; where two hold, the one that blocks the bill (the contract leaves it open)."""
    if status in (Status.TRIAL, Status.TRIAL_EXPIRED, Status.CANCELLED, Status.PAUSED):
        return str(status)
    if action is Action.RAISE_MAXIMUM:
        return _WAITING
    if status is Status.PAST_DUE:
        return _FAILED
    return _LOW if action is Action.TOP_UP_ALLOWANCE else _ACTIVE


class Shapes:
    """Turns one world's records into API v1 JSON values."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = world.ids

    def user(self, member: int | None = None) -> Json:
        """`GET /user/`: the key's own user, or the one it acts for. It does not tell the mode."""
        made_at = instant(self._world.products[0].created_at if self._world.products else self._world.now)
        return {
            "id": FIRST_USER if member is None else FIRST_MEMBER + member,
            "name": self._world.merchant.name,
            "lastName": "",
            "email": "owner@merchant.example" if member is None else f"member{member}@merchant.example",
            "createdAt": made_at,
            "updatedAt": made_at,
            "organizationId": ORGANIZATION,
            "role": "owner" if member is None else "user",
            "organizationFeeBps": 0,
        }

    def currency(self, currency: Currency) -> Json:
        shape: Json = {
            "id": currency.id,
            "name": currency.name,
            "symbol": currency.symbol,
            "decimals": currency.decimals,
            "address": currency.address,
            "test": self._world.test,
        }
        if currency.main is not None:
            shape |= {"mainCurrencyId": currency.main.id, "mainCurrency": self.currency(currency.main)}
        return shape

    def product(self, product: Product) -> Json:
        return {
            "id": FIRST_PRODUCT + product.n,
            "name": product.name,
            "description": product.description,
            "price": number(product.price_usd),
            "reference": product.reference,
            "createdAt": instant(product.created_at),
            "isActive": product.active,
            "test": self._world.test,
            "organizationId": ORGANIZATION,
            "userId": 0,
        }

    def customer(self, customer: Customer) -> Json:
        shape = {
            "uuid": self._ids.customer(customer.n),
            "name": customer.name,
            "lastName": customer.last_name or "",
            "email": customer.email,
            "createdAt": instant(customer.created_at),
            "test": self._world.test,
            "organizationId": ORGANIZATION,
            "userId": 0,
        }
        return _put(shape, reference=customer.reference)

    def subscription(self, sub: Subscription) -> Json:
        """A Subscription. Every third `updatedAt` carries another offset, every second "never" is a zero time."""
        currency = sub.wallet.currency
        confirmed = sub.approved > 0 or sub.last_billing_at is not None
        shape: Json = {
            "uuid": self._ids.subscription(sub.n),
            "createdAt": instant(sub.created_at),
            "updatedAt": sub.updated_at.astimezone(_ELSEWHERE).isoformat()
            if sub.n % 3 == 0
            else instant(sub.updated_at),
            "from": self._address(currency.kind, sub.wallet.n + 1000),
            "to": self._address(currency.kind, 1),
            "productId": FIRST_PRODUCT + sub.product.n,
            "subscriptionHash": hash_of(self._world.seed, sub.n, 1) if confirmed else "",
            "currencyId": currency.id,
            "currency": self.currency(currency),
            "test": self._world.test,
            "frequency": int(sub.frequency.total_seconds()),
            "allowance": str(usd_of(sub.allowance, self._world.prices[currency.id], currency.decimals)),
            "subscriptionStatus": status_of(sub),
            "stopped": sub.status is Status.STOPPED,
            "nextBillingDate": _instant(sub.next_billing_at) or ZERO_TIME,
            "organizationId": ORGANIZATION,
            "userId": 0 if sub.member is None else FIRST_MEMBER + sub.member,
        }
        never = ZERO_TIME if sub.n % 2 else None
        return _put(
            shape,
            reference=sub.reference,
            customerUUID=None if sub.customer is None else self._ids.customer(sub.customer.n),
            lastBillingDate=_instant(sub.last_billing_at) or never,
            minimumCancellationDate=_instant(sub.minimum_cancellation_at),
        )

    def checkout(self, sub: Subscription) -> Json:
        """The checkout session that made a subscription (contract v1, 7.1), as its owner sees it."""
        product = sub.product
        shape: Json = {
            "uuid": self._ids.subscription(sub.n),
            "productId": FIRST_PRODUCT + product.n,
            "productName": product.name,
            "description": product.description,
            "price": number(sub.price_usd or product.price_usd),
            "organizationId": ORGANIZATION,
            "organizationName": self._world.merchant.name,
            "feeBps": 75,
            "txType": "createSubscription",
            "test": self._world.test,
            "availableCurrencies": [token.id for token in self._world.currencies if token.main is not None],
            "frequency": int(sub.frequency.total_seconds()),
        }
        trial = None if product.trial is None else int(product.trial.total_seconds())
        named = None if sub.customer is None else self._ids.customer(sub.customer.n)
        return _put(shape, reference=sub.reference, customerUUID=named, trialPeriod=trial)

    def settled(self, sub: Subscription) -> Json:
        """The status of the transaction that made it (contract v1, 3.4)."""
        return {"status": "completed", "txHash": hash_of(self._world.seed, sub.n, 1)}

    def stand(self, purchase: Purchase) -> Json:
        """The status of a one-time payment's transaction; the text of a failed one is the chain's."""
        if purchase.paid_at is not None:
            return {"status": "completed", "txHash": hash_of(self._world.seed, purchase.n, 7)}
        return {"status": "failed", "txHash": "", "message": str(purchase.category)}

    def bill(self, sub: Subscription, bill: Bill) -> Json:
        """A paid bill of the history."""
        shape = self._transfer(sub, bill)
        shape |= {"subscriptionUUID": self._ids.subscription(sub.n), "metadata": self._metadata(sub, bill)}
        return _put(shape, customerUUID=None if sub.customer is None else self._ids.customer(sub.customer.n))

    def payment(self, purchase: Purchase) -> Json:
        """A one-time payment that was paid; of an inline product, so that no number names it."""
        currency = purchase.currency
        shape: Json = {
            "uuid": self._ids.payment(purchase.n),
            "createdAt": instant(purchase.paid_at or purchase.created_at),
            "from": self._address(currency.kind, 900 + purchase.n),
            "to": self._address(currency.kind, 1),
            "name": purchase.product.name,
            "description": purchase.product.description,
            "amount": number(purchase.product.price_usd),
            "amountMinUnits": str(purchase.amount),
            "currencyId": currency.id,
            "currency": self.currency(currency),
            "test": self._world.test,
            "transactionHash": hash_of(self._world.seed, purchase.n, 7),
            "organizationId": ORGANIZATION,
            "userId": 0,
        }
        named = None if purchase.customer is None else self._ids.customer(purchase.customer.n)
        return _put(shape, reference=purchase.reference, customerUUID=named)

    def combined_bill(self, sub: Subscription, bill: Bill) -> Json:
        """A bill as a row of the combined list, where everybody has a customer: the nil UUID for nobody."""
        return {
            "source": "subscription_history",
            **self._transfer(sub, bill),
            "customerUUID": NOBODY if sub.customer is None else self._ids.customer(sub.customer.n),
            "subscriptionUUID": self._ids.subscription(sub.n),
            "metadata": None if bill.n % 2 else self._metadata(sub, bill),
        }

    def combined_payment(self, purchase: Purchase) -> Json:
        """A one-time payment as a row of that list, which names no reference."""
        shape = {key: value for key, value in self.payment(purchase).items() if key not in _NOT_COMBINED}
        nobody = {"customerUUID": NOBODY, "subscriptionUUID": None, "productId": None, "metadata": None}
        return {"source": "payment", **nobody, **shape}

    def _transfer(self, sub: Subscription, bill: Bill) -> Json:
        currency = sub.wallet.currency
        return {
            "uuid": self._ids.bill(bill.n),
            "createdAt": instant(bill.at),
            "from": self._address(currency.kind, sub.wallet.n + 1000),
            "to": self._address(currency.kind, 1),
            "name": sub.product.name,
            "description": sub.product.description,
            "amount": number(bill.price_usd),
            "amountMinUnits": str(bill.amount),
            "currencyId": currency.id,
            "currency": self.currency(currency),
            "test": self._world.test,
            "productId": FIRST_PRODUCT + sub.product.n,
            "transactionHash": hash_of(self._world.seed, bill.n, 2),
        }

    def _metadata(self, sub: Subscription, bill: Bill) -> Json:
        usd = number(bill.price_usd)
        return {
            "feeBps": 75,
            "txMetadata": {
                "networkFees": {"amount": str(bill.refund), "unitsConsumed": 210_000},
                "blockData": {"number": str(1_000_000 + bill.n), "timestamp": int(bill.at.timestamp())},
                "mainCurrencyPriceUSD": number(self._world.prices[sub.wallet.currency.id]),
            },
            "txAmounts": {
                "usd": {"platform": 0, "merchant": usd},
                "minUnits": {"platform": "0", "organization": "0", "referral": "0", "merchant": str(bill.amount)},
            },
        }

    def _address(self, kind: ChainKind, n: int) -> str:
        make = evm_address if kind is ChainKind.EVM else solana_address
        return make(self._world.seed, n)


def _put(target: Json, **optional: object) -> Json:
    """Add what is set; the wire leaves out what is not."""
    target.update({key: value for key, value in optional.items() if value is not None})
    return target


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)
