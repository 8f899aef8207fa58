"""A merchant's world: wallets, prices, subscriptions, and the virtual time in which their bills come due.

It knows no API: `v2` reads it and turns it into that API's JSON. Nothing in it is random; the same calls in the same
order give the same world.
"""

from __future__ import annotations

import copy
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from monitor.errors import MonitorError
from monitor.sandbox import billing, chain
from monitor.sandbox.clock import VirtualClock
from monitor.sandbox.entities import (
    Bill,
    Currency,
    Customer,
    Endpoint,
    Failure,
    Happening,
    Merchant,
    Product,
    Purchase,
    Subscription,
    Topic,
    Wallet,
)
from monitor.sandbox.naming import Ids

HISTORY_KEPT = 200_000


class RefusedError(MonitorError):
    """The chain or the vendor refuses what was tried; nothing has changed."""


class World:
    """Everything one merchant has, at one virtual instant."""

    def __init__(self, *, start: datetime, seed: int = 1, merchant: Merchant | None = None) -> None:
        self.seed = seed
        self.merchant = merchant or Merchant()
        self.rules = self.merchant.rules
        self.clock = VirtualClock(start)
        self.ids = Ids(seed, self.merchant.mode)
        self.gas_usd: Decimal | None = Decimal("0.01")
        self.prices: dict[int, Decimal] = {}
        self.currencies: list[Currency] = []
        self.products: list[Product] = []
        self.customers: list[Customer] = []
        self.wallets: list[Wallet] = []
        self.subscriptions: list[Subscription] = []
        self.endpoints: list[Endpoint] = []
        self.failures: list[Failure] = []
        self.purchases: list[Purchase] = []
        self.happenings: deque[Happening] = deque(maxlen=HISTORY_KEPT)
        self._failures: dict[int, list[Failure]] = {}
        self._bills: dict[int, list[Bill]] = {}
        self._bill_count = 0
        self.bills_paid = 0
        """Grows with every bill that is paid; one that had failed before has its number already."""
        self._happening_count = 0
        self._agenda: list[tuple[datetime, int, int | Callable[[World], None]]] = []
        self._agenda_count = 0
        self._amounts: dict[tuple[Decimal, int], int] = {}

    @property
    def now(self) -> datetime:
        """The virtual instant, aware UTC."""
        return self.clock.now()

    @property
    def test(self) -> bool:
        return self.merchant.mode == "test"

    # Reading

    def find(self, ext_id: str) -> Subscription | None:
        """By `sub@<uuid>` or the bare UUID; None when no read shows it."""
        n = self.ids.read("subscription", ext_id)
        if n is None or not 0 <= n < len(self.subscriptions) or self.subscriptions[n].gone:
            return None
        return self.subscriptions[n]

    def get(self, ext_id: str) -> Subscription:
        """As `find`; raises KeyError instead of None."""
        found = self.find(ext_id)
        if found is None:
            raise KeyError(ext_id)
        return found

    def id_of(self, sub: Subscription) -> str:
        """`sub@<uuid>`."""
        return self.ids.subscription(sub.n)

    def living(self) -> Iterator[Subscription]:
        """Subscriptions that reads show, oldest first."""
        return (sub for sub in self.subscriptions if not sub.gone)

    def amount_of(self, sub: Subscription) -> int:
        """Units of its next bill at the present price; an old price of 0 means the product's."""
        return self._units(sub.price_usd or sub.product.price_usd, sub.wallet.currency)

    def refund_of(self, currency: Currency) -> int | None:
        """Units of one bill's gas refund at the present price."""
        if self.gas_usd is None:
            return None
        return chain.refund_units(self.gas_usd, self.prices[currency.id], currency.decimals)

    def grant_of(self, sub: Subscription) -> chain.Grant:
        wallet = sub.wallet
        return chain.Grant(wallet.currency.kind, sub.allowance, sub.maximum, wallet.balance, wallet.approval)

    def bills_of(self, sub: Subscription) -> list[Bill]:
        """Paid bills, oldest first; the one before the world began is made when first asked for."""
        if sub.n not in self._bills:
            self._bills[sub.n] = [self._earlier_bill(sub)] if sub.last_billing_at else []
        return self._bills[sub.n]

    def failures_of(self, sub: Subscription | None) -> Sequence[Failure]:
        """Failed bills, oldest first; looking through all of them for each question would be slow with thousands."""
        return self._failures.get(sub.n, ()) if sub is not None else ()

    # Changing; acts and billing go through these

    def note_failure(self, failure: Failure) -> None:
        """A bill has failed."""
        self.failures.append(failure)
        self._failures.setdefault(failure.subscription.n, []).append(failure)

    def change(self, sub: Subscription, **fields: object) -> None:
        """Set fields, move `updated_at`, log a changed status and a changed action, each on its own."""
        status, action = sub.status, sub.action
        for name, value in fields.items():
            setattr(sub, name, value)
        sub.updated_at = self.now
        if sub.status != status:
            self.log(Topic.STATUS_CHANGED, sub, previous_status=status)
        if sub.action != action:
            self.log(Topic.ACTION_CHANGED, sub, previous_action=action)

    def log(self, topic: Topic, sub: Subscription, **fields: object) -> None:
        """Append to the history, with the subscription as it is now."""
        line = Happening(self._happening_count, topic, self.now, copy.copy(sub), **fields)  # type: ignore[arg-type]  # fields are Happening's own
        self._happening_count += 1
        self.happenings.append(line)

    def record_bill(self, sub: Subscription, amount: int, refund: int, period_start_at: datetime) -> Bill:
        """Append a paid bill of now; the period ends one frequency after its start."""
        number = sub.dunning.bill_n if sub.dunning else self.new_bill_number()
        price = sub.price_usd or sub.product.price_usd
        token = self.prices[sub.wallet.currency.id]
        bill = Bill(number, self.now, amount, refund, token, price, period_start_at, period_start_at + sub.frequency)
        self.bills_of(sub).append(bill)
        self.bills_paid += 1
        return bill

    def new_bill_number(self) -> int:
        self._bill_count += 1
        return self._bill_count

    def plan(self, sub: Subscription) -> None:
        """Put the next instant at which something happens to it on the agenda, instead of the former one."""
        wake_at = billing.next_wake_at(self, sub)
        if wake_at == sub.wake_at:
            return
        sub.wake_at = wake_at
        if wake_at is not None:
            self._schedule(wake_at, sub.n)

    def at(self, instant: datetime, act: Callable[[World], None]) -> None:
        """Do `act` when virtual time gets there: a price path, a customer who tops up on Tuesday."""
        self._schedule(instant, act)

    def set_price(self, symbol: str, usd: Decimal) -> None:
        """A token's price, from now; allowances are judged again at once. Raises KeyError for an unknown token."""
        currency = self.currency(symbol)
        self.prices[currency.id] = usd
        self._amounts.clear()
        for sub in self.subscriptions:
            if sub.wallet.currency is currency:
                billing.judge_allowance(self, sub)

    def currency(self, symbol: str) -> Currency:
        """The token with this symbol. Raises KeyError."""
        for currency in self.currencies:
            if currency.symbol == symbol and currency.main is not None:
                return currency
        raise KeyError(symbol)

    def advance(self, by: timedelta | None = None, *, to: datetime | None = None) -> int:
        """Move virtual time by a duration or to an instant; do all that falls due, in order.

        Returns how many instants of subscriptions and scheduled acts were handled.
        """
        target = to if to is not None else self.now + (by or timedelta(0))
        handled = 0
        while self._agenda and self._agenda[0][0] <= target:
            at, _, what = heapq.heappop(self._agenda)
            if isinstance(what, int):
                sub = self.subscriptions[what]
                if sub.wake_at != at or sub.gone:
                    continue  # it was planned anew since
                self.clock.move_to(at)
                sub.wake_at = None
                billing.wake(self, sub)
            else:
                self.clock.move_to(at)
                what(self)
            handled += 1
        self.clock.move_to(target)
        return handled

    def _schedule(self, at: datetime, what: int | Callable[[World], None]) -> None:
        self._agenda_count += 1
        heapq.heappush(self._agenda, (at, self._agenda_count, what))

    def _units(self, price_usd: Decimal, currency: Currency) -> int:
        key = (price_usd, currency.id)
        if key not in self._amounts:
            self._amounts[key] = chain.bill_units(price_usd, self.prices[currency.id], currency.decimals)
        return self._amounts[key]

    def _earlier_bill(self, sub: Subscription) -> Bill:
        at = sub.last_billing_at or sub.created_at
        token = self.prices[sub.wallet.currency.id]
        price = sub.price_usd or sub.product.price_usd
        refund = self.refund_of(sub.wallet.currency) or 0
        end_at = sub.period_end_at or at + sub.frequency
        return Bill(self.new_bill_number(), at, sub.last_amount, refund, token, price, end_at - sub.frequency, end_at)
