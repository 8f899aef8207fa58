"""Between the gate and the mail server: is it still true, is it the hour, may this address be mailed?"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from monitor.config.tables import SmtpSettings
from monitor.domain.halt import Halt, HaltRule
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox import acts
from monitor.sandbox.faults import error
from monitor.sandbox.seeding import healthy, make_trial
from monitor.sandbox.transitions import cause
from monitor.store.catalog import suppress
from monitor.store.engine import db_now
from monitor.store.locks import take_lock
from monitor.store.schema import accounts, batches, notifications, runs, subscriptions
from monitor.usecases import deliver as deliver_module
from monitor.usecases.deliver import deliver_account
from monitor.wiring.accounts import build_transport
from tests.harness import MAILER, Stage, mac

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FAILED = "payment_failed:insufficient_balance"


async def ready(play, wanted: dict[str, int]) -> tuple[Stage, dict[str, tuple[str, ...]]]:
    """A stage with these changes gated open."""
    stage = await play(healthy(60, start=START))
    await stage.run()
    stage.world.advance(MINUTE)
    caused = cause(stage.world, wanted)
    assert (await stage.run()).outcome == "complete"
    return stage, caused


async def deliver(stage: Stage, transport: SmtpTransport | None = None):
    transport = transport or SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    return await deliver_account(stage.tools, stage.account, transport, MAILER)


async def age(stage: Stage, by: timedelta) -> None:
    """All that is known was read that long ago, by the database's clock."""
    async with stage.db.write() as conn:
        at = await db_now(conn) - by
        await conn.execute(update(subscriptions).values(asked_at=at))
        await conn.execute(update(accounts).values(sweep_started_at=at))


async def states_of(stage: Stage, table) -> list[str]:
    async with stage.db.read() as conn:
        return list((await conn.execute(select(table.c.state).order_by(table.c.id))).scalars())


@pytest.mark.parametrize(("minutes", "asked"), [(4, 0), (6, 1)])
async def test_facts_older_than_five_minutes_are_read_again_before_an_urgent_mail(play, minutes, asked):
    stage, _ = await ready(play, {FAILED: 1})
    await age(stage, timedelta(minutes=minutes))
    stage.faults.requests.clear()
    assert (await deliver(stage)).sent == 1
    assert stage.faults.requests["subscription"] == asked


@pytest.mark.parametrize("connections", [1, 3])
async def test_no_more_connections_are_open_at_once_than_the_settings_allow(play, monkeypatch, connections):
    stage, _ = await ready(play, {FAILED: 9})
    transport = build_transport(SmtpSettings(port=stage.mailbox.port, connections=connections))
    open_now, most, session = Counter(), [], transport.session

    @asynccontextmanager
    async def counted():
        open_now["sessions"] += 1
        most.append(open_now["sessions"])
        async with session() as opened:
            yield opened
        open_now["sessions"] -= 1

    monkeypatch.setattr(transport, "session", counted)
    assert (await deliver(stage, transport)).sent == 9
    assert max(most) == connections


async def test_what_has_healed_meanwhile_is_not_mailed(play):
    stage, _ = await ready(play, {FAILED: 2})
    cause(stage.world, {"recovered": 1})
    await age(stage, 10 * MINUTE)
    delivery = await deliver(stage)
    assert (delivery.sent, +delivery.voided) == (1, {"recovered": 1})
    assert delivery.by_kind["payment_failed", "voided"] == 1
    assert sorted(await states_of(stage, notifications)) == ["sent", "voided"]


async def test_without_an_answer_an_old_fact_is_not_mailed_yet(play):
    stage, _ = await ready(play, {FAILED: 1})
    await age(stage, 10 * MINUTE)
    stage.faults.add(error(500, "internal"), route="subscription")
    delivery = await deliver(stage)
    assert (delivery.sent, delivery.snoozed["stale"], delivery.waiting) == (0, 1, 1)
    assert "did not answer before a mail" in delivery.problems[0]
    stage.faults.clear()
    stage.world.advance(5 * MINUTE)
    assert (await deliver(stage)).sent == 1


async def test_a_quiet_mail_waits_for_the_morning_of_its_reader(play):
    stage = await play(healthy(60, start=START))
    await stage.run()
    stage.world.advance(to=datetime(2026, 4, 1, 21, 30, tzinfo=UTC))  # half past eleven in Budapest
    (paused,) = cause(stage.world, {"paused": 1})["paused"]
    await stage.run()
    delivery = await deliver(stage)
    morning = datetime(2026, 4, 2, 6, 0, tzinfo=UTC)
    assert (delivery.sent, delivery.snoozed["window"], delivery.waiting_until) == (0, 1, morning)
    stage.world.advance(to=morning - SECOND)
    assert (await deliver(stage)).sent == 0
    stage.world.advance(to=morning)
    assert (await deliver(stage)).sent == 1
    assert stage.mailbox.messages[0].recipients == (stage.world.get(paused).customer.email,)


@pytest.mark.parametrize(("scope", "sent"), [("all", 0), ("reminders", 1)])
async def test_a_suppressed_address_is_not_mailed_and_a_refused_reminder_is_no_refused_bill(play, scope, sent):
    stage, caused = await ready(play, {FAILED: 1})
    address = stage.world.get(caused[FAILED][0]).customer.email
    async with stage.db.write() as conn:
        row = await stage.row()
        await suppress(conn, row.id, mac(address), scope=scope, reason="asked to", by="operator", at=START)
    delivery = await deliver(stage)
    assert delivery.sent == sent
    assert delivery.voided["suppressed"] == 1 - sent


async def test_nothing_is_known_before_the_first_run(play):
    stage = await play(healthy(5, start=START))
    assert (await deliver(stage)).stopped_by == Halt(HaltRule.NO_RUN_YET)


# Time and webhooks


async def ending_trial(play) -> Stage:
    world = healthy(60, trials=1, start=START)
    make_trial(world, world.subscriptions[-1], START + 5 * DAY)
    stage = await play(world)
    await stage.run()
    world.advance(3 * DAY + HOUR)
    return stage


async def test_what_time_makes_due_is_gated_after_two_minutes_and_mailed(play):
    stage = await ending_trial(play)
    assert (await deliver(stage)).sent == 0
    assert await stage.states() == {"staged": 1}
    stage.world.advance(119 * SECOND)
    assert (await deliver(stage)).sent == 0
    stage.world.advance(SECOND)
    assert (await deliver(stage)).sent == 1
    stage.world.advance(MINUTE)
    assert (await deliver(stage)).sent == 0


async def test_another_workers_gate_between_two_steps_of_this_one_loses_no_mail(play, monkeypatch):
    stage = await ending_trial(play)
    row = await stage.row()
    async with stage.db.write() as conn:
        from monitor.store.batches import collecting_batch

        await collecting_batch(conn, row.id, "tick", stage.world.now - 3 * MINUTE)
    real = deliver_module.look_at_what_is_due

    async def slow(tools, account, row, now, **how):
        await deliver_module._gates(tools, account, row, now)
        return await real(tools, account, row, now, **how)

    monkeypatch.setattr(deliver_module, "look_at_what_is_due", slow)
    await deliver(stage)
    stage.world.advance(2 * MINUTE)
    await deliver(stage)
    assert await stage.states() == {"sent": 1}


@pytest.mark.parametrize(("hours", "sent"), [(5.9, 0), (6, 1)])
async def test_a_run_that_nobody_finishes_is_gated_by_a_delivery_after_six_hours(play, hours, sent):
    stage = await killed_run(play)
    stage.world.advance(timedelta(hours=hours))
    assert (await deliver(stage)).sent == sent
    assert await states_of(stage, runs) == ["complete", "abandoned" if sent else "running"]


async def killed_run(play) -> Stage:
    stage = await play(healthy(60, start=START))
    await stage.run()
    stage.world.advance(MINUTE)
    cause(stage.world, {FAILED: 1})
    running = stage.tools

    def killed(name: str) -> None:
        if name == "before_gate":
            raise RuntimeError(name)

    stage.tools = replace(running, failpoint=killed)
    with pytest.raises(RuntimeError):
        await stage.run()
    stage.tools = running
    return stage


async def test_a_run_that_still_lives_is_left_alone(play):
    stage = await killed_run(play)
    stage.world.advance(7 * HOUR)
    stage.locks.hold_run("other")
    from monitor.store.flock import FileLocks

    another = FileLocks(stage.state_dir)
    assert another.hold_run("acme")
    assert (await deliver(stage)).sent == 0
    another.close()
    assert (await deliver(stage)).sent == 1


@pytest.mark.traced
async def test_a_run_of_another_machine_that_still_lives_is_left_alone(play):
    stage = await killed_run(play)
    stage.world.advance(7 * HOUR)
    async with stage.db.write() as conn:
        await take_lock(conn, "run:acme", "another-host:1:x", steal=True)
    assert (await deliver(stage)).sent == (1 if stage.db.is_sqlite else 0)


async def test_each_batch_is_judged_once(play):
    stage, _ = await ready(play, {FAILED: 1})
    await deliver(stage)
    assert set(await states_of(stage, batches)) == {"open"}
    async with stage.db.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(batches))).scalar_one() == 2
    acts.drain_wallet(stage.world.subscriptions[0].wallet)
    assert (await deliver(stage)).sent == 0
