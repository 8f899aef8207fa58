"""What API v2 shows of a world, as JSON values: keys, units and absences as in contract v2, sections 2 to 5."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from monitor.sandbox.chain import Category, ChainKind
from monitor.sandbox.entities import (
    Bill,
    Currency,
    Customer,
    Dunning,
    Failure,
    Happening,
    Product,
    Subscription,
    Topic,
)
from monitor.sandbox.naming import evm_address, hash_of, solana_address
from monitor.sandbox.world import World

Json = dict[str, Any]
ZERO_TIME = "0001-01-01T00:00:00Z"
_UNITS = (
    ("years", timedelta(days=365)),
    ("months", timedelta(days=30)),
    ("weeks", timedelta(weeks=1)),
    ("days", timedelta(days=1)),
    ("hours", timedelta(hours=1)),
    ("minutes", timedelta(minutes=1)),
)
_TOPICS = {
    Topic.CREATED: "subscription.created",
    Topic.BILLED: "subscription.billed",
    Topic.STATUS_CHANGED: "subscription.statusChanged",
    Topic.ACTION_CHANGED: "subscription.actionRequiredChanged",
    Topic.BILLING_FAILED: "subscription.billingFailed",
    Topic.UPCOMING_BILL: "subscription.upcomingBill",
}
_REASONS = {
    Category.INSUFFICIENT_BALANCE,
    Category.ALLOWANCE_EXHAUSTED,
    Category.APPROVAL_REVOKED,
    Category.MAX_AMOUNT_EXCEEDED,
}
_CODES = {
    Category.INSUFFICIENT_BALANCE: "insufficient_funds",
    Category.ALLOWANCE_EXHAUSTED: "allowance_exhausted",
    Category.APPROVAL_REVOKED: "approval_revoked",
    Category.MAX_AMOUNT_EXCEEDED: "max_amount_exceeded",
    Category.REVERTED: "reverted",
    Category.OTHER: "unknown_error",
}


def camel(word: str) -> str:
    """`past_due` as the wire says it: `pastDue`."""
    first, *rest = word.split("_")
    return first + "".join(part.capitalize() for part in rest)


def instant(at: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one."""
    return at.isoformat().replace("+00:00", "Z")


def duration(span: timedelta) -> Json:
    """The largest exact unit; months are 30 days, years 365."""
    for unit, size in _UNITS:
        if span >= size and span % size == timedelta(0):
            return {"value": span // size, "unit": unit}
    return {"value": int(span.total_seconds()), "unit": "seconds"}


def number(value: Decimal) -> float | int:
    """USD as a JSON number; only the wire has floats."""
    return int(value) if value == value.to_integral_value() else float(value)


def usd_of(units: int, token_usd: Decimal, decimals: int) -> Decimal:
    return (Decimal(units) * token_usd).scaleb(-decimals).quantize(Decimal("0.000001"))


def _put(target: Json, **optional: object) -> Json:
    """Add what is set; the wire leaves out what is not."""
    target.update({key: value for key, value in optional.items() if value is not None})
    return target


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


class Shapes:
    """Turns one world's records into API v2 JSON values."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = world.ids
        self._link_base = world.merchant.link_base

    def me(self) -> Json:
        """`GET /me` of an organization key."""
        world = self._world
        space = {
            "uuid": self._ids.space,
            "organizationUuid": self._ids.organization,
            "organizationName": world.merchant.name,
            "test": world.test,
        }
        return {"credential": "apiKey", "apiKeyUuid": self._ids.key, "role": "admin", "space": space}

    def currency(self, currency: Currency) -> Json:
        main = currency.main
        shape: Json = {
            "id": currency.id,
            "name": currency.name,
            "symbol": currency.symbol,
            "decimals": currency.decimals,
            "address": currency.address,
        }
        if main is None:
            shape["mainCurrency"] = None
        else:
            shape |= {"mainCurrencyId": main.id, "mainCurrency": self.currency(main)}
        shape["test"] = self._world.test
        return shape

    def product(self, product: Product) -> Json:
        uuid = self._ids.product(product.n)
        plan = {"frequency": duration(product.frequency)}
        if product.trial:
            plan["trialPeriod"] = duration(product.trial)
        return {
            "uuid": uuid,
            "name": product.name,
            "description": product.description,
            "price": number(product.price_usd),
            "createdAt": instant(product.created_at),
            "isActive": product.active,
            "reference": product.reference,
            "subscription": plan,
            "paymentLink": f"{self._link_base}/pay/{uuid}",
            "test": self._world.test,
        }

    def customer(self, customer: Customer) -> Json:
        shape = {
            "uuid": self._ids.customer(customer.n),
            "name": customer.name,
            "email": customer.email,
            "verified": True,
            "createdAt": instant(customer.created_at),
            "test": self._world.test,
        }
        return _put(shape, lastName=customer.last_name, reference=customer.reference)

    def embedded_customer(self, customer: Customer) -> Json:
        """The `customer` of a read, with `deleted` only when true."""
        shape = {"uuid": self._ids.customer(customer.n), "name": customer.name, "email": customer.email}
        return _put(
            shape,
            lastName=customer.last_name,
            reference=customer.reference,
            deleted=True if customer.deleted else None,
        )

    def subscription(self, sub: Subscription, *, read: bool = True) -> Json:
        """A Subscription; `customer` and `dunning` on API reads only (contract v2, 2.3)."""
        seed, kind = self._world.seed, sub.wallet.currency.kind
        confirmed = sub.approved > 0 or sub.last_billing_at is not None
        shape: Json = {
            "uuid": self._ids.subscription(sub.n),
            "createdAt": instant(sub.created_at),
            "updatedAt": instant(sub.updated_at),
            "from": self._address(kind, sub.wallet.n + 1000),
            "to": self._address(kind, 1),
            "productUuid": self._ids.product(sub.product.n),
            "subscriptionHash": hash_of(seed, sub.n, 1) if confirmed else "",
            "currencyId": sub.wallet.currency.id,
            "currency": self.currency(sub.wallet.currency),
            "frequency": duration(sub.frequency),
            "allowance": str(sub.allowance),
            "status": sub.status_text or camel(sub.status),
            "priceUsd": str(sub.price_usd),
            "lastBillingDate": _instant(sub.last_billing_at) or ZERO_TIME,
            "test": self._world.test,
        }
        _put(
            shape,
            reference=sub.reference,
            actionRequired=camel(sub.action) if sub.action else None,
            currentPeriodEnd=_instant(sub.period_end_at),
            maxAmountPerPeriod=None if sub.maximum is None else str(sub.maximum),
            nextBillingDate=_instant(sub.next_billing_at),
            cancelledAt=_instant(sub.cancelled_at),
            cancellationReason=camel(sub.cancel_reason) if sub.cancel_reason else None,
            minimumCancellationDate=_instant(sub.minimum_cancellation_at),
            userUuid=None if sub.member is None else self._ids.member(sub.member),
        )
        if sub.customer is not None:
            shape["customerUuid"] = self._ids.customer(sub.customer.n)
            _put(shape, customerReference=sub.customer.reference)
            if read:
                shape["customer"] = self.embedded_customer(sub.customer)
        if read and sub.dunning is not None:
            shape["dunning"] = self._dunning(sub.dunning)
        return shape

    def _address(self, kind: ChainKind, n: int) -> str:
        make = evm_address if kind is ChainKind.EVM else solana_address
        return make(self._world.seed, n)

    @staticmethod
    def _dunning(dunning: Dunning) -> Json:
        shape: Json = {
            "failedAttempts": dunning.failed_attempts,
            "remainingAttempts": dunning.remaining_attempts,
            "failingSince": instant(dunning.failing_since_at),
        }
        return _put(
            shape,
            nextAttemptAt=_instant(dunning.next_attempt_at),
            awaitingMaximumSince=_instant(dunning.awaiting_maximum_since_at),
        )

    def bill(self, sub: Subscription, bill: Bill, *, read: bool = True) -> Json:
        """A paid Bill."""
        currency = sub.wallet.currency
        fee = Decimal("0.75")
        gas = {"amount": str(bill.refund), "unitsConsumed": 210_000}
        shape = {
            "uuid": self._ids.bill(bill.n),
            "createdAt": instant(bill.at),
            "from": self._address(currency.kind, sub.wallet.n + 1000),
            "to": self._address(currency.kind, 1),
            "amount": number(bill.price_usd),
            "amountMinUnits": str(bill.amount),
            "currencyId": currency.id,
            "currency": self.currency(currency),
            "txHash": hash_of(self._world.seed, bill.n, 2),
            "test": self._world.test,
            "name": sub.product.name,
            "description": sub.product.description,
            "productUuid": self._ids.product(sub.product.n),
            "subscriptionUuid": self._ids.subscription(sub.n),
            "metadata": {
                "feePercent": number(fee),
                "txMetadata": {
                    "networkFees": gas,
                    "blockData": {"number": 1_000_000 + bill.n, "timestamp": int(bill.at.timestamp())},
                },
                "txAmounts": {"minUnits": {"networkFee": str(bill.refund), "merchant": str(bill.amount)}},
            },
            "periodStart": instant(bill.period_start_at),
            "periodEnd": instant(bill.period_end_at),
            "confirmedAt": instant(bill.at),
            "paidMinUnits": str(bill.amount + bill.refund),
            "paidUsd": number(usd_of(bill.amount + bill.refund, bill.token_usd, currency.decimals)),
        }
        if sub.customer is not None:
            shape["customerUuid"] = self._ids.customer(sub.customer.n)
            _put(shape, customerReference=sub.customer.reference)
            if read:
                shape["customer"] = self.embedded_customer(sub.customer)
        return shape

    def failure(self, failure: Failure) -> Json:
        """A row of the failures list."""
        sub = failure.subscription
        shape = {
            "uuid": self._ids.failure(failure.n),
            "kind": "bill",
            "txUuid": self._ids.bill(failure.bill_n),
            "attempt": failure.attempt,
            "subscriptionUuid": self._ids.subscription(sub.n),
            "code": _CODES[failure.category],
            "category": str(failure.category),
            "attemptedUsd": number(failure.price_usd),
            "attemptedMinUnits": str(failure.amount),
            "currencyId": sub.wallet.currency.id,
            "from": self._address(sub.wallet.currency.kind, sub.wallet.n + 1000),
            "productUuid": self._ids.product(sub.product.n),
            "createdAt": instant(failure.at),
            "test": self._world.test,
        }
        if sub.customer is not None:
            shape["customerUuid"] = self._ids.customer(sub.customer.n)
            shape["customer"] = self.embedded_customer(sub.customer)
        return shape

    def event(self, line: Happening) -> Json:
        """The envelope of one event (contract v2, 5.2)."""
        envelope: Json = {
            "id": self._ids.event(line.n),
            "type": _TOPICS[line.topic],
            "version": "v2",
            "createdAt": instant(line.at),
            "test": self._world.test,
            "data": self._event_data(line),
        }
        if line.subscription.member is not None:
            envelope["userUuid"] = self._ids.member(line.subscription.member)
        return envelope

    def _event_data(self, line: Happening) -> Json:
        sub = line.subscription
        if line.topic is Topic.BILLED and line.bill is not None:
            data = self.bill(sub, line.bill, read=False)
            data["subscriptionStatus"] = camel(sub.status)
            return _put(data, subscriptionReference=sub.reference)
        data = self.subscription(sub, read=False)
        if line.topic is Topic.UPCOMING_BILL:
            data |= {
                "billingDate": _instant(sub.next_billing_at),
                "amountUsd": number(sub.price_usd or sub.product.price_usd),
                "trialEnding": line.trial_ending,
            }
            return _put(
                data,
                balanceSufficient=line.balance_sufficient,
                allowanceSufficient=line.allowance_sufficient,
            )
        if line.topic is Topic.STATUS_CHANGED and line.previous_status is not None:
            data["previousStatus"] = camel(line.previous_status)
        if line.topic is Topic.ACTION_CHANGED and line.previous_action is not None:
            data["previousActionRequired"] = camel(line.previous_action)
        if line.topic is Topic.BILLING_FAILED and line.failure is not None:
            data |= self._failed_bill(line, line.failure)
        data["managementPageLink"] = f"{self._link_base}/manage?uuid={self._ids.subscription(sub.n)}"
        return data

    def _failed_bill(self, line: Happening, failure: Failure) -> Json:
        shape = {
            "reason": str(failure.category) if failure.category in _REASONS else "other",
            "failureCode": _CODES[failure.category],
            "billUuid": self._ids.bill(failure.bill_n),
            "amountUsd": str(failure.price_usd),
            "attempt": failure.attempt,
            "remainingAttempts": line.remaining_attempts,
        }
        return _put(shape, nextAttemptAt=_instant(line.next_attempt_at))
