"""From a webhook to a mail: what is told is read again, and the same diff decides, whoever told it, how often and when."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from monitor.domain.model import Mode, Source
from monitor.errors import MonitorError, StoreError
from monitor.metrics import Meter
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.sandbox import acts, v2_shapes
from monitor.sandbox import faults as fault
from monitor.sandbox.acts import BILLS_APPROVED, remove, top_up
from monitor.sandbox.seeding import healthy
from monitor.sandbox.sender import PUNCTUAL, HookSender, Manner
from monitor.sandbox.transitions import cause
from monitor.schedule.readers import HookReaders
from monitor.store.asks import take_asks
from monitor.store.schema import batches, events, facts, notifications, payments, subscriptions
from monitor.usecases.deliver import deliver_account
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.reread import LEASE, MOST_TRIES, reread_account
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.web.hooks import Door, Hooks
from tests.crews import charge_of
from tests.harness import Stage, instantly

SECRET = "whsec_acme"
DIALECT = QBitFlowHooks([SECRET])
COLLECTED = timedelta(minutes=2, seconds=1)


class Ears:
    """Webhooks of a stage's world, told to its accounts without a wire."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.heard = len(stage.world.happenings)

    def said(self) -> list[bytes]:
        """The bodies of what happened since the last call."""
        lines = list(self.stage.world.happenings)[self.heard :]
        self.heard = len(self.stage.world.happenings)
        return [json.dumps(v2_shapes.Shapes(self.stage.world).event(line)).encode() for line in lines]

    async def tell(self, bodies: list[bytes], account: str = "acme") -> list[bool]:
        inbox = Inbox(self.stage.db, self.stage.tools.clock)
        to = Addressee(account, "qbitflow-v2", "live")
        return [await inbox.put(to, DIALECT.read({"qbitflow-signature": "t=1"}, body)) for body in bodies]

    async def read(self, account=None) -> int:
        """Read until nobody asks; returns how many subscriptions were."""
        total, more = 0, True
        while more:
            done = await reread_account(self.stage.tools, account or self.stage.account)
            total, more = total + done.read, done.more
        return total


async def ledger(stage: Stage, account_id: int) -> tuple[list, list]:
    """What happened and what is mailed, by subscription, without when and by whom."""
    async with stage.db.read() as conn:
        happened = select(subscriptions.c.ext_id, events.c.kind, events.c.old, events.c.new, events.c.cause).join(
            subscriptions, subscriptions.c.id == events.c.subscription_id
        )
        mailed = select(
            subscriptions.c.ext_id, notifications.c.kind, notifications.c.variant, notifications.c.step
        ).join(subscriptions, subscriptions.c.id == notifications.c.subscription_id)
        return tuple(
            [
                sorted(map(tuple, await conn.execute(one.where(subscriptions.c.account_id == account_id))), key=str)
                for one in (happened, mailed)
            ]
        )


async def deliver(stage: Stage, account=None):
    charge = charge_of(stage)
    return await deliver_account(stage.tools, account or stage.account, charge.transport, stage.mailer)


async def waiting(stage: Stage) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(text("SELECT count(*) FROM facts WHERE ask_at IS NOT NULL"))).scalar_one()


CAUSED = {
    "low_on_funds": 2,
    "payment_failed:insufficient_balance": 2,
    "max_amount_reached": 1,
    "paused": 1,
    "cancelled:customer": 1,
}


async def test_by_webhook_by_pull_or_by_both_the_same_events_and_mails_come_about_once(play):
    stage = await play(healthy(60))
    ears, ids = Ears(stage), {}
    accounts = {name: replace(stage.account, name=name) for name in ("pulled", "hooked", "both")}
    for name, account in accounts.items():
        stage.account = account
        await stage.run()
        ids[name] = (await stage.row()).id
    for round_of in ({**CAUSED}, {"recovered": 1, "stopped": 2}):
        stage.world.advance(timedelta(hours=1))
        cause(stage.world, round_of)
        said = ears.said()
        for name in ("hooked", "both"):
            await ears.tell([*said, *said], name)
            await ears.read(accounts[name])
        for name in ("pulled", "both"):
            stage.account = accounts[name]
            assert (await stage.run()).outcome == "complete"
        await ears.tell(list(reversed(said)), "both")
        await ears.read(accounts["both"])
    told = {name: await ledger(stage, ids[name]) for name in accounts}
    assert told["pulled"][0]
    assert told["pulled"][1]
    assert told["hooked"] == told["pulled"] == told["both"]


async def test_a_webhook_becomes_a_mail_two_minutes_later_by_wire_and_with_its_link(play):
    stage = await play(healthy(60))
    stage.change(link_hosts=frozenset({"qbitflow.example"}))
    await stage.run()
    readers = HookReaders(stage.tools, {"acme": stage.account}, Meter(), pause=instantly)
    door = Door(Addressee("acme", "qbitflow-v2", "live"), DIALECT, Mode.LIVE)
    hooks = Hooks({"acme": door}, Inbox(stage.db, stage.tools.clock), stage.tools.clock, Meter(), readers.call)
    site = Site(stage.db, (), stage.tools.clock, Meter(), hooks)
    async with served(build_app(site), "127.0.0.1:0") as at:
        manner = Manner(repeats=0.5, late=0.5)
        sender = HookSender(stage.world, f"{at}/hooks/acme", [SECRET], manner=manner, clock=stage.tools.clock)
        [ext_id] = cause(stage.world, {"low_on_funds": 1})["low_on_funds"]
        answers = Counter()
        while sender.waiting or not answers:
            answers += await sender.send()
        assert set(answers) == {200}
        assert await sender.send_test() == 200
        await readers.idle()
        await sender.aclose()
    assert await deliver(stage) is not None
    assert stage.mailbox.messages == []
    stage.world.advance(COLLECTED)
    assert (await deliver(stage)).sent == 1
    assert (await deliver(stage)).sent == 0
    assert (
        f"https://qbitflow.example/manage?uuid={ext_id}"
        in stage.mailbox.messages[0].message.get_body(("plain",)).get_content()
    )
    async with stage.db.read() as conn:
        [event] = (await conn.execute(select(events.c.source).where(events.c.kind == "low_on_funds"))).all()
    assert event.source == Source.WEBHOOK


async def test_one_off_payments_are_told_by_wire_and_read_again(play):
    stage = await play(healthy(3))
    stage.change(payments=True)
    await stage.run()
    world = stage.world
    before = acts.checkout(world, world.customers[0], world.products[0])
    acts.expire(world, before)
    readers = HookReaders(stage.tools, {"acme": stage.account}, Meter(), pause=instantly)
    door = Door(Addressee("acme", "qbitflow-v2", "live"), DIALECT, Mode.LIVE)
    hooks = Hooks({"acme": door}, Inbox(stage.db, stage.tools.clock), stage.tools.clock, Meter(), readers.call)
    async with served(build_app(Site(stage.db, (), stage.tools.clock, Meter(), hooks)), "127.0.0.1:0") as at:
        manner = Manner(repeats=0.5, late=0.5)
        sender = HookSender(world, f"{at}/hooks/acme", [SECRET], manner=manner, clock=stage.tools.clock)
        paid, left = (acts.checkout(world, world.customers[1], world.products[0]) for _ in range(2))
        acts.confirm(world, paid)
        acts.settle(world, paid)
        acts.expire(world, left)
        answers = Counter()
        while sender.waiting or not answers:
            answers += await sender.send()
        assert set(answers) == {200}
        assert await sender.send() == {}, "each end is told, and repeated, and then no more"
        await readers.idle()
        await sender.aclose()
    async with stage.db.read() as conn:
        known = {row.ext_id: row.status for row in await conn.execute(select(payments.c.ext_id, payments.c.status))}
    assert known == {world.ids.payment(paid.n): "succeeded", world.ids.payment(left.n): "expired"}


async def test_v1s_webhooks_do_the_same(play):
    stage = await play(healthy(60))
    await stage.run()
    readers = HookReaders(stage.tools, {"acme": stage.account}, Meter(), pause=instantly)
    door = Door(Addressee("acme", "qbitflow-v2", "live"), DIALECT, Mode.LIVE)
    hooks = Hooks({"acme": door}, Inbox(stage.db, stage.tools.clock), stage.tools.clock, Meter(), readers.call)
    async with served(build_app(Site(stage.db, (), stage.tools.clock, Meter(), hooks)), "127.0.0.1:0") as at:
        sender = HookSender(
            stage.world, f"{at}/hooks/acme", [SECRET], version="v1", manner=PUNCTUAL, clock=stage.tools.clock
        )
        cause(stage.world, {"low_on_funds": 1, "cancelled:merchant": 1})
        stage.world.advance(timedelta(days=2))
        assert set(await sender.send()) == {200}
        assert await sender.send_test() == 200
        await readers.idle()
        await sender.aclose()
    row = await stage.row()
    happened, _ = await ledger(stage, row.id)
    assert {one[1] for one in happened} >= {"low_on_funds", "cancelled"}


async def test_what_is_told_while_it_is_read_is_read_once_more(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    [ext_id] = cause(stage.world, {"low_on_funds": 1})["low_on_funds"]
    await ears.tell(ears.said())
    late: list[bytes] = []

    async def top_up_meanwhile() -> None:
        """After the question was put, before its answer: the reading may show the state of before."""
        top_up(stage.world, stage.world.get(ext_id), BILLS_APPROVED * 10**9)
        late.extend(ears.said())
        await ears.tell(late)

    stage.faults.add(route="subscription", times=1, wait=top_up_meanwhile)
    await reread_account(stage.tools, stage.account)
    assert late
    assert await waiting(stage) == len(late)
    assert await ears.read() == 1
    assert await waiting(stage) == 0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", ["after_take_asks", "before_reread_commit", "after_reread_commit"])
async def test_a_reader_that_is_killed_loses_nothing(play, place):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    await ears.tell(ears.said())

    def kill(at: str) -> None:
        if at == place:
            raise Killed

    with pytest.raises(Killed):
        await reread_account(replace(stage.tools, failpoint=kill), stage.account)
    assert await ears.read() == 0  # its lease still runs, or it had answered
    stage.world.advance(LEASE)
    await ears.read()
    assert await waiting(stage) == 0
    row = await stage.row()
    happened, mailed = await ledger(stage, row.id)
    assert [one[1] for one in happened if one[1] == "low_on_funds"] == ["low_on_funds"]
    assert len(mailed) == 1


async def test_an_api_that_is_down_is_asked_again_ever_later_and_in_the_end_no_more(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    await ears.tell(ears.said())
    rule = stage.faults.add(fault.error(503, "network_unavailable"), route="subscription")
    began = stage.world.now
    waits = []
    for _ in range(MOST_TRIES):
        done = await reread_account(stage.tools, stage.account)
        assert (done.read, len(done.problems)) == (0, 1)
        async with stage.db.read() as conn:
            at = (await conn.execute(select(facts.c.ask_at).order_by(facts.c.id))).scalars().first()
        if at is not None:
            waits.append(at - stage.world.now)
            stage.world.advance(to=at)
    assert waits[:3] == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4)]
    assert max(waits) == timedelta(hours=6)
    assert timedelta(days=2) < stage.world.now - began < timedelta(days=4)
    assert await waiting(stage) == 0
    stage.faults.rules.remove(rule)
    assert (await stage.run()).outcome == "complete"
    assert (await ledger(stage, (await stage.row()).id))[1]


@pytest.mark.parametrize("which", ["min", "max"])
async def test_what_failed_before_counts_also_for_what_is_told_next(play, which):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    [body] = ears.said()
    assert await ears.tell([body, body.replace(b"evt_", b"evt_again-")]) == [True, True]
    async with stage.db.write() as conn:
        await conn.execute(text(f"UPDATE facts SET tries = 5 WHERE id = (SELECT {which}(id) FROM facts)"))
        taken = await take_asks(conn, (await stage.row()).id, stage.world.now, stage.world.now + LEASE, 5)
    assert [ask.tries for ask in taken.asks] == [5]


async def test_a_wait_that_the_api_asks_for_is_kept(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    await ears.tell(ears.said())
    stage.faults.add(fault.rate_limited("7200"), route="subscription", times=1)
    await reread_account(stage.tools, stage.account)
    stage.world.advance(timedelta(minutes=119))
    assert await ears.read() == 0
    stage.world.advance(timedelta(minutes=1))
    assert await ears.read() == 1


async def test_a_404_proves_nothing_and_waits(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    [ext_id] = cause(stage.world, {"low_on_funds": 1})["low_on_funds"]
    await ears.tell(ears.said())
    remove(stage.world.get(ext_id))
    done = await reread_account(stage.tools, stage.account)
    assert (done.read, done.gone, done.problems) == (0, 1, [])
    assert await waiting(stage) == 1
    assert (await ledger(stage, (await stage.row()).id))[0] == []


async def test_before_the_baseline_nothing_is_read_and_it_answers_everything(play):
    stage = await play(healthy(60))
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 2})
    assert await ears.tell(ears.said()) == [True, True]
    assert await ears.read() == 0
    assert stage.faults.requests["subscription"] == 0
    assert (await stage.run()).baseline
    assert await waiting(stage) == 0
    assert stage.faults.requests["subscription"] == 0


async def test_another_api_version_is_read_by_a_whole_run_first(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    await ears.tell(ears.said())
    assert await ears.read(replace(stage.account, provider_name="qbitflow-v1")) == 0
    assert await ears.read() == 1


async def test_a_partial_run_reads_what_was_told_itself(play):
    stage = await play(healthy(160))
    await stage.run()
    ears = Ears(stage)
    caused = cause(stage.world, {"low_on_funds": 2})["low_on_funds"]
    await ears.tell(ears.said())
    stage.faults.add(fault.error(500, "internal"), route="subscriptions")
    report = await stage.run()
    assert report.outcome == "partial"
    assert await waiting(stage) == 0
    happened, mailed = await ledger(stage, (await stage.row()).id)
    assert sorted({one[0] for one in happened}) == sorted(caused)
    assert mailed


async def test_a_complete_run_leaves_nothing_to_ask_but_what_came_meanwhile(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    await ears.tell(ears.said())

    async def tell_one_more() -> None:
        cause(stage.world, {"paused": 1})
        await ears.tell(ears.said())

    stage.faults.add(route="subscriptions", times=1, wait=tell_one_more)
    await stage.run()
    assert await waiting(stage) == 1
    assert await ears.read() == 1


async def test_many_webhooks_may_not_do_what_one_run_may_not_do(play):
    """Rule a counts 24 hours of all sources: 20 percent of 60 are 12, in one batch or in several."""
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    sent = 0
    for _ in range(4):
        cause(stage.world, {"low_on_funds": 4})
        await ears.tell(ears.said())
        await ears.read()
        stage.world.advance(COLLECTED)
        sent += (await deliver(stage)).sent
    assert 0 < sent <= 12
    assert (await stage.states())["held"] > 0
    async with stage.db.read() as conn:
        judged = (
            await conn.execute(select(batches.c.state).where(batches.c.origin == "live").order_by(batches.c.id))
        ).all()
    assert [row.state for row in judged] == ["open", "open", "open", "held"]


async def test_an_older_reading_never_overwrites_a_newer_one(play):
    """Two readers: the first got its answer long ago and writes it last."""
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    [ext_id] = cause(stage.world, {"low_on_funds": 1})["low_on_funds"]
    await ears.tell(ears.said())

    async def be_overtaken() -> None:
        stage.world.advance(LEASE)
        top_up(stage.world, stage.world.get(ext_id), BILLS_APPROVED * 10**9)
        await ears.tell(ears.said())
        assert await ears.read() == 1

    rule = stage.faults.add(lambda _call, answer: old, route="subscription", times=1, wait=be_overtaken)
    old = fault.Answer(body=json.dumps(v2_shapes.Shapes(stage.world).subscription(stage.world.get(ext_id))).encode())
    await reread_account(stage.tools, stage.account)
    stage.faults.rules.remove(rule)
    async with stage.db.read() as conn:
        [now] = (
            await conn.execute(select(subscriptions.c.situation).where(subscriptions.c.ext_id == ext_id))
        ).scalars()
    assert now == "healthy"
    happened, mailed = await ledger(stage, (await stage.row()).id)
    assert mailed == []
    assert "low_on_funds" not in {one[1] for one in happened}


async def test_what_was_told_counts_although_the_api_answers_with_an_older_state(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    [ext_id] = cause(stage.world, {"low_on_funds": 1})["low_on_funds"]
    old = fault.Answer(body=json.dumps(v2_shapes.Shapes(stage.world).subscription(stage.world.get(ext_id))).encode())
    said = ears.said()
    stage.world.advance(timedelta(minutes=1))
    top_up(stage.world, stage.world.get(ext_id), BILLS_APPROVED * 10**9)
    assert (await stage.run()).outcome == "complete"
    async with stage.db.write() as conn:
        await conn.execute(text("DELETE FROM facts"))
    await ears.tell(said)
    stage.faults.add(lambda _call, _answer: old, route="subscription")
    assert await ears.read() == 1
    async with stage.db.read() as conn:
        assert (await conn.execute(select(facts.c.done_at.is_not(None), facts.c.ask_at))).all() == [(True, None)]
        [now] = (
            await conn.execute(select(subscriptions.c.situation).where(subscriptions.c.ext_id == ext_id))
        ).scalars()
    assert now == "healthy"


async def test_a_repeat_and_a_fact_of_another_account_wait_for_nobody(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    said = ears.said()
    assert await ears.tell(said) == [True]
    assert await ears.tell(said) == [False]
    assert await ears.tell(said, "other") == [True]
    async with stage.db.write() as conn:
        row = await stage.row()
        taken = await take_asks(conn, row.id, stage.world.now, stage.world.now + LEASE, 1)
        again = await take_asks(conn, row.id, stage.world.now, stage.world.now + LEASE, 1)
    assert (len(taken.asks), len(again.asks), again.more) == (1, 0, False)


async def test_the_readers_read_on_while_there_is_more_and_survive_what_goes_wrong(play):
    stage = await play(healthy(60))
    await stage.run()
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 25})
    await ears.tell(ears.said())
    meter = Meter()
    readers = HookReaders(stage.tools, {"acme": stage.account}, meter, pause=instantly)
    await readers.see_to_all()
    await readers.idle()
    assert await waiting(stage) == 0
    assert 'monitor_hook_reads_total{account="acme",outcome="read"} 25.0' in meter.text().decode()
    cause(stage.world, {"paused": 1})
    await ears.tell(ears.said())
    stage.faults.add(fault.error(503, "network_unavailable"), route="subscription", times=99)
    readers.call("acme")
    await readers.idle()
    assert 'outcome="failed"} 1.0' in meter.text().decode()
    stopped = HookReaders(replace(stage.tools, stopping=lambda: True), {"acme": stage.account}, meter, pause=instantly)
    stopped.call("acme")
    await stopped.idle()
    assert await stopped.close(1)
    async with stage.db.write() as conn:
        await conn.execute(text("ALTER TABLE facts RENAME TO gone"))
    readers.call("acme")
    await readers.idle()
    with pytest.raises(MonitorError):
        await readers.see_to_all()
    assert await readers.close(1)


async def test_what_nobody_foresaw_fails_those_who_wait_and_nobody_else(play, monkeypatch):
    stage = await play(healthy(60))
    ears = Ears(stage)
    cause(stage.world, {"low_on_funds": 1})
    said = ears.said()
    inbox = Inbox(stage.db, stage.tools.clock)
    to = Addressee("acme", "qbitflow-v2", "live")
    monkeypatch.setattr("monitor.usecases.inbox.insert_facts", None)
    with pytest.raises(TypeError):
        await inbox.put(to, DIALECT.read({"qbitflow-signature": "t=1"}, said[0]))
    monkeypatch.undo()
    assert await inbox.put(to, DIALECT.read({"qbitflow-signature": "t=1"}, said[0])) is True
    await inbox.aclose()
    await Inbox(stage.db, stage.tools.clock).aclose()
    assert issubclass(StoreError, MonitorError)
