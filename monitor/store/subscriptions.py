"""Subscriptions as stored: the last snapshot of each, what we made of it, and what facts told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Row, Text, bindparam, cast, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Action, CancelReason, Cause, CustomerSeen, Situation, Snapshot, Source, Status, Told
from monitor.store.bulk import by_keys, insert_new, one_of
from monitor.store.schema import customers, events, subscriptions, usages
from monitor.store.seen import RowIds
from monitor.store.usages import USAGE_COLUMNS, read_usage

_NOT_COLUMNS = {"customer", "currency", "customer_ext_id"}
_SNAPSHOT = tuple(f.name for f in fields(Snapshot) if f.name not in _NOT_COLUMNS)
_TOLD = tuple(f.name for f in fields(Told) if f.name != "usage")
_ENUMS = {"status": Status, "action": Action, "cancel_reason": CancelReason, "failure_cause": Cause}


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """One row, read back into our words."""

    id: int
    snapshot: Snapshot
    told: Told
    situation: Situation
    cause: Cause | None
    asked_at: datetime
    seq: int
    state_hash: bytes
    gone_seen: int


class Known(NamedTuple):
    """Just enough to see whether a row changed."""

    id: int
    state_hash: bytes
    raw_mark: bytes | None


class Renewed(NamedTuple):
    """A row that was read anew and says what is stored: the mark of its bytes, and the state that they tell."""

    id: int
    state_hash: bytes
    raw_mark: bytes


async def known_rows(conn: AsyncConnection, account_id: int, ext_ids: Collection[str]) -> dict[str, Known]:
    """What is stored of these ids, without any lock."""
    s = subscriptions.c
    statement = by_keys(conn, subscriptions, account_id, ext_ids, s.ext_id, s.id, s.state_hash, s.raw_mark)
    found = (await conn.execute(statement)).all()  # at once: the driver is asked for the next row a million times less
    return {ext_id: Known(row_id, digest, mark) for ext_id, row_id, digest, mark in found}


async def load_subscriptions(
    conn: AsyncConnection,
    account_id: int,
    *,
    ext_ids: Collection[str] | None = None,
    ids: Collection[int] | None = None,
    lock: bool = False,
) -> dict[str, StoredSubscription]:
    """Stored rows by vendor id, in the order of their row ids; under row locks with `lock`."""
    statement = (
        select(
            subscriptions,
            customers.c.ext_id.label("customer_ext_id"),
            customers.c.deleted.label("customer_deleted"),
            customers.c.email.label("customer_email"),
            *USAGE_COLUMNS,
        )
        .outerjoin(customers, customers.c.id == subscriptions.c.customer_id)
        .outerjoin(usages, usages.c.subscription_id == subscriptions.c.id)
        .where(subscriptions.c.account_id + 0 == account_id)  # the sum keeps indexes of the account out: see `by_keys`
        .order_by(subscriptions.c.id)
    )
    if ext_ids is not None:
        statement = statement.where(
            subscriptions.c.id.in_(by_keys(conn, subscriptions, account_id, ext_ids, subscriptions.c.id))
        )
    if ids is not None:
        statement = statement.where(one_of(conn, subscriptions.c.id, ids))
    if lock:
        statement = statement.with_for_update(of=subscriptions)
    return {row.ext_id: read_subscription(row) for row in await conn.execute(statement)}


def read_subscription(row: Row[Any]) -> StoredSubscription:
    """A row of `subscriptions` joined with its customer's id and mark, and its usage, in our words."""
    values = row._mapping
    return StoredSubscription(
        id=values["id"],
        snapshot=Snapshot(
            **{name: _enum(name, values[name]) for name in _SNAPSHOT},
            customer_ext_id=values["customer_ext_id"],
            customer=_owner(values["customer_ext_id"], values["customer_email"], deleted=values["customer_deleted"]),
        ),
        told=Told(**{name: _enum(name, values[name]) for name in _TOLD}, usage=read_usage(values)),
        situation=Situation(values["situation"]),
        cause=None if values["cause"] is None else Cause(values["cause"]),
        asked_at=values["asked_at"],
        seq=values["seq"],
        state_hash=bytes(values["state_hash"]),
        gone_seen=values["gone_seen"],
    )


_of_snapshot = attrgetter(*_SNAPSHOT)
_of_told = attrgetter(*_TOLD)


def snapshot_values(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot's columns."""
    return dict(zip(_SNAPSHOT, _of_snapshot(snapshot), strict=True))


def told_values(told: Told) -> dict[str, Any]:
    """The columns that facts filled."""
    return dict(zip(_TOLD, _of_told(told), strict=True))


async def insert_subscriptions(
    conn: AsyncConnection,
    account_id: int,
    names: Sequence[str],
    rows: Sequence[tuple[Snapshot, Told, Sequence[Any]]],
) -> dict[str, int]:
    """Insert new rows; returns the row id of each vendor id that was inserted.

    `names` are the columns beside those of the snapshot and of what was told, and the third of each row their values.
    An id that another transaction inserted meanwhile is left out: the caller observes it again.
    """
    columns = (*_SNAPSHOT, *_TOLD, "account_id", "gone_seen", *names)
    values = [(*_of_snapshot(seen), *_of_told(told), account_id, 0, *rest) for seen, told, rest in rows]
    return await insert_new(conn, subscriptions, account_id, columns, values)


async def update_subscriptions(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share one set of columns; each has its row id as `row_id`."""
    if not rows:
        return
    columns = [name for name in rows[0] if name != "row_id"]
    statement = (
        update(subscriptions)
        .where(subscriptions.c.id == bindparam("row_id"))
        .values({name: bindparam(f"v_{name}") for name in columns})
    )
    await conn.execute(
        statement,
        [{"row_id": row["row_id"], **{f"v_{name}": row[name] for name in columns}} for row in rows],
    )


async def renew_marks(conn: AsyncConnection, rows: Sequence[Renewed]) -> None:
    """Mark these rows by their bytes, but none whose state was changed meanwhile: its bytes are others."""
    s = subscriptions.c
    statement = (
        update(subscriptions)
        .where(s.id == bindparam("row_id"), s.state_hash == bindparam("told"))
        .values(raw_mark=bindparam("mark"))
    )
    await conn.execute(statement, [{"row_id": row_id, "told": told, "mark": mark} for row_id, told, mark in rows])


async def upsert_customers(
    conn: AsyncConnection, account_id: int, seen: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Write new and changed customers; returns the row id of each vendor id.

    An empty mapping for an id means that only the id is known: it makes a row if there is none and changes nothing.
    In the order of their ids: two who write the same customers at once never wait for one another in a circle.
    """
    if not seen:
        return {}
    c = customers.c
    columns = (c.ext_id, c.id, c.erased_at, *(c[name] for name in _CUSTOMER))
    statement = by_keys(conn, customers, account_id, seen, *columns)
    ids: dict[str, int] = {}
    known = (await conn.execute(statement)).all()
    for ext_id, row_id, erased_at, *stored in sorted(known, key=itemgetter(1)):
        ids[ext_id] = row_id
        told = seen[ext_id]
        changed = {name: told[name] for name, old in zip(_CUSTOMER, stored, strict=True) if told.get(name, old) != old}
        if changed and erased_at is None:
            await conn.execute(update(customers).where(c.id == row_id).values(**changed))
    fresh = [
        (account_id, ext_id, *[values.get(name) for name in _CUSTOMER[:-1]], values.get("deleted", False))
        for ext_id, values in seen.items()
        if ext_id not in ids
    ]
    names = ("account_id", "ext_id", *_CUSTOMER)
    ids |= await insert_new(conn, customers, account_id, names, fresh)
    late = {ext_id: seen[ext_id] for ext_id in seen.keys() - ids.keys()}
    return ids | await upsert_customers(conn, account_id, late)


_CUSTOMER = ("email", "name", "last_name", "reference", "address_mac", "deleted")

_GONE = (Status.CANCELLED.value,)
_LIVING = frozenset({Status.ACTIVE.value, Status.TRIAL.value})
GONE_IS_AN_EVENT_AT = 2
_AT_ONCE = 1_000


async def count_live(conn: AsyncConnection, account_id: int) -> int:
    """How many stored subscriptions have not ended."""
    statement = select(func.count()).where(
        subscriptions.c.account_id == account_id, subscriptions.c.status.not_in(_GONE)
    )
    return int((await conn.execute(statement)).scalar_one())


async def unseen_ids(
    conn: AsyncConnection, account_id: int, seen: RowIds, created_before: datetime, *, known_before: datetime
) -> tuple[int, list[int]]:
    """(how many could be seen, row ids of those that were not) by a sweep with this bound on creation.

    Those count that have not ended, had begun before the bound, and were known before the sweep began, by the
    database's time: what it brought itself must not thin out the share of those who are missing from it.
    """
    row_id = subscriptions.c.id
    # a text of ids for a block of rows: as rows of its own, each id costs more than all that is done with it
    statement = (
        select(func.aggregate_strings(cast(row_id, Text), ","))
        .where(
            subscriptions.c.account_id == account_id,
            subscriptions.c.status.not_in(_GONE),
            subscriptions.c.first_asked_at < known_before,
            (subscriptions.c.created_at < created_before) | subscriptions.c.created_at.is_(None),
        )
        .group_by(row_id // _AT_ONCE)
    )
    live, missing = 0, []
    result = await conn.stream(statement)
    async for ids in result.scalars():  # a quarter of a million ids are never held at once
        block = list(map(int, ids.split(",")))
        live += len(block)
        missing += seen.others_of(block)
    return live, sorted(missing)


async def ext_ids_of(conn: AsyncConnection, row_ids: Sequence[int]) -> list[tuple[int, str]]:
    """(row id, vendor id) of these rows, in the order of their row ids."""
    found: list[tuple[int, str]] = []
    for start in range(0, len(row_ids), _AT_ONCE):
        some = list(row_ids[start : start + _AT_ONCE])
        statement = select(subscriptions.c.id, subscriptions.c.ext_id).where(subscriptions.c.id.in_(some))
        found += [(row.id, row.ext_id) for row in await conn.execute(statement.order_by(subscriptions.c.id))]
    return found


async def creation_cuts(conn: AsyncConnection, account_id: int, parts: int) -> list[datetime]:
    """Instants that cut the known subscriptions into `parts` slices of about equal size, oldest first."""
    if parts < 2:
        return []
    mine = (subscriptions.c.account_id == account_id) & subscriptions.c.created_at.is_not(None)
    total = int((await conn.execute(select(func.count()).select_from(subscriptions).where(mine))).scalar_one())
    place = func.row_number().over(order_by=subscriptions.c.created_at) - 1
    ordered = select(subscriptions.c.created_at, place.label("place")).where(mine).subquery()
    firsts = {total * part // parts for part in range(1, parts)}
    statement = select(ordered.c.created_at).where(ordered.c.place.in_(firsts)).distinct().order_by("created_at")
    return list((await conn.execute(statement)).scalars())


async def live_siblings(conn: AsyncConnection, account_id: int, ids: Sequence[int]) -> set[int]:
    """Which of these subscriptions have a live one of the same customer and product beside them.

    Two plain look-ups by key: as one self-join, a planner without fresh statistics walks the whole table for each row.
    """
    s = subscriptions.c
    asked = select(s.id, s.customer_id, s.product_ext_id).where(
        s.account_id == account_id, s.id.in_(list(ids)), s.customer_id.is_not(None), s.product_ext_id.is_not(None)
    )
    wanted = {row.id: (row.customer_id, row.product_ext_id) for row in await conn.execute(asked)} if ids else {}
    if not wanted:
        return set()
    # by the customer alone: with more to go by, SQLite takes the index of the status, which holds nearly all rows
    owners = {customer for customer, _ in wanted.values()}
    beside = select(s.id, s.customer_id, s.product_ext_id, s.status).where(s.customer_id.in_(owners))
    living: dict[tuple[int, str], set[int]] = {}
    for row in await conn.execute(beside):
        if row.status in _LIVING:
            living.setdefault((row.customer_id, row.product_ext_id), set()).add(row.id)
    return {row_id for row_id, whose in wanted.items() if living.get(whose, set()) - {row_id}}


async def note_gone(
    conn: AsyncConnection, account_id: int, row_id: int, *, asked_at: datetime, run_id: int, now: datetime
) -> None:
    """Count one more 404 of a known subscription; at the second, in another run, it becomes an event."""
    done = await conn.execute(
        update(subscriptions)
        .where(subscriptions.c.id == row_id)
        .values(gone_seen=subscriptions.c.gone_seen + 1)
        .returning(subscriptions.c.gone_seen, subscriptions.c.seq, subscriptions.c.situation),
    )
    row = done.one()
    if row.gone_seen != GONE_IS_AN_EVENT_AT:
        return
    await conn.execute(update(subscriptions).where(subscriptions.c.id == row_id).values(seq=row.seq + 1))
    await conn.execute(
        insert(events).values(
            account_id=account_id,
            subscription_id=row_id,
            seq=row.seq + 1,
            kind="gone",
            old=row.situation,
            new="gone",
            source=Source.PULL,
            run_id=run_id,
            at=now,
            asked_at=asked_at,
        ),
    )


async def to_look_at(conn: AsyncConnection, account_id: int, now: datetime, limit: int, after: int) -> list[int]:
    """Row ids beyond `after` whose time to be judged again has come, in order."""
    statement = (
        select(subscriptions.c.id)
        .where(
            subscriptions.c.account_id == account_id,
            subscriptions.c.next_look_at <= now,
            subscriptions.c.id > after,
        )
        .order_by(subscriptions.c.id)
        .limit(limit)
    )
    return list((await conn.execute(statement)).scalars())


def _owner(ext_id: str | None, email: str | None, *, deleted: bool | None) -> CustomerSeen | None:
    return None if ext_id is None else CustomerSeen(ext_id, email, deleted=bool(deleted))


def _enum(name: str, value: Any) -> Any:
    made = _ENUMS.get(name)
    return value if made is None or value is None else made(value)
