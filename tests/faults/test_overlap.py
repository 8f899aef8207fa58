"""Many starts at once: one works, the others say so and leave; each mail goes once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.flock import FileLocks
from monitor.store.locks import LEASE
from monitor.usecases.context import Tools
from monitor.usecases.run import Run, RunOptions
from tests.faults.rig.scene import KILLED, Forge, acting
from tests.faults.rig.worker import BUSY, WIDE_OPEN
from tests.harness import Stage, forever, mac, staged
from tests.scale import SCALE

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
STARTS = 50
ROUNDS = int(6 * SCALE)


class Crowd:
    """Starts that each have their own locks, as processes have; `folders` are the machines they stand on."""

    def __init__(self, on: Stage, folders: list[Path]) -> None:
        self.on = on
        self.locks = [FileLocks(folders[number % len(folders)]) for number in range(STARTS)]

    def run_of(self, locks: FileLocks) -> Run:
        on = self.on
        tools = Tools(on.tools.db, on.tools.clock, locks.owner, locks, mac, forever)
        return Run(tools, on.account, RunOptions(state_dir=on.state_dir))

    async def start(self) -> list[str]:
        reports = await asyncio.gather(*(self.run_of(locks).execute() for locks in self.locks))
        return sorted(report.outcome for report in reports)

    def close(self) -> None:
        for locks in self.locks:
            locks.close()


ONE_WORKS = ["already_running"] * (STARTS - 1) + ["complete"]


@asynccontextmanager
async def crowded(url: str, folder: Path, machines: int) -> AsyncIterator[Crowd]:
    async with staged(healthy(60), url, folder / "0") as on:
        on.change(guard=WIDE_OPEN)
        assert (await on.run()).outcome == "complete"
        crowd = Crowd(on, [folder / str(number) for number in range(machines)])
        yield crowd
        crowd.close()


async def test_50_starts_at_once_one_works_and_each_mail_goes_once(database_url: str, tmp_path: Path):
    async with crowded(database_url, tmp_path, machines=1) as crowd:
        for number in range(ROUNDS):
            cause(crowd.on.world, {"cancelled:customer": 1})
            assert await crowd.start() == ONE_WORKS
            await crowd.on.deliver()
            assert len(crowd.on.mailbox.messages) == number + 1


async def test_50_starts_on_five_machines_are_told_apart_by_the_row_alone(postgres_url: str, tmp_path: Path):
    """A state folder for each machine: no file tells one of the other."""
    async with crowded(postgres_url, tmp_path, machines=5) as crowd:
        for number in range(ROUNDS):
            cause(crowd.on.world, {"cancelled:customer": 1})
            outcomes = await crowd.start()
            assert outcomes.count("complete") >= 1
            assert set(outcomes) == {"already_running", "complete"}
            await crowd.on.deliver()
            assert len(crowd.on.mailbox.messages) == number + 1
        async with crowd.on.db.read() as conn:
            runs = (await conn.execute(text("SELECT count(*) FROM runs WHERE state = 'running'"))).scalar_one()
        assert runs == 0


async def test_30_processes_at_once_run_and_deliver_each_mail_once(database_url: str, tmp_path: Path, forge: Forge):
    """Real processes, and all of them deliver: what one has claimed is no other's."""
    async with acting(healthy(200), database_url, tmp_path, forge) as scene:
        scene.cause(cancelled__customer=15)
        workers = [scene.start() for _ in range(30)]
        codes = [await worker.end() for worker in workers]
        assert set(codes) <= {0, BUSY}
        outcomes = [worker.report().outcome for worker in workers]
        assert set(outcomes) <= {"complete", "already_running"}, outcomes
        assert outcomes.count("complete") >= 1
        await scene.done()
        verdict = scene.check()
        assert (verdict.duplicates, verdict.ambiguities) == ([], [])


async def test_a_start_that_finds_another_at_work_leaves_within_two_seconds(
    database_url: str, tmp_path: Path, forge: Forge
):
    async with acting(healthy(120), database_url, tmp_path, forge) as scene:
        answer = asyncio.Event()
        asked = asyncio.Event()

        async def hold() -> None:
            asked.set()
            await answer.wait()

        scene.faults.add(route="subscriptions", times=1, wait=hold)
        holder = scene.start()
        await asked.wait()
        began = time.monotonic()
        code, second = await scene.work()
        assert time.monotonic() - began < 2
        assert (code, second.report().outcome) == (BUSY, "already_running")
        answer.set()
        assert await holder.end() == 0
        assert holder.report().outcome == "complete"


async def test_a_killed_holder_lets_the_next_run_in_at_once_on_its_machine(
    database_url: str, tmp_path: Path, forge: Forge
):
    async with acting(healthy(120), database_url, tmp_path, forge) as scene:
        scene.cause(cancelled__customer=3)
        code, _ = await scene.work(kill_at="after_page_commit")
        assert code == KILLED
        report = await scene.done()
        assert report.outcome == "complete"
        scene.check()


async def test_a_holder_killed_on_another_machine_keeps_the_others_out_until_its_lease_ends(
    postgres_url: str, tmp_path: Path, forge: Forge
):
    async with acting(healthy(120), postgres_url, tmp_path, forge) as scene:
        scene.cause(cancelled__customer=3)
        code, _ = await scene.work(kill_at="after_page_commit", state_dir=str(tmp_path / "elsewhere"))
        assert code == KILLED
        code, worker = await scene.work()
        assert (code, worker.report().outcome) == (BUSY, "already_running")
        left = scene.rows("SELECT until_at::timestamptz - clock_timestamp() FROM locks")[0][0]
        assert left <= LEASE
        scene.write("UPDATE locks SET until_at = :past", past="2026-01-01T00:00:00.000000+00:00")
        report = await scene.done()
        assert report.outcome == "complete"
        scene.check()


async def test_a_run_that_lost_its_lock_while_it_slept_writes_nothing_more(
    database_url: str, tmp_path: Path, forge: Forge
):
    """Stopped after its pages were fetched, overtaken by another, then woken: the fence refuses its page and its gate."""
    async with acting(healthy(120), database_url, tmp_path, forge) as scene:
        scene.cause(cancelled__customer=3)
        answer, asked = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            asked.set()
            await answer.wait()

        scene.faults.add(route="subscriptions", times=1, wait=hold)
        sleeper = scene.start()
        await asked.wait()
        scene.write("UPDATE locks SET token = token + 1")
        pages = scene.rows("SELECT count(*) FROM run_pages")
        answer.set()
        assert await sleeper.end() == 1
        assert "FencedOffError" in sleeper.report().error
        assert scene.rows("SELECT count(*) FROM run_pages") == pages
        assert scene.states() == {}
        scene.write("UPDATE locks SET until_at = :past", past="2026-01-01T00:00:00.000000+00:00")
        await scene.done()
        scene.check()
