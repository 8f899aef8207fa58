"""SIGKILL at any moment: 40 deaths over 1,500 mails, and deaths of whole runs.

`MONITOR_TEST_SCALE` (default 1) multiplies mails and kills: 5 for 200 deaths over 7,500 mails; a nightly run takes 10.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from monitor.sandbox.seeding import healthy
from tests.faults.rig.scene import KILLED, Forge, Scene, acting
from tests.faults.rig.sink import Act
from tests.scale import SCALE, sized

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
MAILS = sized(7_500, 1_000)
KILLS = sized(200, 24)


async def killed_after(scene: Scene, seconds: float, *, in_bodies: bool = False, **job) -> int:
    """Start a worker and kill it after this time, counted from its first body if so wanted; -9, or 0: it was faster."""
    begun = asyncio.Event()
    scene.sink.script["BODY"] = Act(call=begun.set)
    worker = scene.start(**job)
    if in_bodies:
        await asyncio.wait_for(begun.wait(), 30)
    await asyncio.sleep(seconds)
    worker.kill()  # until it is seen off its pid is its own, ended or not
    code = await worker.end()
    scene.kills += code == KILLED
    return code


async def test_kills_at_random_moments_of_a_long_delivery_lose_no_mail_and_double_none_without_a_record(
    database_url: str, tmp_path: Path, forge: Forge, capsys: pytest.CaptureFixture[str]
):
    chance = random.Random(20)
    async with acting(healthy(MAILS), database_url, tmp_path, forge) as scene:
        scene.cause(max_amount_reached=MAILS)
        staged = await scene.done(stages=("run",))
        assert staged.outcome == "complete"
        assert scene.states() == {"ready": MAILS}
        while scene.kills < KILLS:
            in_bodies = chance.random() < 0.5
            delay = chance.uniform(0.0, 0.05) if in_bodies else chance.uniform(0.02, 0.2)
            if await killed_after(scene, delay, in_bodies=in_bodies, stages=("deliver",), claim_at_once=16) == 0:
                break
        await scene.done(stages=("deliver",))
        verdict = scene.check()
        with capsys.disabled():
            print(
                f"\n{database_url.partition(':')[0]}: {scene.kills} kills, {MAILS} mails: " + ", ".join(verdict.lines())
            )
        assert scene.kills == KILLS, "the work was done before the kills were: widen the spread of mails"


async def test_whole_runs_killed_at_random_moments_go_on_where_they_stopped(
    database_url: str, tmp_path: Path, forge: Forge, capsys: pytest.CaptureFixture[str]
):
    """Sync, gate and delivery of one start, killed anywhere in it, while new transitions come in."""
    chance = random.Random(21)
    rounds = int(2 * SCALE)
    async with acting(healthy(600), database_url, tmp_path, forge) as scene:
        for _ in range(rounds):
            scene.cause(max_amount_reached=15, payment_failed__approval_revoked=15, cancelled__merchant=10)
            for _ in range(8):
                await killed_after(scene, chance.uniform(0.02, 0.7))
        await scene.done()
        await scene.done()
        verdict = scene.check()
        with capsys.disabled():
            print(f"\nruns on {database_url.partition(':')[0]}: {scene.kills} kills: " + ", ".join(verdict.lines()))
        assert scene.kills >= 4 * rounds
        assert scene.rows("SELECT count(*) FROM events WHERE kind = 'max_amount_reached'") == [(15 * rounds,)]
