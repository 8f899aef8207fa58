"""Is this mail still true, allowed and timely? Asked of every mail just before it leaves; the first match wins.

The customer may have paid since the mail was queued. Only stored facts are read here; when they are too old the answer
is "ask the API again first".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from monitor.domain.calendar import (
    DEFAULT_WINDOW,
    TOO_LATE_BELOW,
    SendingWindow,
    deadline_of,
    recipient_zone,
    send_at,
)
from monitor.domain.campaign import RECOVERED, Step, campaign_for
from monitor.domain.classify import Classified
from monitor.domain.guard import DEFAULT_LIMITS, AddressVerdict, GuardLimits, judge_address
from monitor.domain.intents import (
    ACTION_DONE,
    CUSTOMER_CHANGED,
    CUSTOMER_DELETED,
    NO_ADDRESS,
    NO_CUSTOMER,
    SUPERSEDED,
    TEST_ROW,
    USAGE_STALE,
    action_done,
)
from monitor.domain.model import Kind, Situation, Snapshot, Told, Track, Urgency
from monitor.domain.records import Episode
from monitor.domain.spending import faced, is_stale, why_over

FRESH_URGENT = timedelta(minutes=5)
FRESH = timedelta(hours=6)
LOOK_AGAIN = timedelta(hours=1)
_DAY = timedelta(hours=24)


class Do(StrEnum):
    SEND = "send"
    VOID = "void"
    SNOOZE = "snooze"
    HOLD = "hold"
    ASK = "ask"
    """The stored facts are too old: read this subscription again, then judge again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do, by which rule, and why in a sentence; `until` for a snooze."""

    do: Do
    rule: str = ""
    why: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One mail: what it is, to whom, and what was sent there before. `facts_age` is by the database's clock."""

    kind: Kind
    step: str
    urgency: Urgency
    not_after: datetime | None
    address: str | None
    deleted: bool
    erased: bool
    test_allowed: bool
    facts_age: timedelta
    suppressed_in: frozenset[str]
    mails_24h: int
    oldest_24h_at: datetime | None
    customer_zone: str | None
    account_zone: str
    window: SendingWindow = DEFAULT_WINDOW
    limits: GuardLimits = DEFAULT_LIMITS
    asked: bool = False
    """The API was asked in this pass already."""
    released: bool = False
    """An operator let go of this mail by itself: the limit of its address has been decided about."""
    customer_key: str | None = None
    """For whom the mail was planned; None: for whoever has the subscription now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Post):
    """One mail of an episode with everything that decides about it."""

    episode: Episode
    snapshot: Snapshot
    told: Told
    situation_open: bool
    """Another episode of its billing is open (for an all-clear: then all is not clear)."""


def step_of(case: Case, after: Classified) -> Step | None:
    """The campaign step that this mail is, by what the customer faces now; None for an all-clear."""
    campaign = campaign_for(after.situation, after.variant)
    steps = () if campaign is None else campaign.steps
    return next((step for step in steps if step.name == case.step), None)


def still_due(case: Case, now: datetime) -> Answer:
    """The answer for one mail at `now` (aware UTC)."""
    after = faced(case.episode.track, case.snapshot, case.told, now)
    for rule in (_expired, _untrue, _nobody):
        answer = rule(case, after, now)
        if answer is not None:
            return answer
    if not case.asked and case.facts_age > _fresh_for(case.urgency):
        return Answer(Do.ASK, "stale", f"last read {case.facts_age} ago")
    refusable = case.step == RECOVERED or _refusable(case, after)
    return may_leave(case, now, refusable=refusable, acts_by=_acts_by(case, now))


def nobody(post: Post, *, test: bool, customer: str | None) -> Answer | None:
    """Why there is nobody to mail, if so: what the mail is about is a test, or is `customer`'s and not to be mailed."""
    if test and not post.test_allowed:
        return Answer(Do.VOID, TEST_ROW, "a test row is never mailed to customers")
    if not customer:
        return Answer(Do.VOID, NO_CUSTOMER, "it names no customer")
    if post.customer_key is not None and post.customer_key != customer:
        return Answer(Do.VOID, CUSTOMER_CHANGED, "it belongs to somebody else now")
    if post.deleted:
        return Answer(Do.VOID, CUSTOMER_DELETED, "the merchant deleted this customer")
    if post.erased:
        return Answer(Do.VOID, "erased", "this person's data was erased")
    if not post.address:
        return Answer(Do.VOID, NO_ADDRESS, "no address is known")
    return None


def may_leave(post: Post, now: datetime, *, refusable: bool, acts_by: datetime | None) -> Answer:
    """Whether a mail that is true may leave now: suppression, the sending window, the address's cap.

    `acts_by` is until when its reader can act, None where nothing presses.
    """
    if "all" in post.suppressed_in:
        return Answer(Do.VOID, "suppressed", "this address must not be mailed")
    if refusable and "reminders" in post.suppressed_in:
        return Answer(Do.VOID, "unsubscribed", "the customer refused reminders")
    return _window(post, now, acts_by) or _cap(post, now) or Answer(Do.SEND)


def _expired(case: Case, after: Classified, now: datetime) -> Answer | None:
    not_after = _not_after(case, after)
    if not_after is not None and now > not_after:
        return Answer(Do.VOID, "expired", f"it was worth sending until {not_after:%Y-%m-%d %H:%M} UTC")
    return None


def _not_after(case: Case, after: Classified) -> datetime | None:
    """The planned end of this mail's worth; where a deadline makes it and that has moved, by the new one."""
    step = step_of(case, after)
    deadline_at = case.episode.deadline_at
    if step is None or step.until_deadline is None or deadline_at is None:
        return case.not_after
    return deadline_at - step.until_deadline


def _untrue(case: Case, after: Classified, now: datetime) -> Answer | None:
    clear = case.step == RECOVERED
    if not clear and case.episode.closed_at is not None:
        return Answer(Do.VOID, case.episode.close_reason or "closed", "the episode has ended")
    if after.situation is Situation.UNKNOWN:
        return Answer(Do.SNOOZE, "unknown_state", "the state is not known now", now + LOOK_AGAIN)
    if clear:
        needed = case.situation_open or after.situation is not Situation.HEALTHY
        return Answer(Do.VOID, SUPERSEDED, "something else needs the customer now") if needed else None
    if case.episode.track is Track.USAGE:
        return _unused(case, now)
    campaign = campaign_for(after.situation, after.variant)
    if campaign is None or campaign.kind is not case.kind:
        return Answer(Do.VOID, SUPERSEDED, f"the customer faces {after.situation.value} now")
    if action_done(after, case.snapshot, case.told):
        return Answer(Do.VOID, ACTION_DONE, "the customer has done it; the next attempt will tell")
    return _too_early(case, after, now)


def _unused(case: Case, now: datetime) -> Answer | None:
    """What was measured tells another story by now, or none: the period ended, a correction came, or no report."""
    over = why_over(case.episode, case.snapshot, case.told, now)
    if over is not None:
        return Answer(Do.VOID, over, "the spending limit is no concern any more")
    if is_stale(case.told, now):
        return Answer(Do.VOID, USAGE_STALE, "the usage was measured too long ago")
    return None


def _too_early(case: Case, after: Classified, now: datetime) -> Answer | None:
    """The bill moved, or a cause arrived that often heals by itself: the step is not due yet."""
    step = step_of(case, after)
    if step is None:
        return None
    due_at = step.due_at(case.episode.opened_at, case.episode.deadline_at, case.snapshot.failed_attempts)
    return Answer(Do.SNOOZE, "not_due_yet", f"due at {due_at:%Y-%m-%d %H:%M} UTC", due_at) if due_at > now else None


def _nobody(case: Case, _after: Classified, _now: datetime) -> Answer | None:
    return nobody(case, test=case.snapshot.test, customer=case.snapshot.customer_ext_id)


def _refusable(case: Case, after: Classified) -> bool:
    step = step_of(case, after)
    return step is not None and step.refusable


def _fresh_for(urgency: Urgency) -> timedelta:
    return FRESH_URGENT if urgency in {Urgency.URGENT, Urgency.CRITICAL} else FRESH


def _window(post: Post, now: datetime, acts_by: datetime | None) -> Answer | None:
    zone = recipient_zone(post.customer_zone, post.account_zone)
    leaves_at = send_at(now, post.urgency, acts_by, zone, post.window)
    if leaves_at is None:
        return Answer(Do.VOID, "too_late", "no time would be left to act")
    if leaves_at > now:
        return Answer(Do.SNOOZE, "window", f"waits for {leaves_at.astimezone(zone):%H:%M} ({zone.key})", leaves_at)
    return None


def _acts_by(case: Case, now: datetime) -> datetime | None:
    """Until when the customer can act: the estimated end where it comes before the one that mails print.

    An estimate hurries a mail; only the end itself makes it too late.
    """
    if case.step == RECOVERED:
        return None
    if case.episode.track is Track.USAGE:
        return case.episode.deadline_at  # when the next bill could fail is another story
    ends = [case.episode.deadline_at]
    estimated_at = deadline_of(case.snapshot).plan_by_at
    if estimated_at is not None:
        ends.append(max(estimated_at, now + TOO_LATE_BELOW))
    return min((at for at in ends if at is not None), default=None)


def _cap(post: Post, now: datetime) -> Answer | None:
    verdict, reason = judge_address(post.urgency, post.mails_24h, post.limits)
    if verdict is AddressVerdict.HOLD and not post.released:
        return Answer(Do.HOLD, "per_address", "" if reason is None else reason.sentence)
    if verdict is AddressVerdict.SNOOZE:
        until = (post.oldest_24h_at or now) + _DAY
        return Answer(Do.SNOOZE, "capped", f"{post.mails_24h} mails in 24 h already", max(until, now + LOOK_AGAIN))
    return None
