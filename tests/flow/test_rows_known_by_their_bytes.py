"""A row whose bytes are those of the day before is not read again, and nothing that reading it would have done is missed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from monitor.domain.model import Source
from monitor.sandbox.faults import error
from monitor.sandbox.seeding import healthy, make_trial
from monitor.sandbox.transitions import cause
from monitor.store.batches import collecting_batch
from monitor.store.engine import db_now
from monitor.store.schema import customers, events, quarantine, subscriptions
from monitor.store.subscriptions import Renewed, known_rows, renew_marks
from monitor.usecases import pull
from monitor.usecases.observe import Observed, observe
from monitor.usecases.writing import Pen

pytestmark = pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ROWS = 60


async def column(stage, name: str, ext_id: str):
    async with stage.db.read() as conn:
        statement = select(subscriptions.c[name]).where(subscriptions.c.ext_id == ext_id)
        return (await conn.execute(statement)).scalar_one()


async def count_of(stage, table, *conditions) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(select(func.count()).select_from(table).where(*conditions))).scalar_one()


def reading_of(stage) -> list[bytes]:
    """The rows that the next runs read, instead of knowing them."""
    read: list[bytes] = []
    inner = stage.account.provider

    class Counting:
        def __getattr__(self, name: str):
            return getattr(inner, name)

        async def subscriptions(self, window, cursor):
            page = await inner.subscriptions(window, cursor)

            def counted(raw: bytes):
                read.append(raw)
                return page.unread.read(raw)

            return replace(page, unread=replace(page.unread, read=counted))

    stage.change(provider=Counting())
    return read


@pytest.fixture
async def stage(play):
    stage = await play(healthy(ROWS, start=START))
    assert (await stage.run()).outcome == "complete"
    stage.world.advance(MINUTE)
    return stage


async def test_only_rows_with_other_bytes_are_read_and_the_others_count_as_seen(stage):
    read = reading_of(stage)
    report = await stage.run()
    assert read == []
    assert (report.outcome, report.counts["rows"], report.counts["missing"]) == ("complete", ROWS, 0)
    (ext_id,) = cause(stage.world, {"payment_failed:insufficient_balance": 1})["payment_failed:insufficient_balance"]
    report = await stage.run()
    assert [ext_id.encode() in raw for raw in read] == [True]
    assert (report.counts["changed"], report.counts["missing"], report.counts["events"]) == (1, 0, 1)


async def test_what_was_read_once_is_known_the_next_time(stage):
    cause(stage.world, {"payment_failed:insufficient_balance": 2})
    await stage.run()
    read = reading_of(stage)
    report = await stage.run()
    assert (read, report.counts["changed"]) == ([], 0)


async def test_who_left_the_list_is_missed_though_nobody_reads_the_others(stage):
    stage.world.subscriptions[7].gone = True
    read = reading_of(stage)
    report = await stage.run()
    assert (read, report.counts["missing"], report.counts["gone"]) == ([], 1, 1)


async def test_a_customer_who_moved_is_written_although_the_state_is_the_same(stage):
    sub = stage.world.subscriptions[5]
    sub.customer.email = "new@customer.example"
    await stage.run()
    assert await count_of(stage, customers, customers.c.email == "new@customer.example") == 1
    assert await count_of(stage, events) == 0


async def test_time_is_looked_at_although_the_row_says_nothing_new(play):
    world = healthy(ROWS, start=START)
    trial = world.subscriptions[3]
    make_trial(world, trial, START + 10 * DAY)
    stage = await play(world)
    stage.change(notify_first=True)
    await stage.run()
    assert await column(stage, "situation", world.id_of(trial)) == "healthy"
    world.advance(9 * DAY)
    read = reading_of(stage)
    report = await stage.run(at=None)
    assert not any(world.id_of(trial).encode() in raw for raw in read)
    assert report.outcome == "complete"
    assert await column(stage, "situation", world.id_of(trial)) == "trial_ending"


async def test_a_bad_row_is_read_and_kept_each_time(stage):
    bad = stage.world.id_of(stage.world.subscriptions[11])
    stage.faults.mangled = {bad: "null_id"}
    read = reading_of(stage)
    for _ in range(2):
        report = await stage.run()
        assert report.counts["bad"] == 1
        stage.world.advance(MINUTE)
    assert len(read) == 2
    assert await count_of(stage, quarantine, quarantine.c.last_at > quarantine.c.first_at) == 1


async def test_rows_that_another_version_read_are_read_again(stage, monkeypatch):
    monkeypatch.setattr(pull, "__version__", "another")
    read = reading_of(stage)
    report = await stage.run()
    assert (len(read), report.counts["changed"], report.counts["missing"]) == (ROWS, 0, 0)
    assert (await stage.run()).outcome == "complete"
    assert len(read) == ROWS, "once: the next sweep knows them by the marks of this version"


async def test_a_vendor_that_stamps_all_rows_each_day_makes_no_sweep_write_them(stage):
    ext_id = stage.world.id_of(stage.world.subscriptions[2])
    mark = await column(stage, "raw_mark", ext_id)
    inner = stage.account.provider

    class Stamping:
        def __getattr__(self, name: str):
            return getattr(inner, name)

        async def subscriptions(self, window, cursor):
            page = await inner.subscriptions(window, cursor)
            raws = tuple(raw[:-1] + b',"stamped":1}' for raw in page.unread.raws)
            return replace(page, unread=replace(page.unread, raws=raws))

    stage.change(provider=Stamping())
    assert (await stage.run()).counts["changed"] == 0
    assert await column(stage, "raw_mark", ext_id) == mark


async def test_an_incomplete_sweep_does_not_count_as_having_read_all_rows(stage, monkeypatch):
    monkeypatch.setattr(pull, "__version__", "another")
    read = reading_of(stage)
    stage.faults.add(error(500, "internal"), route="subscriptions")
    assert (await stage.run()).outcome == "partial"
    stage.faults.clear()
    assert (await stage.run()).outcome == "complete"
    assert len(read) == ROWS
    await stage.run()
    assert len(read) == ROWS


async def test_a_row_that_was_read_alone_and_says_the_same_is_known_by_its_bytes_again(stage):
    ext_id = stage.world.id_of(stage.world.subscriptions[9])
    async with stage.db.write() as conn:
        await conn.execute(update(subscriptions).where(subscriptions.c.ext_id == ext_id).values(raw_mark=None))
    read = reading_of(stage)
    for _ in range(2):
        assert (await stage.run()).counts["changed"] == 0
    assert len(read) == 1
    assert await column(stage, "raw_mark", ext_id) is not None


async def test_a_row_that_changed_meanwhile_is_not_marked_by_bytes_that_say_something_else(stage):
    """Else a page that shows those bytes again would pass for what is stored by now."""
    ext_id = stage.world.id_of(stage.world.subscriptions[9])
    async with stage.db.write() as conn:
        await conn.execute(update(subscriptions).where(subscriptions.c.ext_id == ext_id).values(raw_mark=None))
        row_id = (await known_rows(conn, (await stage.row()).id, [ext_id]))[ext_id].id
        await renew_marks(conn, [Renewed(row_id, b"another state", b"of those bytes")])
    assert await column(stage, "raw_mark", ext_id) is None


async def test_a_row_that_was_read_alone_since_is_read_again_and_changes_back(stage):
    """The page shows the very bytes of the first sync, but what is stored came later, from a webhook's refetch."""
    ext_id = stage.world.id_of(stage.world.subscriptions[9])
    snapshot, raw = await stage.account.provider.subscription(ext_id)
    async with stage.db.write() as conn:
        row = await stage.row()
        pen = Pen(stage.world.now, Source.WEBHOOK, await collecting_batch(conn, row.id, "live", stage.world.now))
        seen = Observed(replace(snapshot, reference="meanwhile"), raw, await db_now(conn))
        await observe(conn, row, stage.account.policy(row), [seen], pen, stage.tools.address_mac)
    assert await column(stage, "raw_mark", ext_id) is None
    read = reading_of(stage)
    report = await stage.run()
    assert (len(read), report.counts["changed"]) == (1, 1)
    assert await column(stage, "reference", ext_id) == snapshot.reference
    assert await column(stage, "raw_mark", ext_id) is not None


async def test_a_mark_is_believed_for_the_subscription_whose_bytes_it_marks(stage):
    """Another row that carries the mark is not thereby the row that came."""
    one, two = (stage.world.id_of(stage.world.subscriptions[n]) for n in (20, 21))
    mark = await column(stage, "raw_mark", one)
    async with stage.db.write() as conn:
        await conn.execute(update(subscriptions).where(subscriptions.c.ext_id == two).values(raw_mark=mark))
    read = reading_of(stage)
    report = await stage.run()
    assert [two.encode() in raw for raw in read] == [True]
    assert (report.counts["changed"], report.counts["missing"]) == (0, 0)


async def test_an_id_that_does_not_show_is_found_by_reading(stage):
    """The look-up by the visible id is only a guess: who is on the page is told by the rows."""
    inner = stage.account.provider

    class Hiding:
        def __getattr__(self, name: str):
            return getattr(inner, name)

        async def subscriptions(self, window, cursor):
            page = await inner.subscriptions(window, cursor)
            return replace(page, unread=replace(page.unread, id_in=lambda _raw: None))

    stage.change(provider=Hiding())
    stage.faults.mangled = {stage.world.id_of(stage.world.subscriptions[31]): "text_for_number"}
    report = await stage.run()
    assert (report.outcome, report.counts["changed"], report.counts["new"]) == ("complete", 0, 0)
    assert (report.counts["bad"], report.counts["missing"]) == (1, 0), "a bad row tells whose it is, too"
