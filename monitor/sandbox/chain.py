"""A bill on the chain: accepted or refused, and what it takes. Pure; the order is that of the forecast rules, 1.1.

All amounts are integers of the token's smallest unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

MINIMUM_FREQUENCY = timedelta(days=7)
PLATFORM_FEE = Fraction(75, 10_000)


class ChainKind(StrEnum):
    EVM = "evm"
    SOLANA = "solana"


class Category(StrEnum):
    """Why a bill failed, in the words of the failures list (contract v2, section 3)."""

    INSUFFICIENT_BALANCE = "insufficientBalance"
    ALLOWANCE_EXHAUSTED = "allowanceExhausted"
    APPROVAL_REVOKED = "approvalRevoked"
    MAX_AMOUNT_EXCEEDED = "maxAmountExceeded"
    REVERTED = "reverted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Grant:
    """What the customer's wallet gives one subscription at this instant."""

    kind: ChainKind
    allowance: int
    """Remaining of the last approval."""
    maximum: int | None
    """Cap of one bill; None on old subscriptions: no check."""
    balance: int
    approval: int
    """The token's own approval (EVM) or delegated amount (Solana); 0 once revoked."""
    registry_left: int | None = None
    """Solana: what is left of the wallet-wide registry of this mint; None when it does not bind."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The end of one attempt. `category` None: paid, and these are the units drawn."""

    category: Category | None
    from_allowance: int = 0
    from_balance: int = 0
    refund: int = 0
    """The gas refund that was taken with it."""

    @property
    def paid(self) -> bool:
        return self.category is None


def bill_units(price_usd: Decimal, token_usd: Decimal, decimals: int) -> int:
    """The tokens of a bill: USD price over token price, rounded up to a whole unit."""
    scale: int = 10**decimals
    return math.ceil(Fraction(price_usd) * scale / Fraction(token_usd))


def refund_units(gas_usd: Decimal, token_usd: Decimal, decimals: int) -> int:
    """The gas refund of a bill, rounded down (forecast rules, 1.1 step 10)."""
    scale: int = 10**decimals
    return math.floor(Fraction(gas_usd) * scale / Fraction(token_usd))


def charge(amount: int, grant: Grant, refund: int | None) -> Charge:
    """Try one bill that is due. `refund` None: this operator asks for no gas refund."""
    refused = _refused_before_transfer(amount, grant) or _refused_transfer(amount, grant)
    if refused is not None:
        return Charge(refused)
    if refund is None:
        return Charge(None, amount, amount)
    if grant.maximum is not None and amount + refund > grant.maximum:
        return Charge(Category.MAX_AMOUNT_EXCEEDED)
    if grant.kind is ChainKind.EVM:
        return _with_evm_refund(amount, grant, refund)
    return _with_solana_refund(amount, grant, refund)


def _refused_before_transfer(amount: int, grant: Grant) -> Category | None:
    """Steps 3, 4, 6 and 7: equality fails for the maximum and for the allowance."""
    if amount <= 0:
        return Category.OTHER
    if grant.maximum is not None and amount >= grant.maximum:
        return Category.MAX_AMOUNT_EXCEEDED
    if grant.allowance <= amount:
        return Category.ALLOWANCE_EXHAUSTED
    if grant.registry_left is not None and amount > grant.registry_left:
        return Category.ALLOWANCE_EXHAUSTED
    if grant.kind is ChainKind.EVM and int(amount * PLATFORM_FEE) == 0:
        return Category.REVERTED
    return None


def _refused_transfer(amount: int, grant: Grant) -> Category | None:
    """Step 8: equality passes. The chain says only "transfer failed"; the vendor tells the two apart."""
    if grant.balance < amount:
        return Category.INSUFFICIENT_BALANCE
    if grant.approval < amount:
        return Category.APPROVAL_REVOKED
    return None


def _with_evm_refund(amount: int, grant: Grant, refund: int) -> Charge:
    """Step 11: drawn if it suffices, else the bill stands without it. A refund of 0 units reverts."""
    if refund == 0:
        return Charge(Category.REVERTED)
    total = amount + refund
    if grant.allowance >= total and grant.balance >= total:
        return Charge(None, total, total, refund)
    return Charge(None, amount, amount)


def _with_solana_refund(amount: int, grant: Grant, refund: int) -> Charge:
    """Step 11: the whole bill fails when the refund cannot be drawn."""
    total = amount + refund
    if grant.balance < total:
        return Charge(Category.INSUFFICIENT_BALANCE)
    if grant.registry_left is not None and total > grant.registry_left:
        return Charge(Category.ALLOWANCE_EXHAUSTED)
    if grant.allowance < total:
        return Charge(Category.ALLOWANCE_EXHAUSTED)
    return Charge(None, total, total, refund)


def allowance_too_low(amount: int, grant: Grant, refund: int | None) -> bool:
    """Whether the remaining allowance would refuse a bill of `amount`, all else being well."""
    if grant.allowance <= amount:
        return True
    return grant.kind is ChainKind.SOLANA and grant.allowance < amount + (refund or 0)


def next_due_at(previous_due_at: datetime, frequency: timedelta) -> datetime:
    """The calendar of a regular subscription: a late bill does not move it (forecast rules, 1.3)."""
    return previous_due_at + frequency
