"""What is asked once more before any mail leaves: is this the database of yesterday, does the API still know her?"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.domain.halt import HaltRule
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.witness import FILE_NAME
from monitor.usecases.deliver import deliver_account
from tests.harness import MAILER

MORNING = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


@pytest.fixture
async def stage(play):
    stage = await play(healthy(60, start=MORNING))
    await stage.run()
    return stage


async def deliver(stage, **how):
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    return await deliver_account(stage.tools, stage.account, transport, MAILER, **how)


async def test_a_restored_database_sends_nothing_of_what_waited_in_it(stage):
    cause(stage.world, {"paused": 2})
    assert (await stage.run()).outcome == "complete"
    note = stage.state_dir / FILE_NAME
    kept = json.loads(note.read_text())
    note.write_text(json.dumps({**kept, "counter": kept["counter"] + 1}))  # the database was used since this backup
    done = await deliver(stage, state_dir=stage.state_dir)
    assert (done.sent, len(stage.mailbox.messages)) == (0, 0)
    assert done.stopped_by is not None
    assert done.stopped_by.rule is HaltRule.RESTORED
    assert "restored from a backup" in done.stopped_by.why
    note.write_text(json.dumps(kept))
    assert (await deliver(stage, state_dir=stage.state_dir)).sent == 2


async def test_a_verdict_of_elsewhere_stops_a_pass_on_a_copy(stage):
    cause(stage.world, {"paused": 1})
    await stage.run()
    assert (await deliver(stage, witness="it was copied")).sent == 0
    assert (await deliver(stage)).sent == 1


async def test_another_api_version_is_held_once_and_never_again(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, provider="qbitflow-v1")
    cause(stage.world, {"paused": 2})
    report = await stage.run()
    assert report.outcome == "held"
    assert "another API version" in report.held[0]
    assert (await stage.run()).outcome == "complete"
    assert (await deliver(stage)).sent == 0


async def test_nobody_is_asked_to_pay_for_what_the_api_does_not_know(stage):
    ids = cause(stage.world, {"payment_failed:insufficient_balance": 1})
    await stage.run()
    row = await stage.row()
    async with stage.db.write() as conn:  # the sweep was long ago, so an urgent mail asks again first
        from sqlalchemy import update

        from monitor.store.schema import subscriptions

        old = row.sweep_started_at - timedelta(hours=1)
        await change_account(conn, row.id, sweep_started_at=old)
        await conn.execute(update(subscriptions).values(asked_at=old))
    gone = stage.world.find(ids["payment_failed:insufficient_balance"][0])
    known = stage.account.provider

    class Forgetful:
        name, capabilities = known.name, known.capabilities

        async def subscription(self, _ext_id):
            return None

    stage.account = replace(stage.account, provider=Forgetful())
    done = await deliver(stage)
    assert (done.sent, done.snoozed["stale"]) == (0, 1)
    stage.account = replace(stage.account, provider=known)
    stage.world.advance(timedelta(minutes=6))
    assert gone is not None
    assert (await deliver(stage)).sent == 1
