"""Facts: what webhooks and the event log told, once each; and the rows that could not be read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BadRow, Fact, Source
from monitor.store.bulk import one_of
from monitor.store.inserting import insert_into
from monitor.store.schema import facts, quarantine, subscriptions

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Fact).decode


async def insert_facts(
    conn: AsyncConnection,
    account_id: int,
    seen: Sequence[Fact],
    now: datetime,
    *,
    source: Source = Source.LOG,
    ask: bool = True,
) -> list[str]:
    """Store facts that are new; returns their keys. The vendor's id makes one fact one row, whoever brings it first.

    `ask`: the subscriptions they are about are to be read again. One about no subscription has nothing to wait for, and
    one about a payment nothing to be folded into: it is read again, and that is all.
    In the order of the keys: two workers that bring the same facts never wait for one another in a circle.
    """
    rows = [
        {
            "account_id": account_id,
            "dedupe_key": fact.dedupe_key,
            "kind": fact.kind,
            "ext_sub_id": fact.subscription_ext_id,
            "payment": fact.payment,
            "source": source,
            "body": _encode(asdict(fact)).decode(),
            "received_at": now,
            "done_at": now if fact.subscription_ext_id is None or fact.payment else None,
            "ask_at": now if ask and fact.subscription_ext_id is not None else None,
        }
        for fact in sorted(seen, key=lambda one: one.dedupe_key)
    ]
    if not rows:
        return []
    statement = insert_into(conn, facts).on_conflict_do_nothing(index_elements=["account_id", "dedupe_key"])
    return list((await conn.execute(statement.returning(facts.c.dedupe_key), rows)).scalars())


async def open_facts(
    conn: AsyncConnection,
    account_id: int,
    ext_ids: Collection[str] | None = None,
    *,
    known_only: bool = False,
    limit: int | None = None,
) -> list[tuple[int, Fact]]:
    """(row id, fact) not folded into a subscription yet; with `known_only` those whose subscription is stored."""
    statement = (
        select(facts.c.id, facts.c.body)
        .where(facts.c.account_id == account_id, facts.c.done_at.is_(None), facts.c.ext_sub_id.is_not(None))
        .order_by(facts.c.id)
    )
    if known_only:
        statement = statement.join(
            subscriptions,
            (subscriptions.c.account_id == facts.c.account_id) & (subscriptions.c.ext_id == facts.c.ext_sub_id),
        )
    if limit is not None:
        statement = statement.limit(limit)
    if ext_ids is not None:
        statement = statement.where(one_of(conn, facts.c.ext_sub_id, ext_ids))
    return [(row.id, _decode(row.body)) for row in await conn.execute(statement)]


async def finish_facts(conn: AsyncConnection, ids: Sequence[int], now: datetime) -> None:
    """These facts are folded in."""
    if ids:
        await conn.execute(update(facts).where(facts.c.id.in_(list(ids))).values(done_at=now))


async def put_in_quarantine(conn: AsyncConnection, account_id: int, rows: Sequence[BadRow], now: datetime) -> set[str]:
    """Keep rows that could not be read; returns the hashes of those never seen before."""
    if not rows:
        return set()
    hashes = {sha256(row.raw).hexdigest(): row for row in rows}
    statement = select(quarantine.c.raw_hash).where(
        quarantine.c.account_id == account_id, quarantine.c.raw_hash.in_(list(hashes))
    )
    old = set((await conn.execute(statement)).scalars())
    insert = insert_into(conn, quarantine)
    await conn.execute(
        insert.on_conflict_do_update(
            index_elements=["account_id", "raw_hash"],
            set_={"last_at": insert.excluded.last_at, "reason": insert.excluded.reason},
        ),
        [
            {
                "account_id": account_id,
                "ext_id": row.ext_id,
                "raw_hash": digest,
                "raw": row.raw,
                "reason": row.reason,
                "first_at": now,
                "last_at": now,
            }
            for digest, row in sorted(hashes.items())  # two workers never wait for one another in a circle
        ],
    )
    return set(hashes) - old
