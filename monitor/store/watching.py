"""What a watchman asks of the ledger: which runs there were, what waits, who cannot be reached. Only selects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.guard import Rule
from monitor.domain.model import BatchState, NotificationState, RunState, Track
from monitor.store.outbox import in_states
from monitor.store.schema import accounts, batches, customers, episodes, notifications, runs, subscriptions

S = NotificationState
_ENDED = (RunState.COMPLETE, RunState.PARTIAL, RunState.HELD)
_WHOLE = (RunState.COMPLETE, RunState.HELD)
HELD_IN_OPEN = timedelta(days=30)
UNREACHED = ("no_address", "no_customer", "unmailable", "suppressed", "customer_deleted", "erased", "refused")


@dataclass(frozen=True, slots=True)
class RunsSeen:
    """What is known of an account's runs. `last_slot` is the newest scheduled day that has its run."""

    last_slot: date | None = None
    newest: RunState | None = None
    newest_ended_at: datetime | None = None
    whole_at: datetime | None = None
    """When a run last read everything."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in an account's outbox."""

    ready: int
    oldest_at: datetime | None
    held_batches: int


async def runs_seen(conn: AsyncConnection, account_id: int) -> RunsSeen:
    """The account's runs; one that is going on, or was killed, does not count yet."""
    mine = runs.c.account_id == account_id
    slot = (await conn.execute(select(func.max(runs.c.slot)).where(mine, runs.c.state.in_(_ENDED)))).scalar_one()
    newest = (
        await conn.execute(
            select(runs.c.state, runs.c.ended_at)
            .where(mine, runs.c.state.in_(_ENDED))
            .order_by(runs.c.id.desc())
            .limit(1)
        )
    ).one_or_none()
    whole = (
        await conn.execute(
            select(runs.c.ended_at).where(mine, runs.c.state.in_(_WHOLE)).order_by(runs.c.id.desc()).limit(1)
        )
    ).scalar_one_or_none()
    return RunsSeen(
        last_slot=None if slot is None else date.fromisoformat(slot),
        newest=None if newest is None else RunState(newest.state),
        newest_ended_at=None if newest is None else newest.ended_at,
        whole_at=whole,
    )


async def waiting_now(conn: AsyncConnection, account_id: int, now: datetime) -> Waiting:
    """What may leave now and has not, and what waits for a person."""
    n = notifications.c
    ready = (
        await conn.execute(
            select(func.count(), func.min(n.next_try_at))
            .join(batches, batches.c.id == n.batch_id)
            .where(
                n.account_id == account_id,
                in_states(S.READY, S.AMBIGUOUS),
                n.next_try_at <= now,
                batches.c.state == BatchState.OPEN,
            )
        )
    ).one()
    held = (
        await conn.execute(
            select(func.count())
            .select_from(batches)
            .where(
                batches.c.account_id == account_id,
                or_(
                    batches.c.state == BatchState.HELD,
                    # single mails of an open batch may be held too; none of an old one can still be of use
                    (batches.c.state == BatchState.OPEN) & (batches.c.opened_at > now - HELD_IN_OPEN),
                ),
                or_(
                    select(n.id).where(n.batch_id == batches.c.id, n.state == S.HELD).correlate(batches).exists(),
                    # an empty one that doubts the database: no mail leaves at all until somebody accepts it
                    (batches.c.state == BatchState.HELD) & batches.c.reason.contains(f'"{Rule.RESTORED}"'),
                ),
            )
        )
    ).scalar_one()
    return Waiting(int(ready[0]), ready[1], int(held))


async def most_pressing(conn: AsyncConnection, now: datetime) -> dict[str, int]:
    """The rank of the most pressing mail that may leave, by account; accounts with none are not in it."""
    n = notifications.c
    statement = (
        select(accounts.c.name, func.min(n.rank))
        .join(accounts, accounts.c.id == n.account_id)
        .where(in_states(S.READY, S.AMBIGUOUS), n.next_try_at <= now)
        .group_by(accounts.c.name)
    )
    return {row[0]: int(row[1]) for row in await conn.execute(statement)}


async def unreachable(
    conn: AsyncConnection, account_id: int, now: datetime, until: datetime
) -> list[tuple[str, str | None, datetime, str]]:
    """(subscription, its reference, deadline, rule) of open episodes that end by `until` and could not be mailed.

    Whoever got any mail of the episode counts as reached.
    """
    n, e, s = notifications.c, episodes.c, subscriptions.c
    reached = (
        select(n.id).where(n.episode_id == e.id, n.state.in_((S.SENT, S.UNSETTLED, S.IN_DATA))).correlate(episodes)
    )
    statement = (
        select(s.ext_id, func.coalesce(s.reference, customers.c.reference), e.deadline_at, func.min(n.reason))
        .select_from(notifications)
        .join(episodes, e.id == n.episode_id)
        .join(subscriptions, s.id == e.subscription_id)
        .outerjoin(customers, customers.c.id == s.customer_id)
        .where(
            e.account_id == account_id,
            e.track == Track.BILLING,  # the end of a spending period loses nobody
            e.closed_at.is_(None),
            e.muted.is_(None),
            e.deadline_at > now,
            e.deadline_at <= until,
            n.state.in_((S.VOIDED, S.FAILED)),
            n.reason.in_(UNREACHED),
            ~reached.exists(),
        )
        .group_by(s.ext_id, s.reference, customers.c.reference, e.deadline_at)
        .order_by(e.deadline_at, s.ext_id)
    )
    return [(row[0], row[1], row[2], row[3]) for row in await conn.execute(statement)]
