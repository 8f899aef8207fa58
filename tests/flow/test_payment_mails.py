"""Mails about payments, from the API to the mailbox: each once, none that is not true any more, none about history."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from email import message_from_bytes, policy

import pytest
from sqlalchemy import insert, select, update

from monitor.config import BillingSettings
from monitor.domain.calendar import SendingWindow
from monitor.domain.guard import GuardLimits
from monitor.domain.model import Kind, Mode
from monitor.errors import NotFoundError
from monitor.mail.smtp import SmtpTransport
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.billing_platform_hooks import BillingPlatformHooks
from monitor.providers.qbitflow_v2_hooks import QBitFlowV2Hooks
from monitor.sandbox import acts, faults, seeding
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Merchant
from monitor.sandbox.platform import WEBHOOK_SECRET, webhook_of
from monitor.sandbox.transitions import cause
from monitor.store.schema import batches, currencies, customers, notifications, payment_events, payments
from monitor.store.views import Filter
from monitor.usecases.deliver import deliver_account
from monitor.usecases.explain import Reader
from monitor.usecases.explain_payments import explain_all
from monitor.usecases.importing import import_contacts
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.operate import Operator
from monitor.usecases.paid import list_paid
from monitor.usecases.plan import dry_run
from monitor.usecases.report import Reports
from monitor.usecases.reread import reread_account
from tests.harness import MAILER, Stage, WorldClock, instantly, mac

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ALWAYS = SendingWindow(time(0), time.max)
RECEIPTS = frozenset({Kind.PAYMENT_SUCCEEDED})
WELCOMES = frozenset({Kind.SUBSCRIPTION_CREATED})
V2 = Addressee("acme", "qbitflow-v2", "live")
PLATFORM = Addressee("acme", "billing-platform", "live")


class Killed(BaseException):
    """The process dies here."""


async def mails(stage: Stage) -> list[tuple[str, str, str | None]]:
    """(kind, state, rule) of every mail, in the order in which they were planned."""
    n = notifications.c
    async with stage.db.read() as conn:
        rows = await conn.execute(select(n.kind, n.state, n.reason).order_by(n.created_at, n.kind, n.id))
        return [tuple(row) for row in rows]


async def deliver(stage: Stage):
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    return await deliver_account(stage.tools, stage.account, transport, MAILER)


async def told(stage: Stage) -> list[str]:
    """The events of payments, in the order in which they happened."""
    async with stage.db.read() as conn:
        return list((await conn.execute(select(payment_events.c.kind).order_by(payment_events.c.id))).scalars())


async def age(stage: Stage, by: timedelta) -> None:
    """All that is known of payments was read that much earlier, by the database's clock."""
    async with stage.db.write() as conn:
        for row_id, asked_at in (await conn.execute(select(payments.c.id, payments.c.asked_at))).all():
            await conn.execute(update(payments).where(payments.c.id == row_id).values(asked_at=asked_at - by))


def subjects(stage: Stage) -> list[str]:
    return [str(message(one.data)["Subject"]) for one in stage.mailbox.messages]


def message(data: bytes):
    return message_from_bytes(data, policy=policy.default)


def text_of(stage: Stage, number: int = -1) -> str:
    body = message(stage.mailbox.messages[number].data).get_body(("plain",))
    return " ".join(body.get_content().replace("\u00a0", " ").split())


@pytest.fixture
async def shop(play):
    """`stage = await shop()`: QBitFlow v2 with payments pulled and the baseline taken, an hour ago."""

    async def begin(size: int = 3, **choices) -> Stage:
        stage = await play(seeding.healthy(size, start=START))
        stage.change(payments=True, window=ALWAYS, **choices)
        await stage.run()
        stage.world.advance(HOUR)
        return stage

    return begin


@pytest.fixture
async def till(play):
    """`stage = await till()`: the billing platform with contacts of its users; the baseline is taken."""
    async with AsyncExitStack() as stack:

        async def begin(**choices) -> Stage:
            stage = await play(seeding.healthy(3, start=START))
            shown = stage.server.platform.till
            provider = BillingPlatform(
                base_url=stage.server.platform_url,
                billing=BillingSettings(tenant_id=shown.tenant_id),
                tenant_secret=shown.tenant_secret,
                mode=Mode(stage.world.merchant.mode),
                account="acme",
                clock=WorldClock(stage.world),
                sleep=instantly,
            )
            stack.push_async_callback(provider.aclose)
            stage.change(provider=provider, provider_name="billing-platform", payments=True, window=ALWAYS, **choices)
            await stage.run()
            row = await stage.row()
            async with stage.db.write() as conn:
                for n in range(3):
                    address = f"u-{n}@customer.example"
                    values = {"ext_id": f"u-{n}", "email": address, "address_mac": mac(address), "name": "Ines"}
                    await conn.execute(insert(customers).values(account_id=row.id, **values))
            stage.world.advance(HOUR)
            return stage

        yield begin


async def hook(stage: Stage, payment, number: int, kind: str | None = None) -> None:
    """A webhook of the platform about this payment arrives, and what it asks for is read."""
    body = webhook_of(stage.server.platform.till, payment, f"bpe-{number}", kind=kind)
    hooks = BillingPlatformHooks([WEBHOOK_SECRET], BillingSettings(tenant_id="t-1"))
    await Inbox(stage.db, stage.tools.clock).put(PLATFORM, hooks.read({}, body))
    await reread_account(stage.tools, stage.account)


# Receipts and welcomes


async def test_nobody_gets_a_receipt_or_a_welcome_unless_the_account_asks_for_them(shop):
    stage = await shop()
    world = stage.world
    acts.purchase(world, world.customers[0], world.products[0])
    made = world.subscriptions[0]
    acts.subscribe(world, made.product, made.wallet, made.customer)
    await stage.run()
    assert await told(stage) == ["payment_succeeded"]
    assert await mails(stage) == []


async def test_a_receipt_is_mailed_once_however_often_the_payment_is_told_of(till):
    stage = await till(optional_mails=RECEIPTS)
    shown = stage.server.platform.till
    payment = shown.pay(0, order="order-1")
    shown.move(payment, "SUCCEEDED")
    for number in (1, 2, 2):
        await hook(stage, payment, number)
    for _ in range(2):
        await stage.run()
    stage.world.advance(3 * MINUTE)
    await deliver(stage)
    payment.updated_at = stage.world.now
    await hook(stage, payment, 3)
    await stage.run()
    stage.world.advance(3 * MINUTE)
    await deliver(stage)
    assert await mails(stage) == [("payment_succeeded", "sent", None)]
    assert subjects(stage) == ["Receipt for your payment of 1 April"]
    assert "u-0@customer.example" in stage.mailbox.messages[0].recipients
    text = text_of(stage)
    assert "Your reference: order-1" in text
    assert "4990" not in text  # nobody tells how many decimals the number has


async def test_where_the_decimals_of_a_currency_are_known_mail_and_listing_print_the_amount_alike(till):
    stage = await till(optional_mails=RECEIPTS)
    row = await stage.row()
    async with stage.db.write() as conn:
        known = {"ext_id": "EUR", "symbol": "EUR", "decimals": 2, "chain": "", "address": ""}
        await conn.execute(insert(currencies).values(account_id=row.id, **known))
    stage.server.platform.till.pay(1, status="SUCCEEDED")
    await stage.run()
    await deliver(stage)
    assert "Paid: 49.90 EUR" in text_of(stage)
    assert [item["amount"] for item in (await list_paid(Reports(stage.db), Filter())).items] == ["49.90 EUR"]


async def test_a_paid_bill_has_a_receipt_with_its_transaction_and_the_next_date(shop):
    stage = await shop(optional_mails=RECEIPTS, link_hosts=frozenset({"explorer.example", "qbitflow.example"}))
    world = stage.world
    sub = min(world.living(), key=lambda one: one.next_billing_at)
    world.advance(to=sub.next_billing_at + HOUR)
    await stage.run()
    assert (await mails(stage))[0] == ("payment_succeeded", "ready", None)
    await deliver(stage)
    async with stage.db.read() as conn:
        (paid,) = (await conn.execute(select(payments).order_by(payments.c.created_at.desc()).limit(1))).all()
    receipt = next(n for n, one in enumerate(subjects(stage)) if one.startswith("Receipt: "))
    text = text_of(stage, receipt)
    for word in (paid.tx_hash, paid.explorer_url, f"{paid.amount_usd:.2f} USD", "Next bill: ", "every 30 days"):
        assert word in text, word
    assert await told(stage) == []  # a bill is its subscription's story


async def test_an_all_clear_tells_of_the_bill_so_no_receipt_follows(shop):
    stage = await shop(optional_mails=RECEIPTS)
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    await stage.run()
    await deliver(stage)
    stage.world.advance(HOUR)
    cause(stage.world, {"recovered": 1})
    await stage.run()
    await deliver(stage)
    found = await mails(stage)
    assert found.count(("recovered", "sent", None)) == 1
    assert found.count(("payment_succeeded", "voided", "in_all_clear")) == 1


async def test_a_new_subscription_is_welcomed_once_and_what_is_a_day_old_is_not(shop):
    stage = await shop(optional_mails=WELCOMES)
    world, made = stage.world, stage.world.subscriptions[0]
    acts.subscribe(world, made.product, made.wallet, made.customer)
    world.advance(25 * HOUR)
    acts.subscribe(world, replace(made.product, trial=None), made.wallet, world.customers[1])
    acts.subscribe(world, replace(made.product, trial=timedelta(days=14)), made.wallet, world.customers[2])
    world.advance(MINUTE)
    for _ in range(2):
        await stage.run()
        await deliver(stage)
    assert sorted(await mails(stage)) == [
        ("subscription_created", "sent", None),
        ("subscription_created", "sent", None),
        ("subscription_created", "voided", "skipped_late"),
    ]
    assert {subject.split(" ", 2)[1] for subject in subjects(stage)} == {"to"}
    assert any("Your trial of" in text_of(stage, number) for number in (0, 1))


async def test_who_has_left_by_then_is_not_welcomed(shop):
    stage = await shop(optional_mails=WELCOMES)
    world, made = stage.world, stage.world.subscriptions[0]
    sub = acts.subscribe(world, replace(made.product, trial=None), made.wallet, made.customer)
    world.advance(MINUTE)
    await stage.run()
    acts.stop(world, sub)
    await stage.run()
    await deliver(stage)
    assert ("subscription_created", "voided", "superseded") in await mails(stage)
    assert not [subject for subject in subjects(stage) if "Welcome" in subject]


# What does not arrive


async def test_a_payment_that_fails_is_told_an_hour_later_and_by_no_second_try_again(shop):
    stage = await shop()
    world = stage.world
    made = acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED, reference="o-1")
    await stage.run()
    assert await mails(stage) == [("one_off_failed", "ready", None)]
    await deliver(stage)
    assert stage.mailbox.messages == []
    world.advance(61 * MINUTE)
    await deliver(stage)
    assert subjects(stage) == ["Your payment did not go through"]
    assert stage.mailbox.messages[0].recipients == (world.customers[0].email,)
    made.failed_at = world.now  # another try, which fails as well
    await stage.run()
    world.advance(2 * HOUR)
    await deliver(stage)
    assert await mails(stage) == [("one_off_failed", "sent", None)]


@pytest.mark.parametrize("known_by", ["pull", "asking"])
async def test_who_has_paid_since_is_not_told_that_a_try_failed(shop, known_by):
    stage = await shop()
    world = stage.world
    made = acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
    await stage.run()
    world.advance(10 * MINUTE)
    acts.settle(world, made)
    if known_by == "pull":
        await stage.run()
    else:
        await age(stage, 10 * MINUTE)
    world.advance(HOUR)
    await deliver(stage)
    assert (await mails(stage))[0] == ("one_off_failed", "voided", "tried_again")
    assert stage.mailbox.messages == []


class Plain:
    """A provider that cannot be asked for one customer's payments."""

    def __init__(self, provider) -> None:
        self._provider = provider

    def __getattr__(self, name: str):
        if name == "payments_of":
            raise AttributeError(name)
        return getattr(self._provider, name)


async def test_where_a_customers_payments_cannot_be_asked_for_the_payment_itself_is(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    stage.change(provider=Plain(stage.account.provider))
    paid, gone, same = (shown.pay(user, status="FAILED") for user in range(3))
    await stage.run()
    await age(stage, 10 * MINUTE)
    shown.move(paid, "SUCCEEDED")
    shown.remove(gone)
    world.advance(2 * HOUR)
    assert (await deliver(stage)).snoozed == {"stale": 1}  # a 404 proves nothing: that mail waits
    assert sorted(await mails(stage), key=str) == [
        ("one_off_failed", "ready", "stale"),
        ("one_off_failed", "sent", None),
        ("one_off_failed", "voided", "superseded"),
    ]
    assert stage.mailbox.messages[0].recipients == (f"u-{same.user}@customer.example",)


@pytest.mark.parametrize(("then", "answer"), [("open", ("sent", None)), ("paid", ("voided", "tried_again"))])
async def test_of_a_try_the_payment_that_was_tried_is_asked_for_and_an_open_checkout_is_no_payment(shop, then, answer):
    stage = await shop()
    world = stage.world
    stage.change(provider=Plain(stage.account.provider))
    made = acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
    await stage.run()
    await age(stage, 10 * MINUTE)
    if then == "paid":
        acts.settle(world, made)
    world.advance(2 * HOUR)
    await deliver(stage)
    assert (await mails(stage))[0] == ("one_off_failed", *answer)


async def test_a_try_whose_checkout_is_forgotten_is_told_all_the_same(shop):
    stage = await shop()
    world = stage.world
    stage.change(provider=Plain(stage.account.provider))
    acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
    await stage.run()
    await age(stage, 10 * MINUTE)
    stage.faults.add(faults.error(404, "not_found"), route="checkout")
    world.advance(2 * HOUR)
    await deliver(stage)
    assert await mails(stage) == [("one_off_failed", "sent", None)]


async def test_a_later_payment_of_the_same_order_ends_the_mail_and_one_of_another_does_not(till):
    stage = await till()
    shown = stage.server.platform.till
    orders = ("order-1", "order-2", "order-3")
    for order in orders:
        shown.pay(0, order=order, status="FAILED")
    shown.pay(1, order="order-2", status="FAILED")
    await stage.run()
    stage.world.advance(5 * MINUTE)
    shown.pay(0, order="order-1", status="SUCCEEDED")
    shown.pay(1, order="order-2", status="SUCCEEDED")
    shown.pay(0, order="order-3", status="CREATED")
    await age(stage, 10 * MINUTE)
    stage.world.advance(HOUR)
    asked = stage.faults.requests["payments"]
    await deliver(stage)
    found = await mails(stage)
    assert found.count(("one_off_failed", "voided", "tried_again")) == 3
    assert found.count(("one_off_failed", "sent", None)) == 1  # order-2 of somebody else says nothing about this one
    assert stage.faults.requests["payments"] == asked + 2  # one question a customer


async def test_a_failed_payment_whose_customer_has_paid_before_the_gate_is_not_mailed(till):
    stage = await till()
    shown = stage.server.platform.till
    payment = shown.pay(0, order="order-1", status="FAILED")
    await hook(stage, payment, 1)
    shown.move(payment, "SUCCEEDED")
    await hook(stage, payment, 2)
    assert await mails(stage) == [("one_off_failed", "voided", "superseded")]
    stage.world.advance(2 * HOUR)
    await deliver(stage)
    assert (await told(stage), stage.mailbox.messages) == (["payment_failed", "payment_succeeded"], [])


async def test_a_payment_that_fails_again_after_all_is_mailed(till):
    stage = await till()
    shown = stage.server.platform.till
    payment = shown.pay(0, status="FAILED")
    for number, status in enumerate(("FAILED", "PROVIDER_PENDING", "FAILED")):
        stage.world.advance(MINUTE)
        shown.move(payment, status)
        await hook(stage, payment, number, kind="payment.failed")  # a hint of any kind has it read again
        waits = ("staged", None) if status == "FAILED" else ("voided", "superseded")
        assert await mails(stage) == [("one_off_failed", *waits)]
    stage.world.advance(2 * HOUR)
    await deliver(stage)
    assert await mails(stage) == [("one_off_failed", "sent", None)]


async def test_an_expired_payment_is_told_and_may_be_refused_and_a_cancelled_one_is_not_told(till):
    stage = await till()
    shown = stage.server.platform.till
    for user, status in enumerate(("EXPIRED", "CANCELLED")):
        shown.pay(user, status=status)
    await stage.run()
    stage.world.advance(61 * MINUTE)
    await deliver(stage)
    assert (await told(stage), await mails(stage)) == (
        ["payment_expired", "payment_cancelled"],
        [("payment_expired", "sent", None)],
    )
    assert "Nothing was charged." in text_of(stage)


async def test_a_checkout_that_expires_is_known_by_its_webhook_and_names_nobody_to_mail(shop):
    stage = await shop()
    world = stage.world
    made = acts.checkout(world, world.customers[0], world.products[0])
    for number, change in enumerate(
        (lambda: None, lambda: acts.confirm(world, made), lambda: acts.expire(world, made))
    ):
        change()
        data = {"uuid": world.ids.payment(made.n), "txType": "payment", "organizationName": "Acme", "test": False}
        event = {"id": f"evt_{number}", "type": "checkout.expired", "version": "v2", "data": data}
        body = json.dumps({**event, "createdAt": world.now.isoformat(), "test": False}).encode()
        await Inbox(stage.db, stage.tools.clock).put(V2, QBitFlowV2Hooks(["s"]).read({}, body))
        done = await reread_account(stage.tools, stage.account)
        assert (done.read, done.gone, done.problems) == (1, 0, [])
    assert await told(stage) == ["payment_expired"]
    assert await mails(stage) == [("payment_expired", "voided", "no_customer")]


async def test_a_webhook_has_a_one_off_payment_read_again_and_the_comparison_decides(shop):
    stage = await shop(optional_mails=RECEIPTS)
    world = stage.world
    made = acts.checkout(world, world.customers[0], world.products[0])
    body = json.dumps(
        {
            "id": "evt_1",
            "type": "payment.completed",
            "version": "v2",
            "createdAt": world.now.isoformat(),
            "test": False,
            "data": {"uuid": world.ids.payment(made.n), "txHash": "0x1"},
        }
    ).encode()
    seen = QBitFlowV2Hooks(["s"]).read({}, body)
    await Inbox(stage.db, stage.tools.clock).put(V2, seen)
    acts.confirm(world, made)
    await reread_account(stage.tools, stage.account)
    assert await told(stage) == []  # a webhook is a hint: the API says that it is under way
    acts.settle(world, made)
    await Inbox(stage.db, stage.tools.clock).put(V2, replace(seen, fact=replace(seen.fact, dedupe_key="evt_2")))
    await reread_account(stage.tools, stage.account)
    await stage.run()
    world.advance(3 * MINUTE)
    await deliver(stage)
    assert (await told(stage), await mails(stage)) == (["payment_succeeded"], [("payment_succeeded", "sent", None)])


async def test_an_account_that_wants_no_payments_reads_none_for_a_webhook(shop):
    stage = await shop()
    stage.change(payments=False)
    data = {"uuid": stage.world.ids.payment(0)}
    event = {"id": "evt_1", "type": "payment.completed", "version": "v2", "createdAt": "2026-04-01T09:00:00Z"}
    seen = QBitFlowV2Hooks(["s"]).read({}, json.dumps({**event, "data": data}).encode())
    await Inbox(stage.db, stage.tools.clock).put(V2, seen)
    assert (await reread_account(stage.tools, stage.account)).problems == []
    assert (await reread_account(stage.tools, stage.account)).read == 0
    assert stage.faults.requests["payment"] == 0


# What takes long


async def test_a_payment_that_takes_long_is_told_once_between_two_runs_and_not_after_it_has_ended(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    slow, quick = shown.pay(0), shown.pay(1)
    for payment in (slow, quick):
        shown.move(payment, "PROVIDER_PENDING")
    await stage.run()
    world.advance(23 * HOUR)
    await deliver(stage)
    assert await mails(stage) == []
    shown.move(quick, "SUCCEEDED")
    world.advance(2 * HOUR)
    for _ in range(2):  # no run in between: time alone brings it, and the API is asked first
        await deliver(stage)
        world.advance(3 * MINUTE)
    assert await mails(stage) == [("payment_pending_long", "sent", None)]
    assert stage.mailbox.messages[0].recipients == ("u-0@customer.example",)
    assert sorted(await told(stage)) == ["payment_pending_long", "payment_succeeded"]
    shown.move(slow, "SUCCEEDED")
    await stage.run()
    await deliver(stage)
    assert await mails(stage) == [("payment_pending_long", "sent", None)]


async def test_what_ends_before_its_mail_leaves_is_not_called_pending(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    slow = shown.pay(0)
    shown.move(slow, "PROVIDER_PENDING")
    await stage.run()
    world.advance(25 * HOUR)
    await stage.run()
    assert await mails(stage) == [("payment_pending_long", "ready", None)]
    shown.move(slow, "SUCCEEDED")
    await age(stage, 10 * MINUTE)
    await deliver(stage)
    assert await mails(stage) == [("payment_pending_long", "voided", "superseded")]


async def test_a_pending_payment_that_cannot_be_read_is_asked_for_again_later(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    slow = shown.pay(0)
    shown.move(slow, "PROVIDER_PENDING")
    await stage.run()
    world.advance(25 * HOUR)
    stage.faults.add(faults.error(503, "down"), route="payment")
    assert [one[:10] for one in (await deliver(stage)).problems] == ["payments: "]
    stage.faults.clear()
    shown.remove(slow)
    asked = stage.faults.requests["payment"]
    for _ in range(3):
        await deliver(stage)
    assert stage.faults.requests["payment"] == asked + 1
    world.advance(2 * HOUR)
    await deliver(stage)
    assert stage.faults.requests["payment"] == asked + 2
    assert await mails(stage) == []


async def test_without_an_answer_a_mail_about_a_payment_waits_but_not_for_ever(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    shown.pay(0, status="FAILED")
    await stage.run()
    world.advance(2 * HOUR)
    await age(stage, 10 * MINUTE)
    stage.faults.add(faults.error(503, "down"), route="payments")
    assert (await deliver(stage)).snoozed == {"stale": 1}
    world.advance(41 * HOUR)
    assert (await deliver(stage)).sent == 1  # facts of a day must do near the end


# History, tests, the guard, a dry run, a kill


async def test_what_was_made_before_the_first_contact_is_never_mailed(play):
    stage = await play(seeding.healthy(3, start=START))
    stage.change(payments=True, window=ALWAYS, optional_mails=RECEIPTS | WELCOMES)
    world = stage.world
    acts.purchase(world, world.customers[0], world.products[0])
    acts.purchase(world, world.customers[1], world.products[0], fails=Category.REVERTED)
    world.advance(MINUTE)
    for _ in range(3):
        await stage.run()
        world.advance(2 * HOUR)
        await deliver(stage)
    assert (await told(stage), await mails(stage)) == ([], [])


async def test_a_payment_that_was_pending_at_the_first_contact_is_not_called_so_but_its_end_is_news(play, tmp_path):
    stage = await play(seeding.healthy(1, start=START))
    shown = stage.server.platform.till
    provider = BillingPlatform(
        base_url=stage.server.platform_url, billing=BillingSettings(tenant_id=shown.tenant_id),
        tenant_secret=shown.tenant_secret,
        mode=Mode(stage.world.merchant.mode), account="acme", clock=WorldClock(stage.world), sleep=instantly,
    )  # fmt: skip
    stage.change(provider=provider, provider_name="billing-platform", payments=True, window=ALWAYS)
    payment = shown.pay(0)
    shown.move(payment, "PROVIDER_PENDING")
    await stage.run()
    stage.world.advance(25 * HOUR)
    await stage.run()
    assert (await told(stage), await mails(stage)) == (["payment_pending_long"], [])
    shown.move(payment, "FAILED")
    await stage.run()
    assert await mails(stage) == [("one_off_failed", "ready", None)]
    await provider.aclose()


async def test_nobody_deleted_customers_and_late_news_are_silent_with_their_rule(shop):
    stage = await shop()
    world = stage.world
    acts.delete_customer(world.customers[0])
    acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
    acts.purchase(world, None, world.products[0], fails=Category.REVERTED)
    late = acts.purchase(world, world.customers[1], world.products[0], fails=Category.REVERTED)
    late.failed_at = world.now - 30 * MINUTE
    await stage.run()
    assert sorted(one[1:] for one in await mails(stage)) == [
        ("ready", None),
        ("voided", "customer_deleted"),
        ("voided", "no_customer"),
    ]
    world.advance(50 * HOUR)
    await deliver(stage)
    assert ("one_off_failed", "voided", "expired") in await mails(stage)


async def test_a_payment_of_a_test_space_is_mailed_only_if_the_account_says_so(play):
    stage = await play(seeding.healthy(2, start=START, merchant=Merchant(mode="test")))
    stage.change(payments=True, mail_test_rows=False, optional_mails=WELCOMES)
    await stage.run()
    stage.world.advance(HOUR)
    world, made = stage.world, stage.world.subscriptions[0]
    acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
    acts.subscribe(world, made.product, made.wallet, made.customer)
    world.advance(MINUTE)
    await stage.run()
    assert await mails(stage) == [
        ("one_off_failed", "voided", "test_row"),
        ("subscription_created", "voided", "test_row"),
    ]


async def test_an_hour_of_failing_payments_is_held_by_the_guard_and_goes_when_somebody_approves(till):
    stage = await till(guard=GuardLimits(small=2, per_address_24h=9))
    shown = stage.server.platform.till
    for _ in range(3):
        shown.pay(0, status="FAILED")
    report = await stage.run()
    assert report.outcome == "held"
    assert report.held == (
        '3 of 3 one-off payments of 30 days became "payment failed" in 24 h; the limit is 2 below 50 payments',
    )
    operator = Operator(stage.tools, "ann", stage.state_dir)
    ruling = await operator.approve(report.batch_id)
    assert (ruling.outcome, len(ruling.ids)) == ("approved", 3)
    stage.world.advance(61 * MINUTE)
    assert (await deliver(stage)).sent == 3
    shown.pay(1, status="FAILED")
    assert (await stage.run()).outcome == "complete"  # what was approved does not hold the next ones


async def test_an_approved_notice_lets_no_mass_change_of_subscriptions_through(shop):
    stage = await shop(12, guard=GuardLimits(small=2))
    world = stage.world
    for customer in world.customers[:3]:
        acts.purchase(world, customer, world.products[0], fails=Category.REVERTED)
    report = await stage.run()
    assert report.outcome == "held"
    assert (await Operator(stage.tools, "ann", stage.state_dir).approve(report.batch_id)).ok
    world.advance(MINUTE)
    cause(world, {"paused": 3})
    report = await stage.run()
    assert [reason.split(" became ")[1][:6] for reason in report.held] == ["paused"]


@pytest.mark.traced
async def test_a_dry_run_plans_the_same_mails_and_writes_nothing(shop, tmp_path):
    stage = await shop(optional_mails=RECEIPTS)
    world = stage.world
    acts.purchase(world, world.customers[0], world.products[0], reference="o-1")
    acts.purchase(world, world.customers[1], world.products[0], fails=Category.REVERTED)
    await stage.run()
    world.advance(HOUR)
    acts.purchase(world, world.customers[2], world.products[0])
    folder = tmp_path / "dry"
    folder.mkdir()
    before = await mails(stage)
    plan = await dry_run(stage.tools, stage.account, stage.mailer, folder, stage.state_dir)
    assert await mails(stage) == before
    planned = {line.mail.id: (line.what, line.mail.kind, line.mail.subscription) for line in plan.lines}
    assert sorted(planned.values()) == [
        ("send", "one_off_failed", None),
        ("send", "payment_succeeded", None),
        ("send", "payment_succeeded", None),
    ]
    assert all(line.mail.payment and line.mail.address for line in plan.lines)
    await stage.run()
    await deliver(stage)
    async with stage.db.read() as conn:
        sent = set((await conn.execute(select(notifications.c.id).where(notifications.c.state == "sent"))).scalars())
    assert sent == set(planned)


@pytest.mark.parametrize("point", ["before_gate", "before_gate_commit", "after_gate_commit"])
async def test_a_run_that_is_killed_at_the_gate_mails_each_payment_once(shop, point):
    stage = await shop(optional_mails=RECEIPTS)
    world = stage.world
    acts.purchase(world, world.customers[0], world.products[0])

    def die(name: str) -> None:
        if name == point:
            raise Killed

    tools = stage.tools
    stage.tools = replace(tools, failpoint=die)
    with pytest.raises(Killed):
        await stage.run()
    stage.tools = tools
    assert stage.mailbox.messages == []
    for _ in range(2):
        await stage.run()
        await deliver(stage)
    assert await mails(stage) == [("payment_succeeded", "sent", None)]
    assert len(stage.mailbox.messages) == 1
    async with stage.db.read() as conn:
        assert "collecting" not in (await conn.execute(select(batches.c.state))).scalars().all()


async def test_a_payment_without_a_known_address_is_silent_with_its_rule(till):
    stage = await till()
    stage.server.platform.till.pay(9, status="FAILED")
    await stage.run()
    stage.world.advance(2 * HOUR)
    await deliver(stage)
    assert await mails(stage) == [("one_off_failed", "voided", "no_address")]
    for line, sent in (("u-8,x@customer.example", 0), ("u-9,ida@customer.example", 1)):
        await import_contacts(stage.tools, stage.account, ["customer,address", line])
        stage.world.advance(3 * MINUTE)
        assert (await deliver(stage)).sent == sent
    assert stage.mailbox.messages[0].recipients == ("ida@customer.example",)


async def test_an_address_that_comes_too_late_brings_no_mail_back(till):
    stage = await till()
    stage.server.platform.till.pay(9, status="FAILED")
    await stage.run()
    stage.world.advance(2 * HOUR)
    await deliver(stage)
    stage.world.advance(47 * HOUR)
    await import_contacts(stage.tools, stage.account, ["customer,address", "u-9,ida@customer.example"])
    assert await mails(stage) == [("one_off_failed", "voided", "no_address")]


# What people are told


async def test_a_payment_is_explained_by_its_id_its_order_its_mail_and_its_customer(till):
    stage = await till()
    shown, world = stage.server.platform.till, stage.world
    failed = shown.pay(0, order="order-7", status="FAILED")
    await stage.run()
    waits = world.now
    world.advance(2 * HOUR)
    shown.pay(0, order="order-8", status="SUCCEEDED")
    await stage.run()
    await deliver(stage)
    async with stage.db.read() as conn:
        (mail,) = (await conn.execute(select(notifications.c.id))).scalars().all()
    reader = Reader(stage.db, mac, {"acme": "Europe/Budapest"}, world.now)
    for asked in (shown.id_of(failed), "order-7", mail, mail[:8]):
        (story,) = (await explain_all(reader, asked)).stories
        assert (story.subscription, story.payment, story.address) == (
            None,
            shown.id_of(failed),
            "u***@customer.example",
        )
        assert story.summary == "Payment failed since 1 Apr 2026, 12:00 CEST"
        assert [line.what for line in story.lines] == ["sent", "event"]
        assert (
            story.lines[0].sentence
            == 'Sent "one-off payment failed" to u***@customer.example, the server answered 250 2.0.0'
        )
        assert story.facts["reference"] == "order-7"
        assert not {"reason", "the API's word"} & set(story.facts)
    async with stage.db.write() as conn:
        await conn.execute(
            update(payments).where(payments.c.reference == "order-8").values(test=True, status="unknown")
        )
    (odd,) = (await explain_all(reader, "order-8")).stories
    assert (odd.facts["test"], odd.facts["status"]) == ("a test payment", '"SUCCEEDED"')
    assert odd.summary.startswith("Payment in a state that this version does not know since")
    told = {"status": "succeeded", "cause": "insufficient_balance", "reason": "insufficientBalance"}
    async with stage.db.write() as conn:
        await conn.execute(update(payments).where(payments.c.reference == "order-8").values(**told))
    (why,) = (await explain_all(reader, "order-8")).stories
    assert (why.facts["reason"], why.facts["the API's word"]) == ("the wallet held too little", "insufficientBalance")
    by_address = await explain_all(reader, "U-0@customer.example", account="acme")
    assert [story.situation for story in by_address.stories] == ["succeeded", "failed"]
    (then,) = (await explain_all(reader, "order-7", known_at=waits)).stories
    assert (then.situation, [line.what for line in then.lines], then.facts) == ("failed", ["waits", "event"], {})
    assert then.next.startswith('Waited then: "one-off payment failed", due 1 Apr 2026, 13:00 CEST')
    with pytest.raises(NotFoundError, match="no subscription or payment order-9"):
        await explain_all(reader, "order-9")


async def test_the_subscription_of_a_bill_tells_of_its_receipt_and_the_welcome(shop):
    stage = await shop(optional_mails=RECEIPTS | WELCOMES)
    world, made = stage.world, stage.world.subscriptions[0]
    sub = acts.subscribe(world, replace(made.product, trial=None), made.wallet, made.customer)
    world.advance(MINUTE)
    await stage.run()
    await deliver(stage)
    reader = Reader(stage.db, mac, {}, world.now)
    (story,) = (await explain_all(reader, world.id_of(sub))).stories
    sentences = [line.sentence for line in story.lines if line.what == "sent"]
    assert sorted(sentence.split('"')[1] for sentence in sentences) == ["receipt", "welcome"]


async def test_the_outbox_and_the_list_of_payments_name_what_a_mail_is_about(till):
    stage = await till()
    payment = stage.server.platform.till.pay(0, status="FAILED")
    await stage.run()
    reports = Reports(stage.db)
    (mail,) = (await reports.outbox(Filter())).items
    assert (mail["subscription"], mail["payment"], mail["address"]) == (None, "bp-7001", "u***@customer.example")
    assert (await reports.mail(mail["id"][:8]))["payment"] == stage.server.platform.till.id_of(payment)
    (paid,) = (await list_paid(reports, Filter())).items
    assert [(one["kind"], one["state"]) for one in paid["mails"]] == [("one_off_failed", "ready")]
    assert (await list_paid(reports, Filter(account="other"))).items == ()
