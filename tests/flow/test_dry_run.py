"""A dry run changes nothing, and its plan is what the real run then does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select, text

from monitor.domain.guard import GuardLimits
from monitor.errors import ConfigError, ProviderUnavailableError, StoreError
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox.faults import error
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store import scratch
from monitor.store.engine import Database
from monitor.store.plans import planned_mails
from monitor.store.schema import metadata, notifications
from monitor.usecases.deliver import deliver_account
from monitor.usecases.plan import Plan, _facts_hash, dry_run
from tests.harness import MAILER, Stage
from tests.scale import sized

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WIDE = GuardLimits(share=Decimal(1), mails_floor=10_000, missing=Decimal(1))
FAILED = "payment_failed:insufficient_balance"


def files_of(path: Path) -> dict[str, str]:
    """What lies on the disk beside the database, to the byte."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(path.parent.glob(f"{path.name}*"))}


async def rows_of(db: Database) -> dict[str, list[tuple]]:
    """Every row of every table."""
    found = {}
    async with db.read() as conn:
        for table in metadata.sorted_tables:
            found[table.name] = sorted(map(tuple, await conn.execute(select(table))), key=repr)
    return found


WRITES = text(
    # our tables only: the database-wide figure also counts what autovacuum writes into the catalog
    "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
)


OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


async def writes_of(db: Database) -> int:
    """How many rows were ever written, also in transactions that were rolled back.

    A connection hands in its figures when it ends, at the latest.
    """
    await db.aclose()
    async with db.engine.connect() as conn:
        while (await conn.execute(OTHERS)).scalar_one():
            await conn.rollback()  # the list of connections is a snapshot of the transaction
        return (await conn.execute(WRITES)).scalar_one()


@asynccontextmanager
async def untouched(stage: Stage) -> AsyncIterator[None]:
    """Nothing in the block writes to the database, not even a byte that is taken back; nor connects to the mail server."""
    connected = len(stage.mailbox.messages)
    state = sorted(str(path) for path in stage.state_dir.rglob("*"))
    if stage.db.path is not None:
        before: object = files_of(stage.db.path)
        yield
        assert files_of(stage.db.path) == before
    else:
        before = await rows_of(stage.db)
        written = await writes_of(stage.db)
        yield
        assert await rows_of(stage.db) == before
        assert await writes_of(stage.db) == written
    assert len(stage.mailbox.messages) == connected
    assert sorted(str(path) for path in stage.state_dir.rglob("*")) == state


async def plan(stage: Stage, folder: Path, **how) -> Plan:
    folder.mkdir()
    return await dry_run(stage.tools, stage.account, MAILER, folder, stage.state_dir, **how)


async def do_it(stage: Stage) -> dict[str, str]:
    """The real run, and how each mail ended."""
    await stage.run()
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    await deliver_account(stage.tools, stage.account, transport, MAILER)
    async with stage.db.read() as conn:
        row = await stage.row()
        return {one.id: one.state.value for one in await planned_mails(conn, row.id)}


def planned(made: Plan) -> dict[str, str]:
    words = {"send": "sent", "hold": "held", "void": "voided", "fail": "failed", "wait": "ready"}
    return {line.mail.id: words[line.what] for line in made.lines}


MANY, DUE = sized((10_000, 100), (600, 20))


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
async def test_many_rows_with_many_due_are_planned_to_the_byte_and_done_to_the_mail(play, tmp_path):
    """10,000 rows and 500 mails with `MONITOR_TEST_SCALE` above 1."""
    world = healthy(MANY, start=START)
    stage = await play(world)
    stage.change(guard=WIDE)
    await stage.run()
    world.advance(MINUTE)
    situations = ("payment_failed:allowance_exhausted", "paused", "max_amount_reached")
    cause(world, {FAILED: 2 * DUE, **dict.fromkeys(situations, DUE)})
    connections: list[object] = []
    catch = stage.mailbox.keep
    stage.mailbox.keep = lambda *mail: connections.append(mail) or catch(*mail)
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch")
    assert connections == []
    assert (made.report.outcome, len(made.lines)) == ("complete", 5 * DUE)
    assert planned(made) == await do_it(stage)
    assert set(planned(made).values()) == {"sent"}
    assert len(stage.mailbox.messages) == 5 * DUE
    said = {line.mail.id: (line.mail.kind, line.mail.variant, line.mail.step) for line in made.lines}
    async with stage.db.read() as conn:
        columns = (notifications.c.id, notifications.c.kind, notifications.c.variant, notifications.c.step)
        assert {row[0]: tuple(row[1:]) for row in await conn.execute(select(*columns))} == said


async def test_the_words_that_are_planned_are_the_words_that_are_sent(play, tmp_path):
    world = healthy(60, start=START)
    stage = await play(world)
    await stage.run()
    world.advance(MINUTE)
    cause(world, {FAILED: 2, "paused": 2, "cancelled:merchant_closed": 1})
    made = await plan(stage, tmp_path / "scratch")
    assert sorted(line.what for line in made.lines) == ["hold", "send", "send", "send", "send"]
    await do_it(stage)
    again = await plan(stage, tmp_path / "again")
    assert [line.what for line in again.lines] == ["hold"], "what has ended is no part of a plan"
    async with stage.db.read() as conn:
        sent = {one.id: _facts_hash(one.letter) for one in await planned_mails(conn, (await stage.row()).id)}
    assert {line.mail.id: line.facts for line in made.lines} == sent
    assert len({line.facts for line in made.lines if line.what == "send"}) == 4


async def test_what_the_guard_would_hold_is_planned_as_held(play, tmp_path):
    world = healthy(100, start=START)
    stage = await play(world)
    await stage.run()
    world.advance(MINUTE)
    cause(world, {FAILED: 21})
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch")
    assert made.report.outcome == "held"
    assert {line.what for line in made.lines} == {"hold"}
    assert planned(made) == await do_it(stage)
    async with stage.db.read() as conn:
        row = (await conn.execute(text("SELECT plan_hash FROM batches ORDER BY id DESC LIMIT 1"))).scalar_one()
    assert made.plan_hash == row


async def test_what_waits_for_the_morning_is_planned_as_waiting(play, tmp_path):
    world = healthy(60, start=START)
    stage = await play(world)
    await stage.run()
    world.advance(11 * HOUR)  # ten in the evening
    cause(world, {"low_on_funds": 2, "paused": 2})
    made = await plan(stage, tmp_path / "scratch")
    assert {line.what for line in made.lines} >= {"wait"}
    assert planned(made) == {key: state for key, state in (await do_it(stage)).items() if key in planned(made)}


async def test_rows_that_were_bad_before_are_no_news_in_a_dry_run_either(play, tmp_path):
    """Only newly unreadable rows may hold a plan: the copy must know the old ones."""
    world = healthy(60, start=START)
    stage = await play(world)
    stage.faults.mangled = {world.id_of(sub): "naive_time" for sub in world.subscriptions[:6]}
    await stage.run()
    world.advance(MINUTE)
    cause(world, {FAILED: 1})
    stage.faults.mangled = {world.id_of(sub): "naive_time" for sub in world.subscriptions[:6]}
    made = await plan(stage, tmp_path / "scratch")
    real = await stage.run()
    assert (made.report.outcome, made.report.held) == (real.outcome, real.held)


async def test_a_missing_database_is_an_empty_one_and_is_not_made(play, tmp_path):
    stage = await play(healthy(60, start=START))
    path = tmp_path / "none" / "monitor.db"
    path.parent.mkdir()
    elsewhere = Database(f"sqlite:///{path}")
    stage.tools = replace(stage.tools, db=elsewhere)
    made = await plan(stage, tmp_path / "scratch")
    assert (made.report.outcome, made.report.baseline, made.report.counts["new"]) == ("complete", True, 60)
    assert made.lines == []
    assert list(path.parent.iterdir()) == []
    await elsewhere.aclose()


@pytest.mark.traced
async def test_an_account_never_seen_is_planned_as_its_baseline(play, tmp_path):
    stage = await play(healthy(60, start=START))
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch")
    assert (made.report.baseline, made.report.counts["new"]) == (True, 60)


async def test_another_account_of_the_database_is_no_part_of_the_plan(play, tmp_path):
    world = healthy(60, start=START)
    stage = await play(world)
    await stage.run()
    ours = stage.account
    stage.change(name="other")
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch")
    assert (made.report.baseline, made.report.counts["new"]) == (True, 60)
    stage.account = ours


async def test_a_dry_run_while_a_run_is_in_progress_disturbs_nobody(play, tmp_path):
    world = healthy(250, start=START)
    stage = await play(world)
    await stage.run()
    world.advance(MINUTE)
    cause(world, {FAILED: 3})
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def hold_up() -> None:
        waiting.set()
        await go_on.wait()

    rule = stage.faults.add(route="subscriptions", page=3, wait=hold_up, times=1)
    running = asyncio.create_task(stage.run())
    await waiting.wait()
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch")
    assert rule.met >= 1
    go_on.set()
    real = await running
    assert (made.report.outcome, real.outcome) == ("complete", "complete")
    assert sorted(line.what for line in made.lines) == ["send"] * 3
    assert {one.mail.id for one in made.lines} == set(await stage_states(stage))


async def stage_states(stage: Stage) -> dict[str, str]:
    async with stage.db.read() as conn:
        return {one.id: one.state for one in await planned_mails(conn, (await stage.row()).id)}


async def test_a_plan_for_another_day_moves_only_itself(play, tmp_path):
    world = healthy(60, trials=10, start=START)
    stage = await play(world)
    await stage.run()
    async with untouched(stage):
        made = await plan(stage, tmp_path / "scratch", at=START + 4 * DAY)
    assert made.report.now_at == START + 4 * DAY
    assert {line.mail.kind for line in made.lines} == {"trial_ending"}
    assert (await stage.row()).time_travel is None


async def test_a_restored_database_is_planned_as_held(play, tmp_path):
    world = healthy(60, start=START)
    stage = await play(world)
    await stage.run()
    world.advance(MINUTE)
    cause(world, {FAILED: 1})
    (stage.state_dir / "witness").write_text('{"uuid": "another", "counter": 1}')
    made = await plan(stage, tmp_path / "scratch")
    assert made.report.outcome == "held"
    assert "belongs to another database" in made.report.held[0]


async def test_an_api_that_is_down_is_told_as_by_a_run(play, tmp_path):
    stage = await play(healthy(5, start=START))
    stage.faults.add(error(500, "internal"), route="me")
    with pytest.raises(ProviderUnavailableError):
        await plan(stage, tmp_path / "scratch")


async def test_an_older_database_is_brought_up_to_date_in_the_copy_only_or_named(play, tmp_path):
    stage = await play(healthy(5, start=START))
    async with stage.db.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer than this code"):
        await plan(stage, tmp_path / "scratch")


# The copy


@pytest.fixture
def three_files(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "monitor.db").write_bytes(b"pages")
    (source / "monitor.db-wal").write_bytes(b"frames")
    (source / "monitor.db-shm").write_bytes(b"index")
    return source / "monitor.db"


def test_the_file_and_its_wal_are_copied_and_the_shm_is_not(three_files, tmp_path):
    target = tmp_path / "scratch.db"
    scratch._copy_files(three_files, target)
    assert target.read_bytes() == b"pages"
    assert (tmp_path / "scratch.db-wal").read_bytes() == b"frames"
    assert not (tmp_path / "scratch.db-shm").exists()


def copying(monkeypatch, also) -> list[Path]:
    """`also` happens after each copy of a file."""
    copied: list[Path] = []
    copy = scratch.shutil.copyfile

    def copyfile(source: Path, target: Path) -> None:
        copy(source, target)
        copied.append(source)
        also(len(copied))

    monkeypatch.setattr(scratch.shutil, "copyfile", copyfile)
    return copied


def test_a_database_that_moves_while_it_is_copied_is_copied_again(three_files, tmp_path, monkeypatch):
    wal = three_files.with_name("monitor.db-wal")
    copied = copying(monkeypatch, lambda n: wal.write_bytes(b"more frames") if n == 1 else None)
    scratch._copy_files(three_files, tmp_path / "scratch.db")
    assert len(copied) == 4
    assert (tmp_path / "scratch.db-wal").read_bytes() == b"more frames"


def test_a_wal_that_a_checkpoint_takes_away_is_no_error(three_files, tmp_path, monkeypatch):
    wal = three_files.with_name("monitor.db-wal")
    copying(monkeypatch, lambda n: wal.unlink() if n == 1 else None)
    scratch._copy_files(three_files, tmp_path / "scratch.db")
    assert not (tmp_path / "scratch.db-wal").exists()


def test_a_database_that_never_holds_still_is_named(three_files, tmp_path, monkeypatch):
    copying(monkeypatch, lambda n: three_files.write_bytes(b"x" * n))
    with pytest.raises(StoreError, match="does not hold still for a dry run: try again"):
        scratch._copy_files(three_files, tmp_path / "scratch.db")


def test_a_copy_that_fails_is_named(three_files, tmp_path):
    folder = tmp_path / "is-a-folder"
    folder.mkdir()
    with pytest.raises(StoreError, match="cannot be copied for a dry run"):
        scratch._copy_files(three_files, folder)
