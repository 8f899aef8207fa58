"""Six events of one subscription in all 720 orders: the same final state, whatever was read or told last."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from uuid import UUID

from sqlalchemy import select

from monitor.domain.model import Fact, Snapshot, Source
from monitor.providers.qbitflow_v2_events import event_row
from monitor.providers.qbitflow_v2_wire import subscription_row
from monitor.sandbox import acts, billing, v2_shapes
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.sandbox.world import World
from monitor.store.batches import collecting_batch
from monitor.store.engine import db_now
from monitor.store.facts import insert_facts
from monitor.store.schema import episodes
from monitor.store.subscriptions import load_subscriptions
from monitor.usecases.intake import fold_open_facts
from monitor.usecases.observe import Observed, observe
from monitor.usecases.tick import look_at_what_is_due
from monitor.usecases.writing import Pen
from tests.harness import mac

ORDERS = list(permutations(range(6)))


def story(world: World) -> list[tuple[Snapshot, Fact]]:
    """What the API showed right after each of six events, and what the event told."""
    [ext_id] = cause(world, {"low_on_funds": 1})["low_on_funds"]
    sub = world.get(ext_id)
    told: list[tuple[Snapshot, Fact]] = []

    def note() -> None:
        shown = subscription_row(json.dumps(v2_shapes.Shapes(world).subscription(sub)).encode())
        line = next(one for one in reversed(world.happenings) if one.subscription.n == sub.n)
        fact = event_row(json.dumps(v2_shapes.Shapes(world).event(line)).encode())
        told.append((shown[0], fact[1]))
        world.advance(timedelta(minutes=7))

    note()  # low on funds
    acts.drain_wallet(sub.wallet)
    sub.next_billing_at = sub.period_end_at = world.now
    billing.wake(world, sub)
    note()  # the bill fails
    acts.retry(world, sub)
    note()  # and fails again
    acts.fund_wallet(sub.wallet, 50 * world.amount_of(sub))
    acts.top_up(world, sub, sub.approved + 40 * world.amount_of(sub))
    if sub.dunning is not None:
        acts.retry(world, sub)
    note()  # is paid
    acts.pause(world, sub)
    note()
    acts.stop(world, sub)
    note()
    assert len({one.provider_updated_at for one, _ in told}) == 6
    assert len({fact.dedupe_key for _, fact in told}) == 6
    return told


def of_order(n: int, snapshot: Snapshot, fact: Fact) -> tuple[Snapshot, Fact]:
    """The same about the subscription that lives through order `n`."""
    ext_id = f"sub@{UUID(int=n)}"
    own = replace(snapshot, ext_id=ext_id, customer=None, customer_ext_id=None)
    return own, replace(fact, dedupe_key=f"{n}/{fact.dedupe_key}", subscription_ext_id=ext_id)


async def test_720_orders_of_six_events_end_in_one_state(play):
    """Each order is a subscription of its own, so that a step of all orders is one transaction."""
    stage = await play(healthy(60))
    await stage.run()
    row, told = await stage.row(), story(stage.world)
    policy = stage.account.policy(row)
    for step in range(6):
        now = stage.world.now
        pairs = [of_order(n, *told[order[step]]) for n, order in enumerate(ORDERS)]
        async with stage.db.write() as conn:
            await insert_facts(conn, row.id, [fact for _, fact in pairs], now, source=Source.WEBHOOK)
            pen = Pen(now, Source.WEBHOOK, await collecting_batch(conn, row.id, "live", now))
            at = await db_now(conn)
            await observe(conn, row, policy, [Observed(one, b"{}", at) for one, _ in pairs], pen, mac)
    await fold_open_facts(stage.tools, row, stage.world.now)
    await look_at_what_is_due(stage.tools, stage.account, row, stage.world.now, batch_id=None)
    async with stage.db.read() as conn:
        ids = [f"sub@{UUID(int=n)}" for n in range(len(ORDERS))]
        stored = await load_subscriptions(conn, row.id, ext_ids=ids)
        open_kinds = select(episodes.c.subscription_id, episodes.c.kind).where(episodes.c.closed_at.is_(None))
        kinds = {one.subscription_id: one.kind for one in await conn.execute(open_kinds)}
    ends = {
        (
            repr(replace(one.snapshot, ext_id="")),
            one.situation,
            one.cause,
            repr(one.told),
            kinds.get(one.id),
        )
        for one in stored.values()
    }
    assert len(stored) == 720
    assert len(ends) == 1
    [(_, situation, _, told_of_it, kind)] = ends
    assert (situation, kind) == ("stopped", "stopped")
    assert "manage_link='https://" in told_of_it
