"""A run that was stopped half-way: gone on with, or given up and judged."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.domain.model import RunState
from monitor.sandbox import acts
from monitor.sandbox.entities import Merchant, Status
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.engine import Database
from monitor.store.schema import runs
from monitor.store.subscriptions import load_subscriptions
from tests.harness import staged

pytestmark = pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


@pytest.fixture
async def stopped(tmp_path):
    """A stage whose second run was stopped after its first page; three subscriptions had been paused before."""
    world = healthy(250, start=START, merchant=Merchant(mode="test"))
    async with staged(world, f"sqlite:///{tmp_path / 'monitor.db'}", tmp_path / "var") as stage:
        assert (await stage.run()).outcome == "complete"
        cause(world, {"paused": 3})
        pages: list[int] = []
        stage.faults.between_pages = pages.append
        stage.tools = replace(stage.tools, stopping=lambda: bool(pages))
        assert (await stage.run()).outcome == "interrupted"
        stage.tools = replace(stage.tools, stopping=lambda: False)
        yield stage


async def states(db: Database) -> list[str]:
    async with db.read() as conn:
        return [row.state for row in await conn.execute(runs.select().order_by(runs.c.id))]


async def test_a_stopped_run_is_gone_on_with(stopped):
    stopped.world.advance(timedelta(minutes=5))
    report = await stopped.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    assert (await stopped.deliver()).sent == 3


async def test_a_stopped_run_is_gone_on_with_although_the_apis_clock_ticks_in_seconds(stopped):
    """With --now both runs decide at one instant, and their bounds differ by the parts of a second that Date lacks."""
    stopped.world.advance(timedelta(milliseconds=900))
    report = await stopped.run(at=START)
    assert (report.outcome, report.resumed) == ("complete", True)


async def test_a_run_that_is_too_old_to_go_on_is_given_up_judged_and_followed_by_a_new_one(stopped):
    stopped.world.advance(timedelta(hours=7))
    report = await stopped.run()
    assert (report.outcome, report.resumed) == ("complete", False)
    assert await states(stopped.db) == [RunState.COMPLETE, RunState.ABANDONED, RunState.COMPLETE]
    assert "staged" not in await stopped.states()
    assert (await stopped.deliver()).sent == 3


async def test_what_was_told_after_its_page_was_read_is_read_again_by_the_run_that_goes_on(stopped):
    """The page lies before the stop and the event after it: the finished sweep has not seen it."""
    world = stopped.world
    newest = next(sub for sub in reversed(world.subscriptions) if sub.status is Status.ACTIVE and sub.customer)
    acts.pause(world, newest)
    world.advance(timedelta(minutes=5))
    report = await stopped.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    async with stopped.db.read() as conn:
        known = await load_subscriptions(conn, 1, ext_ids=[world.id_of(newest)])
    assert known[world.id_of(newest)].situation == "paused"
