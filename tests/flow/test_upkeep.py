"""What is kept how long, and what an operator is told: over the ledger's own rows, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, insert, select, update

from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.schema import facts, quarantine, run_pages, runs
from monitor.store.upkeep import AT_ONCE
from monitor.store.witness import FILE_NAME
from monitor.usecases.housekeeping import keep_house
from monitor.usecases.operate import Operator
from monitor.usecases.pausing import pause, resume
from monitor.usecases.watch import Watched, levels, look_after
from tests.store_rows import a_batch, a_mail, a_snapshot, a_subscription, an_episode

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
WATCHED = (Watched("acme", "0 7 * * *", ZoneInfo("UTC")),)


def days(n: float) -> timedelta:
    return timedelta(days=n)


async def count(stage, table, *where) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(select(func.count()).select_from(table).where(*where))).scalar_one()


@pytest.fixture
async def stage(play):
    stage = await play(healthy(30, start=START))
    await stage.run()
    return stage


def found(findings) -> set[str]:
    return {one.cause.value for one in findings}


# --- housekeeping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "left"), [(days(30), 1), (days(30) + timedelta(seconds=1), 0)])
async def test_a_row_that_could_not_be_read_is_kept_for_30_days(stage, age, left):
    row = await stage.row()
    async with stage.db.write() as conn:
        await conn.execute(
            insert(quarantine).values(
                account_id=row.id, raw_hash="h", raw=b"x", reason="r", first_at=START - days(90), last_at=START - age
            )
        )
    kept = await keep_house(stage.tools, START)
    assert await count(stage, quarantine) == left
    assert kept.quarantine == 1 - left


@pytest.mark.parametrize(("done", "left"), [(START - days(90), 1), (START - days(91), 0), (None, 1)])
async def test_a_fact_is_kept_for_90_days_after_it_was_used_and_for_ever_before(stage, done, left):
    row = await stage.row()
    mine = facts.c.dedupe_key == "one"
    async with stage.db.write() as conn:
        await conn.execute(
            insert(facts).values(
                account_id=row.id,
                dedupe_key="one",
                kind="k",
                source="webhook",
                body="{}",
                received_at=START - days(200),
                done_at=done,
            )
        )
    await keep_house(stage.tools, START)
    assert await count(stage, facts, mine) == left


@pytest.mark.parametrize(
    ("age", "state", "emptied"), [(14, "complete", False), (15, "complete", True), (15, "running", False)]
)
async def test_who_was_seen_is_forgotten_after_14_days_and_the_figures_stay(stage, age, state, emptied):
    async with stage.db.write() as conn:
        await conn.execute(update(runs).values(ended_at=START - days(age), state=state))
    await keep_house(stage.tools, START)
    assert await count(stage, run_pages, run_pages.c.seen == b"") == int(emptied)
    assert await count(stage, run_pages, run_pages.c.rows == 30) == 1


async def test_a_thousand_old_rows_go_in_several_short_transactions(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        await conn.execute(
            insert(quarantine),
            [
                {
                    "account_id": row.id,
                    "raw_hash": str(n),
                    "raw": b"x",
                    "reason": "r",
                    "first_at": START,
                    "last_at": START,
                }
                for n in range(1_200)
            ],
        )
    assert (await keep_house(stage.tools, START + days(31))).quarantine == 1_200


async def test_who_is_asked_to_stop_begins_no_further_transaction(stage):
    row = await stage.row()
    old = [
        {"account_id": row.id, "raw_hash": str(n), "raw": b"x", "reason": "r", "first_at": START, "last_at": START}
        for n in range(AT_ONCE + 1)
    ]
    async with stage.db.write() as conn:
        await conn.execute(insert(quarantine), old)
    asked = iter([False, True, True, True, True])
    kept = await keep_house(replace(stage.tools, stopping=lambda: next(asked)), START + days(31))
    assert (kept.quarantine, await count(stage, quarantine)) == (AT_ONCE, 1)


async def test_the_log_of_a_sqlite_file_is_written_back(stage):
    if not stage.db.is_sqlite:
        pytest.skip("PostgreSQL tidies itself")
    log = stage.db.path.with_name(stage.db.path.name + "-wal")
    assert log.stat().st_size > 0
    await keep_house(stage.tools, START)
    assert log.stat().st_size == 0


# --- pause --------------------------------------------------------------------------------------------------------


async def test_a_pause_remembers_when_it_began_and_resume_ends_it(stage):
    assert await pause(stage.tools, "acme", "qbitflow-v2", "live") == START
    stage.world.advance(timedelta(hours=1))
    assert await pause(stage.tools, "acme", "qbitflow-v2", "live") == START
    assert await resume(stage.tools, "acme", "qbitflow-v2", "live") == START
    assert await resume(stage.tools, "acme", "qbitflow-v2", "live") is None
    assert (await stage.row()).paused_at is None


async def test_an_account_may_be_paused_before_its_first_run(stage):
    assert await pause(stage.tools, "beta", "qbitflow-v2", "live") == START


# --- what is found ------------------------------------------------------------------------------------------------


async def test_all_is_well_after_a_run(stage):
    assert await look_after(stage.db, WATCHED, START) == []


async def test_nobody_misses_a_run_before_there_was_anybody(stage):
    late = START + days(3)
    assert found(await look_after(stage.db, WATCHED, late, since=late - timedelta(hours=25))) == set()
    assert found(await look_after(stage.db, WATCHED, late, since=late - timedelta(hours=26))) == {"missing_run"}


async def test_a_plan_that_waits_for_a_person_is_found(stage):
    cause(stage.world, {"cancelled:merchant": 15})
    assert (await stage.run()).outcome == "held"
    assert found(await look_after(stage.db, WATCHED, START)) == {"guard_hold"}


async def test_a_database_that_is_doubted_waits_for_a_person_even_when_no_mail_is_due(stage):
    await stage.run()
    (stage.state_dir / FILE_NAME).write_text('{"uuid": "another", "counter": 7}')
    batch = (await stage.run()).batch_id
    assert found(await look_after(stage.db, WATCHED, START)) == {"guard_hold"}
    assert (await Operator(stage.tools, "anna", stage.state_dir).approve(batch)).ok
    assert found(await look_after(stage.db, WATCHED, START)) == set()


async def test_a_sender_that_pauses_is_found_while_it_does(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, sender_paused_until=START + timedelta(minutes=5), sender_pause_reason="535")
    assert found(await look_after(stage.db, WATCHED, START)) == {"sender_paused"}
    assert found(await look_after(stage.db, WATCHED, START + timedelta(minutes=5))) == set()


@pytest.mark.parametrize(
    ("state", "reason", "deadline", "told"),
    [
        ("voided", "no_address", days(2), True),
        ("failed", "refused", days(3), True),
        ("voided", "no_address", days(3) + timedelta(minutes=1), False),
        ("voided", "no_address", -timedelta(minutes=1), False),
        ("voided", "healed", days(2), False),
        ("sent", None, days(2), False),
    ],
)
async def test_a_customer_who_cannot_be_reached_and_soon_leaves_is_found(stage, state, reason, deadline, told):
    row = await stage.row()
    async with stage.db.write() as conn:
        sub = await a_subscription(conn, row.id, a_snapshot("sub@lost"))
        episode = await an_episode(conn, row.id, sub, deadline_at=START + deadline)
        batch = await a_batch(conn, row.id)
        await a_mail(conn, row.id, sub, episode, batch_id=batch, state=state, reason=reason)
    findings = await look_after(stage.db, WATCHED, START)
    assert found(findings) == ({"unreachable"} if told else set())
    assert not told or "sub@lost" in findings[0].sentence


async def test_whoever_got_an_earlier_mail_of_the_episode_was_reached(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        sub = await a_subscription(conn, row.id, a_snapshot("sub@lost"))
        episode = await an_episode(conn, row.id, sub, deadline_at=START + days(1))
        await a_mail(conn, row.id, sub, episode, state="voided", reason="suppressed", step="second")
        await a_mail(conn, row.id, sub, episode, state="sent", step="first")
    assert await look_after(stage.db, WATCHED, START) == []


async def test_the_gauges_show_what_waits_of_every_account_that_ever_ran(stage):
    row = await stage.row()
    waits_since = START - timedelta(minutes=7)
    async with stage.db.write() as conn:
        sub = await a_subscription(conn, row.id, a_snapshot("sub@waits"))
        episode = await an_episode(conn, row.id, sub)
        await a_mail(conn, row.id, sub, episode, next_try_at=waits_since)
        await a_mail(conn, row.id, sub, episode, step="second", next_try_at=START + timedelta(seconds=1))
        held = await a_batch(conn, row.id, state="held")
        await a_mail(conn, row.id, sub, episode, step="third", state="held", batch_id=held)
        await change_account(conn, row.id, paused_at=START, sender_paused_until=START + timedelta(minutes=5))
    stranger = Watched("beta", "0 7 * * *", ZoneInfo("UTC"))
    (level,) = await levels(stage.db, [stranger, *WATCHED], START)
    assert (level.account, level.waiting, level.oldest_at, level.held_batches) == ("acme", 1, waits_since, 1)
    assert (level.last_complete_at, level.paused, level.sender_paused) == (START, True, True)
    (later,) = await levels(stage.db, WATCHED, START + timedelta(minutes=5))
    assert (later.waiting, later.sender_paused) == (2, False)
