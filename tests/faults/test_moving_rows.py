"""Rows that appear, vanish and change while they are paged: after two sweeps nothing is missed and nothing doubled.

50 seeds of 5,000 rows with `MONITOR_TEST_SCALE` above 1 (nightly); 12 seeds of 120 rows on six pages by default.
"""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.providers import qbitflow_v2
from monitor.sandbox import acts
from monitor.sandbox.entities import Reason, Status
from monitor.sandbox.seeding import add_customer, healthy
from monitor.sandbox.world import World
from tests.faults.rig.worker import WIDE_OPEN
from tests.harness import staged
from tests.scale import SCALE, sized

pytestmark = [pytest.mark.faults, pytest.mark.no_cover]  # traced, it would take twice as long and find nothing new
ROWS = sized(5_000, 120)
SEEDS = {"keyset": range(sized(50, 12)), "offset": range(100, sized(150, 106))}


class Mover:
    """Between two pages: new subscriptions, changed ones, some back again, and rows that no read shows any more."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.left = 12
        self.cancelled: set[str] = set()
        self.born: set[str] = set()

    def __call__(self, _page: int) -> None:
        for _ in range(self.chance.randint(0, 3)):
            if self.left <= 0:
                return
            self.left -= 1
            self.chance.choice((self.cancel, self.cancel, self.be_born, self.touch, self.vanish))()

    def pick(self):
        living = [sub for sub in self.world.living() if sub.status is Status.ACTIVE and sub.customer is not None]
        return self.chance.choice(living)

    def cancel(self) -> None:
        sub = self.pick()
        acts.cancel(self.world, sub, Reason.CUSTOMER)
        self.cancelled.add(self.world.id_of(sub))

    def be_born(self) -> None:
        world = self.world
        product = next(one for one in world.products if one.trial is None)
        wallet = acts.add_wallet(world, "USDC", 10**12)
        sub = acts.subscribe(world, product, wallet, add_customer(world, world.now))
        self.born.add(world.id_of(sub))

    def touch(self) -> None:
        """Only `updatedAt` moves: no change at all."""
        self.world.change(self.pick())

    def vanish(self) -> None:
        acts.remove(self.pick())


@pytest.mark.parametrize("paging", SEEDS)
async def test_rows_that_move_while_they_are_paged_are_neither_missed_nor_doubled(
    paging: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A vanished row is no mail and, after one 404, no verdict; `offset` paging shifts rows over the edges of pages."""
    if SCALE <= 1:
        monkeypatch.setattr(qbitflow_v2, "PAGE_ROWS", ROWS // 6)
    world = healthy(ROWS)
    async with staged(world, sqlite_url, tmp_path / "var") as on:
        on.change(guard=WIDE_OPEN)
        on.faults.paging = paging
        on.faults.order = "updated" if paging == "offset" else "created"
        await on.run()
        cancelled: set[str] = set()
        for seed in SEEDS[paging]:
            mover = Mover(world, seed)
            on.faults.between_pages = mover
            first = await on.run()
            assert first.outcome == "complete"
            on.faults.between_pages = None
            world.advance(timedelta(minutes=5))
            second = await on.run()
            assert second.outcome == "complete"
            cancelled |= mover.cancelled
            async with on.db.read() as conn:
                told = [
                    row[0]
                    for row in await conn.exec_driver_sql(
                        "SELECT s.ext_id FROM notifications n JOIN subscriptions s ON s.id = n.subscription_id "
                        "WHERE n.kind = 'cancelled'"
                    )
                ]
                events = [
                    row[0]
                    for row in await conn.exec_driver_sql(
                        "SELECT s.ext_id FROM events e JOIN subscriptions s ON s.id = e.subscription_id "
                        "WHERE e.kind = 'cancelled'"
                    )
                ]
                known = {row[0] for row in await conn.exec_driver_sql("SELECT ext_id FROM subscriptions")}
            living = {world.id_of(sub) for sub in world.living()}
            assert living <= known, "missed"
            assert sorted(events) == sorted(set(events)), "doubled"
            assert set(events) >= cancelled & living
            assert sorted(told) == sorted(set(told))
            assert set(events) <= cancelled, "nobody cancelled these"
