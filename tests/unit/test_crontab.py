from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from monitor.config.crontab import cron_trigger

BUDAPEST = ZoneInfo("Europe/Budapest")
SATURDAY = datetime(2026, 8, 1, tzinfo=BUDAPEST)


def fires(expression: str, count: int) -> list[str]:
    """The next instants after a Saturday's midnight, as `Sat 07:00`."""
    trigger = cron_trigger(expression, BUDAPEST)
    found, after = [], SATURDAY
    for _ in range(count):
        after = trigger.get_next_fire_time(after if found else None, after)
        found.append(after.strftime("%a %H:%M"))
    return found


@pytest.mark.parametrize(
    ("weekday", "expected"),
    [
        ("1", ["Mon", "Mon"]),
        ("0", ["Sun", "Sun"]),
        ("7", ["Sun", "Sun"]),
        ("mon", ["Mon", "Mon"]),
        ("1-5", ["Mon", "Tue", "Wed", "Thu", "Fri", "Mon"]),
        ("5-7", ["Sat", "Sun", "Fri"]),
        ("0-7", ["Sat", "Sun", "Mon", "Tue"]),
        ("7-7", ["Sun", "Sun"]),
        ("fri-sun", ["Sat", "Sun", "Fri"]),
        ("6,0", ["Sat", "Sun", "Sat"]),
        ("*/3", ["Sat", "Sun", "Wed"]),
        ("1/2", ["Mon", "Wed", "Fri"]),
        ("*", ["Sat", "Sun", "Mon"]),
    ],
)
def test_weekdays_are_counted_as_cron_counts_them(weekday, expected):
    assert [instant[:3] for instant in fires(f"0 7 * * {weekday}", len(expected))] == expected


def test_the_other_fields_go_through():
    assert fires("*/30 6-7 1 8 *", 4) == ["Sat 06:00", "Sat 06:30", "Sat 07:00", "Sat 07:30"]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("", "has 0 fields instead of five"),
        ("0 0 7 * * *", "has 6 fields instead of five"),
        ("x 7 * * *", "bad minute field 'x'"),
        ("0 24 * * *", "bad hour field '24'"),
        ("0 7 32 * *", "bad day of month field '32'"),
        ("0 7 * 13 *", "bad month field '13'"),
        ("0 7 * * 8", "bad weekday field '8'"),
        ("0 7 * * mon-", "bad weekday field 'mon-'"),
        ("0 7 * * xyz", "bad weekday 'xyz'"),
        ("0 7 * * */0", "bad weekday step '0'"),
        ("0 7 * * */x", "bad weekday step 'x'"),
    ],
)
def test_a_bad_field_is_named(expression, text):
    with pytest.raises(ValueError, match="has") as caught:
        cron_trigger(expression, BUDAPEST)
    assert text in str(caught.value)


@pytest.mark.parametrize("expression", ["0 7 31 2 *", "0 7 30 2 *", "0 7 31 4,6 *"])
def test_a_date_that_never_comes_is_said_at_once(expression):
    with pytest.raises(ValueError, match="never comes"):
        cron_trigger(expression, BUDAPEST)


def test_a_leap_day_comes():
    assert cron_trigger("0 7 29 2 *", BUDAPEST).get_next_fire_time(None, SATURDAY) == datetime(
        2028, 2, 29, 7, tzinfo=BUDAPEST
    )


def test_a_day_of_the_month_and_a_weekday_mean_either_as_in_cron():
    assert fires("0 7 4 8 1", 3) == ["Mon 07:00", "Tue 07:00", "Mon 07:00"]


def test_a_step_over_all_days_and_a_weekday_mean_both_as_in_cron():
    assert fires("0 7 */2 8 1", 2) == ["Mon 07:00", "Mon 07:00"]
