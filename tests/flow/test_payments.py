"""Payments from the API to the database: history without noise, each thing told once, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from monitor.config import BillingSettings
from monitor.domain.model import Cause, Mode, Source
from monitor.domain.payments import PaymentKind, PaymentPage, PaymentSeen, PaymentStatus
from monitor.providers.base import UnsupportedError
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.billing_platform_hooks import BillingPlatformHooks
from monitor.sandbox import acts, faults, seeding
from monitor.sandbox.chain import Category
from monitor.sandbox.platform import WEBHOOK_SECRET, signature_of, webhook_of
from monitor.sandbox.till import stock
from monitor.sandbox.transitions import cause
from monitor.store.engine import db_now
from monitor.store.payments import load_payments
from monitor.store.schema import customers, facts, payment_events, payments, runs
from monitor.store.views import Filter
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.observe_payments import PaymentWalk, Till, store_page
from monitor.usecases.paid import list_paid
from monitor.usecases.payments import reread_payment
from monitor.usecases.report import Reports
from monitor.usecases.reread import reread_account
from tests.harness import Stage, WorldClock, days, instantly, staged

DAY = timedelta(days=1)
SEEN = PaymentSeen("bp-1", PaymentKind.ONE_OFF, PaymentStatus.CREATED, "CREATED")


async def rows_of(stage: Stage) -> dict[str, object]:
    async with stage.db.read() as conn:
        return {row.ext_id: row for row in await conn.execute(select(payments).order_by(payments.c.id))}


async def told(stage: Stage) -> list[tuple[str, str, str | None, str, str]]:
    """(payment, event, old, new, source), in the order in which they happened."""
    e = payment_events.c
    statement = select(payments.c.ext_id, e.kind, e.old, e.new, e.source).join(payments).order_by(e.id)
    async with stage.db.read() as conn:
        return [tuple(row) for row in await conn.execute(statement)]


@pytest.fixture
async def lite(sqlite_url, tmp_path):
    """As `play`, on SQLite alone: for what is decided above the database."""
    async with AsyncExitStack() as stack:

        async def begin(world) -> Stage:
            return await stack.enter_async_context(staged(world, sqlite_url, tmp_path / "var"))

        yield begin


@pytest.fixture
async def platform(lite):
    """`stage = await platform(world)`: the account speaks to the billing platform; `stage.server.platform.till` is its till."""
    async with AsyncExitStack() as stack:

        async def begin(world, **names) -> Stage:
            stage = await lite(world)
            till = stage.server.platform.till
            provider = BillingPlatform(
                base_url=stage.server.platform_url,
                billing=BillingSettings(tenant_id=till.tenant_id, **names),
                tenant_secret=till.tenant_secret,
                mode=Mode(world.merchant.mode),
                account="acme",
                clock=WorldClock(world),
                sleep=instantly,
            )
            stack.push_async_callback(provider.aclose)
            stage.change(provider=provider, provider_name="billing-platform", payments=True)
            return stage

        yield begin


# The billing platform


async def test_the_first_walk_is_history_and_later_ones_tell_each_thing_once(platform):
    stage = await platform(seeding.healthy(3))
    till, world = stage.server.platform.till, stage.world
    stock(till, 30)
    report = await stage.run()
    assert (report.outcome, report.baseline, report.problems) == ("complete", True, [])
    assert report.counts["payments"] == 30
    stored = await rows_of(stage)
    assert len(stored) == 30
    one = stored[till.id_of(till.payments[0])]
    assert (one.amount_units, one.currency, one.reference) == (
        till.payments[0].amount,
        till.payments[0].currency,
        "order-0",
    )
    assert await told(stage) == []

    world.advance(DAY)
    made = {
        status: till.pay(1, status=status)
        for status in ("SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED", "CREATED", "ODD")
    }
    report = await stage.run()
    assert report.counts["payment_events"] == 4
    assert await told(stage) == [
        (till.id_of(made[status]), f"payment_{status.lower()}", None, status.lower(), "pull")
        for status in ("SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED")
    ]
    assert (await rows_of(stage))[till.id_of(made["ODD"])].status == "unknown"
    till.move(made["CREATED"], "SUCCEEDED")
    till.move(made["ODD"], "FAILED", "declined")
    for _ in range(3):
        await stage.run()
    assert (await told(stage))[4:] == [
        (till.id_of(made["CREATED"]), "payment_succeeded", "created", "succeeded", "pull"),
        (till.id_of(made["ODD"]), "payment_failed", "unknown", "failed", "pull"),
    ]
    assert (await rows_of(stage))[till.id_of(made["ODD"])].reason == "declined"
    assert (await stage.states()) == {"ready": 3}  # two failed, one expired; nobody asked for receipts


async def test_a_payment_pending_for_a_day_is_told_once_also_when_it_is_touched(platform):
    stage = await platform(seeding.healthy(1))
    till, world = stage.server.platform.till, stage.world
    old = till.pay(0, status="PROVIDER_PENDING")
    old.created_at = old.updated_at = world.now - 2 * DAY
    await stage.run()  # history: it waits since long before us
    world.advance(timedelta(hours=1))
    payment, quick = till.pay(0), till.pay(0)
    till.move(payment, "PROVIDER_PENDING")
    till.move(quick, "PROVIDER_PENDING")
    await stage.run()
    world.advance(timedelta(hours=20))
    payment.updated_at = world.now
    till.move(quick, "SUCCEEDED")
    await stage.run()
    assert await told(stage) == [(till.id_of(quick), "payment_succeeded", "pending", "succeeded", "pull")]
    for _ in range(3):
        world.advance(timedelta(hours=4))
        await stage.run()
    assert (await told(stage))[1:] == [(till.id_of(payment), "payment_pending_long", "pending", "pending", "time")]
    till.move(payment, "EXPIRED")
    await stage.run()
    assert (await told(stage))[2:] == [(till.id_of(payment), "payment_expired", "pending", "expired", "pull")]


async def test_a_payment_of_before_the_baseline_that_is_first_seen_later_is_history(platform):
    stage = await platform(seeding.healthy(2))
    till, world = stage.server.platform.till, stage.world
    await stage.run()
    world.advance(DAY)
    late = till.pay(0, status="SUCCEEDED")
    late.created_at = world.now - 2 * DAY
    await stage.run()
    assert await told(stage) == []


async def test_a_payment_of_after_the_baseline_that_is_listed_late_is_told(platform):
    stage = await platform(seeding.healthy(2))
    till, world = stage.server.platform.till, stage.world
    await stage.run()
    world.advance(3 * DAY)
    await stage.run()
    late = till.pay(0, status="SUCCEEDED")
    late.created_at = world.now - 2 * DAY
    await stage.run()
    assert [kind for _, kind, *_ in await told(stage)] == ["payment_succeeded"]


async def test_what_a_broken_walk_did_not_show_is_not_told_to_be_pending(platform):
    stage = await platform(seeding.healthy(2))
    till = stage.server.platform.till
    await stage.run()
    stage.world.advance(timedelta(hours=1))
    payment = till.pay(0, status="PROVIDER_PENDING")
    await stage.run()
    stage.world.advance(2 * DAY)
    till.move(payment, "SUCCEEDED")
    stage.faults.add(faults.error(503, "down"), route="payments")
    assert (await stage.run()).outcome == "partial"
    assert await told(stage) == []
    stage.faults.clear()
    await stage.run()
    assert [kind for _, kind, *_ in await told(stage)] == ["payment_succeeded"]


async def test_a_walk_that_breaks_keeps_what_it_read_and_the_next_run_goes_over_the_same_ground(platform):
    stage = await platform(seeding.healthy(2))
    till = stage.server.platform.till
    await stage.run()
    stage.world.advance(DAY)
    for _ in range(150):
        till.pay(0, status="SUCCEEDED")
    stage.faults.add(faults.error(503, "down"), route="payments", skip=1)
    report = await stage.run()
    assert report.outcome == "partial"
    assert any(problem.startswith("payments: ") for problem in report.problems)
    assert len(await rows_of(stage)) == len(await told(stage)) == 100
    stage.faults.clear()
    report = await stage.run()
    assert (report.outcome, len(await rows_of(stage)), len(await told(stage))) == ("complete", 150, 150)


async def test_a_stop_between_two_pages_leaves_the_run_to_be_resumed(platform):
    stage = await platform(seeding.healthy(2))
    stock(stage.server.platform.till, 150)
    stopping = []
    stage.tools = replace(stage.tools, stopping=lambda: bool(stopping), progress=lambda what, *_: stopping.append(what))
    report = await stage.run()
    assert report.outcome == "interrupted"
    assert len(await rows_of(stage)) == 100
    stage.tools = replace(stage.tools, stopping=lambda: False)
    report = await stage.run()
    assert (report.outcome, report.resumed, len(await rows_of(stage))) == ("complete", True, 150)
    assert await told(stage) == []


async def test_an_unreadable_payment_is_kept_aside_and_costs_only_itself(platform):
    stage = await platform(seeding.healthy(1))
    stage.server.platform.till.pay(0)
    stage.faults.add(faults.rows_besides('{"id":"bp-odd","status":"FAILED","amount":"5"}'), route="payments")
    report = await stage.run()
    assert (report.outcome, report.counts["payments"]) == ("complete", 2)
    assert list(await rows_of(stage)) == ["bp-7001"]


async def test_where_users_are_walked_those_of_payments_and_of_contacts_are(platform):
    stage = await platform(seeding.healthy(3))
    till = stage.server.platform.till
    till.pay(0)
    await stage.run()
    row = await stage.row()
    async with stage.db.write() as conn:
        await conn.execute(insert(customers).values(account_id=row.id, ext_id="u-2"))
    stage.server.platform.lists_all_users = False
    till.pay(2)
    till.pay(1)
    report = await stage.run()
    assert (report.outcome, len(await rows_of(stage))) == ("complete", 2)


async def test_an_account_that_wants_no_payments_asks_for_none(platform):
    stage = await platform(seeding.healthy(1))
    stage.change(payments=False)
    stage.server.platform.till.pay(0)
    report = await stage.run()
    assert (report.outcome, stage.faults.requests["payments"]) == ("complete", 0)
    assert "payments" not in report.counts


async def test_a_webhook_has_its_payment_read_again_and_tells_each_thing_once(platform):
    stage = await platform(seeding.healthy(1))
    till, hooks = stage.server.platform.till, BillingPlatformHooks([WEBHOOK_SECRET], BillingSettings(tenant_id="t-1"))
    inbox, to = Inbox(stage.db, stage.tools.clock), Addressee("acme", "billing-platform", "live")
    await stage.run()
    stage.world.advance(DAY)
    payment = till.pay(0)
    for number, status in enumerate(("PROVIDER_PENDING", "SUCCEEDED", "SUCCEEDED")):
        till.move(payment, status)
        body = webhook_of(till, payment, f"bpe-{number}", kind="payment.succeeded")
        assert hooks.refusal({"x-webhook-signature": signature_of(body)}, body, stage.world.now) is None
        for _repeat in range(2):
            await inbox.put(to, hooks.read({}, body))
        await reread_account(stage.tools, stage.account)
    await stage.run()
    assert await told(stage) == [("bp-7001", "payment_succeeded", "pending", "succeeded", "webhook")]
    async with stage.db.read() as conn:
        assert (await conn.execute(select(facts.c.ask_at, facts.c.done_at.is_(None)).distinct())).all() == [
            (None, False)
        ]


async def test_a_webhook_about_a_payment_that_is_not_there_or_cannot_be_read_asks_again_later(platform):
    stage = await platform(seeding.healthy(1))
    hooks, to = (
        BillingPlatformHooks([WEBHOOK_SECRET], BillingSettings(tenant_id="t-1")),
        Addressee("acme", "billing-platform", "live"),
    )
    await stage.run()
    payment = stage.server.platform.till.pay(0, status="SUCCEEDED")
    for ext_id in ("bp-1", "bp-7001"):
        body = json.dumps({"eventId": ext_id, "eventType": "payment.failed", "data": {"paymentId": ext_id}})
        await Inbox(stage.db, stage.tools.clock).put(to, hooks.read({}, body.encode()))
    stage.faults.add(faults.error(503, "down"), route="payment", skip=1)
    done = await reread_account(stage.tools, stage.account)
    assert (done.read, done.gone, len(done.problems)) == (0, 1, 1)
    stage.faults.clear()
    stage.world.advance(timedelta(minutes=2))
    done = await reread_account(stage.tools, stage.account)
    assert (done.read, done.gone, done.problems) == (1, 1, [])
    assert list(await rows_of(stage)) == [stage.server.platform.till.id_of(payment)]


async def test_a_provider_without_payments_has_none_to_read_again(lite):
    stage = await lite(seeding.healthy(1))
    await stage.run()
    stage.change(provider=object())
    with pytest.raises(UnsupportedError, match="pay@1"):
        await reread_payment(
            stage.tools, stage.account, await stage.row(), "pay@1", stage.world.now, source=Source.WEBHOOK
        )


# QBitFlow


async def test_bills_and_purchases_are_kept_with_hash_and_amounts_and_only_purchases_are_told(play):
    stage = await play(seeding.healthy(60))
    stage.change(payments=True)
    world = stage.world
    acts.purchase(world, world.customers[0], world.products[0])
    world.advance(timedelta(minutes=1))
    report = await stage.run()
    assert (report.outcome, report.counts["payment_history"], "payments" in report.counts) == ("complete", 61, False)
    assert len(await rows_of(stage)) == 61
    assert await told(stage) == []
    cause(world, {"payment_failed:insufficient_balance": 1})
    world.advance(2 * DAY)
    paid = acts.purchase(world, world.customers[1], world.products[0], reference="order-1")
    acts.purchase(world, None, world.products[0], fails=Category.REVERTED)
    report = await stage.run()
    stored = await rows_of(stage)
    bills = sum(len(world.bills_of(sub)) for sub in world.living())
    assert sum(row.kind == "bill" for row in stored.values()) == bills
    assert all(
        row.tx_hash and row.amount_usd and row.amount_units and row.currency
        for row in stored.values()
        if row.kind == "bill"
    )
    assert [(kind, new) for _, kind, _, new, _ in await told(stage)] == [
        ("payment_succeeded", "succeeded"),
        ("payment_failed", "failed"),
    ]
    assert stored[world.ids.payment(paid.n)].reference == "order-1"
    asked = [call.query for call in stage.faults.calls if call.route == "payments"]
    assert "createdAfter" not in asked[0]
    assert asked[0]["createdBefore"] == (world.now - 2 * DAY).isoformat().replace("+00:00", "Z")
    assert asked[-1]["createdAfter"] == (world.now - 3 * DAY).isoformat().replace("+00:00", "Z")
    untouched = {ext_id: row.asked_at for ext_id, row in stored.items()}
    await stage.run()
    assert {ext_id: row.asked_at for ext_id, row in (await rows_of(stage)).items()} == untouched


async def test_payments_that_cannot_be_read_do_not_spoil_the_sweep_of_subscriptions(lite):
    stage = await lite(seeding.healthy(20))
    stage.change(payments=True)
    stage.faults.add(faults.html(502), route="payments")
    for problem in ("payment history: ", "payments: "):
        report = await stage.run()
        assert report.outcome == "complete"
        assert report.problems[0].startswith(problem)
    stage.faults.clear()
    await stage.run()
    assert len(await rows_of(stage)) == 20
    assert await told(stage) == []


async def test_the_history_is_read_after_the_gate_a_slice_a_run(play, monkeypatch):
    monkeypatch.setattr("monitor.usecases.payments.HISTORY_AT_ONCE", 60)
    stage = await play(seeding.healthy(130))
    stage.change(payments=True)
    stage.world.advance(timedelta(minutes=1))
    gates: list[int] = []
    at_gate = lambda name: gates.append(stage.faults.requests["payments"]) if name == "before_gate" else None  # noqa: E731
    stage.tools = replace(stage.tools, failpoint=at_gate)
    read = []
    for _ in range(4):
        report = await stage.run()
        read.append(report.counts.get("payment_history"))
        async with stage.db.read() as conn:
            stored = (await conn.execute(select(runs.c.counts).order_by(runs.c.id.desc()).limit(1))).scalar_one()
        assert json.loads(stored).get("payment_history") == read[-1]
    assert gates[0] == 0  # the first gate waits for no payment
    assert len(await rows_of(stage)) == sum(len(stage.world.bills_of(sub)) for sub in stage.world.living()) >= 130
    assert read[-1] is None  # all of it is read
    assert 60 <= read[0] < 130
    assert read[1] > 0
    assert (await told(stage), await stage.states()) == ([], {})


async def test_a_history_of_one_instant_is_read_whole_before_a_slice_ends(lite, monkeypatch):
    """Nobody could go on in the middle of it: an instant is all that the API can be asked for."""
    monkeypatch.setattr("monitor.usecases.payments.HISTORY_AT_ONCE", 10)
    stage = await lite(seeding.healthy(3))
    stage.change(payments=True)
    for customer in (stage.world.customers * 60)[:120]:
        acts.purchase(stage.world, customer, stage.world.products[0])
    stage.world.advance(timedelta(minutes=1))
    assert (await stage.run()).counts["payment_history"] == 50
    assert (await stage.run()).counts["payment_history"] >= 120
    while "payment_history" in (await stage.run()).counts:
        pass
    assert len(await rows_of(stage)) == 123


async def test_a_stop_ends_a_slice_of_the_history_and_the_next_run_goes_on(lite):
    stage = await lite(seeding.healthy(130))
    stage.change(payments=True)
    stage.world.advance(timedelta(minutes=1))
    stopping = []
    told = lambda what, *_: stopping.append(what) if what == "payment history" else None  # noqa: E731
    stage.tools = replace(stage.tools, stopping=lambda: bool(stopping), progress=told)
    assert (await stage.run()).counts["payment_history"] == 50
    stage.tools = replace(stage.tools, stopping=lambda: False)
    assert (await stage.run()).counts["payment_history"] >= 80


async def test_a_dry_run_reads_no_history(lite, tmp_path):
    from monitor.usecases.plan import dry_run

    stage = await lite(seeding.healthy(5))
    stage.change(payments=True)
    folder = tmp_path / "dry"
    folder.mkdir()
    plan = await dry_run(stage.tools, stage.account, stage.mailer, folder, stage.state_dir)
    assert (plan.report.outcome, stage.faults.requests["payments"]) == ("complete", 0)


# What the database holds


async def store(stage: Stage, seen: PaymentSeen, *, asked_at=None, baselined: bool = True) -> PaymentWalk:
    walk = PaymentWalk()
    async with stage.db.write() as conn:
        till = await a_till(stage, conn, Source.PULL, asked_at=asked_at, baselined=baselined)
        await store_page(conn, till, PaymentPage((seen,)), walk)
    return walk


async def a_till(stage: Stage, conn, source: Source, *, asked_at=None, baselined: bool = True) -> Till:
    now, account_id = stage.world.now, (await stage.row()).id
    baselined_at = now - days(9) if baselined else None
    asked_at = asked_at or await db_now(conn)
    return Till(stage.tools, stage.account, account_id, now, source, asked_at, baselined_at)


async def test_older_never_overwrites_newer(play):
    stage = await play(seeding.healthy(1))
    await stage.run()
    at = stage.world.now
    newer = replace(SEEN, status=PaymentStatus.SUCCEEDED, status_raw="SUCCEEDED", provider_updated_at=at)
    older = replace(SEEN, status=PaymentStatus.PENDING, status_raw="PROVIDER_PENDING", provider_updated_at=at - DAY)
    await store(stage, newer)
    await store(stage, older)
    assert (await rows_of(stage))["bp-1"].status == "succeeded"
    timeless = replace(SEEN, ext_id="bp-2")
    await store(stage, replace(timeless, status=PaymentStatus.FAILED), asked_at=at)
    await store(stage, timeless, asked_at=at - DAY)
    assert (await rows_of(stage))["bp-2"].status == "failed"
    await store(stage, replace(timeless, status=PaymentStatus.SUCCEEDED), asked_at=at + DAY)
    assert [kind for _, kind, *_ in await told(stage)] == ["payment_succeeded", "payment_failed", "payment_succeeded"]


async def test_a_payment_comes_back_as_it_was_seen(play):
    stage = await play(seeding.healthy(1))
    await stage.run()
    at = stage.world.now
    whole = PaymentSeen(
        "pay@1", PaymentKind.ATTEMPT, PaymentStatus.FAILED, "reverted", at, at, "c", "s", "p", seeding.Decimal("24.50"),
        2**200, "8", "0xaa", "https://e.example", "order", "pay@2", 3, Cause.OTHER, "why", True,
    )  # fmt: skip
    await store(stage, whole)
    row = await stage.row()
    async with stage.db.read() as conn:
        stored = (await load_payments(conn, row.id, ["pay@1"]))["pay@1"]
    assert (stored.seen, stored.seq, stored.next_look_at) == (whole, 0, None)
    assert stored.seen.cause is Cause.OTHER, "our word, not its text alone"


async def test_amounts_are_listed_as_far_as_they_are_known(lite):
    stage = await lite(seeding.healthy(1))
    await stage.run()
    known = {
        "a": (seeding.Decimal("24.50"), None, None),
        "b": (None, 4990, "EUR"),
        "c": (None, 5, None),
        "d": (None,) * 3,
    }
    known["e"] = (None, 2_500_000, "8")
    for ext_id, (usd, units, currency) in known.items():
        await store(stage, replace(SEEN, ext_id=ext_id, amount_usd=usd, amount_units=units, currency=currency))
    listed = (await list_paid(Reports(stage.db), Filter())).items
    assert {item["ext_id"]: item["amount"] for item in listed} == {
        "a": "24.50 USD",
        "b": "4990 EUR",
        "c": "5 units",
        "d": "unknown",
        "e": "2.50 USDC",
    }


async def test_two_who_see_a_new_payment_at_once_tell_it_once(postgres_url, tmp_path):
    async with staged(seeding.healthy(1), postgres_url, tmp_path / "var") as stage:
        await stage.run()
        seen = replace(SEEN, status=PaymentStatus.SUCCEEDED)
        async with stage.db.write() as conn:
            till = await a_till(stage, conn, Source.WEBHOOK)
            await store_page(conn, till, PaymentPage((seen,)), PaymentWalk())
            other = asyncio.create_task(store(stage, replace(seen, reason="another view of it")))
            while True:  # until the other waits for our row
                async with stage.db.read() as watching:
                    waits = await watching.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
                    if waits.scalar_one():
                        break
                await asyncio.sleep(0.01)
        walk = await other
        assert (walk.new, walk.changed, walk.events) == (0, 1, 0)
        assert [source for *_, source in await told(stage)] == ["webhook"]
        assert (await rows_of(stage))["bp-1"].reason == "another view of it"


async def test_what_happened_to_a_payment_cannot_be_rewritten(play):
    stage = await play(seeding.healthy(1))
    await stage.run()
    await store(stage, replace(SEEN, status=PaymentStatus.FAILED))
    for statement in (update(payment_events).values(kind="x"), delete(payment_events)):
        with pytest.raises(Exception, match="append-only") as caught:
            async with stage.db.write() as conn:
                await conn.execute(statement)
        assert isinstance(caught.value, DBAPIError) or "append-only" in str(caught.value)
    assert len(await told(stage)) == 1
