"""A run over an API that cannot list: ids are found, read one by one, and end in the same events and mails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from monitor.domain.model import Fact, Kind, Source
from monitor.errors import ConfigError
from monitor.providers.qbitflow_v1 import QBitFlowV1
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.sandbox import acts, faults
from monitor.sandbox.entities import Status
from monitor.sandbox.seeding import add_customer, healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.batches import collecting_batch
from monitor.store.discovery import FoundIn, add_discovered, targets
from monitor.store.engine import db_now
from monitor.store.facts import insert_facts
from monitor.store.schema import (
    accounts,
    customers,
    discovered,
    events,
    notifications,
    payment_events,
    payments,
    quarantine,
    run_pages,
    subscriptions,
)
from monitor.usecases import read_customers, read_known
from monitor.usecases.importing import import_contacts, import_ids
from monitor.usecases.observe import Observed, observe
from monitor.usecases.writing import Pen
from tests.harness import instantly, staged
from tests.scale import sized

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SIZE = sized(10_000, 60)
EVERYTHING = {
    "low_on_funds": 3,
    "max_amount_reached": 3,
    "payment_failed:insufficient_balance": 3,
    "payment_failed:allowance_exhausted": 2,
    "payment_failed:other": 2,
    "trial_ending": 2,
    "trial_expired": 2,
    "cancelled:customer": 2,
    "cancelled:billing_failed": 2,
    "stopped": 3,
    "paused": 3,
}


def speak(stage, dialect: str) -> None:
    """From now on the account speaks this API, over the same world."""
    made, url = (QBitFlowV1, stage.server.v1_url) if dialect == "qbitflow-v1" else (QBitFlowV2, stage.server.url)
    provider = made(
        base_url=url,
        api_key=stage.world.ids.api_key,
        account="acme",
        clock=stage.tools.clock,
        sleep=instantly,
    )
    stage.change(provider=provider, provider_name=dialect)


@asynccontextmanager
async def stages(url: str, folder: Path):
    """`begin(world)` gives a stage whose account speaks API v1; all is closed at the end."""
    async with AsyncExitStack() as stack:

        async def begin(world, **choices):
            stage = await stack.enter_async_context(staged(world, url, folder / "var"))
            speak(stage, "qbitflow-v1")
            stack.push_async_callback(stage.account.provider.aclose)
            stage.change(**choices)
            return stage

        yield begin


@pytest.fixture
async def v1(sqlite_url, tmp_path):
    """`stage = await v1(world)`, for what no database decides."""
    async with stages(sqlite_url, tmp_path) as begin:
        yield begin


@pytest.fixture
async def v1_each(database_url, tmp_path):
    """The same on each database in turn."""
    async with stages(database_url, tmp_path) as begin:
        yield begin


async def import_all(stage) -> None:
    await import_ids(stage.tools, stage.account, [stage.world.id_of(sub) for sub in stage.world.living()])


async def rows_of(stage, table, *columns):
    async with stage.db.read() as conn:
        return (await conn.execute(select(*(table.c[name] for name in columns)).order_by(table.c.id))).all()


async def count_of(stage, table, *conditions) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(select(func.count()).select_from(table).where(*conditions))).scalar_one()


# Discovery


async def test_ids_come_from_payments_from_facts_and_from_a_file(v1_each):
    world = healthy(60, trials=2, start=START)
    told, filed = [world.id_of(sub) for sub in world.living() if sub.status is Status.TRIAL]
    stage = await v1_each(world)
    imported = await import_ids(stage.tools, stage.account, ["id\n", f"{filed}\n", f"{filed}\n"])
    assert (imported.lines, imported.new, imported.unchanged, imported.bad) == (2, 1, 1, [])
    async with stage.db.write() as conn:
        await insert_facts(conn, (await stage.row()).id, [Fact("d-1", "createSubscription", told, START)], START)
    report = await stage.run()
    assert (report.outcome, report.problems) == ("complete", [])
    assert (report.counts["new"], report.counts["rows"], report.counts["found"]) == (62, 62, 61)
    sources = {row.ext_id: row.source for row in await rows_of(stage, discovered, "ext_id", "source")}
    assert (sources[filed], sources[told], len(sources)) == (FoundIn.IMPORT, FoundIn.WEBHOOK, 62)
    row = await stage.row()
    assert row.baselined_at is not None
    assert row.payments_watermark is not None
    # the second walk of payments ends at the overlap, and nobody is found twice
    before = stage.faults.requests["combined"]
    world.advance(MINUTE)
    again = await stage.run()
    # the one that a webhook told of was read with its customer, which the sweep reads apart
    assert (again.counts["found"], again.counts["new"], again.counts["changed"]) == (0, 0, 1)
    assert again.counts["events"] == 0
    assert stage.faults.requests["combined"] - before == 1


async def test_payments_that_do_not_come_newest_first_are_walked_to_the_end(v1):
    stage = await v1(healthy(120, start=START))
    await stage.run()
    pages = stage.faults.requests["combined"]
    assert pages == 3
    async with stage.db.write() as conn:  # everything there is lies before the overlap now
        await change_account(conn, 1, payments_watermark=START + 30 * DAY)
    await stage.run()
    assert stage.faults.requests["combined"] == pages + 1

    def reversed_rows(_call, answer):
        return faults.replace(answer, rows=tuple(reversed(answer.rows)))

    stage.faults.add(reversed_rows, route="combined")
    await stage.run()
    assert stage.faults.requests["combined"] == pages + 1 + 3


@pytest.mark.parametrize(
    ("act", "told"),
    [(faults.repeat_cursor, "circle"), (faults.html(502), "502"), (faults.cursor("again"), "400")],
)
async def test_a_walk_of_payments_that_breaks_is_told_and_what_is_known_is_read(v1, act, told):
    stage = await v1(healthy(120, start=START))
    await import_all(stage)
    stage.faults.add(act, route="combined", page=2 if act is faults.repeat_cursor else None)
    report = await stage.run()
    assert report.outcome == "partial"
    assert told in " ".join(report.problems)
    assert report.counts["new"] == 120
    assert (await stage.row()).payments_watermark is None
    assert (await stage.row()).baselined_at is None  # who knows whom the rest of the payments names


async def test_one_walk_finds_ids_and_keeps_payments(v1_each):
    """Bills are the history of their subscription; a purchase is told once; what was off before is caught up whole."""
    world = healthy(120, start=START)
    stage = await v1_each(world)
    await stage.run()
    assert await rows_of(stage, payments, "ext_id") == []
    stage.change(payments=True, optional_mails=frozenset({Kind.PAYMENT_SUCCEEDED}))
    pages = stage.faults.requests["combined"]
    report = await stage.run()
    assert (report.outcome, report.problems, report.counts["payments"]) == ("complete", [], 120)
    assert stage.faults.requests["combined"] - pages == pages == 3
    world.advance(2 * DAY)
    buyer, owner = (add_customer(world, world.now) for _ in range(2))
    bought = acts.purchase(world, buyer, world.products[0])
    acts.subscribe(world, world.products[0], acts.add_wallet(world, "USDC", 10**9), owner)
    world.advance(HOUR)
    report = await stage.run()
    assert stage.faults.requests["combined"] - pages == pages + 1
    assert (report.counts["found"], report.counts["new"], report.counts["payment_events"]) == (1, 1, 1)
    kept = await rows_of(stage, payments, "ext_id", "kind", "subscription_ext_id", "tx_hash", "amount_units")
    bills = {world.ids.bill(bill.n): bill for sub in world.living() for bill in world.bills_of(sub)}
    assert {row.ext_id for row in kept} == {*bills, world.ids.payment(bought.n)}
    assert all(row.tx_hash and row.amount_units for row in kept)
    (event,) = await rows_of(stage, payment_events, "kind")
    assert event.kind == "payment_succeeded"
    # a buyer without a subscription is read too: whom to mail
    assert (await stage.deliver()).sent == len(kept) - 120
    assert {mail.recipients for mail in stage.mailbox.messages} >= {(buyer.email,), (owner.email,)}


async def test_a_switch_of_dialects_tells_no_payment_again_and_loses_nothing_told(v1_each):
    world = healthy(30, start=START)
    stage = await v1_each(world)
    acts.purchase(world, world.customers[0], world.products[0], reference="order-1")
    stage.change(payments=True)
    for dialect in ("qbitflow-v2", "qbitflow-v1", "qbitflow-v2", "qbitflow-v1"):
        speak(stage, dialect)
        await stage.run()
        await stage.account.provider.aclose()
        world.advance(MINUTE)
    assert await rows_of(stage, payment_events, "kind") == []
    kept = await rows_of(stage, payments, "ext_id", "reference", "explorer_url")
    assert len(kept) == 31
    assert all(row.explorer_url for row in kept)
    assert [row.reference for row in kept if row.ext_id.startswith("pay@")] == ["order-1"]


async def test_imported_lines_that_are_no_ids_are_named_and_cost_nothing_else(v1):
    world = healthy(2, start=START)
    one, two = sorted(world.id_of(sub) for sub in world.living())
    stage = await v1(world)
    lines = ["subscription,name\n", f"7,{one}\n", "\n", "nonsense\n", two.removeprefix("sub@") + "\n"]
    done = await import_ids(stage.tools, stage.account, lines)
    assert (done.lines, done.new, [number for number, _ in done.bad]) == (3, 2, [4])
    assert {row.ext_id for row in await rows_of(stage, discovered, "ext_id")} == {one, two}
    again = await import_ids(stage.tools, stage.account, lines)
    assert (again.new, again.unchanged) == (0, 2)


async def test_ids_are_refused_for_an_api_that_lists(play):
    stage = await play(healthy(1, start=START))
    with pytest.raises(ConfigError, match="qbitflow-v1"):
        await import_ids(stage.tools, stage.account, [])


# Reading


async def test_the_same_trouble_makes_the_same_events_and_mails_as_v2(v1):
    world = healthy(60, start=START)
    stage = await v1(world)
    assert (await stage.run()).outcome == "complete"
    assert (await stage.deliver()).sent == 0
    world.advance(MINUTE)
    caused = cause(world, {"low_on_funds": 2, "max_amount_reached": 2, "cancelled:customer": 1, "stopped": 1})
    report = await stage.run()
    assert (report.outcome, report.counts["events"]) == ("complete", 6)
    kinds = {row.kind for row in await rows_of(stage, events, "kind")}
    assert kinds == {"low_on_funds", "max_amount_reached", "cancelled", "stopped"}
    delivery = await stage.deliver()
    assert (delivery.sent, delivery.waiting + delivery.sent) == (5, 5)  # the yearly plan's mail is not due yet
    addresses = {world.get(ext_id).customer.email for ids in caused.values() for ext_id in ids}
    assert {mail.recipients[0] for mail in stage.mailbox.messages} < addresses
    assert (await stage.run()).counts["events"] == 0


async def test_a_404_is_counted_confirmed_by_a_later_run_and_never_a_mail(v1_each):
    world = healthy(60, start=START)
    stage = await v1_each(world)
    await stage.run()
    gone = min(world.living(), key=world.id_of)
    acts.remove(gone)
    first = await stage.run()
    assert (first.outcome, first.counts["gone"], first.counts["missing"], first.counts["events"]) == (
        "complete",
        1,
        1,
        0,
    )
    world.advance(DAY)
    second = await stage.run()
    assert (second.counts["gone"], second.counts["missing"]) == (1, 0)
    assert [row.kind for row in await rows_of(stage, events, "kind") if row.kind == "gone"] == ["gone"]
    assert (await stage.deliver()).sent == 0
    gone.gone = False
    await stage.run()
    (row,) = [
        one for one in await rows_of(stage, subscriptions, "ext_id", "gone_seen") if one.ext_id == world.id_of(gone)
    ]
    assert row.gone_seen == 0


async def test_everybody_gone_at_once_holds_the_batch(v1):
    world = healthy(60, start=START)
    stage = await v1(world)
    await stage.run()
    for sub in list(world.living())[:30]:
        acts.remove(sub)
    report = await stage.run()
    assert report.outcome == "held"
    assert "missing" in report.held[0]


async def test_a_run_and_webhooks_that_tell_of_two_of_its_rows_never_wait_in_a_circle(postgres_url, tmp_path):
    async with stages(postgres_url, tmp_path) as begin:
        stage = await begin(healthy(3, start=START))
        await import_all(stage)
        await stage.run()
        stage.world.advance(DAY)
        ids = [row.ext_id for row in await rows_of(stage, subscriptions, "ext_id", "id")]
        stage.world.change(stage.world.get(ids[2]), reference="changed")
        row = await stage.row()
        async with stage.db.read() as conn:
            asked_at = await db_now(conn)
        told = [Observed(*await stage.account.provider.read(one), asked_at) for one in ids[1:]]

        async def hear() -> None:
            async with stage.db.write() as conn:
                batch = await collecting_batch(conn, row.id, "live", stage.world.now)
                pen = Pen(stage.world.now, Source.WEBHOOK, batch)
                await observe(conn, row, stage.account.policy(row), told, pen, stage.tools.address_mac)

        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        going = []
        async with stage.db.write() as gate, asyncio.timeout(20):
            await gate.execute(select(subscriptions.c.id).where(subscriptions.c.ext_id == ids[0]).with_for_update())
            for act in (stage.run(), hear()):
                going.append(asyncio.create_task(act))
                while (await gate.execute(waiting)).scalar_one() < len(going) and not going[-1].done():
                    await asyncio.sleep(0.01)
        report, _ = await asyncio.gather(*going)
        assert report.outcome == "complete"


async def test_an_id_the_api_never_knew_is_asked_a_few_times_then_once_a_week(v1):
    stage = await v1(healthy(3, start=START))
    stranger = stage.world.ids.subscription(999)
    await import_ids(stage.tools, stage.account, [stranger])
    for day in range(5):
        report = await stage.run()
        assert report.outcome == "complete"
        stage.world.advance(DAY)
        (row,) = [one for one in await rows_of(stage, discovered, "ext_id", "misses") if one.ext_id == stranger]
        assert row.misses == min(day + 1, 3)
    stage.world.advance(5 * DAY)
    await stage.run()
    (row,) = [one for one in await rows_of(stage, discovered, "ext_id", "misses") if one.ext_id == stranger]
    assert row.misses == 4


async def test_a_bad_row_costs_itself_and_is_kept(v1):
    world = healthy(40, start=START)
    stage = await v1(world)
    bad = min(world.id_of(sub) for sub in world.living())
    stage.faults.mangled = {bad: "text_for_object"}
    report = await stage.run()
    assert (report.outcome, report.counts["new"], report.counts["bad"]) == ("complete", 39, 1)
    assert [row.ext_id for row in await rows_of(stage, quarantine, "ext_id")] == [bad]
    stage.faults.mangled = {}
    assert (await stage.run()).counts["new"] == 1


async def test_one_id_without_an_answer_costs_itself_and_five_in_a_row_end_the_reading(v1):
    world = healthy(40, start=START)
    stage = await v1(world, read_at_once=1)
    await import_all(stage)
    rule = stage.faults.add(faults.html(200), route="subscription", times=1, skip=3)
    report = await stage.run()
    assert (report.outcome, report.counts["new"]) == ("partial", 39)
    assert "1 of 40 known subscriptions were not read" in report.problems[0]
    rule.times = None
    rule.met = rule.skip = 0
    before = stage.faults.requests["subscription"]
    report = await stage.run()
    assert "40 of 40 known subscriptions were not read" in report.problems[0]
    assert stage.faults.requests["subscription"] - before == 5


async def test_a_wait_that_is_too_long_ends_the_reading_at_once_and_the_next_run_reads_the_rest(v1):
    world = healthy(40, start=START)
    stage = await v1(world, read_at_once=1)
    await import_all(stage)
    stage.faults.add(faults.rate_limited("10800"), route="subscription", times=1, skip=30)
    report = await stage.run()
    assert (report.outcome, report.counts["new"]) == ("partial", 30)
    assert stage.faults.requests["subscription"] == 31
    stage.world.advance(4 * HOUR)
    assert (await stage.run()).counts["new"] == 10


async def test_the_most_urgent_are_read_first(v1_each):
    world = healthy(30, start=START)
    stage = await v1_each(world)
    await stage.run()
    caused = cause(world, {"payment_failed:insufficient_balance": 1, "low_on_funds": 1})
    await stage.run()
    trouble = {ext_id for ids in caused.values() for ext_id in ids}
    rows = await rows_of(stage, subscriptions, "id", "ext_id", "next_billing_at")
    far = sorted(row.ext_id for row in rows if row.next_billing_at > START + 10 * DAY and row.ext_id not in trouble)
    unseen, lost = far[0], far[1]
    async with stage.db.write() as conn:
        change = update(subscriptions).where(subscriptions.c.ext_id == unseen)
        await conn.execute(change.values(asked_at=START - 9 * DAY))
        await conn.execute(update(subscriptions).where(subscriptions.c.ext_id == lost).values(gone_seen=2))
        await add_discovered(conn, 1, ["sub@new"], FoundIn.WEBHOOK, START)
    async with stage.db.read() as conn:
        order = [one.ext_id for one in await targets(conn, 1, START)]
    soon = {row.ext_id for row in rows if row.next_billing_at <= START + 3 * DAY} - trouble
    assert set(order[:2]) == trouble
    assert set(order[2 : 2 + len(soon)]) == soon
    assert order[2 + len(soon)] == "sub@new"
    assert order[3 + len(soon)] == unseen
    assert order[-1] == lost


async def test_the_cancelled_are_not_read_again(v1):
    world = healthy(10, start=START)
    cause(world, {"cancelled:customer": 4})
    stage = await v1(world)
    await stage.run()
    before = stage.faults.requests["subscription"]
    await stage.run()
    assert stage.faults.requests["subscription"] - before == 6


# The budget


async def test_a_daily_budget_ends_the_reading_and_goes_round_the_known_ids(v1_each):
    world = healthy(150, start=START)
    stage = await v1_each(world, daily_requests=100, read_at_once=4)
    await import_all(stage)
    first = await stage.run()
    assert first.outcome == "partial"
    assert "today's 100 requests are used up (accounts.acme.daily_requests)" in " ".join(first.problems)
    read = first.counts["new"]
    assert 70 <= read <= 90
    assert first.counts["requests_today"] <= 100 + 4
    assert first.counts["requests_left"] <= 10
    assert (await stage.row()).baselined_at is None
    # the same day has no more
    world.advance(MINUTE)
    same_day = await stage.run()
    assert same_day.counts["new"] == 0
    world.advance(DAY)
    second = await stage.run()
    assert second.counts["new"] >= 150 - 2 * 75 - read // 2
    for _ in range(4):
        world.advance(DAY)
        last = await stage.run()
    assert await count_of(stage, subscriptions) == 150
    # nobody is left who was never read: the baseline is complete, though no single run was
    assert (await stage.row()).baselined_at is not None
    assert last.outcome == "partial"


async def test_half_the_budget_is_kept_from_the_walk_of_old_payments(v1):
    stage = await v1(healthy(20, start=START), daily_requests=4)
    report = await stage.run()
    assert "half of today's 4 requests" in " ".join(report.problems)
    assert stage.faults.requests["combined"] == 0


# Customers


async def test_customers_are_read_once_a_day_by_pages_or_singly_and_a_404_is_a_deleted_one(v1_each):
    world = healthy(30, start=START)
    stage = await v1_each(world)
    report = await stage.run()
    assert report.counts["customers_read"] == 30
    assert (stage.faults.requests["customers"], stage.faults.requests["customer"]) == (1, 0)
    emails = {row.ext_id: row.email for row in await rows_of(stage, customers, "ext_id", "email")}
    assert emails == {world.ids.customer(one.n): one.email for one in world.customers}
    assert (await stage.run()).counts["customers_read"] == 0
    world.customers[3].email = "new@customer.example"
    world.customers[4].deleted = True
    async with stage.db.write() as conn:
        stale = [world.ids.customer(3), world.ids.customer(4)]
        await conn.execute(update(customers).where(customers.c.ext_id.in_(stale)).values(read_at=None))
    report = await stage.run()
    assert (report.counts["customers_read"], stage.faults.requests["customer"]) == (2, 2)
    found = {row.ext_id: row for row in await rows_of(stage, customers, "ext_id", "email", "deleted")}
    assert found[world.ids.customer(3)].email == "new@customer.example"
    assert found[world.ids.customer(4)].deleted


async def test_a_customer_who_was_deleted_today_is_not_mailed(v1):
    world = healthy(60, start=START)
    stage = await v1(world)
    await stage.run()
    world.advance(MINUTE)
    (ext_id,) = cause(world, {"max_amount_reached": 1})["max_amount_reached"]
    world.get(ext_id).customer.deleted = True
    report = await stage.run()
    assert (report.counts["events"], report.counts["customers_read"]) == (1, 1)
    assert (await stage.deliver()).sent == 0
    (mail,) = await rows_of(stage, notifications, "state", "reason")
    assert (mail.state, mail.reason) == ("voided", "customer_deleted")


async def test_an_address_that_was_imported_stays_where_the_api_has_none(v1):
    stage = await v1(healthy(2, start=START))
    one, two = (stage.world.ids.customer(n) for n in range(2))
    await import_contacts(stage.tools, stage.account, ["customer,address\n", f"{one},one@customer.example\n"])
    stage.world.customers[0].email = ""
    await stage.run()
    found = {row.ext_id: row.email for row in await rows_of(stage, customers, "ext_id", "email")}
    assert found == {one: "one@customer.example", two: stage.world.customers[1].email}


async def test_a_stop_between_two_customers_is_told(v1, monkeypatch):
    monkeypatch.setattr(read_customers, "AT_ONCE", 1)
    stage = await v1(healthy(5, start=START))
    whole = stage.tools
    stage.tools = replace(whole, stopping=lambda: stage.faults.requests["customer"] >= 2)
    report = await stage.run()
    assert (report.counts["customers_read"], report.counts["new"]) == (2, 5)
    assert "3 customers were not read" in " ".join(report.problems)
    stage.tools = whole
    assert (await stage.run()).counts["customers_read"] == 3


async def test_customers_that_cannot_be_read_cost_addresses_only(v1):
    stage = await v1(healthy(30, start=START))
    stage.faults.add(faults.html(502), route="customers")
    report = await stage.run()
    assert (report.outcome, report.counts["new"]) == ("complete", 30)
    assert report.problems[0].startswith("customers: ")


# Kills and stops


async def test_a_killed_run_goes_on_with_whom_it_had_not_read(v1_each, monkeypatch):
    monkeypatch.setattr(read_known, "ROWS_PER_PAGE", 10)
    world = healthy(60, start=START)
    stage = await v1_each(world, read_at_once=2)
    await import_all(stage)
    whole = stage.tools
    passed = []

    def dies(point: str) -> None:
        passed.append(point)
        if passed.count("after_page_commit") == 2:
            raise RuntimeError("killed")

    stage.tools = replace(whole, failpoint=dies)
    monkeypatch.setattr("monitor.usecases.pull.PAGES_PER_WRITE", 1)
    monkeypatch.setattr("monitor.usecases.pull.PAGES_AT_ONCE", 1)
    with pytest.raises(RuntimeError):
        await stage.run()
    kept = await count_of(stage, subscriptions)
    assert 0 < kept < 60
    stage.tools = whole
    asked = stage.faults.requests["subscription"]
    report = await stage.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    assert stage.faults.requests["subscription"] - asked == 60 - kept
    assert await count_of(stage, subscriptions) == 60
    assert await count_of(stage, run_pages) >= 6


async def test_a_stop_before_anybody_is_known_leaves_the_run_unfinished_too(v1):
    stage = await v1(healthy(3, start=START))
    whole = stage.tools
    stage.tools = replace(whole, stopping=lambda: True)
    assert (await stage.run()).outcome == "interrupted"
    stage.tools = whole
    assert (await stage.run()).counts["new"] == 3


async def test_a_stop_leaves_the_run_unfinished(v1):
    world = healthy(60, start=START)
    stage = await v1(world, read_at_once=2)
    await import_all(stage)
    whole = stage.tools
    stage.tools = replace(whole, stopping=lambda: stage.faults.requests["subscription"] >= 20)
    report = await stage.run()
    assert report.outcome == "interrupted"
    stage.tools = whole
    report = await stage.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    assert await count_of(stage, subscriptions) == 60


async def test_single_reads_are_under_way_at_once_as_configured(v1):
    world = healthy(36, start=START)
    stage = await v1(world, read_at_once=6)
    await import_all(stage)
    six = asyncio.Barrier(6)
    most = 0

    async def together() -> None:
        nonlocal most
        most = max(most, six.n_waiting + 1)
        await asyncio.wait_for(six.wait(), 5)

    stage.faults.add(route="subscription", wait=together)
    assert (await stage.run()).counts["new"] == 36
    assert most == 6


# Same facts, same events


async def test_switching_between_v1_and_v2_and_back_is_no_event_and_no_mail(v1_each):
    world = healthy(SIZE, trials=6, start=START)
    cause(world, EVERYTHING)
    stage = await v1_each(world)
    first, second = stage.account.provider, None
    speak(stage, "qbitflow-v2")
    second = stage.account.provider
    stage.change(notify_first=True)
    await stage.run()
    sent = (await stage.deliver()).sent
    assert sent > 10
    made = await count_of(stage, events), await count_of(stage, notifications)
    for dialect, provider in (("qbitflow-v1", first), ("qbitflow-v2", second)) * 2:
        world.advance(MINUTE)
        stage.change(provider=provider, provider_name=dialect)
        report = await stage.run()
        assert report.counts["events"] == 0, dialect
        assert report.counts["rows"] >= SIZE, dialect
        assert (report.counts["staged"], report.counts["voided"]) == (0, 0), dialect
        assert (await stage.row()).provider == dialect
    assert (await stage.deliver()).sent == 0
    assert (await count_of(stage, events), await count_of(stage, notifications)) == made
    await second.aclose()


async def test_another_merchants_key_is_refused_on_v1_too(v1):
    stage = await v1(healthy(2, start=START))
    await stage.run()
    assert (await rows_of(stage, accounts, "space_uuid"))[0].space_uuid == "v1:5/41"
    stage.faults.v1_user = {"organizationId": 6}
    with pytest.raises(ConfigError, match="another space"):
        await stage.run()


# Contacts


async def test_contacts_are_imported_once_and_void_mails_come_back(v1_each):
    world = healthy(30, start=START)
    stage = await v1_each(world)
    await stage.run()
    world.advance(MINUTE)
    (ext_id,) = cause(world, {"low_on_funds": 1})["low_on_funds"]
    customer = world.ids.customer(world.get(ext_id).customer.n)
    async with stage.db.write() as conn:
        whose = update(customers).where(customers.c.ext_id == customer)
        await conn.execute(whose.values(email=None, address_mac=None))
    world.get(ext_id).customer.email = ""
    await stage.run()
    assert (await stage.deliver()).sent == 0
    (mail,) = await rows_of(stage, notifications, "state", "reason")
    assert (mail.state, mail.reason) == ("voided", "no_address")
    lines = ["Customer,Email,Locale,Zone\n", f"{customer},ines@customer.example,en,Asia/Tokyo\n"]
    done = await import_contacts(stage.tools, stage.account, lines)
    assert (done.changed, done.without_address, done.bad) == (1, 0, [])
    again = await import_contacts(stage.tools, stage.account, lines)
    assert (again.changed, again.unchanged, again.new) == (0, 1, 0)
    await stage.run()
    world.advance(6 * HOUR)
    await stage.deliver()
    world.advance(12 * HOUR)  # morning in Tokyo
    await stage.deliver()
    assert [mail.recipients for mail in stage.mailbox.messages] == [("ines@customer.example",)]


async def test_contacts_that_cannot_be_used_are_named_and_known_addresses_stay(v1):
    stage = await v1(healthy(3, start=START))
    await stage.run()
    (one, address), (two, _), (three, _) = await rows_of(stage, customers, "ext_id", "email")
    async with stage.db.write() as conn:
        await conn.execute(update(customers).where(customers.c.ext_id == three).values(erased_at=START, email=None))
    lines = [
        "customer,address,locale,zone\n",
        f"{one},other@customer.example,de\n",
        f"{two},no address,,\n",
        f"{two},,xx-,\n",
        f"{two},,,Mars/Olympus\n",
        ",a@customer.example,,\n",
        f"{three},back@customer.example,,\n",
        "new-1,new@customer.example,pt_BR,Europe/Lisbon\n",
        "new-2,,,\n",
    ]
    done = await import_contacts(stage.tools, stage.account, lines)
    assert ([number for number, _ in done.bad], done.new, done.changed, done.kept) == ([3, 4, 5, 6], 2, 1, 1)
    found = {row.ext_id: row for row in await rows_of(stage, customers, "ext_id", "email", "locale", "zone")}
    assert (found[one].email, found[one].locale) == (address, "de")
    assert found[three].email is None
    assert (found["new-1"].email, found["new-1"].zone) == ("new@customer.example", "Europe/Lisbon")
    assert done.without_address == 1
    kept = await import_contacts(stage.tools, stage.account, lines[:2])
    assert (kept.kept, kept.changed, kept.unchanged) == (1, 0, 0)
    replaced = await import_contacts(stage.tools, stage.account, lines[:2], replace_addresses=True)
    assert (replaced.changed, replaced.kept) == (1, 0)
    for headings in ("a,b\n", "customer\n", ""):
        with pytest.raises(ConfigError, match="headings"):
            await import_contacts(stage.tools, stage.account, [headings])
