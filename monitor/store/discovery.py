"""Ids of subscriptions that no list shows: where they were found, which are to be read, and in what order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Situation, Status
from monitor.store.bulk import one_of
from monitor.store.inserting import insert_into
from monitor.store.schema import discovered, facts, subscriptions

SOON = timedelta(days=3)
"""A bill within so long makes a subscription urgent to read."""
DOUBTED_AT, DOUBTED_FOR = 3, timedelta(days=7)
"""An id that never existed for the API so many times is asked for only once in so long."""
_AT_ONCE = 500
_TROUBLE = tuple(
    one.value
    for one in Situation
    if one not in {Situation.HEALTHY, Situation.CANCELLED, Situation.STOPPED, Situation.PAUSED}
)


class FoundIn(StrEnum):
    """Where an id was found."""

    PAYMENTS = "payments"
    WEBHOOK = "webhook"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Target:
    """One known id to read. `row_id` None: never read before. `gone_seen`: how many runs have met a 404."""

    ext_id: str
    row_id: int | None = None
    gone_seen: int = 0


async def add_discovered(
    conn: AsyncConnection, account_id: int, ext_ids: Iterable[str], source: FoundIn, now: datetime
) -> int:
    """Remember these ids; returns how many nobody knew, neither as a subscription nor as an id found before."""
    wanted = list(dict.fromkeys(ext_ids))
    new = 0
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        stored = select(subscriptions.c.ext_id).where(
            subscriptions.c.account_id == account_id, subscriptions.c.ext_id.in_(some)
        )
        known = set((await conn.execute(stored)).scalars())
        rows = [
            {"account_id": account_id, "ext_id": ext_id, "source": source, "found_at": now}
            for ext_id in some
            if ext_id not in known
        ]
        if rows:
            statement = insert_into(conn, discovered).on_conflict_do_nothing(index_elements=["account_id", "ext_id"])
            new += len((await conn.execute(statement.returning(discovered.c.id), rows)).all())
    return new


async def told_of_strangers(conn: AsyncConnection, account_id: int) -> list[str]:
    """Ids that facts name and no subscription has."""
    f, s = facts.c, subscriptions.c
    statement = (
        select(f.ext_sub_id)
        .where(f.account_id == account_id, f.done_at.is_(None), f.ext_sub_id.is_not(None))
        .where(~exists().where(s.account_id == f.account_id, s.ext_id == f.ext_sub_id))
        .distinct()
    )
    return [str(ext_id) for ext_id in (await conn.execute(statement)).scalars()]


async def targets(conn: AsyncConnection, account_id: int, now: datetime) -> list[Target]:
    """Every id to read, the most urgent first: in trouble, billed soon, never read, then the longest unseen.

    What was gone twice comes last. The cancelled are left out: that is final (contract v1, section 4). So are, for a
    week at a time, ids that the API never knew.
    """
    s = subscriptions.c
    rank = case(
        (s.gone_seen >= 2, 4),
        (s.situation.in_(_TROUBLE), 0),
        (s.next_billing_at <= now + SOON, 1),
        else_=3,
    )
    statement = (
        select(s.ext_id, s.id, s.gone_seen, rank.label("rank"))
        .where(s.account_id == account_id, s.status != Status.CANCELLED)
        .order_by(rank, s.asked_at, s.id)
    )
    known = [(row.rank, Target(row.ext_id, row.id, row.gone_seen)) for row in await conn.execute(statement)]
    strangers = [(2, Target(ext_id)) for ext_id in await _strangers(conn, account_id, now)]
    return [target for _, target in sorted([*known, *strangers], key=lambda one: one[0])]


async def untried(conn: AsyncConnection, account_id: int) -> int:
    """How many ids were found and never asked for."""
    d = discovered.c
    statement = select(func.count()).where(d.account_id == account_id, d.tried_at.is_(None), _without_row())
    return int((await conn.execute(statement)).scalar_one())


async def note_tried(conn: AsyncConnection, account_id: int, ext_ids: Sequence[str], now: datetime) -> None:
    """The API knew none of these, or what it said of them could not be read."""
    if ext_ids:
        d = discovered.c
        await conn.execute(
            update(discovered)
            .where(d.account_id == account_id, d.ext_id.in_(list(ext_ids)))
            .values(misses=d.misses + 1, tried_at=now)
        )


async def lock_rows(conn: AsyncConnection, row_ids: Collection[int]) -> None:
    """Hold these rows until the end of the transaction, in the order of their ids, as everybody does.

    Who locks some of them first and the others later waits in a circle with a webhook that tells of both.
    """
    if row_ids:
        s = subscriptions.c
        held = select(s.id).where(one_of(conn, s.id, row_ids)).order_by(s.id).with_for_update(key_share=True)
        await conn.execute(held)


async def note_read(conn: AsyncConnection, row_ids: Sequence[int], asked_at: datetime) -> None:
    """These rows were read again at `asked_at` and are not gone; rows that were read later stay as they are."""
    if row_ids:
        s = subscriptions.c
        await conn.execute(
            update(subscriptions)
            .where(s.id.in_(list(row_ids)), s.asked_at <= asked_at)
            .values(asked_at=asked_at, gone_seen=0)
        )


async def _strangers(conn: AsyncConnection, account_id: int, now: datetime) -> list[str]:
    d = discovered.c
    statement = (
        select(d.ext_id)
        .where(d.account_id == account_id, _without_row())
        .where(or_(d.misses < DOUBTED_AT, d.tried_at.is_(None), d.tried_at <= now - DOUBTED_FOR))
        .order_by(d.misses, d.id)
    )
    return list((await conn.execute(statement)).scalars())


def _without_row() -> ColumnElement[bool]:
    s = subscriptions.c
    return ~exists().where(and_(s.account_id == discovered.c.account_id, s.ext_id == discovered.c.ext_id))
