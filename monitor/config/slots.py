"""Which local day's run is due: pure, so that every daylight-saving rule can be tried without waiting for a spring.

A slot is a local date of the account's zone that its schedule names. Each existing date has one slot or none, whatever
the clocks do that night: a time that the night skips comes when the clocks have moved on, one that it repeats counts
the first time, a date that a zone leaves out (Pacific/Apia, 30 December 2011) has no run.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from monitor.config.crontab import cron_trigger

_DAY = timedelta(days=1)
_LOOK_BACK = timedelta(days=366)
"""How far a first start looks for the newest slot: a schedule may name one day a year."""
LATE = timedelta(hours=2)
MISSING_AFTER = timedelta(hours=26)


def due_slot(schedule: str, zone: ZoneInfo, last_slot: date | None, now: datetime) -> date | None:
    """The newest slot that has begun by `now` and is newer than `last_slot`; None when there is none.

    However many were slept through, one is due: the newest. A schedule that names several times of a day is due at the
    first of them. `now` is aware; `last_slot` None means that no run was ever made.
    """
    day = now.astimezone(zone).date()
    oldest = day - _LOOK_BACK if last_slot is None else last_slot + _DAY
    while day >= oldest:
        at = slot_at(schedule, zone, day)
        if at is not None and at <= now:
            return day
        day -= _DAY
    return None


def slot_at(schedule: str, zone: ZoneInfo, day: date) -> datetime | None:
    """When the slot of `day` begins (aware UTC); None when the schedule does not name it or the zone leaves it out."""
    wall = _first_time(schedule, day)
    if wall is None or _instant(zone, day, time()) >= _instant(zone, day + _DAY, time()):
        return None
    return _instant(zone, day, wall)


def missing_since(schedule: str, zone: ZoneInfo, last_run_at: datetime, now: datetime) -> datetime | None:
    """Since when a run is missing, None while it is not: 26 hours after the last, later where the schedule is rarer.

    A slot may begin two hours late before anybody is told: that is how a daily schedule comes to 26 hours.
    """
    day = last_run_at.astimezone(zone).date()
    limit = last_run_at + MISSING_AFTER
    for number in range(_LOOK_BACK.days + 1):
        at = slot_at(schedule, zone, day + number * _DAY)
        if at is not None and at > last_run_at:
            limit = max(limit, at + LATE)
            break
    return limit if now >= limit else None


def several_a_day(schedule: str) -> bool:
    """Whether the schedule names more than one time of a day, of which the daemon keeps only the first."""
    minute, hour, *_ = schedule.split()
    return not (minute.isdigit() and hour.isdigit())


@lru_cache(maxsize=4096)  # asked every minute for every account
def _first_time(schedule: str, day: date) -> time | None:
    """The first wall time that the schedule names on `day`: asked in UTC, where no night is odd."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    fire: datetime | None = cron_trigger(schedule, ZoneInfo("UTC")).get_next_fire_time(None, midnight)
    return fire.time() if fire is not None and fire.date() == day else None


def _instant(zone: ZoneInfo, day: date, wall: time) -> datetime:
    """`wall` on `day`: the first of two; where a gap swallows it, as much later as clocks jump (PEP 495, fold 0)."""
    return datetime.combine(day, wall, tzinfo=zone).astimezone(UTC)
