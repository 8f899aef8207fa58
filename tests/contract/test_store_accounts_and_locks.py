"""Accounts, and the run lock: one row, a token that only grows, and the database's own clock."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError

from monitor.errors import FencedOffError, StoreError
from monitor.store.accounts import change_account, ensure_account, find_account, lock_account
from monitor.store.engine import Database, db_now
from monitor.store.flock import FileLocks
from monitor.store.locks import LEASE, beat_lock, fence, release_lock, take_lock
from monitor.store.schema import accounts, locks
from tests.store_rows import NOW


async def test_an_account_is_made_once_and_keeps_what_it_learned(store):
    async with store.write() as conn:
        first = await ensure_account(conn, "acme", "qbitflow-v2", "live")
        await change_account(
            conn, first.id, baselined_at=NOW, time_travel=timedelta(days=3), log_watermark="evt_1", space_uuid="space"
        )
    async with store.write() as conn:
        again = await ensure_account(conn, "acme", "qbitflow-v1", "test")
    assert again.id == first.id
    assert (again.provider, again.mode) == ("qbitflow-v2", "live")
    assert again.baselined_at == NOW
    assert again.baselined_at.utcoffset() == timedelta()
    assert again.time_travel == timedelta(days=3)
    assert (again.log_watermark, again.space_uuid) == ("evt_1", "space")


async def test_an_unknown_account_is_none(store):
    async with store.read() as conn:
        assert await find_account(conn, "nobody") is None


async def test_two_accounts_cannot_share_a_name(store):
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            for _ in range(2):
                await conn.execute(accounts.insert().values(name="acme", provider="p", mode="live"))


async def test_whoever_holds_the_account_lets_nobody_else_count(store):
    """GATE and DECIDE take the account's row: the second waits for the first."""
    async with store.write() as conn:
        row = await ensure_account(conn, "acme", "qbitflow-v2", "live")
    order: list[str] = []
    holding, entered = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with store.write() as conn:
            await lock_account(conn, row.id)
            holding.set()
            await entered.wait()
            order.append("first")
            await change_account(conn, row.id, log_watermark="first")

    async def second() -> None:
        await holding.wait()
        entered.set()
        async with store.write() as conn:
            seen = await lock_account(conn, row.id)
            order.append(f"second saw {seen.log_watermark}")

    await asyncio.gather(first(), second())
    assert order == ["first", "second saw first"]


# The run lock


async def take(store: Database, holder: str = "one", **how: bool) -> int | None:
    async with store.write() as conn:
        return await take_lock(conn, "run:acme", holder, **how)


async def lease_ends(store: Database, ago: timedelta) -> None:
    async with store.write() as conn:
        at = await db_now(conn) - ago
        await conn.execute(update(locks).values(until_at=at))


async def test_the_first_holder_gets_a_token_and_the_second_nothing(store):
    assert await take(store) == 1
    assert await take(store, "two") is None


async def test_the_token_grows_with_every_holder(store):
    tokens = []
    for holder in ("one", "two", "three"):
        tokens.append(await take(store, holder))
        async with store.write() as conn:
            await release_lock(conn, "run:acme", tokens[-1])
    assert tokens == [1, 2, 3]


async def test_a_lease_that_ran_out_is_taken_and_one_that_runs_is_not(store):
    await take(store)
    await lease_ends(store, timedelta(seconds=-5))
    assert await take(store, "two") is None
    await lease_ends(store, timedelta(milliseconds=5))
    assert await take(store, "two") == 2


async def test_the_lease_is_a_minute_of_the_databases_own_clock(store):
    async with store.write() as conn:
        before = await db_now(conn)
        await take_lock(conn, "run:acme", "one")
        until = (await conn.execute(select(locks.c.until_at))).scalar_one()
        after = await db_now(conn)
    assert before + LEASE <= until <= after + LEASE
    assert timedelta(seconds=60) == LEASE


async def test_the_databases_clock_is_aware_utc_and_moves_within_a_transaction(store):
    async with store.read() as conn:
        first = await db_now(conn)
        if store.is_sqlite:
            await asyncio.to_thread(subprocess.run, [sys.executable, "-S", "-c", ""], check=True)
        else:
            await conn.execute(text("SELECT pg_sleep(0.002)"))
        second = await db_now(conn)
    assert first.tzinfo is UTC
    assert first < second
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)


async def test_who_knows_that_the_holder_is_dead_takes_a_running_lease(store):
    await take(store)
    assert await take(store, "two", steal=True) == 2


async def test_a_beat_prolongs_the_holders_lease_only(store):
    old = await take(store)
    await lease_ends(store, timedelta(seconds=1))
    new = await take(store, "two")
    async with store.write() as conn:
        assert not await beat_lock(conn, "run:acme", old)
        await conn.execute(update(locks).values(until_at=await db_now(conn)))
        assert await beat_lock(conn, "run:acme", new)
        until = (await conn.execute(select(locks.c.until_at))).scalar_one()
        assert until > await db_now(conn) + LEASE / 2


async def test_who_lost_the_lock_cannot_release_it(store):
    old = await take(store)
    await lease_ends(store, timedelta(seconds=1))
    await take(store, "two")
    async with store.write() as conn:
        await release_lock(conn, "run:acme", old)
    assert await take(store, "three") is None


async def test_a_released_lock_is_free_at_once(store):
    token = await take(store)
    async with store.write() as conn:
        await release_lock(conn, "run:acme", token)
    assert await take(store, "two") == 2


async def test_the_fence_lets_the_holder_pass_and_stops_everybody_else(store):
    old = await take(store)
    async with store.write() as conn:
        await fence(conn, "run:acme", old)
    new = await take(store, "two", steal=True)
    with pytest.raises(FencedOffError, match="another run took over the lock run:acme"):
        async with store.write() as conn:
            await conn.execute(accounts.insert().values(name="written", provider="p", mode="live"))
            await fence(conn, "run:acme", old)
    with pytest.raises(FencedOffError):
        async with store.write() as conn:
            await fence(conn, "run:of-nobody", new)
    async with store.read() as conn:
        assert await find_account(conn, "written") is None, "what the fenced-off one wrote was rolled back"


async def test_fifty_who_want_the_lock_at_once_are_one_holder(store):
    taken = await asyncio.gather(*(take(store, f"holder-{n}") for n in range(50)))
    assert sorted(one for one in taken if one is not None) == [1]


async def test_locks_of_different_names_do_not_know_each_other(store):
    assert await take(store) == 1
    async with store.write() as conn:
        assert await take_lock(conn, "run:other", "one") == 1


# Locks that die with their process


def test_one_of_two_processes_holds_the_run(tmp_path):
    one, two = FileLocks(tmp_path), FileLocks(tmp_path)
    try:
        assert one.hold_run("acme")
        assert not two.hold_run("acme")
        assert two.hold_run("other")
        one.release_run("acme")
        one.release_run("acme")
        assert two.hold_run("acme")
    finally:
        one.close()
        two.close()


def test_a_living_name_is_not_dead_and_a_killed_ones_is(tmp_path):
    locks_here = FileLocks(tmp_path)
    code = (
        "import sys; from pathlib import Path; from monitor.store.flock import FileLocks\n"
        "locks = FileLocks(Path(sys.argv[1])); locks.hold_run('acme'); print(locks.owner, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as other:
        owner = other.stdout.readline().strip()
        try:
            assert not locks_here.is_dead(owner)
            assert not locks_here.hold_run("acme")
        finally:
            other.kill()
            other.wait()
        (named,) = (path for path in (tmp_path / "locks").glob("owner.*.lock") if str(other.pid) in path.name)
        with named.open() as another_asks:
            fcntl.flock(another_asks, fcntl.LOCK_SH)
            assert locks_here.is_dead(owner), "two who ask at once do not take each other for the owner"
        assert locks_here.hold_run("acme")
    assert not locks_here.is_dead(locks_here.owner), "who asks is alive"
    assert not locks_here.is_dead("another-host:1:abc"), "of another machine nothing is known"
    locks_here.close()


def test_closing_gives_everything_back_and_is_known_as_dead(tmp_path):
    """A pass that ended by an error left rows behind, as a killed one does: nobody must wait for their lease."""
    one = FileLocks(tmp_path)
    one.hold_run("acme")
    owner = one.owner
    one.close()
    one.close()
    two = FileLocks(tmp_path)
    assert two.hold_run("acme")
    assert two.is_dead(owner)
    two.close()


def test_names_of_the_dead_are_forgotten_after_an_hour_and_never_those_of_the_living(tmp_path):
    folder = tmp_path / "locks"
    living, ended, killed = FileLocks(tmp_path), FileLocks(tmp_path), FileLocks(tmp_path)
    for path in folder.iterdir():
        os.utime(path, (0, 0))  # they began long ago
    os.close(killed._own)
    killed._own = None
    ended.close()
    assert living.is_dead(ended.owner)
    assert living.is_dead(killed.owner)
    assert not ended.is_dead(living.owner)
    for path in folder.glob("owner.*.dead"):
        os.utime(path, (0, 0))
    FileLocks(tmp_path).close()
    assert not living.is_dead(ended.owner)
    assert not ended.is_dead(living.owner)
    assert len(list(folder.glob("owner.*.dead"))) == 1
    living.close()


async def test_integrity_errors_of_our_own_are_still_told_apart(store):
    """`insert_run` relies on a savepoint: the driver's error must arrive as what it is inside of a transaction."""
    async with store.write() as conn:
        await ensure_account(conn, "acme", "p", "live")
        with pytest.raises(IntegrityError):
            async with conn.begin_nested():
                await conn.execute(accounts.insert().values(name="acme", provider="p", mode="live"))
        await ensure_account(conn, "other", "p", "live")
    async with store.read() as conn:
        assert await find_account(conn, "other") is not None
