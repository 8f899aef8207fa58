"""Events and episodes: what happened to a subscription, and the spells it went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Select, and_, distinct, func, insert, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import NotificationState, Situation, Track
from monitor.domain.records import Episode
from monitor.store.inserting import insert_into
from monitor.store.schema import batches, episodes, events, notifications

_EPISODE = tuple(f.name for f in fields(Episode))


async def append_events(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write events. A second one of the same (subscription, seq) is an error: the row lock was not held."""
    if rows:
        await conn.execute(insert(events), list(rows))


async def episodes_of(conn: AsyncConnection, subscription_ids: Sequence[int]) -> dict[int, list[Episode]]:
    """All episodes of these subscriptions, open and closed, oldest first."""
    if not subscription_ids:
        return {}
    statement = (
        select(episodes.c.subscription_id, *(episodes.c[name] for name in _EPISODE))
        .where(episodes.c.subscription_id.in_(list(subscription_ids)))
        .order_by(episodes.c.opened_at)
    )
    found: dict[int, list[Episode]] = {}
    for row in await conn.execute(statement):
        found.setdefault(row.subscription_id, []).append(read_episode(row._mapping))
    return found


def read_episode(values: Mapping[Any, Any]) -> Episode:
    """An episode in our words."""
    made = {name: values[name] for name in _EPISODE}
    return Episode(**{**made, "kind": Situation(made["kind"]), "track": Track(made["track"])})


async def close_episodes(conn: AsyncConnection, closing: Sequence[tuple[str, str]], now: datetime) -> None:
    """Close each (episode, reason)."""
    for episode_id, reason in closing:
        await conn.execute(
            update(episodes)
            .where(episodes.c.id == episode_id, episodes.c.closed_at.is_(None))
            .values(closed_at=now, close_reason=reason, next_step_at=None),
        )


async def write_episodes(conn: AsyncConnection, account_id: int, rows: Sequence[tuple[int, int, str, Episode]]) -> None:
    """Insert or bring up to date (subscription id, opening seq, campaign hash, episode); also reopens."""
    if not rows:
        return
    values = [
        {
            "account_id": account_id,
            "subscription_id": subscription_id,
            "opened_seq": seq,
            "campaign_hash": campaign_hash,
            **{name: getattr(episode, name) for name in _EPISODE},
        }
        for subscription_id, seq, campaign_hash, episode in rows
    ]
    statement = insert_into(conn, episodes)
    moving = ("deadline_at", "evidence_at", "muted", "next_step_at", "closed_at", "close_reason")
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={name: statement.excluded[name] for name in moving}
        ),
        values,
    )


async def steps_due(conn: AsyncConnection, account_id: int, now: datetime, limit: int, after: int) -> list[int]:
    """Row ids, beyond `after`, of the subscriptions with an open episode whose next step has come due."""
    statement = (
        select(episodes.c.subscription_id)
        .distinct()
        .where(
            episodes.c.account_id == account_id,
            episodes.c.closed_at.is_(None),
            episodes.c.next_step_at <= now,
            episodes.c.subscription_id > after,
        )
        .order_by(episodes.c.subscription_id)
        .limit(limit)
    )
    return list((await conn.execute(statement)).scalars())


async def muted_open(conn: AsyncConnection, account_id: int, kind: str | None) -> list[tuple[int, str]]:
    """(subscription id, episode id) of the open episodes that the baseline muted."""
    statement = select(episodes.c.subscription_id, episodes.c.id).where(
        episodes.c.account_id == account_id, episodes.c.closed_at.is_(None), episodes.c.muted.is_not(None)
    )
    if kind is not None:
        statement = statement.where(episodes.c.kind == kind)
    return [(row.subscription_id, row.id) for row in await conn.execute(statement.order_by(episodes.c.subscription_id))]


async def unmute(conn: AsyncConnection, episode_ids: Sequence[str], now: datetime) -> None:
    """Lift the mute and have their steps planned at `now`."""
    if episode_ids:
        await conn.execute(
            update(episodes).where(episodes.c.id.in_(list(episode_ids))).values(muted=None, next_step_at=now),
        )


def approved_mails(account_id: int, column: Column[int]) -> Select[Any]:
    """`column` of the mails that an operator approved, where it holds anything: "not in" with a NULL is never true."""
    # a reason: the guard held it. Of a batch that was always open, a person decided about single mails only
    taken = and_(batches.c.decided_at.is_not(None), batches.c.state == "open", batches.c.reason.is_not(None))
    return (
        select(column)
        .join(batches, batches.c.id == notifications.c.batch_id)
        .where(batches.c.account_id == account_id, or_(taken, batches.c.origin == "adopt"), column.is_not(None))
    )


async def touched_by_class(conn: AsyncConnection, account_id: int, since: datetime) -> dict[str, int]:
    """Distinct subscriptions by class of what happened after `since`, all sources, minus those an operator approved.

    An event touches, and so does the first mail of an episode, which may come due days after its event. An approved
    batch is a decision already taken, and so is an adoption of what is known since the baseline: neither must hold the
    next batch.
    """
    happened = select(events.c.kind, events.c.subscription_id).where(
        events.c.account_id == account_id,
        events.c.at > since,
        events.c.kind.in_([situation.value for situation in Situation]),
    )
    touched = union_all(happened, _first_mails(account_id, since)).subquery("touched")
    approved = approved_mails(account_id, notifications.c.subscription_id)
    muted = select(episodes.c.subscription_id).where(
        episodes.c.account_id == account_id, episodes.c.muted.is_not(None), episodes.c.closed_at.is_(None)
    )
    statement = (
        select(touched.c.kind, func.count(distinct(touched.c.subscription_id)))
        .where(touched.c.subscription_id.not_in(approved), touched.c.subscription_id.not_in(muted))
        .group_by(touched.c.kind)
    )
    return {row[0]: int(row[1]) for row in await conn.execute(statement)}


def _first_mails(account_id: int, since: datetime) -> Select[Any]:
    """(class, subscription id) of the mails judged after `since` or now, in whose episodes none had left before."""
    n, other = notifications.c, notifications.alias().c
    recent = select(batches.c.id).where(
        batches.c.account_id == account_id, or_(batches.c.closed_at.is_(None), batches.c.closed_at > since)
    )
    left = select(other.id).where(other.episode_id == n.episode_id, other.id != n.id, other.sent_at.is_not(None))
    return (
        select(episodes.c.kind, n.subscription_id)
        .join(episodes, episodes.c.id == n.episode_id)
        .where(n.batch_id.in_(recent), n.state != NotificationState.VOIDED, ~left.exists())
    )
