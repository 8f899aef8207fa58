"""Several drainers at once, one that slept past its lease, and a stop signal while a reply is outstanding."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from monitor.config.tables import CONNECTIONS
from monitor.sandbox.seeding import healthy
from monitor.usecases import post
from tests.faults.rig.scene import Forge, Scene, acting
from tests.faults.rig.sink import Act

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
LONG_AGO = "2026-01-01T00:00:00.000000+00:00"
DELIVER = {"stages": ("deliver",)}


def attempts(scene: Scene) -> list[tuple]:
    return [tuple(row) for row in scene.rows("SELECT token, copy, outcome FROM attempts ORDER BY id")]


async def until(what) -> None:
    """Until `what()` is true; the worker is another process, so there is nothing to await."""
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("drainers", [2, 4])
async def test_several_drainers_send_each_mail_once(drainers: int, database_url: str, tmp_path: Path, forge: Forge):
    async with acting(healthy(110), database_url, tmp_path, forge) as scene:
        scene.cause(max_amount_reached=100)
        await scene.done(stages=("run",))
        workers = [scene.start(claim_at_once=10, **DELIVER) for _ in range(drainers)]
        assert {await worker.end() for worker in workers} == {0}
        verdict = scene.check()
        assert (verdict.accepted, verdict.duplicates, verdict.ambiguities) == (100, [], [])


async def one_waiting(scene: Scene) -> None:
    scene.cause(max_amount_reached=1)
    await scene.done(stages=("run",))


async def test_a_drainer_that_slept_past_its_lease_is_refused_and_its_late_outcome_is_kept(
    database_url: str, tmp_path: Path, forge: Forge
):
    """Both have a body outstanding; the late one is told 451 and must not touch the row of the other."""
    late, second = asyncio.Event(), asyncio.Event()
    script = {
        ("DOT", 1): Act(reply=b"451 4.3.0 later\r\n", gate=late, accept=True),
        ("DOT", 2): Act(gate=second),
    }
    async with acting(healthy(10), database_url, tmp_path, forge, script=script) as scene:
        await one_waiting(scene)
        sleeper = scene.start(**DELIVER)
        await until(lambda: scene.sink.passes["DOT"] == 1)
        scene.write("UPDATE notifications SET until_at = :past", past=LONG_AGO)
        other = scene.start(**DELIVER)
        await until(lambda: scene.sink.passes["DOT"] == 2)
        late.set()
        assert await sleeper.end() == 0
        assert scene.states() == {"in_data": 1}, "the row is the other's"
        second.set()
        assert await other.end() == 0
        assert attempts(scene) == [
            (1, 1, "started"),
            (1, 1, "ambiguous"),
            (2, 2, "started"),
            (1, 1, "deferred"),
            (2, 2, "sent"),
        ]
        await scene.done(**DELIVER)
        verdict = scene.check()
        assert (verdict.accepted, len(verdict.duplicates), len(verdict.ambiguities)) == (2, 1, 1)


async def test_a_drainer_whose_claim_was_taken_over_before_its_mark_sends_nothing(
    database_url: str, tmp_path: Path, forge: Forge
):
    """Both stand between RCPT and DATA; the row is claimed, but not for the one that slept."""
    late, second = asyncio.Event(), asyncio.Event()
    script = {("RCPT", 1): Act(gate=late), ("RCPT", 2): Act(gate=second)}
    async with acting(healthy(10), database_url, tmp_path, forge, script=script) as scene:
        await one_waiting(scene)
        sleeper = scene.start(**DELIVER)
        await until(lambda: scene.sink.passes["RCPT"] == 1)
        scene.write("UPDATE notifications SET until_at = :past", past=LONG_AGO)
        other = scene.start(**DELIVER)
        await until(lambda: scene.sink.passes["RCPT"] == 2)
        late.set()
        assert await sleeper.end() == 0
        assert scene.sink.passes["DATA"] == 0
        second.set()
        assert await other.end() == 0
        verdict = scene.check()
        assert (verdict.accepted, verdict.ambiguities) == (1, [])


async def test_a_claim_is_refused_while_its_batch_is_not_open(database_url: str, tmp_path: Path, forge: Forge):
    """A person holds the batch between a drainer's question and its claim: here, after the rows were made ready."""
    async with acting(healthy(10), database_url, tmp_path, forge) as scene:
        await one_waiting(scene)
        scene.write("UPDATE batches SET state = 'held'")
        await scene.done(**DELIVER)
        assert scene.states() == {"ready": 1}
        assert scene.sink.passes["CONNECT"] == 0
        scene.write("UPDATE batches SET state = 'open'")
        await scene.done(**DELIVER)
        scene.check()


async def test_a_body_that_begins_late_in_its_lease_may_wait_ten_minutes_for_its_reply(
    database_url: str, tmp_path: Path, forge: Forge
):
    """The mark prolongs the lease: another drainer must not take a mail in doubt while its server is merely slow."""
    rcpt, dot = asyncio.Event(), asyncio.Event()
    script = {("RCPT", 1): Act(gate=rcpt), ("DOT", 1): Act(gate=dot)}
    async with acting(healthy(10), database_url, tmp_path, forge, script=script) as scene:
        await one_waiting(scene)
        slow = scene.start(**DELIVER)
        await until(lambda: scene.sink.passes["RCPT"] == 1)
        scene.write("UPDATE notifications SET until_at = :past", past=LONG_AGO)  # the claim is as old as that
        rcpt.set()
        await until(lambda: scene.sink.passes["DOT"] == 1)
        await scene.done(**DELIVER)
        assert scene.states() == {"in_data": 1}
        dot.set()
        assert await slow.end() == 0
        verdict = scene.check()
        assert (verdict.accepted, verdict.ambiguities) == (1, [])


async def test_a_stop_signal_waits_for_replies_sends_nothing_more_and_leaves_the_rest_in_doubt(
    database_url: str, tmp_path: Path, forge: Forge
):
    assert post.DRAIN_S == 20
    gate, answered = asyncio.Event(), asyncio.Event()
    answered.set()
    script = {"DOT": Act(gate=gate), ("DOT", 1): Act(delay=0.4)}
    async with acting(healthy(40), database_url, tmp_path, forge, script=script) as scene:
        scene.cause(max_amount_reached=30)
        await scene.done(stages=("run",))
        worker = scene.start(drain_s=1.0, **DELIVER)
        await until(lambda: scene.sink.passes["DOT"] == CONNECTIONS)
        mails = scene.sink.passes["MAIL"]
        began = time.monotonic()
        worker.kill(signal.SIGTERM)
        assert await worker.end() == 0
        assert time.monotonic() - began < 5
        assert scene.sink.passes["MAIL"] <= mails + 1, "no new mail, but one that was on its way to RCPT"
        in_doubt = CONNECTIONS - 1
        assert scene.states() == {"sent": 1, "in_data": in_doubt, "ready": 29 - in_doubt}
        gate.set()
        scene.sink.script.clear()
        await scene.done(**DELIVER)
        verdict = scene.check()
        assert len(verdict.ambiguities) == in_doubt
        assert verdict.accepted == 30 + in_doubt
