"""A schedule of five cron fields, read the way cron(5) reads it.

APScheduler counts weekdays from Monday = 0, cron from Sunday = 0 (7 is Sunday too): "0 7 * * 1" would fire on Tuesday.
So weekday numbers become names before APScheduler sees them. And where both the day of the month and the weekday are
limited, APScheduler wants both, cron either: "0 7 1 * 1" is the first of the month and every Monday.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped] # version 3 has no types
from apscheduler.triggers.combining import OrTrigger  # type: ignore[import-untyped] # version 3 has no types
from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped] # version 3 has no types

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELD_NAMES = ("minute", "hour", "day of month", "month", "weekday")
_WEEKDAY_PART = re.compile(r"(?P<first>[0-7]|[a-z]{3})(?:-(?P<last>[0-7]|[a-z]{3}))?(?:/(?P<step>\d+))?\Z")


def cron_trigger(expression: str, zone: ZoneInfo) -> BaseTrigger:
    """The trigger of `expression` in `zone`.

    Raises:
        ValueError: not five fields, a field that cron would not take (the message names it), a date that never comes.
    """
    fields = expression.lower().split()
    if len(fields) != len(_FIELD_NAMES):
        number = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        raise ValueError(f"has {number} instead of five (minute hour day month weekday)")
    minute, hour, day, month, weekday = fields
    named = ",".join(_weekdays(part) for part in weekday.split(","))
    for name, argument, text in zip(
        _FIELD_NAMES,
        ("minute", "hour", "day", "month", "day_of_week"),
        (minute, hour, day, month, named),
        strict=True,
    ):
        _probe(name, argument, text)
    common = {"minute": minute, "hour": hour, "month": month, "timezone": zone}
    if day.startswith("*") or weekday.startswith("*"):
        trigger = CronTrigger(day=day, day_of_week=named, **common)
    else:
        trigger = OrTrigger([CronTrigger(day=day, **common), CronTrigger(day_of_week=named, **common)])
    if "*" not in (day, month) and _never_comes(trigger):
        raise ValueError("names a date that never comes")
    return trigger


def _never_comes(trigger: BaseTrigger) -> bool:
    """Whether no date of a whole cycle of the calendar fits, such as 31 February."""
    return trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None


def _probe(name: str, argument: str, text: str) -> None:
    try:
        CronTrigger(**{argument: text}, timezone=ZoneInfo("UTC"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"has a bad {name} field {text!r}") from error


def _weekdays(part: str) -> str:
    if part == "*" or part.startswith("*/"):
        return part if part == "*" else _listed(0, 6, part[2:])
    match = _WEEKDAY_PART.match(part)
    if match is None:
        raise ValueError(f"has a bad weekday field {part!r} (0-7 with 0 and 7 = Sunday, or sun to sat)")
    first = _number(match["first"])
    last = _number(match["last"]) if match["last"] else (6 if match["step"] else first)
    ends_on_7 = match["last"] == "7" != match["first"]  # "0-7" is every day, not Sunday alone
    if ends_on_7 or last < first:  # "fri-sun": the week of cron may run over Saturday
        last += 7
    return _listed(first, last, match["step"] or "1")


def _number(day: str) -> int:
    if day.isdigit():
        return int(day) % 7
    if day not in _DAYS:
        raise ValueError(f"has a bad weekday {day!r} (sun to sat)")
    return _DAYS.index(day)


def _listed(first: int, last: int, step: str) -> str:
    if not step.isdigit() or int(step) == 0:
        raise ValueError(f"has a bad weekday step {step!r}")
    return ",".join(_DAYS[day % 7] for day in range(first, last + 1, int(step)))
