"""Windows, last hours and deadlines, in the zones where clocks misbehave."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.domain import calendar as cal
from monitor.domain.calendar import Deadline, SendingWindow
from monitor.domain.model import Snapshot, Status, Urgency

BUDAPEST = cal.zone_named("Europe/Budapest")
LORD_HOWE = cal.zone_named("Australia/Lord_Howe")
APIA = cal.zone_named("Pacific/Apia")
NEW_YORK = cal.zone_named("America/New_York")
HOUR = timedelta(hours=1)


def local(zone, *parts, fold=0):
    return datetime(*parts, tzinfo=zone, fold=fold).astimezone(UTC)


# -- zones ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "Europe", "../etc/passwd", "/etc/passwd", "a\x00b", "x" * 300])
def test_an_unknown_zone_is_named(name):
    with pytest.raises(ValueError, match="unknown time zone") as caught:
        cal.zone_named(name)
    assert repr(name) in str(caught.value)


def test_the_customers_zone_wins_over_the_accounts():
    assert cal.recipient_zone("America/New_York", "Europe/Budapest") is NEW_YORK


@pytest.mark.parametrize("customers", [None, "", "Mars/Olympus"])
def test_without_a_known_zone_of_the_customer_the_accounts_counts(customers):
    assert cal.recipient_zone(customers, "Europe/Budapest") is BUDAPEST


def test_an_unknown_zone_of_the_account_is_an_error():
    with pytest.raises(ValueError, match="Mars/Olympus"):
        cal.recipient_zone(None, "Mars/Olympus")


# -- the window -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        (local(BUDAPEST, 2026, 4, 1, 8), None),
        (local(BUDAPEST, 2026, 4, 1, 19, 59, 59), None),
        (local(BUDAPEST, 2026, 4, 1, 20), local(BUDAPEST, 2026, 4, 2, 8)),
        (local(BUDAPEST, 2026, 4, 1, 7, 59, 59), local(BUDAPEST, 2026, 4, 1, 8)),
        (local(BUDAPEST, 2026, 4, 4, 23), local(BUDAPEST, 2026, 4, 5, 8)),  # a Saturday night: Sunday is open too
        (local(BUDAPEST, 2026, 3, 28, 21), datetime(2026, 3, 29, 6, tzinfo=UTC)),  # the clock goes forward
        (local(BUDAPEST, 2026, 10, 24, 21), datetime(2026, 10, 25, 7, tzinfo=UTC)),  # and back
        (local(LORD_HOWE, 2026, 4, 4, 23), local(LORD_HOWE, 2026, 4, 5, 8)),  # by half an hour
        (local(APIA, 2011, 12, 29, 21), local(APIA, 2011, 12, 31, 8)),  # 30 December did not take place
    ],
)
def test_the_next_opening_is_wall_clock(now, opening):
    assert cal.next_opening(now, BUDAPEST if opening is None else zone_of(opening)) == (opening or now)


def zone_of(opening):
    """The zone among ours in which it is eight o'clock."""
    return next(zone for zone in (BUDAPEST, LORD_HOWE, APIA) if opening.astimezone(zone).hour == 8)


def test_an_opening_that_spring_skips_comes_as_long_after_the_change():
    night = SendingWindow(time(2, 30), time(5))
    now = local(BUDAPEST, 2026, 3, 29, 1, 30)
    assert cal.next_opening(now, BUDAPEST, night) == local(BUDAPEST, 2026, 3, 29, 3, 30)


def test_a_window_that_spring_skips_whole_opens_the_next_day():
    night = SendingWindow(time(2, 10), time(2, 50))
    now = local(BUDAPEST, 2026, 3, 29, 1)
    assert cal.next_opening(now, BUDAPEST, night) == local(BUDAPEST, 2026, 3, 30, 2, 10)


def test_an_opening_that_autumn_repeats_opens_twice():
    night = SendingWindow(time(2, 30), time(2, 45))
    first, second = local(BUDAPEST, 2026, 10, 25, 2, 30), local(BUDAPEST, 2026, 10, 25, 2, 30, fold=1)
    assert second - first == HOUR
    assert cal.next_opening(first - HOUR, BUDAPEST, night) == first
    assert cal.next_opening(first + HOUR / 2, BUDAPEST, night) == second


@pytest.mark.parametrize("closes", [time(8), time(7)])
def test_a_window_opens_before_it_closes(closes):
    with pytest.raises(ValueError, match="opens before it closes"):
        SendingWindow(time(8), closes)


@given(
    st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([BUDAPEST, LORD_HOWE, APIA, NEW_YORK]),
)
def test_an_opening_is_open_not_in_the_past_and_at_most_a_night_away(now, zone):
    opening = cal.next_opening(now, zone)
    window = cal.DEFAULT_WINDOW
    assert opening >= now
    assert window.is_open(opening, zone)
    assert opening - now <= 37 * HOUR
    assert opening == now or not window.is_open(now, zone)
    assert opening == now or not window.is_open(opening - timedelta(microseconds=1), zone)


# -- 36 h, 24 h, 1 h ------------------------------------------------------------------------------------------------

NIGHT = local(BUDAPEST, 2026, 4, 1, 23, 40)
MORNING = local(BUDAPEST, 2026, 4, 2, 8)
DAY = local(BUDAPEST, 2026, 4, 1, 12)


@pytest.mark.parametrize("urgency", [Urgency.URGENT, Urgency.CRITICAL])
def test_discovered_twenty_hours_before_the_end_at_night_the_last_call_goes_at_once(urgency):
    assert cal.send_at(NIGHT, urgency, NIGHT + 20 * HOUR, BUDAPEST) == NIGHT


@pytest.mark.parametrize("urgency", [Urgency.URGENT, Urgency.CRITICAL])
def test_discovered_fifty_hours_before_it_waits_for_the_morning(urgency):
    deadline = NIGHT + 50 * HOUR
    assert cal.send_at(NIGHT, urgency, deadline, BUDAPEST) == MORNING
    assert deadline - MORNING == timedelta(hours=41, minutes=40)


def test_exactly_a_day_after_the_opening_is_enough_and_a_second_less_is_not():
    assert cal.send_at(NIGHT, Urgency.URGENT, MORNING + 24 * HOUR, BUDAPEST) == MORNING
    assert cal.send_at(NIGHT, Urgency.URGENT, MORNING + 24 * HOUR - timedelta(seconds=1), BUDAPEST) == NIGHT


@pytest.mark.parametrize("urgency", list(Urgency))
def test_with_less_than_an_hour_left_no_call_to_act_leaves(urgency):
    assert cal.send_at(DAY, urgency, DAY + HOUR, BUDAPEST) == DAY
    assert cal.send_at(DAY, urgency, DAY + HOUR - timedelta(seconds=1), BUDAPEST) is None
    assert cal.send_at(DAY, urgency, DAY - HOUR, BUDAPEST) is None


def test_low_on_funds_seen_at_nine_in_the_evening_for_three_at_night_is_never_sent():
    evening, bill = local(BUDAPEST, 2026, 4, 1, 21), local(BUDAPEST, 2026, 4, 2, 3)
    assert cal.send_at(evening, Urgency.NORMAL, bill, BUDAPEST) is None


def test_a_normal_mail_waits_for_the_morning_if_an_hour_is_left_then():
    assert cal.send_at(NIGHT, Urgency.NORMAL, MORNING + HOUR, BUDAPEST) == MORNING
    assert cal.send_at(NIGHT, Urgency.NORMAL, MORNING + HOUR - timedelta(seconds=1), BUDAPEST) is None


@pytest.mark.parametrize("urgency", list(Urgency))
def test_without_a_deadline_the_window_alone_counts(urgency):
    assert cal.send_at(NIGHT, urgency, None, BUDAPEST) == MORNING
    assert cal.send_at(DAY, urgency, None, BUDAPEST) == DAY


def test_the_window_may_be_another():
    assert cal.send_at(NIGHT, Urgency.LOW, None, BUDAPEST, SendingWindow(time(23), time(23, 50))) == NIGHT


# -- deadlines ------------------------------------------------------------------------------------------------------

SINCE = datetime(2026, 4, 2, 9, 0, 30, tzinfo=UTC)


def dunning(since=SINCE, failed=1, remaining=4, following=SINCE + timedelta(days=1)):
    return cal.dunning_deadline(
        failing_since_at=since, failed_attempts=failed, remaining_attempts=remaining, next_attempt_at=following
    )


def test_a_failing_subscription_ends_after_seven_days_at_the_latest_and_is_planned_by_its_attempts():
    found = dunning()
    assert found.cancellation_at == SINCE + timedelta(days=7)
    assert found.plan_by_at == SINCE + timedelta(days=4)  # the 5th attempt, a day after each other


def test_the_spacing_is_that_of_the_attempts_so_far():
    found = dunning(failed=2, remaining=3, following=SINCE + timedelta(days=3))
    assert found.plan_by_at == SINCE + timedelta(days=6)


def test_the_plan_is_never_later_than_the_end():
    found = dunning(remaining=40)
    assert found.plan_by_at == found.cancellation_at == SINCE + timedelta(days=7)


def test_the_last_attempt_is_the_end_if_it_is_earlier():
    assert dunning(remaining=1).cancellation_at == SINCE + timedelta(days=1)
    assert dunning(remaining=1).plan_by_at == SINCE + timedelta(days=1)
    assert dunning(remaining=2).cancellation_at == SINCE + timedelta(days=7)
    late = dunning(remaining=1, following=SINCE + timedelta(days=9))
    assert late.cancellation_at == SINCE + timedelta(days=7)


def test_the_last_attempt_is_the_end_even_if_nobody_told_since_when():
    assert dunning(since=None, remaining=1) == Deadline(SINCE + timedelta(days=1), SINCE + timedelta(days=1))


@pytest.mark.parametrize("remaining", [0, -1])
def test_without_an_attempt_left_it_may_end_any_moment_and_no_date_is_named(remaining):
    found = dunning(remaining=remaining)
    assert found == Deadline(any_moment=True)


@pytest.mark.parametrize(
    "parts",
    [
        {"failed": None},
        {"failed": 0},
        {"failed": -2},
        {"remaining": None},
        {"following": None},
        {"following": SINCE},
        {"following": SINCE - HOUR},
        {"remaining": 10**12},
    ],
)
def test_where_the_attempts_tell_nothing_the_end_is_the_plan(parts):
    assert dunning(**parts) == Deadline(SINCE + timedelta(days=7), SINCE + timedelta(days=7))


def test_where_nothing_is_told_no_date_is_named():
    unknown = dunning(since=None, failed=None, remaining=None, following=None)
    assert unknown == cal.UNKNOWN_DEADLINE
    assert dunning(since=None) == cal.UNKNOWN_DEADLINE


def test_a_date_beyond_the_calendar_is_no_date():
    assert dunning(since=datetime(9999, 12, 30, tzinfo=UTC), following=None) == cal.UNKNOWN_DEADLINE
    assert cal.trial_deadline(datetime(9999, 12, 30, tzinfo=UTC)) == cal.UNKNOWN_DEADLINE


def test_an_expired_trial_ends_seven_days_after_it():
    assert cal.trial_deadline(SINCE) == Deadline(SINCE + timedelta(days=7), SINCE + timedelta(days=7))
    assert cal.trial_deadline(None) == cal.UNKNOWN_DEADLINE


def snapshot(status, **fields):
    return Snapshot("sub@1", status, status.value, **fields)


LATER = SINCE + timedelta(days=3)


@pytest.mark.parametrize(
    ("seen", "end"),
    [
        (snapshot(Status.TRIAL, current_period_end_at=SINCE, next_billing_at=LATER), SINCE),
        (snapshot(Status.TRIAL, next_billing_at=LATER), LATER),
        (snapshot(Status.TRIAL_EXPIRED, current_period_end_at=SINCE, next_billing_at=LATER), SINCE),
        (snapshot(Status.TRIAL_EXPIRED, next_billing_at=LATER), None),  # it may be the end of the grace by now
        (snapshot(Status.ACTIVE, current_period_end_at=SINCE), None),
    ],
)
def test_the_end_of_a_trial_is_told_by_the_period(seen, end):
    assert cal.trial_end_of(seen) == end


def test_each_status_has_its_own_end():
    week = timedelta(days=7)
    assert cal.deadline_of(snapshot(Status.TRIAL_EXPIRED, current_period_end_at=SINCE)).cancellation_at == SINCE + week
    for status in (Status.PAST_DUE, Status.ACTIVE):
        seen = snapshot(
            status, failing_since_at=SINCE, failed_attempts=1, remaining_attempts=4, next_attempt_at=SINCE + 24 * HOUR
        )
        assert cal.deadline_of(seen) == dunning()
    for status in (Status.TRIAL, Status.PAUSED, Status.STOPPED, Status.CANCELLED, Status.UNKNOWN):
        seen = snapshot(status, failing_since_at=SINCE, current_period_end_at=SINCE)
        assert cal.deadline_of(seen) == cal.UNKNOWN_DEADLINE
