"""One bad row in a hundred through a whole run: 99 are handled, one is in quarantine, nothing is concluded about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.sandbox.mangle import MANGLES
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from tests.harness import Stage, staged
from tests.scale import sized

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
KINDS = sorted(name for name, mangle in MANGLES.items() if mangle.verdict == "bad" and name != "nested_100000")
NAMELESS = {"null_id", "missing_id", "empty_id", "number_for_id", "row_is_null", "row_is_text", "row_is_list"}


async def value(on: Stage, sql: str):
    async with on.db.read() as conn:
        return (await conn.exec_driver_sql(sql)).scalar_one()


def test_there_are_twenty_kinds_and_more():
    assert len(KINDS) >= 20


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_row_at_first_contact_costs_itself_and_the_baseline_is_complete(
    kind: str, sqlite_url: str, tmp_path: Path
):
    world = healthy(100)
    async with staged(world, sqlite_url, tmp_path / "var") as on:
        bad = world.id_of(world.subscriptions[41])
        on.faults.mangled = {bad: kind}
        report = await on.run()
        assert (report.outcome, report.counts["new"], report.counts["bad"]) == ("complete", 99, 1)
        assert await value(on, "SELECT count(*) FROM quarantine") == 1
        assert (await on.row()).baselined_at is not None

        on.faults.mangled = {}
        report = await on.run()
        assert (report.outcome, report.counts["new"], report.counts["events"]) == ("complete", 1, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_known_row_that_turned_bad_counts_as_seen_and_its_neighbours_are_mailed(
    kind: str, sqlite_url: str, tmp_path: Path
):
    world = healthy(sized(100, 40))
    async with staged(world, sqlite_url, tmp_path / "var") as on:
        await on.run()
        gone_bad, *_ = cause(world, {"cancelled:customer": 3})["cancelled:customer"]
        on.faults.mangled = {gone_bad: kind}
        for sweep in range(2):
            report = await on.run()
            assert (report.outcome, report.counts["bad"], report.counts["gone"]) == ("complete", 1, 0)
            # a row that does not say whose it is can only be asked for, and is then as bad as before
            assert report.counts["missing"] == (1 if kind in NAMELESS else 0)
            assert report.counts["events"] == (2 if sweep == 0 else 0)
        assert await value(on, "SELECT count(*) FROM subscriptions WHERE gone_seen > 0") == 0
        await on.deliver()
        assert len(on.mailbox.messages) == 2

        on.faults.mangled = {}
        report = await on.run()
        assert report.counts["events"] == 1
        await on.deliver()
        assert len(on.mailbox.messages) == 3
