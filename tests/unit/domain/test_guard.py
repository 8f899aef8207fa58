"""Every limit of the guard at the limit, where mails go, and one above it, where they wait."""

from decimal import Decimal, localcontext

import pytest

from monitor.domain.guard import (
    AddressVerdict,
    BatchCounts,
    Breaker,
    GuardLimits,
    Rule,
    judge,
    judge_address,
)
from monitor.domain.model import Urgency

CALM = {"population": 1000, "known_live": 1000, "rows": 1000, "mails": 1}


def rules(**counts):
    return [reason.rule for reason in judge(BatchCounts(**{**CALM, **counts}))]


def test_a_calm_batch_opens():
    assert judge(BatchCounts(population=0)) == ()
    assert judge(BatchCounts(population=0), GuardLimits(small=0, mails_floor=0, unknown_floor=0)) == ()
    assert rules(touched_by_class={"payment_failed": 3}, new_mails=3, past_days=[2, 4]) == []


# -- a: one class of bad news ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("population", "touched", "held"),
    [
        (100, 20, False),
        (100, 21, True),
        (52, 10, False),  # 20 % of 52 is 10.4
        (52, 11, True),
        (50, 10, False),
        (50, 11, True),
        (49, 10, False),
        (49, 11, True),
        (0, 10, False),
        (0, 11, True),
        (250_000, 50_000, False),
        (250_000, 50_001, True),
    ],
)
def test_one_class_of_bad_news_may_touch_a_fifth_or_ten_of_few(population, touched, held):
    assert rules(population=population, touched_by_class={"payment_failed": touched}) == [Rule.MASS_CHANGE] * held


@pytest.mark.parametrize("population", [49, 50])
def test_the_share_counts_from_fifty_subscriptions_on(population):
    limits = GuardLimits(small=3)
    (held,) = judge(BatchCounts(population=population, mails=1, touched_by_class={"cancelled": 11}), limits)
    assert held.limit == (3 if population == 49 else 10)


def test_each_class_is_counted_for_itself():
    assert rules(population=100, touched_by_class={"cancelled": 20, "payment_failed": 20, "paused": 20}) == []
    assert rules(population=100, touched_by_class={"cancelled": 21, "payment_failed": 21}) == [Rule.MASS_CHANGE] * 2


@pytest.mark.parametrize("name", ["recovered", "resumed", "healthy"])
def test_good_news_for_everybody_is_no_reason(name):
    assert rules(population=100, touched_by_class={name: 100}) == []


def test_any_other_class_is_bad_news():
    assert rules(population=100, touched_by_class={"a_word_of_tomorrow": 21}) == [Rule.MASS_CHANGE]


@pytest.mark.parametrize("classes", ["touched_by_class", "payments_by_class"])
@pytest.mark.parametrize(("mails", "held"), [(0, False), (1, True)])
def test_without_a_mail_a_mass_change_holds_nothing(classes, mails, held):
    """There is nothing to keep from anybody, and nothing that a person could decide."""
    assert rules(mails=mails, **{classes: {"payment_failed": 999}}) == [Rule.MASS_CHANGE] * held


def test_a_held_plan_says_figure_limit_and_a_sentence():
    (reason,) = judge(BatchCounts(population=98, mails=1, touched_by_class={"payment_failed": 31}))
    assert (reason.rule, reason.figure, reason.limit) == (Rule.MASS_CHANGE, 31, 19)
    assert (
        reason.sentence
        == '31 of 98 live subscriptions became "payment failed", or are first told of it, in 24 h; the limit is 20 %'
    )


def test_a_small_population_is_told_its_own_limit():
    (reason,) = judge(BatchCounts(population=30, mails=1, touched_by_class={"paused": 11}))
    assert reason.sentence.endswith("the limit is 10 below 50 subscriptions")
    assert reason.limit == 10


@pytest.mark.parametrize(("touched", "held"), [(20, False), (21, True)])
def test_payments_are_counted_against_those_of_thirty_days(touched, held):
    counts = BatchCounts(
        0, mails=1, payments=100, payments_by_class={"payment_failed": touched, "payment_succeeded": 99}
    )
    reasons = judge(counts)
    assert [reason.rule for reason in reasons] == [Rule.MASS_CHANGE] * held
    if held:
        said = '21 of 100 one-off payments of 30 days became "payment failed" in 24 h; the limit is 20 %'
        assert (reasons[0].sentence, reasons[0].limit) == (said, 20)


def test_few_payments_are_told_their_own_limit():
    (reason,) = judge(BatchCounts(0, mails=1, payments=30, payments_by_class={"payment_expired": 11}))
    assert reason.sentence.endswith("the limit is 10 below 50 payments")


# -- b: missing rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "missing", "held"), [(100, 10, False), (100, 11, True), (109, 10, False), (0, 0, False)]
)
def test_a_tenth_of_the_known_rows_may_be_missing(live, missing, held):
    assert rules(known_live=live, missing=missing) == [Rule.MISSING] * held


def test_missing_rows_are_told():
    (reason,) = judge(BatchCounts(**{**CALM, "known_live": 100, "missing": 11}))
    assert (reason.figure, reason.limit) == (11, 10)
    assert reason.sentence == "11 of 100 known subscriptions are missing from a complete sweep; the limit is 10 %"


# -- c: volume ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past_days", "today", "new", "held"),
    [
        ([], 0, 100, False),
        ([], 0, 101, True),
        ([], 60, 40, False),
        ([], 60, 41, True),
        ([10, 10, 10], 0, 100, False),  # five times ten is below the floor
        ([10, 10, 10], 0, 101, True),
        ([30, 30, 30], 0, 150, False),
        ([30, 30, 30], 0, 151, True),
        ([30, 31], 0, 152, False),  # the median of an even number lies between: 5 x 30.5 = 152.5
        ([30, 31], 0, 153, True),
        ([20, 40, 60, 80], 0, 250, False),
        ([20, 40, 60, 80], 0, 251, True),
        ([1, 30, 1000], 0, 150, False),
        ([1, 30, 1000], 0, 151, True),
        ([30, 0, 0, 0, 30], 0, 150, False),  # days without mail are no measure
        ([30, 0, 0, 0, 30], 0, 151, True),
        ([30], 500, 0, False),  # nothing would be opened
    ],
)
def test_a_day_may_send_five_times_the_median_or_a_hundred(past_days, today, new, held):
    assert rules(past_days=past_days, mails_today=today, new_mails=new) == [Rule.VOLUME] * held


def test_volume_is_told():
    (reason,) = judge(BatchCounts(**CALM, past_days=[30], mails_today=100, new_mails=51))
    assert (reason.figure, reason.limit) == (151, 150)
    assert reason.sentence.startswith("151 mails today; the limit is 150,")


# -- d: unknown rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "unknown", "held"),
    [
        (1000, 10, False),
        (1000, 11, True),
        (100, 3, False),
        (100, 4, True),
        (3, 3, False),
        (450, 4, False),
        (450, 5, True),
    ],
)
def test_a_hundredth_and_three_of_the_rows_may_become_unknown(rows, unknown, held):
    assert rules(rows=rows, newly_unknown=unknown) == [Rule.UNKNOWN] * held


def test_unknown_rows_are_told():
    (reason,) = judge(BatchCounts(**{**CALM, "rows": 100, "newly_unknown": 4}))
    assert (reason.figure, reason.limit) == (4, 3)
    assert reason.sentence == "4 of 100 rows became unreadable or of unknown status; the limit is 1 % and 3 rows"


# -- e: one address -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urgency", "before", "verdict"),
    [
        (Urgency.LOW, 1, AddressVerdict.SEND),
        (Urgency.LOW, 2, AddressVerdict.SNOOZE),
        (Urgency.NORMAL, 1, AddressVerdict.SEND),
        (Urgency.NORMAL, 2, AddressVerdict.SNOOZE),
        (Urgency.NORMAL, 9, AddressVerdict.SNOOZE),
        (Urgency.URGENT, 2, AddressVerdict.SEND),
        (Urgency.URGENT, 3, AddressVerdict.SEND),
        (Urgency.URGENT, 4, AddressVerdict.HOLD),
        (Urgency.CRITICAL, 3, AddressVerdict.SEND),
        (Urgency.CRITICAL, 4, AddressVerdict.HOLD),
    ],
)
def test_an_address_gets_two_mails_a_day_and_urgent_ones_up_to_a_fourth(urgency, before, verdict):
    found, reason = judge_address(urgency, before)
    assert found is verdict
    assert (reason is not None) == (verdict is AddressVerdict.HOLD)


def test_an_urgent_mail_is_held_with_a_reason_that_names_no_address():
    _, reason = judge_address(Urgency.URGENT, 4)
    assert (reason.rule, reason.figure, reason.limit) == (Rule.PER_ADDRESS, 5, 4)
    assert reason.sentence == "One address would get 5 mails in 24 h; the limit for urgent ones is 4"


# -- f: another world -----------------------------------------------------------------------------------------------


def test_a_baseline_is_the_only_reason():
    reasons = judge(
        BatchCounts(population=0, touched_by_class={"payment_failed": 300}, baseline=True, witness_mismatch=True)
    )
    assert [(reason.rule, reason.limit) for reason in reasons] == [(Rule.BASELINE, 0)]


def test_a_restored_database_holds_every_batch():
    (reason,) = judge(BatchCounts(**CALM, new_mails=7, witness_mismatch=True))
    assert (reason.rule, reason.figure, reason.limit) == (Rule.RESTORED, 7, 0)


def test_another_api_version_holds_every_batch():
    (reason,) = judge(BatchCounts(**CALM, new_mails=7, provider_changed=True))
    assert (reason.rule, reason.figure, reason.limit) == (Rule.PROVIDER_CHANGED, 7, 0)


def test_all_reasons_are_told_in_the_order_of_the_rules():
    found = rules(
        touched_by_class={"cancelled": 201},
        missing=101,
        new_mails=101,
        newly_unknown=11,
        witness_mismatch=True,
        provider_changed=True,
    )
    assert found == [
        Rule.MASS_CHANGE,
        Rule.MISSING,
        Rule.VOLUME,
        Rule.UNKNOWN,
        Rule.RESTORED,
        Rule.PROVIDER_CHANGED,
    ]


# -- settings -------------------------------------------------------------------------------------------------------


def test_an_account_may_set_its_own_limits():
    limits = GuardLimits(share=Decimal("0.125"), missing=Decimal("0.5"), mails_factor=2, mails_floor=1, unknown_floor=0)
    counts = BatchCounts(
        population=80, touched_by_class={"paused": 10}, known_live=2, missing=1, past_days=[4], new_mails=8, rows=100,
        newly_unknown=1, mails=8,
    )  # fmt: skip
    assert judge(counts, limits) == ()
    above = BatchCounts(population=80, mails=1, touched_by_class={"paused": 11})
    assert judge(above, limits)[0].sentence.endswith("the limit is 12.5 %")


def test_limits_do_not_depend_on_the_decimal_context():
    with localcontext() as context:
        context.prec = 2
        assert rules(population=123_457, touched_by_class={"cancelled": 24_691}) == []
        assert rules(population=123_457, touched_by_class={"cancelled": 24_692}) == [Rule.MASS_CHANGE]


# -- g: the sender's breaker ----------------------------------------------------------------------------------------


def breaker(*replies):
    state = Breaker()
    for refused in replies:
        state = state.after(refused=refused)
    return state


def test_nine_refusals_in_a_row_go_on_and_ten_pause():
    assert breaker(*[True] * 9).reason is None
    reason = breaker(*[True] * 10).reason
    assert (reason.rule, reason.figure, reason.limit) == (Rule.REFUSED_IN_A_ROW, 10, 9)
    assert reason.sentence == "The mail server refused 10 mails in a row"


def test_one_accepted_mail_breaks_the_row():
    assert breaker(*[True] * 9, False, True).reason is None


def test_a_row_counts_at_the_end_of_the_window_only():
    assert breaker(*[True] * 10, False).reason is None


def test_ten_refusals_of_two_hundred_go_on_and_eleven_pause():
    mixed = [True, False] * 10
    assert breaker(*mixed).reason is None
    reason = breaker(*mixed, True).reason
    assert (reason.rule, reason.figure, reason.limit) == (Rule.REFUSED_SHARE, 11, 10)
    assert reason.sentence == "The mail server refused 11 of the last 200 mails; the limit is 5 %"


def test_what_lies_two_hundred_mails_back_is_forgotten():
    old = breaker(*[True, False] * 10, *[False] * 181)
    assert len(old.recent) == 200
    assert old.after(refused=True).reason is None


def test_a_breaker_is_a_value():
    first = Breaker()
    first.after(refused=True)
    assert first == Breaker()
