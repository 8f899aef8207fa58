"""Spending limits of pay-as-you-go subscriptions: near from 80 percent of the limit on, reached from 100 percent on.

A track of its own (`usage`) beside billing: somebody may be healthy, or past due, and near a limit at once. A billing
period is one spell, whatever is reported about it and however often, so each of its mails goes once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from monitor.domain.classify import Classified, classify
from monitor.domain.diff import Change
from monitor.domain.episodes import ENDED, NOT_BILLED, PERIOD_OVER, REPLACED, USAGE_LOWERED, episode_id
from monitor.domain.intents import LIMIT_TOLD, USAGE_STALE, Intent, due_intents
from monitor.domain.model import NotificationState, Situation, Snapshot, Status, Told, Track
from monitor.domain.records import Episode, MailRecord
from monitor.domain.usage import Usage

SPENDING = frozenset({Situation.SPENDING_LIMIT_NEAR, Situation.SPENDING_LIMIT_REACHED})
CLEAR = "spending_limit_clear"
NEAR_FROM = Fraction(80, 100)
USAGE_FRESH = timedelta(hours=48)
"""Older figures are not mailed: one daily report may fail, and by the second the mail would tell of another day."""
_BILLED = frozenset({Status.ACTIVE, Status.PAST_DUE})
_LEFT = frozenset(
    {
        NotificationState.CLAIMED,
        NotificationState.IN_DATA,
        NotificationState.AMBIGUOUS,
        NotificationState.SENT,
        NotificationState.UNSETTLED,
    }
)
_NOBODY_NEAR = Classified(Situation.HEALTHY)


@dataclass(frozen=True, slots=True)
class SpendingTurn:
    """What one observation does to the track. `episode` is open now: it began, came back or went on."""

    closes: tuple[Episode, str] | None = None
    episode: Episode | None = None
    changes: tuple[Change, ...] = ()
    intents: tuple[Intent, ...] = ()
    next_look_at: datetime | None = None


NO_TURN = SpendingTurn()


def limit_of(snapshot: Snapshot, usage: Usage) -> Decimal | None:
    """The limit that counts, USD: the reported one, else the one that the API tells; None where neither does."""
    return snapshot.max_spending_usd if usage.limit_usd is None else usage.limit_usd


def spending_of(snapshot: Snapshot, told: Told, now: datetime) -> Classified:
    """Near, reached, or healthy. Exactly at 80 percent is near, exactly at the limit is reached."""
    usage = told.usage
    if usage is None or snapshot.status not in _BILLED or now >= usage.period_end_at:
        return _NOBODY_NEAR
    limit = limit_of(snapshot, usage)
    if limit is None or Fraction(usage.used_usd) < Fraction(limit) * NEAR_FROM:
        return _NOBODY_NEAR
    reached = usage.used_usd >= limit
    return Classified(Situation.SPENDING_LIMIT_REACHED if reached else Situation.SPENDING_LIMIT_NEAR)


def faced(track: Track, snapshot: Snapshot, told: Told, now: datetime) -> Classified:
    """What the customer faces on this track; a state that nobody knows is unknown on each of them."""
    after = classify(snapshot, told, now)
    if track is not Track.USAGE or after.situation is Situation.UNKNOWN:
        return after
    return spending_of(snapshot, told, now)


def why_over(episode: Episode, snapshot: Snapshot, told: Told, now: datetime) -> str | None:
    """The rule by which this spell is over; None while it goes on."""
    usage = told.usage
    if snapshot.status is Status.CANCELLED:
        return ENDED
    if snapshot.status not in _BILLED:
        return NOT_BILLED
    if usage is None or now >= usage.period_end_at or _anchor(usage) != episode.anchor:
        return PERIOD_OVER
    situation = spending_of(snapshot, told, now).situation
    if situation is episode.kind:
        return None
    return REPLACED if situation in SPENDING else USAGE_LOWERED


def is_stale(told: Told, now: datetime) -> bool:
    """Whether the figures are too old to be mailed."""
    return told.usage is None or now - told.usage.as_of > USAGE_FRESH


def judge_spending(
    *,
    account: str,
    spells: Sequence[Episode],
    snapshot: Snapshot,
    told: Told,
    mails: Mapping[str, MailRecord],
    now: datetime,
    mute: str | None,
    mail_test_rows: bool,
) -> SpendingTurn:
    """What the figures mean for the track, at `now`. `spells` are the subscription's episodes of this track.

    `mute` is the rule that silences a spell which begins now. The caller has seen that the state is known.
    """
    current = next((one for one in spells if one.closed_at is None), None)
    if current is None and told.usage is None:
        return NO_TURN
    over = None if current is None else why_over(current, snapshot, told, now)
    closes = None if current is None or over is None else (current, over)
    after = spending_of(snapshot, told, now)
    usage = told.usage
    if usage is None or after.situation not in SPENDING:
        return SpendingTurn(closes, changes=() if closes is None else (Change(CLEAR, closes[0].kind.value, closes[1]),))
    changes: tuple[Change, ...] = ()
    if current is not None and over is None:
        episode = replace(current, deadline_at=usage.period_end_at)
    else:
        episode = _begun(account, spells, after.situation, snapshot, usage, now, mute)
        changes = (_news(current, after.situation, snapshot, usage),)
    planned = due_intents(
        episode,
        after,
        snapshot,
        told,
        mails,
        now=now,
        mail_test_rows=mail_test_rows,
        live_sibling=False,
        silence=USAGE_STALE if is_stale(told, now) else _told_worse(episode, spells, snapshot, mails.values()),
    )
    return SpendingTurn(closes, episode, changes, planned.intents, usage.period_end_at)


def _begun(
    account: str,
    spells: Sequence[Episode],
    situation: Situation,
    snapshot: Snapshot,
    usage: Usage,
    now: datetime,
    mute: str | None,
) -> Episode:
    """A new spell, or the one of this period that was open before: a flap across a mark mails nobody twice."""
    anchor = _anchor(usage)
    identity = episode_id(account, snapshot.ext_id, situation, anchor)
    old = next((one for one in spells if one.id == identity), None)
    if old is not None:
        return replace(old, closed_at=None, close_reason=None, deadline_at=usage.period_end_at, evidence_at=usage.as_of)
    return Episode(
        id=identity,
        kind=situation,
        variant="",
        anchor=anchor,
        opened_at=now,
        evidence_at=usage.as_of,
        deadline_at=usage.period_end_at,
        muted=mute,
        track=Track.USAGE,
    )


def _told_worse(
    episode: Episode, spells: Sequence[Episode], snapshot: Snapshot, mails: Collection[MailRecord]
) -> str | None:
    """The rule that whoever heard in this period that the limit is reached does not hear that it is near."""
    worse = {one.id for one in spells if one.kind is Situation.SPENDING_LIMIT_REACHED and one.anchor == episode.anchor}
    heard = any(
        mail.episode_id in worse and mail.state in _LEFT and mail.customer_key == snapshot.customer_ext_id
        for mail in mails
    )
    return LIMIT_TOLD if heard else None


def _news(current: Episode | None, situation: Situation, snapshot: Snapshot, usage: Usage) -> Change:
    # never None, which says "first seen so"
    before = Situation.HEALTHY if current is None else current.kind
    figures = f"{usage.used_usd:f}/{limit_of(snapshot, usage):f}"
    return Change(situation.value, before.value, figures)


def _anchor(usage: Usage) -> str:
    return usage.period.isoformat()
