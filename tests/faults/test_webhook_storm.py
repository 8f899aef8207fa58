"""Transitions, each by three webhook deliveries, the log and two sweeps, shuffled and at once, two workers: each counts once.

10,000 transitions with `MONITOR_TEST_SCALE` above 1 (nightly), 24 by default.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.sandbox import v2_shapes
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.flock import FileLocks
from monitor.store.schema import events, facts, notifications
from monitor.usecases.context import Tools
from monitor.usecases.deliver import deliver_account
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.reread import LEASE, reread_account
from monitor.usecases.run import Run, RunOptions
from tests.crews import charge_of
from tests.faults.rig.worker import WIDE_OPEN
from tests.harness import Stage, staged
from tests.scale import sized

pytestmark = pytest.mark.faults
TRANSITIONS = sized(10_000, 24)
DIALECT = QBitFlowHooks(["whsec_acme"])
TO = Addressee("acme", "qbitflow-v2", "live")


class Worker:
    """One of the processes that take webhooks and read."""

    def __init__(self, stage: Stage, locks: FileLocks, seed: int) -> None:
        self.stage = stage
        self.tools: Tools = replace(stage.tools, locks=locks, owner=locks.owner)
        self.inbox = Inbox(stage.db, stage.tools.clock)
        self.chance = random.Random(seed)

    async def take(self, bodies: list[bytes]) -> int:
        """Take deliveries in any order, some at once."""
        mine, fresh = list(bodies), 0
        self.chance.shuffle(mine)
        while mine:
            size = self.chance.randint(1, 40)
            some, mine = mine[:size], mine[size:]
            fresh += sum(
                await asyncio.gather(
                    *(self.inbox.put(TO, DIALECT.read({"qbitflow-signature": "t=1"}, one)) for one in some)
                )
            )
            await asyncio.sleep(0)
        return fresh

    async def read(self, until: asyncio.Event) -> None:
        while not until.is_set() or (await reread_account(self.tools, self.stage.account)).more:
            await reread_account(self.tools, self.stage.account)
            await asyncio.sleep(0)

    async def run(self) -> str:
        return (await Run(self.tools, self.stage.account, RunOptions(state_dir=self.stage.state_dir)).execute()).outcome

    async def deliver(self) -> int:
        transport = charge_of(self.stage).transport
        return (await deliver_account(self.tools, self.stage.account, transport, self.stage.mailer)).sent


async def counted(stage: Stage, statement) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(statement)).scalar_one()


async def test_each_transition_is_one_event_and_one_mail_whoever_tells_it(database_url: str, tmp_path: Path):
    world = healthy(TRANSITIONS * 3)
    async with staged(world, database_url, tmp_path / "var") as stage:
        stage.change(guard=WIDE_OPEN)
        await stage.run()
        heard = len(world.happenings)
        caused = cause(world, {"cancelled:customer": TRANSITIONS})["cancelled:customer"]
        shapes = v2_shapes.Shapes(world)
        bodies = [json.dumps(shapes.event(line)).encode() for line in list(world.happenings)[heard:]]
        locks = [FileLocks(tmp_path / "var") for _ in range(2)]
        one, two = (Worker(stage, lock, seed) for seed, lock in enumerate(locks))
        told = asyncio.Event()

        async def tell() -> int:
            parts = await asyncio.gather(one.take(bodies), two.take(bodies), one.run(), two.take(bodies))
            told.set()
            return parts[0] + parts[1] + parts[3]

        fresh, *_ = await asyncio.gather(tell(), one.read(told), two.read(told))
        assert fresh <= len(bodies)
        assert await two.run() == "complete"
        world.advance(max(LEASE, timedelta(minutes=2, seconds=1)))
        told.set()
        await asyncio.gather(one.read(told), two.read(told))
        for _ in range(2):
            await asyncio.gather(one.deliver(), two.deliver())
        happened = await counted(stage, select(func.count()).where(events.c.kind == "cancelled"))
        distinct = await counted(
            stage, select(func.count(events.c.subscription_id.distinct())).where(events.c.kind == "cancelled")
        )
        assert (happened, distinct) == (TRANSITIONS, TRANSITIONS)
        assert await counted(stage, select(func.count()).select_from(notifications)) == TRANSITIONS
        assert await counted(stage, select(func.count()).where(facts.c.ask_at.is_not(None))) == 0
        assert len(stage.mailbox.messages) == len(caused) == TRANSITIONS
        for lock in locks:
            lock.close()
