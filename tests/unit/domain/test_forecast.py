"""The forecast against its vectors, and against the chain's own steps, replayed here one by one."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.domain import forecast as fc
from monitor.domain.model import Cause
from tests.scale import sized

VECTORS = json.loads((Path(__file__).parent / "forecast_vectors.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(vector["run"], {**vector["given"], **case}, id=f"{title} {number}")
    for title, vector in VECTORS.items()
    for number, case in enumerate(vector["cases"], 1)
]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


def bill_of(case):
    return fc.tokens_for_bill(Decimal(case["price_usd"]), Decimal(case["token_usd"]), case["decimals"])


def limits(case):
    bill, gas = bill_of(case), case["gas"]
    maximum, allowance = case.get("maximum"), case.get("allowance")
    broken = fc.break_price(Decimal(case["price_usd"]), case["decimals"], maximum, gas)
    fall = fc.headroom(broken, Decimal(case["token_usd"]))
    frequency = timedelta(seconds=case["frequency_s"]) if "frequency_s" in case else None
    start = datetime.fromisoformat(case["next_bill_at"]) if "next_bill_at" in case else None
    covered = fc.bills_covered(allowance, bill, gas)
    first_fail = fc.first_failing_bill(start, frequency, covered)
    blockers = fc.blockers(bill=bill, gas=gas, maximum=maximum, allowance=allowance)
    return {
        "bill": bill,
        "covered": covered,
        "covered_evm": fc.bills_covered_evm(allowance, bill, gas),
        "blockers": [cause.value for cause in blockers],
        "accepted": Cause.MAX_AMOUNT_EXCEEDED not in blockers,
        "first_fail": first_fail and first_fail.isoformat(),
        "break_price": lambda places: str(fc.rounded_up(broken, places)),
        "fall": lambda places: str(fc.rounded_down(fall, places)),
    }


def approval(case):
    bill = fc.tokens_for_bill(
        Decimal(case["price_usd"]), fc.stressed(Decimal(case["token_usd"]), Decimal(case["stress"])), case["decimals"]
    )
    gases = {"gas": case["gas"], "topup_gas": case["topup_gas"]}
    total = fc.total_to_approve(bill=bill, bills=case["bills"], highest_approval=case["highest"], **gases)
    return {
        "bill": bill,
        "need": fc.total_to_approve(bill=bill, bills=case["bills"], highest_approval=0, **gases),
        "total": total,
        "extra": total - case["allowance"],
        "pays": fc.bills_covered(total - case["topup_gas"], bill, case["gas"]),
    }


def maximum(case):
    price = fc.stressed(Decimal(case["token_usd"]), Decimal(case["stress"]))
    stressed_bill = fc.tokens_for_bill(Decimal(case["price_usd"]), price, case["decimals"])
    smallest = fc.smallest_maximum(
        bill=stressed_bill, last_bill=case["last_bill"], gas=case["gas"], update_gas=case["update_gas"]
    )
    shown = fc.rounded_up(fc.whole_tokens(smallest, case["decimals"]), 4)
    return {"bill": bill_of(case), "stressed": stressed_bill, "smallest": smallest, "shown": str(shown)}


def wallet(case):
    bills = [fc.WalletBill(datetime.fromisoformat(at), name, bill + gas) for at, name, bill, gas in case["bills"]]
    return {"at_risk": list(fc.at_risk(bills, case["balance"]))}


def payg(case):
    usd = fc.largest_usd_bill(
        maximum=case["maximum"],
        allowance=case["allowance"],
        token_usd=Decimal(case["token_usd"]),
        decimals=case["decimals"],
        gas=case["gas"],
    )
    return {"usd": str(fc.rounded_down(usd, 2))}


def payg_date(case):
    at = fc.next_payg_bill(datetime.fromisoformat(case["executed_at"]), timedelta(seconds=case["frequency_s"]))
    return {"next": at.isoformat()}


def implied(case):
    price = fc.implied_price(Decimal(case["amount_usd"]), case["units"], case["decimals"])
    return {
        "low": str(fc.rounded_down(price.low, 8)),
        "mid": str(fc.rounded_down(price.mid, 8)),
        "high": str(fc.rounded_up(price.high, 8)),
    }


RUNS = {
    "limits": limits,
    "approval": approval,
    "maximum": maximum,
    "wallet": wallet,
    "payg": payg,
    "payg_date": payg_date,
    "implied": implied,
}


@pytest.mark.parametrize(("run", "case"), CASES)
def test_a_vector_of_the_forecast_rules_gives_its_figures(run, case):
    found = RUNS[run](case)
    for name, expected in case["expect"].items():
        if callable(found[name]):
            places, shown = expected
            assert found[name](places) == shown, name
        else:
            assert found[name] == expected, name


def test_there_are_twelve_vectors_in_fourteen_tables():
    assert len(VECTORS) == 14
    assert len(CASES) == 28


# -- the chain's steps, written from the rules and sharing nothing with the module -------------------------------------


class Chain:
    """A wallet's subscription on a chain: the checks of one bill in their order, nothing computed ahead."""

    def __init__(self, allowance, maximum, balance, *, solana):
        self.allowance, self.maximum, self.balance, self.solana = allowance, maximum, balance, solana

    def execute(self, bill, gas):
        """None when the bill stands, else the error that the chain names."""
        if not bill < self.maximum:
            return "max_amount_exceeded"
        if not self.allowance > bill:
            return "allowance_exhausted"
        if self.balance < bill:
            return "insufficient_balance"
        if bill + gas > self.maximum:
            return "max_amount_exceeded"
        if self.solana:
            if self.allowance < bill + gas:
                return "allowance_exhausted"
            if self.balance < bill + gas:
                return "insufficient_balance"
        self.allowance -= bill
        self.balance -= bill
        if self.allowance >= gas and self.balance >= gas:
            self.allowance -= gas
            self.balance -= gas
        return None


AMOUNT = st.integers(1, 200)
LIMIT = st.integers(0, 1000)
PLENTY = 10**9


@settings(max_examples=sized(2_000, 150), deadline=None)
@given(bill=AMOUNT, gas=st.integers(0, 40), maximum=LIMIT, allowance=LIMIT, balance=LIMIT)
def test_a_bill_without_blockers_stands_on_solana_and_one_with_blockers_does_not(
    bill, gas, maximum, allowance, balance
):
    blockers = fc.blockers(bill=bill, gas=gas, maximum=maximum, allowance=allowance, balance=balance)
    error = Chain(allowance, maximum, balance, solana=True).execute(bill, gas)
    assert (error is None) == (not blockers)
    assert error is None or error in blockers


@settings(max_examples=sized(2_000, 150), deadline=None)
@given(bill=AMOUNT, gas=st.integers(0, 40), maximum=LIMIT, allowance=LIMIT, balance=LIMIT)
def test_a_certain_failure_fails_on_both_chains(bill, gas, maximum, allowance, balance):
    margins = (
        fc.maximum_margin(bill, maximum, gas),
        fc.allowance_margin(bill, allowance, gas),
        fc.balance_margin(bill, balance, gas),
    )
    errors = [Chain(allowance, maximum, balance, solana=solana).execute(bill, gas) for solana in (False, True)]
    if fc.Margin.FAILS in margins:
        assert None not in errors
    elif margins == (fc.Margin.SAFE,) * 3:
        assert errors == [None, None]


@settings(max_examples=sized(2_000, 150), deadline=None)
@given(bill=AMOUNT, gas=st.integers(0, 200), allowance=st.integers(0, 2000))
def test_the_bills_that_an_allowance_covers_are_those_that_the_chain_executes(bill, gas, allowance):
    def executed(*, solana):
        chain, count = Chain(allowance, PLENTY, PLENTY, solana=solana), 0
        while chain.execute(bill, gas) is None:
            count += 1
        return count

    assert fc.bills_covered(allowance, bill, gas) == executed(solana=True)
    if gas <= bill:
        assert fc.bills_covered_evm(allowance, bill, gas) == executed(solana=False)


@settings(max_examples=sized(1_000, 100), deadline=None)
@given(bill=AMOUNT, gas=st.integers(0, 40), bills=st.integers(1, 5), highest=LIMIT)
def test_an_approved_total_is_legal_pays_its_bills_and_one_less_would_not_do(bill, gas, bills, highest):
    total = fc.total_to_approve(bill=bill, bills=bills, highest_approval=highest, gas=gas)
    assert total > highest
    assert fc.bills_covered(total, bill, gas) >= bills
    assert total - 1 <= highest or fc.bills_covered(total - 1, bill, gas) < bills


@settings(max_examples=sized(1_000, 100), deadline=None)
@given(
    price=st.decimals("0.01", "500", places=2),
    token=st.decimals("0.01", "9000", places=4),
    decimals=st.sampled_from([2, 6, 8, 18]),
    room=st.fractions("0.5", 2),
    gas=st.integers(0, 50),
)
def test_a_bill_passes_the_maximum_exactly_while_the_token_keeps_the_break_price(price, token, decimals, room, gas):
    bill = fc.tokens_for_bill(price, token, decimals)
    maximum = int(bill * room)
    accepted = fc.maximum_margin(bill, maximum, gas) is fc.Margin.SAFE
    broken = fc.break_price(price, decimals, maximum, gas)
    if broken is fc.Never.ACCEPTED:
        assert not accepted
    else:
        assert accepted == (Fraction(token) >= broken)
        assert accepted == (fc.headroom(broken, token) >= 0)


# -- what is unknown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [None, Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")])
def test_no_forecast_without_a_price_above_zero(price):
    assert fc.tokens_for_bill(price, Decimal(1), 6) is None
    assert fc.tokens_for_bill(Decimal(1), price, 6) is None
    assert fc.stressed(price, Decimal("0.1")) is None
    assert fc.break_price(price, 6, 10) is None
    assert fc.headroom(Fraction(1), price) is None
    assert fc.implied_price(price, 100, 2) is None
    assert fc.largest_usd_bill(maximum=1, allowance=1, token_usd=price, decimals=2) is None


@pytest.mark.parametrize("decimals", [None, -1])
def test_no_tokens_without_decimals(decimals):
    assert fc.tokens_for_bill(Decimal(1), Decimal(1), decimals) is None


def test_a_token_that_loses_everything_has_no_price():
    assert fc.stressed(Decimal(2), 1) is None


def test_nothing_is_said_about_an_unknown_limit():
    assert fc.blockers(bill=5) == ()
    assert fc.blockers(bill=None, maximum=0, allowance=0, balance=0) == ()
    assert fc.maximum_margin(None, 5) is None
    assert fc.maximum_margin(5, None) is None
    assert fc.balance_margin(None, 5) is None
    assert fc.balance_margin(5, None) is None
    assert fc.bills_covered(None, 5) is None
    assert fc.bills_covered(5, None) is None
    assert fc.bills_covered_evm(None, 5) is None
    assert fc.bills_covered_evm(5, None) is None
    assert fc.total_to_approve(bill=None, bills=3, highest_approval=1) is None
    assert fc.total_to_approve(bill=1, bills=3, highest_approval=None) is None
    assert fc.smallest_maximum(bill=None, last_bill=1) is None
    assert fc.smallest_maximum(bill=1, last_bill=None) is None
    assert fc.break_price(Decimal(1), None, 1) is None
    assert fc.break_price(Decimal(1), 6, None) is None
    assert fc.headroom(None, Decimal(1)) is None
    assert fc.headroom_ratio(None, 5) is None
    assert fc.headroom_ratio(5, None) is None
    assert fc.at_risk([fc.WalletBill(NOW, "s1", 5)], None) is None
    assert fc.largest_usd_bill(maximum=None, allowance=1, token_usd=1, decimals=0) is None
    assert fc.largest_usd_bill(maximum=1, allowance=None, token_usd=1, decimals=0) is None
    assert fc.largest_usd_bill(maximum=1, allowance=1, token_usd=1, decimals=None) is None
    assert fc.implied_price(Decimal(1), None, 6) is None
    assert fc.implied_price(Decimal(1), 5, None) is None


def test_a_bill_too_small_implies_no_price():
    assert fc.implied_price(Decimal(1), 1, 6) is None
    assert fc.implied_price(Decimal("0.005"), 100, 6) is None
    assert fc.implied_price(Decimal("0.006"), 2, 6) is not None


def test_a_maximum_below_the_refund_is_never_accepted():
    never = fc.break_price(Decimal(1), 6, 5, gas=5)
    assert never is fc.Never.ACCEPTED
    assert fc.headroom(never, Decimal(1)) is fc.Never.ACCEPTED
    assert fc.break_price(Decimal(1), 6, 6, gas=5) == 10**6


def test_an_allowance_below_zero_covers_nothing():
    assert fc.bills_covered(-5, 3, 0) == 0
    assert fc.bills_covered(-5, 3, 2) == 0
    assert fc.bills_covered_evm(-5, 3, 2) == 0


def test_between_a_certain_failure_and_safety_a_bill_is_tight():
    assert fc.maximum_margin(10, 11, 2) is fc.Margin.TIGHT
    assert fc.balance_margin(10, 11, 2) is fc.Margin.TIGHT
    assert fc.balance_margin(10, 10) is fc.Margin.SAFE
    assert fc.blockers(bill=10, gas=2, maximum=11, balance=11) == (
        Cause.MAX_AMOUNT_EXCEEDED,
        Cause.INSUFFICIENT_BALANCE,
    )


def test_the_headroom_ratio_leaves_the_refund_out():
    assert fc.headroom_ratio(10, 25, 5) == 2


# -- dates, gas, approvals ------------------------------------------------------------------------------------------


def test_a_bill_that_nothing_covers_fails_on_its_date():
    assert fc.first_failing_bill(NOW, None, 0) == NOW
    assert fc.first_failing_bill(NOW, None, 0, payg=True) == NOW


@pytest.mark.parametrize(
    ("start", "frequency", "covered", "payg"),
    [
        (None, MONTH, 1, False),
        (NOW, MONTH, None, False),
        (NOW, None, 1, False),
        (NOW, MONTH, 1, True),
        (NOW, MONTH, 10**9, False),
    ],
)
def test_no_date_is_named_where_none_is_known(start, frequency, covered, payg):
    assert fc.first_failing_bill(start, frequency, covered, payg=payg) is None


def test_the_last_approval_is_at_least_the_largest_that_was_ever_seen():
    assert fc.highest_known_approval(None, None) is None
    assert fc.highest_known_approval(7, None) == 7
    assert fc.highest_known_approval(7, 5, 3) == 8
    assert fc.highest_known_approval(None, 5) == 5
    assert fc.highest_known_approval(9, 5, 3) == 9


def test_bills_of_one_instant_stand_or_fall_together():
    bills = [fc.WalletBill(NOW + timedelta(days=1), "later", 1), fc.WalletBill(NOW, "b", 6), fc.WalletBill(NOW, "a", 5)]
    assert fc.at_risk(bills, 10) == ("a", "b", "later")
    assert fc.at_risk(bills, 11) == ("later",)
    assert fc.at_risk(bills, 12) == ()


def test_pay_as_you_go_never_promises_less_than_nothing():
    assert fc.largest_usd_bill(maximum=3, allowance=9, token_usd=1, decimals=0, gas=5) == 0


# -- rounding -------------------------------------------------------------------------------------------------------


def test_needs_are_rounded_up_and_rests_down():
    assert str(fc.rounded_up(Fraction(1, 3), 2)) == "0.34"
    assert str(fc.rounded_down(Fraction(1, 3), 2)) == "0.33"
    assert str(fc.rounded_up(5, 2)) == "5.00"
    assert str(fc.rounded_down(Decimal("-0.001"), 2)) == "-0.01"


def test_rounding_does_not_depend_on_the_decimal_context():
    huge = 10**60 + 1
    with localcontext() as context:
        context.prec = 5
        assert str(fc.rounded_up(fc.whole_tokens(huge, 18), 6)) == "1" + "0" * 42 + ".000001"
        assert fc.tokens_for_bill(Decimal("123456.789"), Decimal("0.000123456789"), 18) == -(
            -123456789 * 10**9 * 10**18 // 123456789
        )
