"""The run lock: one row a name, with a fencing token that grows with every holder.

On SQLite a `flock` on a file beside it decides (wiring), so that a killed run frees it at once; the row still gives the
token. Times are the database's, never this machine's.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.errors import FencedOffError
from monitor.store.engine import db_now
from monitor.store.inserting import insert_into
from monitor.store.schema import locks

LEASE = timedelta(seconds=60)
BEAT = timedelta(seconds=15)
RUN_LOCK = "run:"
"""The lock of a run is named so, with its account's name behind it."""


async def take_lock(conn: AsyncConnection, name: str, holder: str, *, steal: bool = False) -> int | None:
    """Take the lock and return its new token; None while another holder's lease runs.

    `steal` is for who already knows that the holder is dead (its `flock` is free).
    """
    now = await db_now(conn)
    await conn.execute(
        insert_into(conn, locks)
        .values(name=name, token=0, holder="", beat_at=now, until_at=now - LEASE)
        .on_conflict_do_nothing(index_elements=["name"]),
    )
    free = locks.c.name == name
    if not steal:
        free &= locks.c.until_at < now
    taken = await conn.execute(
        update(locks)
        .where(free)
        .values(token=locks.c.token + 1, holder=holder, beat_at=now, until_at=now + LEASE)
        .returning(locks.c.token),
    )
    token: int | None = taken.scalar_one_or_none()
    return token


async def lock_holder(conn: AsyncConnection, name: str) -> str | None:
    """Who took the lock last; None before its first use."""
    holder: str | None = (await conn.execute(select(locks.c.holder).where(locks.c.name == name))).scalar_one_or_none()
    return holder


async def beat_lock(conn: AsyncConnection, name: str, token: int) -> bool:
    """Prolong the lease; False when another holder has it by now."""
    now = await db_now(conn)
    done = await conn.execute(
        update(locks).where(locks.c.name == name, locks.c.token == token).values(beat_at=now, until_at=now + LEASE),
    )
    return done.rowcount == 1


async def release_lock(conn: AsyncConnection, name: str, token: int) -> None:
    """Let the next holder in at once. Harmless when the lock is no longer ours."""
    now = await db_now(conn)
    await conn.execute(
        update(locks).where(locks.c.name == name, locks.c.token == token).values(until_at=now - LEASE),
    )


async def fence(conn: AsyncConnection, name: str, token: int) -> None:
    """Hold the lock row for the rest of this transaction; raises `FencedOffError` when the token is not ours.

    Every PAGE and GATE transaction begins with it: a holder that slept past its lease must not commit.
    """
    statement = select(locks.c.token).where(locks.c.name == name).with_for_update(read=True)
    if (await conn.execute(statement)).scalar_one_or_none() != token:
        raise FencedOffError(f"another run took over the lock {name}; this one stops without writing")
