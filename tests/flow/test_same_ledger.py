"""However it is driven, the ledger is the same: what happened, which spells there were, which mails they brought.

One world, whose customers' troubles last over 24 hours, lived through again by each way of driving it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from monitor.mail.smtp import SmtpTransport
from monitor.sandbox import acts
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.flock import FileLocks
from monitor.store.schema import episodes, events, notifications, subscriptions
from monitor.usecases.deliver import deliver_account
from monitor.usecases.run import Run, RunOptions
from tests.crews import crew_of, drive
from tests.harness import staged

START = datetime(2026, 4, 1, 7, 0, tzinfo=UTC)  # 09:00 in Budapest
DAYS = 5
HAPPENINGS = (
    START + timedelta(hours=2),
    START + timedelta(days=1, hours=6),
    START + timedelta(days=3, hours=3),
)


def a_world():
    """Troubles of several kinds, each of which lasts; some end days later."""
    world = healthy(60, trials=4, start=START)
    chosen: dict[str, list[str]] = {}

    def first(world) -> None:
        chosen.update(cause(world, {"low_on_funds": 2, "payment_failed:insufficient_balance": 2, "paused": 1}))

    def second(world) -> None:
        cause(world, {"max_amount_reached": 2, "cancelled:customer": 1, "trial_expired": 1})

    def third(world) -> None:
        for ext_id in chosen["low_on_funds"][:1]:
            acts.top_up(world, world.get(ext_id))

    for at, what in zip(HAPPENINGS, (first, second, third), strict=True):
        world.at(at, what)
    return world


async def a_pass(stage, tools=None, **options):
    tools = tools or stage.tools
    report = await Run(tools, stage.account, RunOptions(state_dir=stage.state_dir, **options)).execute()
    await deliver(stage, tools)
    return report


async def deliver(stage, tools) -> None:
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    await deliver_account(tools, stage.account, transport, stage.mailer)


async def by_cron_daily(stage) -> None:
    for day in range(DAYS + 1):
        stage.world.advance(to=START + timedelta(days=day))
        await a_pass(stage, trigger="cron")


async def by_cron_every_minute(stage) -> None:
    """Every minute where something happens; of the quiet ones in between, one in eight hours stands for all."""
    quiet = [START + timedelta(hours=8 * turn) for turn in range(DAYS * 3 + 1)]
    busy = [at + timedelta(minutes=minute) for at in HAPPENINGS for minute in (1, 2)]
    for at in sorted({*quiet, *busy}):
        stage.world.advance(to=at)
        await a_pass(stage, trigger="cron")


async def by_systemd_timers(stage) -> None:
    """A pass a day, later by a random delay, and deliveries of their own in between."""
    for day in range(DAYS + 1):
        stage.world.advance(to=START + timedelta(days=day, seconds=37 * day))
        await a_pass(stage, trigger="systemd")
        if day < DAYS:
            for hours in (1, 13):
                stage.world.advance(to=START + timedelta(days=day, hours=hours))
                await deliver(stage, stage.tools)


async def by_the_daemon(stage) -> None:
    await drive(stage, crew_of(stage, schedule="0 9 * * *"), START + timedelta(days=DAYS), every=timedelta(hours=4))


async def by_a_job_that_starts_twice(stage) -> None:
    """As a CronJob may: two processes at the same time. On PostgreSQL they share nothing but the database."""
    folder = stage.state_dir if stage.db.is_sqlite else stage.state_dir / "second"
    folder.mkdir(exist_ok=True)
    locks = FileLocks(folder)
    second = replace(stage.tools, locks=locks, owner=locks.owner)
    for day in range(DAYS + 1):
        stage.world.advance(to=START + timedelta(days=day))
        reports = await asyncio.gather(a_pass(stage), a_pass(stage, second))
        assert any(report.outcome == "complete" for report in reports)
    locks.close()


DRIVERS = {
    "cron daily": by_cron_daily,
    "cron every minute": by_cron_every_minute,
    "systemd timers": by_systemd_timers,
    "daemon": by_the_daemon,
    "double starts": by_a_job_that_starts_twice,
}


async def ledger(stage) -> dict[str, list]:
    """What must not depend on how often somebody looked: no instants, and situations alone among the events."""
    sub = subscriptions.c.ext_id
    e, p, n = events.c, episodes.c, notifications.c
    queries = {
        "events": select(sub, e.kind, e.old, e.new, e.cause).join(
            subscriptions, subscriptions.c.id == e.subscription_id
        ),
        "episodes": select(p.id, sub, p.kind, p.variant, p.close_reason).join(
            subscriptions, subscriptions.c.id == p.subscription_id
        ),
        "notifications": select(n.id, sub, n.step, n.kind, n.variant, n.state).join(
            subscriptions, subscriptions.c.id == n.subscription_id
        ),
    }
    async with stage.db.read() as conn:
        found = {name: sorted(map(tuple, await conn.execute(query)), key=repr) for name, query in queries.items()}
    found["delivered"] = sorted(str(mail.message["Message-ID"]) for mail in stage.mailbox.messages)
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, dict]:
    return {}


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
@pytest.mark.parametrize("how", list(DRIVERS))
async def test_the_ledger_is_the_same_however_it_is_driven(how, tmp_path, database_url, expected):
    async with staged(a_world(), database_url, tmp_path / "var") as stage:
        await DRIVERS[how](stage)
        found = await ledger(stage)
    assert len(found["delivered"]) >= 8
    assert len(found["delivered"]) == len(set(found["delivered"]))
    reference = expected.setdefault("first", found)
    for part, rows in found.items():
        assert rows == reference[part], part
