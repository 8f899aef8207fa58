"""One logical run per local day: never none, never two, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.config.slots import due_slot, missing_since, several_a_day, slot_at

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "UTC")
STEP = timedelta(minutes=10)


def polled(
    schedule: str, zone: ZoneInfo, start: datetime, end: datetime, step: timedelta = STEP
) -> list[tuple[date, datetime]]:
    """What a daemon that looks every `step` runs, and when."""
    ran: list[tuple[date, datetime]] = []
    last = start.astimezone(zone).date() - timedelta(days=1)
    at = start
    while at < end:
        slot = due_slot(schedule, zone, last, at)
        if slot is not None:
            ran.append((slot, at))
            last = slot
        at += step
    return ran


def days_lived(zone: ZoneInfo, start: datetime, end: datetime) -> list[date]:
    """Every local date that a clock on the wall shows, in order."""
    shown: list[date] = []
    at = start
    while at < end:
        day = at.astimezone(zone).date()
        if not shown or day > shown[-1]:
            shown.append(day)
        at += STEP
    return shown


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2008, 1, 1), datetime(2028, 1, 1)),
    hour=st.integers(0, 22),
    minute=st.sampled_from([0, 10, 30, 50]),
)
@example(zone="Europe/Berlin", start=datetime(2026, 3, 27), hour=2, minute=30)
@example(zone="Europe/Berlin", start=datetime(2026, 10, 23), hour=2, minute=30)
@example(zone="America/New_York", start=datetime(2026, 3, 6), hour=2, minute=30)
@example(zone="America/New_York", start=datetime(2026, 10, 30), hour=1, minute=30)
@example(zone="Australia/Lord_Howe", start=datetime(2026, 4, 2), hour=1, minute=50)
@example(zone="Australia/Lord_Howe", start=datetime(2026, 10, 1), hour=2, minute=10)
@example(zone="Pacific/Apia", start=datetime(2011, 12, 27), hour=7, minute=0)
@example(zone="America/Sao_Paulo", start=datetime(2018, 11, 1), hour=0, minute=0)
def test_every_day_that_a_zone_lives_is_run_once(zone, start, hour, minute):
    where = ZoneInfo(zone)
    begin = start.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=where).astimezone(UTC)
    end = begin + timedelta(days=5, hours=2)
    ran = [slot for slot, _ in polled(f"{minute} {hour} * * *", where, begin, end)]
    lived = days_lived(where, begin, end - timedelta(hours=26))
    assert ran[: len(lived)] == lived
    assert len(ran) == len(set(ran))


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    at=st.datetimes(datetime(2009, 1, 1), datetime(2028, 1, 1)),
    asleep=st.integers(0, 400),
    schedule=st.sampled_from(["30 2 * * *", "0 7 * * *", "0 7 * * 1", "15 23 1 * *", "*/5 * * * *"]),
)
def test_after_any_sleep_at_most_one_run_is_due_and_then_none(zone, at, asleep, schedule):
    where = ZoneInfo(zone)
    now = at.replace(tzinfo=UTC)
    last = now.astimezone(where).date() - timedelta(days=asleep)
    slot = due_slot(schedule, where, last, now)
    if slot is not None:
        assert last < slot <= now.astimezone(where).date()
        assert slot_at(schedule, where, slot) <= now
        assert due_slot(schedule, where, slot, now) is None


@pytest.mark.parametrize(
    ("zone", "wall", "day", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", date(2026, 3, 29), "2026-03-29T01:30+00:00"),  # skipped: 03:30 by the wall
        ("Europe/Berlin", "30 2 * * *", date(2026, 10, 25), "2026-10-25T00:30+00:00"),  # twice: the first
        ("America/New_York", "30 2 * * *", date(2026, 3, 8), "2026-03-08T07:30+00:00"),
        ("America/New_York", "30 1 * * *", date(2026, 11, 1), "2026-11-01T05:30+00:00"),
        ("Australia/Lord_Howe", "10 2 * * *", date(2026, 10, 4), "2026-10-03T15:40+00:00"),  # half an hour
        ("Europe/Berlin", "0 7 * * *", date(2026, 3, 29), "2026-03-29T05:00+00:00"),
        ("Pacific/Apia", "0 7 * * *", date(2011, 12, 31), "2011-12-30T17:00+00:00"),
    ],
)
def test_a_slot_begins_when_the_wall_clock_first_reaches_it(zone, wall, day, expected):
    assert slot_at(wall, ZoneInfo(zone), day) == datetime.fromisoformat(expected)


def test_a_date_that_the_zone_leaves_out_has_no_slot():
    assert slot_at("0 7 * * *", ZoneInfo("Pacific/Apia"), date(2011, 12, 30)) is None


def test_five_days_asleep_are_one_run_of_today():
    zone = ZoneInfo("Europe/Budapest")
    now = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
    assert due_slot("0 7 * * *", zone, date(2026, 4, 5), now) == date(2026, 4, 10)
    assert due_slot("0 7 * * *", zone, date(2026, 4, 10), now) is None


def test_before_the_hour_the_newest_slot_is_yesterdays():
    zone = ZoneInfo("Europe/Budapest")
    early = datetime(2026, 4, 10, 4, 59, tzinfo=UTC)  # 06:59 in Budapest
    assert due_slot("0 7 * * *", zone, date(2026, 4, 8), early) == date(2026, 4, 9)
    assert due_slot("0 7 * * *", zone, date(2026, 4, 9), early) is None
    assert due_slot("0 7 * * *", zone, date(2026, 4, 9), early + timedelta(minutes=1)) == date(2026, 4, 10)


def test_a_first_start_does_not_wait_for_tomorrow():
    now = datetime(2026, 4, 10, 3, 0, tzinfo=UTC)
    assert due_slot("0 7 * * *", ZoneInfo("UTC"), None, now) == date(2026, 4, 9)
    assert due_slot("0 7 * * 1", ZoneInfo("UTC"), None, now) == date(2026, 4, 6)  # a Monday


def test_a_slot_ahead_of_the_clock_is_waited_for():
    """The clock was set back, or the account moved to a zone in the west: the day is not run again."""
    assert due_slot("0 7 * * *", ZoneInfo("UTC"), date(2026, 4, 12), datetime(2026, 4, 10, 12, 0, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("schedule", "several"),
    [("0 7 * * *", False), ("*/5 * * * *", True), ("0 7,19 * * *", True), ("0 8-10 * * 1", True)],
)
def test_a_schedule_of_several_times_a_day_is_known(schedule, several):
    assert several_a_day(schedule) is several


@pytest.mark.parametrize(
    ("schedule", "last", "hours", "missing"),
    [
        ("0 7 * * *", "2026-04-09T07:00+00:00", 25.9, False),
        ("0 7 * * *", "2026-04-09T07:00+00:00", 26, True),
        ("0 7 * * *", "2026-04-09T12:00+00:00", 25.9, False),  # somebody's cron at noon is not late at nine
        ("0 7 * * *", "2026-04-09T12:00+00:00", 26, True),
        ("0 7 * * 4", "2026-04-09T07:00+00:00", 7 * 24 + 1.9, False),  # Thursdays
        ("0 7 * * 4", "2026-04-09T07:00+00:00", 7 * 24 + 2, True),
    ],
)
def test_a_run_is_missing_26_hours_after_the_last_unless_the_schedule_is_rarer(schedule, last, hours, missing):
    at = datetime.fromisoformat(last)
    found = missing_since(schedule, ZoneInfo("UTC"), at, at + timedelta(hours=hours))
    assert (found is not None) is missing
