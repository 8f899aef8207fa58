"""The rules of a bill, each at its edge (forecast rules, 1.1 to 1.3)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.sandbox.chain import (
    Category,
    ChainKind,
    Grant,
    allowance_too_low,
    bill_units,
    charge,
    next_due_at,
    refund_units,
)

A = 10_000_000


def grant(kind=ChainKind.EVM, *, allowance=10 * A, maximum=2 * A, balance=10 * A, approval=10 * A, registry=None):
    return Grant(kind, allowance, maximum, balance, approval, registry)


def category(refund=None, amount=A, **how):
    return charge(amount, grant(**how), refund).category


@pytest.mark.parametrize("kind", list(ChainKind))
def test_a_bill_equal_to_the_maximum_fails_and_one_unit_less_passes(kind):
    assert category(kind=kind, maximum=A) is Category.MAX_AMOUNT_EXCEEDED
    assert category(kind=kind, maximum=A + 1) is None


@pytest.mark.parametrize("kind", list(ChainKind))
def test_an_allowance_equal_to_the_bill_fails_and_one_unit_more_passes(kind):
    assert category(kind=kind, allowance=A) is Category.ALLOWANCE_EXHAUSTED
    assert category(kind=kind, allowance=A + 1) is None


@pytest.mark.parametrize("kind", list(ChainKind))
def test_a_balance_equal_to_the_bill_passes(kind):
    assert category(kind=kind, balance=A) is None
    assert category(kind=kind, balance=A - 1) is Category.INSUFFICIENT_BALANCE


@pytest.mark.parametrize("kind", list(ChainKind))
def test_an_approval_below_the_bill_is_a_revoked_one(kind):
    assert category(kind=kind, approval=A) is None
    assert category(kind=kind, approval=A - 1) is Category.APPROVAL_REVOKED


def test_the_maximum_is_named_before_the_allowance_before_the_balance_before_the_approval():
    empty = {"allowance": 0, "balance": 0, "approval": 0}
    assert category(maximum=A, **empty) is Category.MAX_AMOUNT_EXCEEDED
    assert category(**empty) is Category.ALLOWANCE_EXHAUSTED
    assert category(balance=0, approval=0) is Category.INSUFFICIENT_BALANCE


@pytest.mark.parametrize("kind", list(ChainKind))
def test_the_gas_refund_counts_against_the_maximum(kind):
    assert category(refund=1, kind=kind, maximum=A + 1) is None
    assert category(refund=2, kind=kind, maximum=A + 1) is Category.MAX_AMOUNT_EXCEEDED
    assert category(refund=2, kind=kind, maximum=A + 2) is None


def test_on_evm_a_refund_that_cannot_be_drawn_is_left_out_and_the_bill_stands():
    short = charge(A, grant(allowance=A + 4, balance=A + 4), 5)
    assert (short.category, short.from_allowance, short.from_balance, short.refund) == (None, A, A, 0)
    exact = charge(A, grant(allowance=A + 5, balance=A + 5), 5)
    assert (exact.from_allowance, exact.from_balance, exact.refund) == (A + 5, A + 5, 5)


def test_on_evm_the_refund_needs_both_allowance_and_balance():
    assert charge(A, grant(allowance=A + 4), 5).refund == 0
    assert charge(A, grant(balance=A + 4), 5).refund == 0


def test_on_solana_a_refund_that_cannot_be_drawn_fails_the_bill():
    solana = {"kind": ChainKind.SOLANA, "refund": 5}
    assert category(**solana, balance=A + 4) is Category.INSUFFICIENT_BALANCE
    assert category(**solana, balance=A + 5) is None
    assert category(**solana, allowance=A + 4) is Category.ALLOWANCE_EXHAUSTED
    assert category(**solana, allowance=A + 5) is None


def test_on_solana_the_registry_of_the_wallet_binds_and_equality_passes():
    solana = {"kind": ChainKind.SOLANA}
    assert category(**solana, registry=A) is None
    assert category(**solana, registry=A - 1) is Category.ALLOWANCE_EXHAUSTED
    assert category(**solana, refund=5, registry=A + 4) is Category.ALLOWANCE_EXHAUSTED
    assert category(**solana, refund=5, registry=A + 5) is None


def test_without_a_maximum_there_is_no_such_check():
    assert category(maximum=None, refund=5) is None


def test_a_bill_of_nothing_is_refused():
    assert category(amount=0) is Category.OTHER


def test_on_evm_a_fee_or_a_refund_that_floors_to_nothing_reverts():
    assert category(amount=133) is Category.REVERTED
    assert category(amount=134) is None
    assert category(amount=133, kind=ChainKind.SOLANA) is None
    assert category(refund=0) is Category.REVERTED
    assert category(refund=0, kind=ChainKind.SOLANA) is None


@pytest.mark.parametrize(
    ("price", "token", "decimals", "units"),
    [
        ("10", "1", 6, 10_000_000),
        ("99.99", "0.96", 6, 104_156_250),
        ("20", "2513.37", 18, 7_957_443_591_671_740),
        ("15", "64250.5", 8, 23_347),
        ("12", "142.85", 9, 84_004_201),
        ("100", "0.833333340277", 6, 120_000_000),
    ],
)
def test_the_tokens_of_a_bill_are_rounded_up(price, token, decimals, units):
    assert bill_units(Decimal(price), Decimal(token), decimals) == units


def test_the_gas_refund_is_rounded_down():
    assert refund_units(Decimal("0.01"), Decimal(3), 6) == 3_333


@pytest.mark.parametrize(
    ("kind", "allowance", "low"),
    [
        (ChainKind.EVM, A, True),
        (ChainKind.EVM, A + 1, False),
        (ChainKind.SOLANA, A + 4, True),
        (ChainKind.SOLANA, A + 5, False),
    ],
)
def test_an_allowance_is_too_low_exactly_when_the_chain_would_refuse_the_next_bill(kind, allowance, low):
    assert allowance_too_low(A, grant(kind, allowance=allowance), 5) is low
    assert (category(kind=kind, allowance=allowance, refund=5) is Category.ALLOWANCE_EXHAUSTED) is low


def test_a_month_is_thirty_days_on_the_calendar_of_bills():
    at = datetime(2026, 1, 31, 9, tzinfo=UTC)
    assert next_due_at(at, timedelta(days=30)) == datetime(2026, 3, 2, 9, tzinfo=UTC)
