"""Two that meet at something new: a subscription's first row, a customer's, and the first use of a database.

Who comes second waits for the first, then goes on with what it left. On SQLite it waits before it has read a thing.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, text

from monitor.domain.model import Fact, Source
from monitor.sandbox import acts
from monitor.sandbox.seeding import add_customer, healthy
from monitor.store.batches import collecting_batch
from monitor.store.engine import db_now
from monitor.store.facts import insert_facts, open_facts
from monitor.store.schema import customers, events, instance, subscriptions
from monitor.store.subscriptions import load_subscriptions
from monitor.store.witness import check_witness
from monitor.usecases.importing import import_contacts
from monitor.usecases.observe import Observed, observe
from monitor.usecases.run import Run, RunOptions
from monitor.usecases.writing import Pen
from tests.harness import mac, staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


async def a_newcomer(stage) -> Observed:
    """Somebody who subscribed after the baseline, as the API shows him now."""
    await stage.run()
    stage.world.advance(HOUR)
    customer = add_customer(stage.world, stage.world.now)
    fresh = acts.subscribe(stage.world, stage.world.products[0], acts.add_wallet(stage.world, "USDC", 500), customer)
    stage.world.advance(MINUTE)
    async with stage.db.read() as conn:
        asked_at = await db_now(conn)
    snapshot, raw = await stage.account.provider.subscription(stage.world.id_of(fresh))
    return Observed(snapshot, raw, asked_at)


async def hear(stage, conn, seen: Observed, *, address_mac=mac):
    """What a webhook's refetch does in its transaction."""
    row = await stage.row()
    batch = await collecting_batch(conn, row.id, "live", stage.world.now)
    pen = Pen(stage.world.now, Source.WEBHOOK, batch)
    return await observe(conn, row, stage.account.policy(row), [seen], pen, address_mac)


async def test_what_another_inserted_meanwhile_is_observed_again_with_all_that_was_told(postgres_url, tmp_path):
    async with staged(healthy(5, start=START), postgres_url, tmp_path / "var") as stage:
        first = await a_newcomer(stage)
        ext_id, row = first.snapshot.ext_id, await stage.row()
        newer = replace(
            first, snapshot=replace(first.snapshot, reference="newer"), asked_at=first.asked_at + timedelta(seconds=1)
        )
        has_read = asyncio.Event()

        def noting(address: str) -> str:  # called between what is read and what is written
            has_read.set()
            return mac(address)

        async def second():
            async with stage.db.write() as conn:
                return await hear(stage, conn, newer, address_mac=noting)

        async with stage.db.write() as conn:  # or the second would wait for the first one's batch already
            await collecting_batch(conn, row.id, "live", stage.world.now)
        async with stage.db.write() as conn:
            outcome = await hear(stage, conn, first)
            async with stage.db.write() as other:
                link = Fact(
                    "late", "subscription.created", ext_id, stage.world.now, manage_link="https://pay.example/1"
                )
                await insert_facts(other, row.id, [link], stage.world.now)
            waits = asyncio.create_task(second())
            await asyncio.wait_for(has_read.wait(), 20)
        again = await asyncio.wait_for(waits, 20)

        assert (outcome.new, outcome.changed) == (1, 0)
        assert (again.new, again.changed, again.dropped) == (0, 1, 0)
        async with stage.db.read() as conn:
            stored = (await load_subscriptions(conn, row.id, ext_ids=[ext_id]))[ext_id]
            assert (stored.snapshot.reference, stored.told.manage_link) == ("newer", "https://pay.example/1")
            assert again.ids == {ext_id: stored.id}
            assert "late" not in {fact.dedupe_key for _, fact in await open_facts(conn, row.id)}
            found = select(events.c.kind).where(events.c.subscription_id == stored.id, events.c.kind == "created")
            assert len((await conn.execute(found)).all()) == 1


async def test_a_row_that_came_in_since_it_was_compared_is_judged_against_what_is_stored(database_url, tmp_path):
    async with staged(healthy(5, start=START), database_url, tmp_path / "var") as stage:
        first = await a_newcomer(stage)
        compared_before = replace(
            first,
            snapshot=replace(first.snapshot, reference="newer"),
            asked_at=first.asked_at + timedelta(seconds=1),
            first_sight=True,
        )
        async with stage.db.write() as conn:
            assert (await hear(stage, conn, first)).new == 1
        async with stage.db.write() as conn:
            again = await hear(stage, conn, compared_before)
        assert (again.new, again.changed, again.dropped) == (0, 1, 0)
        async with stage.db.read() as conn:
            row = await stage.row()
            stored = (await load_subscriptions(conn, row.id, ext_ids=[first.snapshot.ext_id]))[first.snapshot.ext_id]
            assert stored.snapshot.reference == "newer"
            found = select(events.c.kind).where(events.c.subscription_id == stored.id, events.c.kind == "created")
            assert len((await conn.execute(found)).all()) == 1


async def test_a_row_that_names_a_customer_without_showing_him_forgets_nothing_of_him(play):
    stage = await play(healthy(5, start=START))
    seen = await a_newcomer(stage)
    assert seen.snapshot.customer is not None
    email = seen.snapshot.customer.email
    hidden = replace(seen, snapshot=replace(seen.snapshot, customer=None))
    stranger = replace(hidden, snapshot=replace(hidden.snapshot, ext_id="sub@other", customer_ext_id="cust-other"))
    for one in (seen, hidden, stranger):
        async with stage.db.write() as conn:
            await hear(stage, conn, one)
    async with stage.db.read() as conn:
        statement = (
            select(customers.c.ext_id, customers.c.email)
            .join(subscriptions, subscriptions.c.customer_id == customers.c.id)
            .where(subscriptions.c.ext_id.in_([seen.snapshot.ext_id, "sub@other"]))
        )
        owners = {row.ext_id: row.email for row in await conn.execute(statement)}
    assert owners == {seen.snapshot.customer_ext_id: email, "cust-other": None}


async def test_an_import_of_contacts_and_who_observes_one_of_them_never_wait_in_a_circle(postgres_url, tmp_path):
    async with staged(healthy(5, start=START), postgres_url, tmp_path / "var") as stage:
        seen = await a_newcomer(stage)
        async with stage.db.write() as conn:
            await hear(stage, conn, seen)
        customer = seen.snapshot.customer
        moved = replace(seen, snapshot=replace(seen.snapshot, customer=replace(customer, name="Ida")))
        mine = customers.c.ext_id == customer.ext_id

        async def observe_it() -> None:
            async with stage.db.write() as conn:
                assert (await hear(stage, conn, moved)).changed == 1

        lines = ["customer,locale", f"{customer.ext_id},hu"]
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        going = []
        async with stage.db.write() as gate, asyncio.timeout(20):
            await gate.execute(select(customers.c.id).where(mine).with_for_update())
            for act in (import_contacts(stage.tools, stage.account, lines), observe_it()):
                going.append(asyncio.create_task(act))
                while (await gate.execute(waiting)).scalar_one() < len(going):
                    await asyncio.sleep(0.01)
        await asyncio.gather(*going)
        async with stage.db.read() as conn:
            found = (await conn.execute(select(customers.c.name, customers.c.locale).where(mine))).one()
        assert tuple(found) == ("Ida", "hu")


@asynccontextmanager
async def both_arrive(stage, number: int):
    """Let nobody write the instance's row before so many want to. SQLite has one writer at a time anyway."""
    if stage.db.is_sqlite:
        yield
        return
    waiting = text("SELECT count(*) FROM pg_locks WHERE relation = 'instance'::regclass AND NOT granted")
    async with stage.db.write() as gate:
        await gate.execute(text("LOCK TABLE instance IN SHARE MODE"))
        yield
        async with stage.db.read() as conn, asyncio.timeout(20):
            while (await conn.execute(waiting)).scalar_one() < number:
                await asyncio.sleep(0.01)


async def test_the_first_runs_of_two_accounts_at_once_on_a_new_database_are_both_complete(play, database_url, tmp_path):
    stage = await play(healthy(5, start=START))
    async with staged(healthy(5, start=START, seed=2), database_url, tmp_path / "two") as other:
        other.change(name="beta")
        options = RunOptions(state_dir=stage.state_dir)
        async with both_arrive(stage, 2):
            going = [asyncio.create_task(Run(one.tools, one.account, options).execute()) for one in (stage, other)]
        reports = await asyncio.gather(*going)
    assert [report.outcome for report in reports] == ["complete", "complete"]
    async with stage.db.read() as conn:
        assert (await conn.execute(select(instance.c.counter))).scalars().all() == [2]
        assert await check_witness(conn, stage.db, stage.state_dir) is None
