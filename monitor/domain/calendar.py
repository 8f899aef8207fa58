"""When a mail may leave, and until when its customer can still act.

Everything is arithmetic over instants that the caller hands in. Windows are wall clock in a zone, results
are aware UTC. Rules: campaigns, section 0 ("Plan early, print the certain"; "36 h, 24 h, 1 h"; "Window").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from monitor.domain.model import Snapshot, Status, Urgency

GRACE = timedelta(days=7)
"""Both a failing subscription and an unconfirmed trial end this long after it began (contract v2, 2.4)."""
MUST_GO_BELOW = timedelta(hours=24)
TOO_LATE_BELOW = timedelta(hours=1)
"""Greylisting alone may eat the last hour: no call to act leaves any more."""


@dataclass(frozen=True, slots=True)
class SendingWindow:
    """The hours in which mails leave, wall clock, every day of the week. `closes` itself is outside.

    Raises:
        ValueError: the window is empty or reaches over midnight.
    """

    opens: time = time(8)
    closes: time = time(20)

    def __post_init__(self) -> None:
        if self.opens >= self.closes:
            raise ValueError(f"a sending window opens before it closes on the same day: {self.opens}-{self.closes}")

    def is_open(self, at: datetime, zone: ZoneInfo) -> bool:
        """Whether mails may leave at this instant."""
        return self.opens <= at.astimezone(zone).time() < self.closes


DEFAULT_WINDOW = SendingWindow()


def zone_named(name: str) -> ZoneInfo:
    """The IANA time zone of this name.

    Raises:
        ValueError: there is no such zone; the message names it.
    """
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError) as error:  # a folder such as "Europe" is an OSError
        raise ValueError(f"unknown time zone {name!r}: use an IANA name such as Europe/Budapest") from error


def recipient_zone(customer_zone: str | None, account_zone: str) -> ZoneInfo:
    """The customer's zone if it is set and known, else the account's.

    A customer's zone is data, so an unknown name costs nothing but itself; the account's was checked as a
    setting.

    Raises:
        ValueError: the account's zone is unknown.
    """
    if customer_zone:
        try:
            return zone_named(customer_zone)
        except ValueError:
            pass
    return zone_named(account_zone)


def next_opening(now: datetime, zone: ZoneInfo, window: SendingWindow = DEFAULT_WINDOW) -> datetime:
    """The first instant from `now` on at which the window is open; `now` itself if it is open.

    Right across changes of the clock: an opening that spring skips comes as long after the change as it
    would have come (02:30 is 03:30 on that day), one that autumn repeats opens twice, and a day that a zone
    leaves out is left out.
    """
    if window.is_open(now, zone):
        return now
    today = now.astimezone(zone).date()
    candidates = (
        datetime.combine(today + timedelta(days=days), window.opens, zone).replace(fold=fold).astimezone(UTC)
        for days in range(3)
        for fold in (0, 1)
    )
    return min(at for at in candidates if at > now and window.is_open(at, zone))


def is_too_late(now: datetime, deadline_at: datetime | None) -> bool:
    """Less than an hour is left: no call to act leaves, the merchant is alerted instead."""
    return deadline_at is not None and deadline_at - now < TOO_LATE_BELOW


def send_at(
    now: datetime,
    urgency: Urgency,
    deadline_at: datetime | None,
    zone: ZoneInfo,
    window: SendingWindow = DEFAULT_WINDOW,
) -> datetime | None:
    """When a mail that is due now may leave: `now` for at once, a later opening, or None for never.

    `deadline_at` is the instant the customer has to act by (`Deadline.plan_by_at`, or the next bill); None
    is unknown or none. None is returned when less than an hour would be left. Urgent and critical mails
    leave at once, whatever the hour, if the next opening would leave less than 24 h; low and normal ones
    wait for it and expire (a quiet night).
    """
    if is_too_late(now, deadline_at):
        return None
    opening = next_opening(now, zone, window)
    if deadline_at is None:
        return opening
    if urgency in (Urgency.URGENT, Urgency.CRITICAL):
        return now if deadline_at - opening < MUST_GO_BELOW else opening
    return None if is_too_late(opening, deadline_at) else opening


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when a customer can act. All None and not `any_moment`: we are not told."""

    cancellation_at: datetime | None = None
    """The latest instant of the end: what a mail may print."""
    plan_by_at: datetime | None = None
    """The estimated end that steps count back from: never printed."""
    any_moment: bool = False
    """No attempt is left: it may end now, no date is known and the last call is due at once."""


UNKNOWN_DEADLINE = Deadline()


def dunning_deadline(
    *,
    failing_since_at: datetime | None,
    failed_attempts: int | None,
    remaining_attempts: int | None,
    next_attempt_at: datetime | None,
) -> Deadline:
    """The end of a failing subscription from the API's `dunning` (contract v2, 2.3); parts may be unknown.

    The printed end is 7 days after the first failure, or the last attempt if that is earlier. The planned
    end takes the attempts' spacing for the rest of them, where it can be told.
    """
    if remaining_attempts is not None and remaining_attempts <= 0:
        return Deadline(any_moment=True)
    last_attempt_at = next_attempt_at if remaining_attempts == 1 else None
    cancellation_at = _earliest(_later(failing_since_at, GRACE), last_attempt_at)
    spacing = _spacing(failing_since_at, failed_attempts, next_attempt_at)
    planned_at = None
    if spacing is not None and remaining_attempts is not None:
        planned_at = _later(next_attempt_at, spacing, times=remaining_attempts - 1)
    return Deadline(cancellation_at, _earliest(cancellation_at, planned_at))


def trial_deadline(trial_end_at: datetime | None) -> Deadline:
    """The end of an unconfirmed trial: 7 days after the trial's (contract v2, 2.4)."""
    end_at = _later(trial_end_at, GRACE)
    return Deadline(end_at, end_at)


def trial_end_of(snapshot: Snapshot) -> datetime | None:
    """When the trial ends or ended; None if it is no trial or we are not told.

    Only of a running trial the next billing date is its end too (contract v2, 2.3).
    """
    if snapshot.status is Status.TRIAL:
        return snapshot.current_period_end_at or snapshot.next_billing_at
    if snapshot.status is Status.TRIAL_EXPIRED:
        return snapshot.current_period_end_at
    return None


def deadline_of(snapshot: Snapshot) -> Deadline:
    """Until when this subscription's customer can act; unknown where nothing ends by itself."""
    if snapshot.status is Status.TRIAL_EXPIRED:
        return trial_deadline(trial_end_of(snapshot))
    if snapshot.status in (Status.PAST_DUE, Status.ACTIVE):
        return dunning_deadline(
            failing_since_at=snapshot.failing_since_at,
            failed_attempts=snapshot.failed_attempts,
            remaining_attempts=snapshot.remaining_attempts,
            next_attempt_at=snapshot.next_attempt_at,
        )
    return UNKNOWN_DEADLINE


def _spacing(
    failing_since_at: datetime | None, failed_attempts: int | None, next_attempt_at: datetime | None
) -> timedelta | None:
    """The time between two attempts; None if it cannot be told, or the API's times contradict each other."""
    if failing_since_at is None or next_attempt_at is None or not failed_attempts or failed_attempts < 0:
        return None
    spacing = (next_attempt_at - failing_since_at) / failed_attempts
    return spacing if spacing > timedelta(0) else None


def _later(at: datetime | None, by: timedelta, *, times: int = 1) -> datetime | None:
    """`at` moved by `times` times `by`; None where that leaves the calendar (the API may send year 9999)."""
    if at is None:
        return None
    try:
        return at + by * times
    except OverflowError:
        return None


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((at for at in instants if at is not None), default=None)
