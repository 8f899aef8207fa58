"""Which subscriptions are to be read again, because a webhook or the event log told something about them.

`facts.ask_at` is when; whoever reads moves it on as a lease, so that a reader that dies holds nothing up for long. A
fact is answered by any reading that began after it was stored, and "after" is told by row ids: no clock is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Source
from monitor.store.schema import accounts, facts

_FACTS_EACH = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """One subscription, or payment, to read again. `source`: who asked for it first."""

    ext_id: str
    source: Source
    tries: int
    payment: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What one reader took. `upto`: facts stored later are not answered by it. `more`: others wait."""

    asks: tuple[Ask, ...]
    upto: int
    more: bool


async def newest_fact(conn: AsyncConnection, account_id: int) -> int:
    """The row id of the newest fact; 0 for none."""
    statement = select(func.coalesce(func.max(facts.c.id), 0)).where(facts.c.account_id == account_id)
    return int((await conn.execute(statement)).scalar_one())


async def accounts_asking(conn: AsyncConnection, now: datetime) -> set[str]:
    """The names of the accounts that have something to be read now."""
    waiting = exists().where(facts.c.account_id == accounts.c.id, facts.c.ask_at <= now)
    return set((await conn.execute(select(accounts.c.name).where(waiting))).scalars())


async def take_asks(conn: AsyncConnection, account_id: int, now: datetime, until: datetime, limit: int) -> Asked:
    """Take up to `limit` subscriptions whose time has come, the oldest question first.

    Nobody else gets them before `until`. Several facts about one subscription are one question.
    """
    due = (
        select(facts.c.id, facts.c.ext_sub_id, facts.c.source, facts.c.tries, facts.c.payment)
        .where(facts.c.account_id == account_id, facts.c.ask_at <= now)
        .order_by(facts.c.id)
        .limit(limit * _FACTS_EACH)
        .with_for_update(skip_locked=True)
    )
    rows = (await conn.execute(due)).all()
    asks: dict[str, Ask] = {}
    taken: list[int] = []
    for row in rows:
        if row.ext_sub_id not in asks and len(asks) == limit:
            continue
        first = asks.setdefault(row.ext_sub_id, Ask(row.ext_sub_id, Source(row.source), row.tries, row.payment))
        if row.tries > first.tries:
            asks[row.ext_sub_id] = replace(first, tries=row.tries)
        taken.append(row.id)
    if taken:
        await conn.execute(update(facts).where(facts.c.id.in_(taken)).values(ask_at=until))
    more = len(taken) < len(rows) or len(rows) == limit * _FACTS_EACH
    return Asked(tuple(asks.values()), await newest_fact(conn, account_id), more)


async def answer_asks(conn: AsyncConnection, account_id: int, ext_ids: Collection[str], upto: int) -> None:
    """These subscriptions were read after the fact `upto` was stored."""
    ids = await _concerned(conn, account_id, ext_ids, upto)
    if ids:
        await conn.execute(update(facts).where(facts.c.id.in_(ids)).values(ask_at=None))


async def answer_all(conn: AsyncConnection, account_id: int, upto: int) -> None:
    """Every subscription was read after the fact `upto` was stored. What a reader is busy with is left to it."""
    waiting = (
        select(facts.c.id)
        .where(facts.c.account_id == account_id, facts.c.ask_at.is_not(None), facts.c.id <= upto)
        .where(facts.c.payment.is_(False))
        .with_for_update(skip_locked=True)
    )
    await conn.execute(update(facts).where(facts.c.id.in_(waiting)).values(ask_at=None))


async def postpone_asks(
    conn: AsyncConnection, account_id: int, again: Mapping[str, datetime | None], upto: int, now: datetime
) -> None:
    """These could not be read: ask again then; None: never, and what was told about them ends with it."""
    for ext_id, again_at in sorted(again.items()):
        ids = await _concerned(conn, account_id, [ext_id], upto)
        values = {"ask_at": again_at} if again_at is not None else {"ask_at": None, "done_at": now}
        await conn.execute(update(facts).where(facts.c.id.in_(ids)).values(tries=facts.c.tries + 1, **values))


async def _concerned(conn: AsyncConnection, account_id: int, ext_ids: Collection[str], upto: int) -> list[int]:
    """Row ids of open questions about these, locked in the order of their ids."""
    statement = (
        select(facts.c.id)
        .where(
            facts.c.account_id == account_id,
            facts.c.ask_at.is_not(None),
            facts.c.ext_sub_id.in_(list(ext_ids)),
            facts.c.id <= upto,
        )
        .order_by(facts.c.id)
        .with_for_update()
    )
    return list((await conn.execute(statement)).scalars())
