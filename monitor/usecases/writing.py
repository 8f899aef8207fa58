"""Write judged rows in bulk: subscriptions, events, episodes and notifications of one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.campaign import Campaign, campaign_for
from monitor.domain.decide import Decision
from monitor.domain.intents import Intent
from monitor.domain.model import NotificationState, Snapshot, Source, Told
from monitor.domain.notices import Notice
from monitor.domain.records import Episode
from monitor.domain.value import value
from monitor.store.ledger import append_events, close_episodes, write_episodes
from monitor.store.notices import stage_notices
from monitor.store.outbox import restage, stage, void_episodes
from monitor.store.subscriptions import StoredSubscription, snapshot_values, told_values, update_subscriptions

OPERATOR_DECIDES = "operator_decides"
_READ = ("customer_id", "asked_at", "state_hash", "raw_mark", "raw")
_JUDGED = ("situation", "cause", "next_look_at", "seq")
NEW_COLUMNS = ("first_asked_at", *_READ, *_JUDGED)
"""The columns of a new row beside those of its snapshot and of what was told."""


@dataclass(frozen=True, slots=True)
class Pen:
    """What every row of a transaction is signed with."""

    now: datetime
    source: Source
    batch_id: int
    run_id: int | None = None


@value(frozen=True, slots=True)
class Judged:
    """One row, what was decided about it, and what there was before. `raw` None: judged without being read again."""

    before: StoredSubscription | None
    snapshot: Snapshot
    told: Told
    decision: Decision
    asked_at: datetime
    state_hash: bytes
    raw: bytes | None
    customer_id: int | None
    raw_mark: bytes | None = None

    def new_row(self) -> tuple[Snapshot, Told, tuple[Any, ...]]:
        """The row of a subscription seen for the first time: what was seen, what was told, and `NEW_COLUMNS`."""
        return self.snapshot, self.told, (self.asked_at, *self._reading(), *self._judgement())

    def changed_row(self, row_id: int) -> dict[str, Any]:
        """The new values of a known row."""
        return {
            "row_id": row_id,
            **snapshot_values(self.snapshot),
            **told_values(self.told),
            **dict(zip((*_READ, *_JUDGED), (*self._reading(), *self._judgement()), strict=True)),
            "gone_seen": 0,
        }

    def judged_row(self, row_id: int) -> dict[str, Any]:
        """The new values of a row that was judged again, not read again."""
        return {"row_id": row_id, **dict(zip(_JUDGED, self._judgement(), strict=True))}

    def _reading(self) -> tuple[Any, ...]:
        raw = None if self.raw is None else self.raw.decode("utf-8", "backslashreplace")
        return self.customer_id, self.asked_at, self.state_hash, self.raw_mark, raw

    def _judgement(self) -> tuple[Any, ...]:
        after = self.decision.after
        seq = self.first_seq + len(self.decision.happened) - 1
        return after.situation, after.cause, self.decision.next_look_at, seq

    @property
    def first_seq(self) -> int:
        """The number of the first event this causes."""
        return 1 if self.before is None else self.before.seq + 1


async def write_judged(
    conn: AsyncConnection, account_id: int, judged: Sequence[Judged], ids: Mapping[str, int], pen: Pen
) -> tuple[int, int, int]:
    """Write them; `ids` has the row id of each. Returns (events, staged, voided)."""
    known = [one for one in judged if one.before is not None]
    await update_subscriptions(
        conn, [one.changed_row(ids[one.snapshot.ext_id]) for one in known if one.raw is not None]
    )
    await update_subscriptions(conn, [one.judged_row(ids[one.snapshot.ext_id]) for one in known if one.raw is None])
    events = [row for one in judged for row in _event_rows(account_id, one, ids[one.snapshot.ext_id], pen)]
    await append_events(conn, events)
    closing = [(episode.id, reason) for one in judged for episode, reason in one.decision.ends]
    await close_episodes(conn, closing, pen.now)
    voided = await void_episodes(conn, closing)
    await write_episodes(conn, account_id, [row for one in judged for row in _episode_rows(one, ids)])
    staged = silent = 0
    rows = []
    for one in judged:
        for intent in one.decision.intents:
            if intent.revives:
                staged += await _revive(conn, intent, pen)
                continue
            rows.append(_notification_row(account_id, ids[one.snapshot.ext_id], intent, pen))
            staged += intent.void is None
            silent += intent.void is not None
    await stage(conn, rows)
    welcomes = [
        {
            **notice_row(notice, pen.batch_id, pen.now),
            "account_id": account_id,
            "subscription_id": ids[one.snapshot.ext_id],
            "variant": one.snapshot.status,
        }
        for one in judged
        if (notice := one.decision.welcome) is not None
    ]
    staged += await stage_notices(conn, welcomes)
    silent += len([row for row in welcomes if row["state"] == NotificationState.VOIDED])
    return len(events), staged, voided + silent


async def _revive(conn: AsyncConnection, intent: Intent, pen: Pen) -> int:
    return await restage(
        conn,
        intent.id,
        held_for=OPERATOR_DECIDES if intent.for_operator else None,
        batch_id=pen.batch_id,
        kind=intent.kind,
        variant=intent.variant,
        urgency=intent.urgency,
        rank=intent.urgency.rank,
        due_at=intent.due_at,
        not_after=intent.not_after,
        next_try_at=min(intent.due_at, pen.now),
    )


def _event_rows(account_id: int, one: Judged, row_id: int, pen: Pen) -> list[dict[str, Any]]:
    return [
        {
            "account_id": account_id,
            "subscription_id": row_id,
            "seq": one.first_seq + offset,
            "kind": change.kind,
            "old": change.old,
            "new": change.new,
            "cause": change.cause,
            "source": pen.source,
            "run_id": pen.run_id,
            "at": pen.now,
            "asked_at": one.asked_at,
            "evidence_at": one.snapshot.provider_updated_at,
        }
        for offset, change in enumerate(one.decision.happened)
    ]


def _episode_rows(one: Judged, ids: Mapping[str, int]) -> list[tuple[int, int, str, Episode]]:
    """The open episode of each track, with the number of the event that opened it if that was one of these."""
    decision = one.decision
    after = decision.after
    spells = (
        (decision.opens or decision.keeps, campaign_for(after.situation, after.variant), len(decision.changes)),
        (decision.spending.episode, _campaign_beside(decision), len(decision.happened)),
    )
    return [
        (
            ids[one.snapshot.ext_id],
            one.first_seq + max(0, last - 1),
            "" if campaign is None else campaign.fingerprint,
            episode,
        )
        for episode, campaign, last in spells
        if episode is not None
    ]


def _campaign_beside(decision: Decision) -> Campaign | None:
    episode = decision.spending.episode
    return None if episode is None else campaign_for(episode.kind, episode.variant)


def _notification_row(account_id: int, row_id: int, intent: Intent, pen: Pen) -> dict[str, Any]:
    state = NotificationState.STAGED
    if intent.void is not None:
        state = NotificationState.VOIDED
    elif intent.for_operator:
        state = NotificationState.HELD
    return {
        "id": intent.id,
        "account_id": account_id,
        "subscription_id": row_id,
        "episode_id": intent.episode_id,
        "step": intent.step,
        "customer_key": intent.customer_key,
        "batch_id": pen.batch_id,
        "kind": intent.kind,
        "variant": intent.variant,
        "urgency": intent.urgency,
        "rank": intent.urgency.rank,
        "state": state,
        "reason": intent.void or (OPERATOR_DECIDES if intent.for_operator else None),
        "created_at": pen.now,
        "due_at": intent.due_at,
        "not_after": intent.not_after,
        "next_try_at": min(intent.due_at, pen.now),
    }


def notice_row(notice: Notice, batch_id: int, now: datetime) -> dict[str, Any]:
    """The columns of a notice in the outbox, but for what it belongs to. It waits for its time there."""
    return {
        "id": notice.id,
        "step": notice.kind,
        "customer_key": notice.customer_key,
        "batch_id": batch_id,
        "kind": notice.kind,
        "urgency": notice.urgency,
        "rank": notice.urgency.rank,
        "state": NotificationState.STAGED if notice.void is None else NotificationState.VOIDED,
        "reason": notice.void,
        "created_at": now,
        "due_at": notice.due_at,
        "not_after": notice.not_after,
        "next_try_at": notice.due_at,
    }
