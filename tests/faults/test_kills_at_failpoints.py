"""SIGKILL at every failpoint: restarting alone brings every mail home, and only a body's own window may double one."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.config.tables import CONNECTIONS
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from tests.faults.rig.scene import KILLED, Forge, acting
from tests.faults.rig.sink import Act

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new

BEFORE_ANY_BODY = (
    "after_lock",
    "after_page_fetch",
    "before_page",
    "after_fence",
    "after_observe",
    "before_page_commit",
    "after_page_commit",
    "before_gate",
    "before_gate_commit",
    "after_gate_commit",
    "after_claim",
)
AROUND_BODIES = (
    "after_connect",
    "after_rcpt",
    "before_mark",
    "before_mark_commit",
    "after_mark_commit",
    "after_in_data",
    "after_reply",
)
MOST = 40


def little_world():
    """Three pages; enough mails that every connection has several."""
    return healthy(230, trials=10)


def transitions(scene) -> None:
    scene.cause(
        max_amount_reached=6,
        payment_failed__insufficient_balance=6,
        payment_failed__allowance_exhausted=4,
        cancelled__customer=5,
        stopped=4,
    )


@pytest.mark.parametrize("name", [*BEFORE_ANY_BODY, *AROUND_BODIES])
async def test_killed_at_every_pass_of_a_failpoint_no_mail_is_lost_and_no_copy_goes_unrecorded(
    name: str, database_url: str, tmp_path: Path, forge: Forge
):
    async with acting(little_world(), database_url, tmp_path, forge) as scene:
        transitions(scene)
        for number in range(1, MOST):
            code, worker = await scene.work(kill_at=name, kill_pass=number)
            if code == 0:
                break
            assert code == KILLED, worker.errors()
        else:
            raise AssertionError(f"still killed at pass {MOST}")
        assert scene.kills >= 1, "the failpoint was never passed"
        await scene.done()
        verdict = scene.check()
        assert len(verdict.ambiguities) <= CONNECTIONS * scene.kills
        if name in BEFORE_ANY_BODY:
            assert (verdict.duplicates, verdict.ambiguities) == ([], []), "no body had begun, so nothing is in doubt"
            assert scene.states() == {"sent": len(scene.expected)}


@pytest.mark.parametrize("verb", ["BODY", "DOT", "QUIT"])
async def test_killed_by_the_server_in_mid_data_after_the_dot_or_at_quit(
    verb: str, database_url: str, tmp_path: Path, forge: Forge
):
    """In mid-DATA, after the dot and before the reply; at QUIT the other connections may be anywhere."""
    script: dict = {}
    async with acting(little_world(), database_url, tmp_path, forge, script=script) as scene:
        transitions(scene)
        for _ in range(MOST):
            turn = scene.sink.passes[verb] + (1 if verb == "QUIT" else 4)
            worker = scene.start()
            script.clear()
            script[(verb, turn)] = Act(call=worker.kill, then="go" if verb == "BODY" else "hang")
            if await worker.end() != KILLED:
                break
            scene.kills += 1
        script.clear()
        await scene.done()
        verdict = scene.check()
        assert scene.kills >= 1
        assert len(verdict.ambiguities) <= CONNECTIONS * scene.kills
        if verb != "QUIT":
            assert verdict.ambiguities, "a body was under way at each kill"


@pytest.mark.parametrize("name", [*BEFORE_ANY_BODY[:-1]])
async def test_killed_at_first_contact_the_baseline_is_completed_by_the_next_starts(
    name: str, sqlite_url: str, tmp_path: Path, forge: Forge
):
    """Nothing that the baseline saw is mailed, and no later batch is held because of the kill."""
    world = little_world()
    cause(world, {"payment_failed:insufficient_balance": 20, "trial_expired": 4})
    async with acting(world, sqlite_url, tmp_path, forge, baseline=False) as scene:
        for number in range(1, MOST):
            code, _ = await scene.work(kill_at=name, kill_pass=number)
            if code == 0:
                break
        assert scene.kills >= 1
        transitions(scene)
        report = await scene.done()
        assert (report.outcome, report.problems) == ("complete", [])
        scene.check()
