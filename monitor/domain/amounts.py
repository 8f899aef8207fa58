"""What a mail asks for in tokens: the bill, what to approve, what to set as the maximum (campaigns, sections 2 and 3).

An amount is named only where it is known: a failed attempt tells its own tokens; otherwise the last paid bill implies a
price, and the figure is marked uncertain. Needs are rounded up, what is left is rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil

from monitor.domain.forecast import (
    Margin,
    allowance_margin,
    bills_covered,
    highest_known_approval,
    implied_price,
    maximum_margin,
    rounded_down,
    rounded_up,
    smallest_maximum,
    tokens_for_bill,
    total_to_approve,
    whole_tokens,
)
from monitor.domain.model import Action, Cause, CurrencySeen, Kind, Snapshot, Status, Told

BILLS = 3
"""How many bills an approval that we ask for shall cover."""
STABLE = frozenset(
    {"USDC", "USDT", "DAI", "USDS", "PYUSD", "FDUSD", "TUSD", "USDP", "GUSD", "LUSD", "USDBC", "USDC.E", "EURC"},
)
"""Symbols that are shown with two decimals and need little room. A symbol is never a price: anybody can take one."""
PLACES_STABLE, PLACES_OTHER = 2, 6
ROOM_STABLE, ROOM_OTHER = Fraction(10, 100), Fraction(25, 100)

_IMPLIED_FOR = timedelta(days=1)
"""For this long a paid bill tells the price of any token."""
_IMPLIED_LONG_FOR = timedelta(days=400)
_NEAR_ONE = Fraction(5, 100)
_FAILURE_SLACK = timedelta(hours=1)  # a failure row and `failingSince` are written by different parts of the vendor
_ASKING = frozenset({Kind.LOW_ON_FUNDS, Kind.MAX_AMOUNT_REACHED, Kind.PAYMENT_FAILED})
_SAY_NOTHING = frozenset({Cause.OTHER.value, Cause.UNKNOWN.value})


@dataclass(frozen=True, slots=True)
class DueBill:
    """The bill that failed or comes next, in min units without the gas refund."""

    units: int
    as_of: datetime
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Amounts:
    """Whole tokens, rounded to the careful side; None: not known, or not asked for."""

    due: Decimal | None = None
    as_of: datetime | None = None
    uncertain: bool = False
    allowance_left: Decimal | None = None
    approve_more: Decimal | None = None
    approve_total: Decimal | None = None
    maximum_now: Decimal | None = None
    maximum_to_set: Decimal | None = None


NO_AMOUNTS = Amounts()


@dataclass(frozen=True, slots=True)
class Token:
    """How amounts of one currency are shown and rounded."""

    decimals: int
    stable: bool

    @classmethod
    def of(cls, currency: CurrencySeen) -> Token:
        return cls(currency.decimals, currency.symbol.upper() in STABLE)

    @property
    def places(self) -> int:
        return PLACES_STABLE if self.stable else PLACES_OTHER

    @property
    def room(self) -> Fraction:
        """The share above a bill that a new maximum leaves."""
        return ROOM_STABLE if self.stable else ROOM_OTHER

    def need(self, units: int) -> Decimal:
        """Units as whole tokens, rounded up."""
        return rounded_up(whole_tokens(units, self.decimals), self.places)

    def left(self, units: int) -> Decimal:
        """Units as whole tokens, rounded down; a plain 0 where nothing is left, never "0.00"."""
        return rounded_down(whole_tokens(units, self.decimals), self.places) or Decimal(0)


def agreed_price(snapshot: Snapshot, product_price_usd: Decimal | None) -> Decimal | None:
    """USD per period: the subscription's own, the product's where that is missing or 0 (contract v2, 2.3)."""
    prices = (snapshot.price_usd, product_price_usd)
    return next((price for price in prices if price is not None and price.is_finite() and price > 0), None)


def failure_is_current(snapshot: Snapshot, told: Told) -> bool:
    """Whether the failure that we were told belongs to the bill that fails now, and not to one that is paid."""
    if told.failure_at is None or not _fails(snapshot):
        return False
    if snapshot.last_billing_at is not None and told.failure_at <= snapshot.last_billing_at:
        return False
    since = snapshot.failing_since_at
    return since is None or told.failure_at >= since - _FAILURE_SLACK


def due_bill(snapshot: Snapshot, told: Told, price_usd: Decimal | None, token: Token, now: datetime) -> DueBill | None:
    """The tokens of the bill that failed or comes next; None where nobody told and no price can be implied."""
    if failure_is_current(snapshot, told) and told.failure_at is not None and (told.failure_units or 0) > 0:
        return DueBill(told.failure_units or 0, told.failure_at, uncertain=False)
    implied = implied_price(told.bill_usd, told.bill_units, token.decimals)
    if implied is None or told.bill_at is None:
        return None
    steady = token.stable and abs(implied.mid - 1) <= _NEAR_ONE
    if now - told.bill_at > (_IMPLIED_LONG_FOR if steady else _IMPLIED_FOR):
        return None  # an old figure is never shown as today's
    # The same USD as last time are the same tokens; another price meets the cent that the last one was rounded by.
    price = implied.mid if price_usd == told.bill_usd else implied.low
    units = tokens_for_bill(price_usd, price, token.decimals)
    return None if units is None else DueBill(units, told.bill_at, uncertain=True)


def limits_to_change(snapshot: Snapshot, kind: Kind, variant: str, bill: DueBill | None, gas: int) -> set[Cause]:
    """Every limit that the customer must change: those the API names, and those this bill would break as well.

    The chain reports the first limit only, and who mends one would fail again. What only an uncertain figure says must
    be a certain failure of it.
    """
    asked = _named_by_api(snapshot, kind, variant)
    if bill is not None:
        failing = {Margin.FAILS} if bill.uncertain else {Margin.FAILS, Margin.TIGHT}
        if maximum_margin(bill.units, snapshot.maximum, gas) in failing:
            asked.add(Cause.MAX_AMOUNT_EXCEEDED)
        if allowance_margin(bill.units, snapshot.allowance, gas) in failing:
            asked.add(Cause.ALLOWANCE_EXHAUSTED)
    return asked


def amounts_for(
    *,
    kind: Kind,
    variant: str,
    snapshot: Snapshot,
    told: Told,
    price_usd: Decimal | None,
    currency: CurrencySeen | None,
    gas: int,
    now: datetime,
) -> Amounts:
    """All token amounts of one mail. `gas` is the expected refund in min units, 0 where it is not known.

    None at all where the mail asks for no payment, or where the cause is not known: any figure would hint at one.
    """
    if currency is None or kind not in _ASKING or variant in _SAY_NOTHING:
        return NO_AMOUNTS
    token = Token.of(currency)
    bill = due_bill(snapshot, told, price_usd, token, now)
    asked = limits_to_change(snapshot, kind, variant, bill, gas)
    allowance = snapshot.allowance if Cause.ALLOWANCE_EXHAUSTED in asked else None
    maximum = snapshot.maximum if Cause.MAX_AMOUNT_EXCEEDED in asked else None
    revoked = variant == Cause.APPROVAL_REVOKED
    total = None
    if bill is not None and Cause.ALLOWANCE_EXHAUSTED in asked:
        total = _approval(snapshot, told, bill, gas, token, even_if_covered=revoked)
    to_set = None
    if bill is not None and Cause.MAX_AMOUNT_EXCEEDED in asked:
        to_set = _maximum(snapshot.maximum, bill, gas, token)
    return Amounts(
        due=None if bill is None else token.need(bill.units + gas),
        as_of=None if bill is None else bill.as_of,
        uncertain=bill is not None and bill.uncertain,
        allowance_left=None if allowance is None else token.left(allowance),
        approve_more=None if revoked else _more(total, allowance, token),
        approve_total=total,
        maximum_now=None if maximum is None else token.left(maximum),
        maximum_to_set=to_set,
    )


def _named_by_api(snapshot: Snapshot, kind: Kind, variant: str) -> set[Cause]:
    named = set()
    if kind is Kind.MAX_AMOUNT_REACHED or snapshot.action is Action.RAISE_MAXIMUM:
        named.add(Cause.MAX_AMOUNT_EXCEEDED)
    if snapshot.action is Action.TOP_UP_ALLOWANCE or variant in {Cause.ALLOWANCE_EXHAUSTED, Cause.APPROVAL_REVOKED}:
        named.add(Cause.ALLOWANCE_EXHAUSTED)
    return named


def _approval(
    snapshot: Snapshot, told: Told, bill: DueBill, gas: int, token: Token, *, even_if_covered: bool
) -> Decimal | None:
    """The total to approve; None where our figures contradict the API: three bills are covered already."""
    covered = bills_covered(snapshot.allowance, bill.units, gas)
    if covered is not None and covered >= BILLS and not even_if_covered:
        return None
    highest = highest_known_approval(told.allowance_peak, snapshot.allowance)
    total = total_to_approve(bill=bill.units, bills=BILLS, highest_approval=highest, gas=gas)
    return None if total is None else token.need(total)


def _more(total: Decimal | None, allowance: int | None, token: Token) -> Decimal | None:
    """What the shown total adds to the shown rest, so that the mail's own sum is right."""
    if total is None or allowance is None:
        return None
    return rounded_up(Fraction(total) - whole_tokens(allowance, token.decimals), token.places)


def _maximum(maximum: int | None, bill: DueBill, gas: int, token: Token) -> Decimal | None:
    """The maximum to set; None where our figures contradict the API: the present one leaves that room already.

    The contract compares with the last bill, which was below the present maximum; where that is not told either, it
    was not above this bill, since this bill did not pass.
    """
    wanted = ceil(bill.units * (1 + token.room))
    if maximum is not None and wanted <= maximum:
        return None
    last_bill = bill.units + gas if maximum is None else maximum - 1
    smallest = smallest_maximum(bill=bill.units, last_bill=last_bill, gas=gas, update_gas=gas)
    return None if smallest is None else token.need(max(wanted, smallest))


def _fails(snapshot: Snapshot) -> bool:
    return snapshot.status is Status.PAST_DUE or snapshot.action is Action.RAISE_MAXIMUM
