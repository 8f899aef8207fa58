"""When a bill will fail, and what exactly would prevent it (forecast rules, 2.2 and 3.5).

Token amounts are integers of the smallest unit, USD are `Decimal`, ratios are `Fraction`: nothing is a
float and nothing depends on the decimal context. None in, None out: about an unknown maximum, allowance or
balance nothing is said, least of all "sufficient". Everything is rounded to the careful side: needs up,
what is left down.

Names: `bill` is the amount of one bill, `gas` the refund that the customer pays on top of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction

from monitor.domain.model import Cause

Number = Decimal | Fraction | int

PAYG_LEAD = timedelta(hours=1)
HALF_CENT = Fraction(1, 200)


class Margin(StrEnum):
    """How a bill stands against one limit."""

    SAFE = "safe"
    TIGHT = "tight"
    """The gas refund or the rounding decides: treat it as a failure, but do not call it certain."""
    FAILS = "fails"


class Never(Enum):
    """The maximum does not even cover the gas refund: no price makes the bill pass."""

    ACCEPTED = "never accepted"


def tokens_for_bill(price_usd: Number | None, token_usd: Number | None, decimals: int | None) -> int | None:
    """a(p): the tokens that pay `price_usd` at `token_usd` a whole token, rounded up.

    None where a value is unknown, not finite or not above zero: then there is no forecast.
    """
    price, token = _positive(price_usd), _positive(token_usd)
    if price is None or token is None or decimals is None or decimals < 0:
        return None
    return _ceil(price * _units(decimals) / token)


def stressed(token_usd: Number | None, fall: Number) -> Fraction | None:
    """The token's price after it fell by the share `fall` (0.05 is 5 %); None if nothing is left of it."""
    token = _positive(token_usd)
    return None if token is None else _positive(token * (1 - Fraction(fall)))


def maximum_margin(bill: int | None, maximum: int | None, gas: int = 0) -> Margin | None:
    """The bill against the maximum per period: equal fails, and the refund counts as a hard condition."""
    if bill is None or maximum is None:
        return None
    if bill >= maximum:
        return Margin.FAILS
    return Margin.SAFE if bill + max(gas, 1) <= maximum else Margin.TIGHT


def allowance_margin(bill: int | None, allowance: int | None, gas: int = 0) -> Margin | None:
    """The bill against the remaining allowance: equal fails; the refund counts on Solana."""
    return maximum_margin(bill, allowance, gas)


def balance_margin(bill: int | None, balance: int | None, gas: int = 0) -> Margin | None:
    """The bill against the wallet's balance: equal passes; the refund counts on Solana."""
    if bill is None or balance is None:
        return None
    if bill > balance:
        return Margin.FAILS
    return Margin.SAFE if bill + gas <= balance else Margin.TIGHT


def blockers(
    *,
    bill: int | None,
    gas: int = 0,
    maximum: int | None = None,
    allowance: int | None = None,
    balance: int | None = None,
) -> tuple[Cause, ...]:
    """Every limit that the bill does not surely pass, in the chain's order: maximum, allowance, balance.

    The chain names the first only; a customer who mends one would fail again.
    """
    margins = (
        (Cause.MAX_AMOUNT_EXCEEDED, maximum_margin(bill, maximum, gas)),
        (Cause.ALLOWANCE_EXHAUSTED, allowance_margin(bill, allowance, gas)),
        (Cause.INSUFFICIENT_BALANCE, balance_margin(bill, balance, gas)),
    )
    return tuple(cause for cause, margin in margins if margin in (Margin.FAILS, Margin.TIGHT))


def bills_covered(allowance: int | None, bill: int | None, gas: int = 0) -> int | None:
    """n: how many bills this allowance surely pays; what a customer is told."""
    if allowance is None or bill is None:
        return None
    return max(0, allowance) // (bill + gas) if gas >= 1 else max(0, allowance - 1) // bill


def bills_covered_evm(allowance: int | None, bill: int | None, gas: int = 0) -> int | None:
    """How many bills pass on an EVM chain, where the last refund may stay unpaid; right for gas up to the bill."""
    if allowance is None or bill is None:
        return None
    return (allowance - bill - 1) // (bill + gas) + 1 if allowance > bill else 0


def first_failing_bill(
    next_bill_at: datetime | None, frequency: timedelta | None, covered: int | None, *, payg: bool = False
) -> datetime | None:
    """The instant of the first bill that `covered` bills do not reach.

    None where it is unknown: pay-as-you-go has no date beyond its next bill, and no calendar passes year
    9999.
    """
    if next_bill_at is None or covered is None:
        return None
    if covered == 0:
        return next_bill_at
    if frequency is None or payg:
        return None
    try:
        return next_bill_at + covered * frequency
    except OverflowError:
        return None


def next_payg_bill(executed_at: datetime, frequency: timedelta) -> datetime:
    """Pay-as-you-go: one period after the execution, less an hour (forecast rules, 1.3)."""
    return executed_at + frequency - PAYG_LEAD


def highest_known_approval(
    largest_allowance: int | None, allowance: int | None, billed_since_rise: int = 0
) -> int | None:
    """R_known: a lower bound of the last approved total, which the API does not tell; it never falls."""
    seen = [] if largest_allowance is None else [largest_allowance]
    if allowance is not None:
        seen.append(allowance + billed_since_rise)
    return max(seen, default=None)


def total_to_approve(
    *, bill: int | None, bills: int, highest_approval: int | None, gas: int = 0, topup_gas: int = 0
) -> int | None:
    """X: the total to approve so that `bills` bills of this size pass; it replaces the old approval.

    The contract refuses a total that is not above the last one, so it is more than `highest_approval` even
    where less would do.
    """
    if bill is None or highest_approval is None:
        return None
    return max(bills * (bill + gas) + (1 if gas == 0 else 0) + topup_gas, highest_approval + 1)


def smallest_maximum(*, bill: int | None, last_bill: int | None, gas: int = 0, update_gas: int = 0) -> int | None:
    """M_min: the smallest maximum that this bill passes and that the contract takes.

    `bill` at the stressed price; the contract compares with the last bill, not with the next one.
    """
    if bill is None or last_bill is None:
        return None
    return max(bill + max(gas, 1), last_bill + max(update_gas, 1))


def break_price(
    price_usd: Number | None, decimals: int | None, maximum: int | None, gas: int = 0
) -> Fraction | Never | None:
    """p_ok: the bill is accepted exactly while a whole token costs at least this much USD."""
    price = _positive(price_usd)
    if price is None or decimals is None or maximum is None:
        return None
    room = maximum - max(gas, 1)
    return price * _units(decimals) / room if room > 0 else Never.ACCEPTED


def headroom(break_usd: Fraction | Never | None, token_usd: Number | None) -> Fraction | Never | None:
    """The share that the token's price may lose before a bill is refused; below zero: refused today."""
    token = _positive(token_usd)
    if token is None or break_usd is None:
        return None
    return break_usd if isinstance(break_usd, Never) else 1 - break_usd / token


def headroom_ratio(bill: int | None, maximum: int | None, gas: int = 0) -> Fraction | None:
    """How many times the bill fits under the maximum."""
    return None if not bill or maximum is None else Fraction(maximum - max(gas, 1), bill)


@dataclass(frozen=True, slots=True)
class WalletBill:
    """A bill inside the horizon, of one wallet, chain and token. `units` includes the gas refund."""

    due_at: datetime
    subscription: str
    units: int


def at_risk(bills: Sequence[WalletBill], balance: int | None) -> tuple[str, ...] | None:
    """The subscriptions whose bill the balance may not reach, if the wallet pays nothing else.

    Bills of one instant stand or fall together, since their order is unknown; a failed bill stays in the
    sum, since it is tried again. Never tell a customer that a balance is enough: other merchants' bills are
    invisible.
    """
    if balance is None:
        return None
    ordered = sorted(bills, key=lambda bill: (bill.due_at, bill.subscription))
    return tuple(
        bill.subscription
        for bill in ordered
        if sum(other.units for other in ordered if other.due_at <= bill.due_at) > balance
    )


def largest_usd_bill(
    *, maximum: int | None, allowance: int | None, token_usd: Number | None, decimals: int | None, gas: int = 0
) -> Fraction | None:
    """Pay-as-you-go: an upper bound of the bill, in USD, that passes both limits at this price; at least 0."""
    token = _positive(token_usd)
    if maximum is None or allowance is None or token is None or decimals is None:
        return None
    return max(0, min(maximum, allowance) - max(gas, 1)) * token / _units(decimals)


@dataclass(frozen=True, slots=True)
class PriceInterval:
    """A token's USD price as a paid bill implies it; the truth lies between `low` and `high`."""

    low: Fraction
    mid: Fraction
    high: Fraction


def implied_price(amount_usd: Decimal | None, units: int | None, decimals: int | None) -> PriceInterval | None:
    """The price behind a paid bill: its USD are rounded to a cent, its tokens to a unit (forecast rules, 3.5).

    None where the bill is too small to tell anything. As old as the bill: judge its age before using it.
    """
    amount = _positive(amount_usd)
    if amount is None or units is None or decimals is None or units <= 1 or amount <= HALF_CENT:
        return None
    whole = _units(decimals)
    return PriceInterval(
        low=(amount - HALF_CENT) * whole / (units + 1),
        mid=amount * whole / units,
        high=(amount + HALF_CENT) * whole / (units - 1),
    )


def rounded_up(value: Number, places: int) -> Decimal:
    """To `places` decimals, towards more: needs, approvals, maxima, break prices."""
    return _decimal(_ceil(Fraction(value) * _units(places)), places)


def rounded_down(value: Number, places: int) -> Decimal:
    """To `places` decimals, towards less: what is left, headroom, upper bounds."""
    return _decimal(Fraction(value) * _units(places) // 1, places)


def whole_tokens(units: int, decimals: int) -> Fraction:
    """Units as whole tokens, exact."""
    return Fraction(units, _units(decimals))


def _decimal(scaled: int, places: int) -> Decimal:
    """`scaled` / 10^places, built from its digits: arithmetic would round to the context's precision."""
    return Decimal(f"{scaled}E-{places}")


def _units(decimals: int) -> int:
    """The smallest units in one whole."""
    return int(10**decimals)


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _positive(value: Number | None) -> Fraction | None:
    if value is None or (isinstance(value, Decimal) and not value.is_finite()):
        return None
    return Fraction(value) if value > 0 else None
