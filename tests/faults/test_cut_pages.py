"""A sweep that is cut at any of its pages: what was not seen stays as it is, nothing is concluded, a retry converges.

The pages have few rows so that there are many. With `MONITOR_TEST_SCALE` above 1 it is cut at each of 100, else at every
fourth of 40.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.domain.guard import GuardLimits
from monitor.providers import qbitflow_v2
from monitor.providers.base import Capability
from monitor.sandbox import acts, faults
from monitor.sandbox.entities import Status
from monitor.sandbox.faults import Answer
from monitor.sandbox.seeding import healthy
from monitor.usecases.run import Run, RunOptions
from tests.faults.rig.scene import KILLED, Forge, acting
from tests.faults.rig.worker import WIDE_OPEN
from tests.harness import Stage, staged
from tests.scale import sized

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
PAGES, EVERY = sized((100, 1), (40, 4))
ROWS = 2
BROKEN = {
    "cut before the answer": faults.dropped(),
    "cut in mid body": faults.dropped(after=50),
    "503": faults.error(503, "unavailable"),
    "truncated JSON": faults.truncated(),
    "HTML with status 200": faults.html(200),
    "an empty body": faults.raw(b""),
    "items is no list": faults.items("none"),
    "cursor refused": faults.cursor_refused(),
    "cursor expired": faults.cursor_refused(410),
    "the same cursor again": faults.repeat_cursor,
    "the process dies": None,
}
# These look like good pages: only who is missing tells.
SHORT: dict[str, faults.Act] = {
    "an empty page at the end": lambda _call, _answer: Answer(rows=()),
    "a page without its rows": faults.no_rows,
}
STRICT = GuardLimits(share=WIDE_OPEN.share, small=WIDE_OPEN.small, mails_floor=WIDE_OPEN.mails_floor)
KINDS = list(BROKEN)


class DeadError(BaseException):
    """What stands behind it in the code runs no more, as far as the pages are concerned."""


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qbitflow_v2, "PAGE_ROWS", ROWS)


class Paged:
    """A stage with many pages, and what a page shows. Page 1 has the newest rows."""

    def __init__(self, on: Stage) -> None:
        self.on = on
        self.rows = list(on.world.living())[::-1]

    def toggle(self, page: int) -> str:
        """Pause or resume the first subscription of a page; its id."""
        sub = self.rows[(page - 1) * ROWS]
        (acts.resume if sub.status is Status.PAUSED else acts.pause)(self.on.world, sub)
        return self.on.world.id_of(sub)

    async def stored(self) -> dict[str, str]:
        async with self.on.db.read() as conn:
            rows = await conn.exec_driver_sql("SELECT ext_id, status FROM subscriptions")
            return {row[0]: row[1] for row in rows}

    async def cut(self, kind: str, page: int) -> None:
        """A run that does not get past this page."""
        on = self.on
        if kind != "the process dies":
            on.faults.add(BROKEN[kind], route="subscriptions", page=page)
            report = await on.run()
            assert report.outcome == "partial", (page, kind)
            assert "window 1" in " ".join(report.problems)
            return
        passes = Counter[str]()

        def die(name: str) -> None:
            passes[name] += 1
            if name == "after_page_fetch" and passes[name] == page:
                raise DeadError

        dying = Run(replace(on.tools, failpoint=die), on.account, RunOptions(state_dir=on.state_dir))
        with pytest.raises(DeadError):
            await dying.execute()

    def true(self) -> dict[str, str]:
        return {self.on.world.id_of(sub): str(sub.status) for sub in self.rows}

    async def count(self, what: str) -> int:
        async with self.on.db.read() as conn:
            return (await conn.exec_driver_sql(f"SELECT count(*) FROM {what}")).scalar_one()


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(
    ("database", "step"), [("sqlite", EVERY), pytest.param("postgres", 3 * EVERY, marks=pytest.mark.postgres)]
)
async def test_a_cut_at_any_page_leaves_the_unseen_alone_and_converges(
    database: str, step: int, request: pytest.FixtureRequest, tmp_path: Path
):
    """The kinds of cuts take turns; PostgreSQL, which has less to do with it, gets some."""
    async with staged(healthy(PAGES * ROWS), request.getfixturevalue(f"{database}_url"), tmp_path / "var") as on:
        on.change(guard=WIDE_OPEN)
        # the event log names who changed, and they are then asked for by id: here only pages tell
        on.account.provider.capabilities -= {Capability.LOG}
        await on.run()
        paged = Paged(on)
        sweep = (await on.row()).sweep_started_at
        for page in sorted({*range(1, PAGES + 1, step), PAGES}):
            before = await paged.stored()
            seen, unseen = (paged.toggle(page - 1) if page > 1 else None), paged.toggle(page)
            kind = KINDS[page % len(KINDS)] if page < PAGES else "503"  # the last page's cursor is no cursor
            await paged.cut(kind, page)
            after = await paged.stored()
            changed = {ext_id for ext_id in after if after[ext_id] != before[ext_id]}
            if kind == "the process dies":
                assert changed <= {seen}, "the pages since the last commit are read again"
            else:
                assert changed == {seen, *([unseen] if kind == "the same cursor again" else [])} - {None}, (page, kind)
            assert (await on.row()).sweep_started_at == sweep
            on.faults.clear()
            whole = await on.run()
            assert whole.outcome == "complete"
            assert await paged.stored() == paged.true()
            assert (await on.row()).sweep_started_at > sweep
            sweep = (await on.row()).sweep_started_at
        assert await paged.count("subscriptions WHERE gone_seen > 0") == 0
        assert await paged.count("events WHERE kind NOT IN ('paused', 'healthy', 'resumed')") == 0


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("kind", SHORT)
async def test_a_list_that_ends_early_without_an_error_is_no_proof_of_absence(
    kind: str, sqlite_url: str, tmp_path: Path
):
    async with staged(healthy(PAGES * ROWS), sqlite_url, tmp_path / "var") as on:
        on.change(guard=STRICT)
        await on.run()
        paged = Paged(on)
        for page in (1, PAGES // 2, PAGES - PAGES * 8 // 100, PAGES):
            unseen = paged.toggle(page)
            on.faults.add(SHORT[kind], route="subscriptions", page=page)
            cut = await on.run()
            missing = (PAGES - page + 1) * ROWS if kind == "an empty page at the end" else ROWS
            assert cut.counts["missing"] == missing
            held = missing > PAGES * ROWS // 10
            assert cut.outcome == ("held" if held else "complete")
            stored = await paged.stored()
            assert (stored[unseen] == paged.true()[unseen]) is not held, "asked one by one, or not at all"
            on.faults.clear()
            await on.run()
            assert await paged.stored() == paged.true()
        assert await paged.count("subscriptions WHERE gone_seen > 0") == 0
        assert "cancelled" not in set((await paged.stored()).values())


async def test_killed_at_ever_later_pages_the_next_start_goes_on(sqlite_url: str, tmp_path: Path, forge: Forge):
    """Each start dies some pages later than the one before, with the pages since the last commit; then one ends."""
    async with acting(healthy(PAGES * ROWS), sqlite_url, tmp_path, forge) as scene:
        scene.cause(cancelled__customer=20)
        for page in range(1, PAGES + 1, PAGES // 10):
            code, _ = await scene.work(kill_at="after_page_fetch", kill_pass=page, page_rows=ROWS, stages=("run",))
            assert code in {0, KILLED}
        await scene.done(page_rows=ROWS)
        assert scene.kills >= 5
        assert scene.rows("SELECT count(*) FROM subscriptions WHERE gone_seen > 0") == [(0,)]
        assert scene.rows("SELECT count(*) FROM events") == [(20,)]
        verdict = scene.check()
        assert (verdict.duplicates, verdict.ambiguities) == ([], [])


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("length", [1, 2, 3, 7])
async def test_cursors_that_go_round_end_the_window_within_two_repeats(length: int, sqlite_url: str, tmp_path: Path):
    async with staged(healthy(40), sqlite_url, tmp_path / "var") as on:
        await on.run()
        on.faults.requests.clear()
        page = 10
        act = faults.repeat_cursor if length == 1 else faults.back_to(on.faults, page - length + 1)
        on.faults.add(act, route="subscriptions", page=page)
        report = await on.run()
        assert report.outcome == "partial"
        assert "circle" in " ".join(report.problems)
        assert on.faults.requests["subscriptions"] <= page + 2
        assert report.counts["missing"] == 0


@pytest.mark.usefixtures("small_pages")
async def test_empty_pages_with_ever_new_cursors_do_not_go_on_for_ever(sqlite_url: str, tmp_path: Path):
    async with staged(healthy(60), sqlite_url, tmp_path / "var") as on:
        await on.run()
        on.faults.requests.clear()
        on.faults.add(faults.no_rows, route="subscriptions")
        report = await on.run()
        assert report.outcome == "partial"
        assert on.faults.requests["subscriptions"] <= 5
        assert report.counts["missing"] == 0


@pytest.mark.usefixtures("small_pages")
async def test_a_page_of_another_account_is_refused_by_its_key_not_believed(sqlite_url: str, tmp_path: Path):
    """The space that `/me` names decides: another one ends the run before any page."""
    async with staged(healthy(20), sqlite_url, tmp_path / "var") as on:
        await on.run()
        on.faults.requests.clear()
        on.faults.me = {"uuid": "0198ffff-0000-7000-8000-000000000001"}
        with pytest.raises(Exception, match="another space"):
            await on.run()
        assert on.faults.requests["subscriptions"] == 0
