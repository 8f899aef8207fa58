"""The episodes of one subscription, each with every step of its campaign and why it went or did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from monitor.domain.campaign import RECOVERED, Step, campaign_for
from monitor.domain.classify import classify
from monitor.domain.model import CancelReason, Situation
from monitor.domain.spending import SPENDING
from monitor.domain.words import ENDINGS, moment, name_of
from monitor.store.subscriptions import StoredSubscription
from monitor.usecases.telling import Mail, Told, quoted

_WITH_REASON = frozenset({Situation.CANCELLED, Situation.STOPPED})


@dataclass(frozen=True, slots=True)
class StepTold:
    """One step. `outcome` is a state of the outbox, or without a row: not_due, due, never_due, no_all_clear."""

    step: str
    kind: str
    outcome: str
    sentence: str
    because: str = ""
    rule: str | None = None
    why: str | None = None
    notification: str | None = None
    at: datetime | None = None
    message_id: str | None = None
    reply: str | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Spell:
    """An episode as it was known."""

    id: str
    kind: str
    opened_at: datetime
    found_at: datetime
    deadline_at: datetime | None
    closed_at: datetime | None
    close_reason: str | None
    muted: bool
    because: str
    """Why its mails go: what, since when, until when."""
    steps: tuple[StepTold, ...]

    @property
    def open(self) -> bool:
        """Not ended yet."""
        return self.closed_at is None

    @property
    def beside(self) -> bool:
        """It runs on a track of its own beside billing: a spending limit."""
        return self.kind in SPENDING


def tell_spells(
    episodes: Sequence[Any],
    events: Sequence[Any],
    mails: Sequence[tuple[Mail, Told]],
    stored: StoredSubscription,
    zone: ZoneInfo,
    *,
    now: datetime,
    known_at: datetime | None,
) -> tuple[Spell, ...]:
    """The episodes that were known by `known_at` (None: by now), newest first."""
    at = known_at or now
    seen = {row.seq: row for row in events}
    spells = []
    for row in episodes:
        opening = seen.get(row.opened_seq)
        if opening is None:
            continue  # found later than the instant that was asked for
        ended = row.closed_at is not None and row.closed_at <= at
        own = [pair for pair in mails if pair[0].row.episode_id == row.id]
        steps = [_told_step(told, _because(row, zone) if told.state == "sent" else "") for _, told in own]
        steps += _missing(row, own, _variant(row, opening, own, stored, at), zone, stored, at, ended=ended)
        spells.append(
            Spell(
                id=row.id,
                kind=row.kind,
                opened_at=row.opened_at,
                found_at=opening.at,
                deadline_at=row.deadline_at,
                closed_at=row.closed_at if ended else None,
                close_reason=row.close_reason if ended else None,
                muted=row.muted is not None,
                because=_because(row, zone),
                steps=tuple(steps),
            ),
        )
    return tuple(sorted(spells, key=lambda spell: spell.found_at, reverse=True))


def _because(row: Any, zone: ZoneInfo) -> str:
    until = f", deadline {moment(row.deadline_at, zone)}" if row.deadline_at is not None else ""
    return f"{name_of(row.kind)} since {moment(row.opened_at, zone)}{until}"


def _told_step(told: Told, because: str) -> StepTold:
    return StepTold(
        told.step,
        told.kind,
        told.state,
        told.sentence,
        told.because or because,
        told.rule,
        told.why,
        told.id,
        told.at,
        told.message_id,
        told.reply,
        told.command,
    )


def _variant(row: Any, opening: Any, own: Sequence[tuple[Mail, Told]], stored: StoredSubscription, at: datetime) -> str:
    """Which row of the campaigns this episode runs through, as far as the ledger tells."""
    kind = Situation(row.kind)
    after = classify(stored.snapshot, stored.told, at)
    if row.closed_at is None and after.situation is kind:
        return after.variant
    mailed = [mail.row.variant for mail, _ in own if mail.row.step != RECOVERED]
    if mailed:
        return str(mailed[-1])
    if kind is Situation.PAYMENT_FAILED:
        return opening.cause or "unknown"
    if kind in _WITH_REASON:
        return (stored.snapshot.cancel_reason or CancelReason.UNKNOWN).value
    return row.variant or ("allowance" if kind is Situation.LOW_ON_FUNDS else "")


def _missing(
    row: Any,
    own: Sequence[tuple[Mail, Told]],
    variant: str,
    zone: ZoneInfo,
    stored: StoredSubscription,
    at: datetime,
    *,
    ended: bool,
) -> list[StepTold]:
    """The steps that have no row in the outbox: not due yet, or never."""
    planned = {mail.row.step for mail, _ in own}
    campaign = campaign_for(Situation(row.kind), variant)
    if campaign is None:
        return []
    steps = [
        _without_row(row, campaign.kind.value, step, zone, stored, at, ended=ended)
        for step in campaign.steps
        if step.name not in planned
    ]
    if ended and RECOVERED not in planned:
        steps += _no_all_clear(row, own)
    return steps


def _without_row(
    row: Any, kind: str, step: Step, zone: ZoneInfo, stored: StoredSubscription, at: datetime, *, ended: bool
) -> StepTold:
    due_at = step.due_at(row.opened_at, row.deadline_at, stored.snapshot.failed_attempts)
    name, due = quoted(kind, step.name), moment(due_at, zone)
    if ended:
        ending = ENDINGS.get(row.close_reason, row.close_reason)
        because = f"it would have come due {due}; the episode ended {moment(row.closed_at, zone)}: {ending}"
        return StepTold(step.name, kind, "never_due", f"Not sent, never due: {name}", because, "never_due")
    if due_at > at:
        return StepTold(step.name, kind, "not_due", f"Not yet: {name} comes due {due}, if it is still true then")
    return StepTold(step.name, kind, "due", f"Not yet: {name} is due since {due}; the next run or delivery plans it")


def _no_all_clear(row: Any, own: Sequence[tuple[Mail, Told]]) -> list[StepTold]:
    """Why an episode that ended well was not followed by an all-clear."""
    if row.close_reason not in {"recovered", "healed"}:
        return []
    warned = any(told.state == "sent" for _, told in own)
    if not warned:
        because = "no warning of this episode was delivered, so there is no worry to end"
    elif row.close_reason == "healed":
        because = "no paid bill and no raised allowance proves the recovery"
    else:
        because = "the warning was too long ago"
    return [StepTold(RECOVERED, RECOVERED, "no_all_clear", 'Not sent: "all clear"', because, "no_all_clear")]
