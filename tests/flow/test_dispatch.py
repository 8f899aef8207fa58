"""What a delivery pass decides about single mails when something has happened between two of its looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text, update

from monitor.errors import ProviderError
from monitor.mail.mailer import TemplateMailer
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.catalog import suppress
from monitor.store.engine import db_now
from monitor.store.outbox import void_episodes
from monitor.store.schema import accounts, attempts, customers, episodes, notifications, subscriptions
from monitor.usecases.dispatch import Dispatch
from monitor.usecases.letters import LetterDesk
from tests.faults.rig.sink import Act, Sink
from tests.harness import MAILER, Stage, staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FAILED = "payment_failed:insufficient_balance"


@pytest.fixture
async def stage(sqlite_url: str, tmp_path: Path):
    """Five mails at the open gate."""
    async with staged(healthy(60, start=START), sqlite_url, tmp_path / "var") as stage:
        await stage.run()
        stage.world.advance(MINUTE)
        cause(stage.world, {FAILED: 5})
        await stage.run()
        yield stage


async def rows(stage: Stage) -> list[Any]:
    async with stage.db.read() as conn:
        return list(await conn.execute(select(notifications).order_by(notifications.c.rank, notifications.c.id)))


async def change(stage: Stage, mail: Any, **values: Any) -> None:
    async with stage.db.write() as conn:
        await conn.execute(update(notifications).where(notifications.c.id == mail.id).values(**values))


async def keep_only(stage: Stage, count: int) -> list[Any]:
    """The first few mails; the others are out of the way."""
    found = await rows(stage)
    for mail in found[count:]:
        await change(stage, mail, state="voided")
    return found[:count]


async def look(stage: Stage, mail: Any) -> Any:
    return next(row for row in await rows(stage) if row.id == mail.id)


async def readdress(stage: Stage, mail: Any, email: str) -> None:
    async with stage.db.write() as conn:
        await conn.execute(update(customers).where(customers.c.ext_id == mail.customer_key).values(email=email))


async def mac_of(stage: Stage, mail: Any) -> str:
    async with stage.db.read() as conn:
        found = select(customers.c.address_mac).where(customers.c.ext_id == mail.customer_key)
        return (await conn.execute(found)).scalar_one()


async def make_facts_old(stage: Stage) -> None:
    async with stage.db.write() as conn:
        at = await db_now(conn) - 10 * MINUTE
        await conn.execute(update(subscriptions).values(asked_at=at))
        await conn.execute(update(accounts).values(sweep_started_at=at))


def elsewhere(stage: Stage, sql: str) -> Callable[[], None]:
    """As another process does it, between two steps of the pass."""
    url = stage.db.engine.url.render_as_string(hide_password=False).replace("+aiosqlite", "")

    def act() -> None:
        engine = create_engine(url)
        with engine.begin() as conn:
            conn.execute(text(sql))
        engine.dispose()

    return act


class Meddled:
    """The mailer, with something that happens while it works."""

    template_hash = MAILER.template_hash
    template_files = MAILER.template_files

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def make(self, letter: Any, files: str | None = None) -> Any:
        self._meanwhile()
        return MAILER.make(letter, files)


class Asked:
    """The provider, with something that happens while it is asked."""

    def __init__(self, stage: Stage, answer: Callable[[], Any]) -> None:
        known = stage.account.provider
        self.name, self.capabilities, self._answer, self._known = known.name, known.capabilities, answer, known

    async def subscription(self, ext_id: str) -> Any:
        self._answer()
        return await self._known.subscription(ext_id)


# What dead workers held


async def test_mails_of_the_dead_come_back_and_those_in_their_body_are_in_doubt(stage):
    claimed, began, twice, mine, resent = await rows(stage)
    dead = {"owner": "worker.0.gone", "token": 3, "until_at": START + timedelta(days=9999)}
    await change(stage, claimed, state="claimed", **{**dead, "until_at": START})  # its lease has ended
    await change(stage, began, state="in_data", copies=1, **{**dead, "until_at": None})
    await change(stage, twice, state="in_data", copies=2, **{**dead, "until_at": START})
    await change(stage, mine, state="in_data", copies=1, **{**dead, "owner": stage.tools.owner})
    await change(stage, resent, state="claimed", copies=1, **{**dead, "until_at": START})
    pass_ = Dispatch(stage.tools, stage.account, await stage.row(), None, LetterDesk(MAILER))
    await pass_.settle_dead()
    states = [((await look(stage, one)).state, (await look(stage, one)).owner) for one in (await rows(stage))]
    by_id = {row.id: row.state for row in await rows(stage)}
    assert [by_id[one.id] for one in (claimed, began, twice, mine, resent)] == [
        "ready",
        "ambiguous",
        "unsettled",
        "in_data",
        "ambiguous",
    ]
    assert {owner for state, owner in states if state != "in_data"} == {None}
    assert (pass_._delivery.rescued, pass_._delivery.ambiguous) == (4, 2)
    async with stage.db.read() as conn:
        a = attempts.c
        told = {tuple(row) for row in await conn.execute(select(a.notification_id, a.copy, a.token, a.outcome))}
    assert told == {(began.id, 1, 3, "ambiguous"), (twice.id, 2, 3, "ambiguous")}


# Mails in doubt


async def test_a_mail_in_doubt_that_is_not_due_any_more_is_not_resent_and_says_so(stage):
    (mail,) = await keep_only(stage, 1)
    await change(stage, mail, state="ambiguous", copies=1)
    mac = await mac_of(stage, mail)
    async with stage.db.write() as conn:
        await suppress(conn, mail.account_id, mac, scope="all", reason="", by="anna", at=START)
    delivery = await stage.deliver()
    after = await look(stage, mail)
    assert (after.state, after.reason, delivery.ambiguous, delivery.sent) == ("unsettled", "suppressed", 1, 0)
    assert not delivery.voided["suppressed"]


async def test_a_mail_in_doubt_waits_while_the_api_is_down(stage):
    (mail,) = await keep_only(stage, 1)
    await change(stage, mail, state="ambiguous", copies=1)
    await make_facts_old(stage)
    stage.change(provider=Asked(stage, raise_(ProviderError("down"))))
    assert (await stage.deliver()).snoozed["stale"] == 1
    assert (await look(stage, mail)).state == "ambiguous"


def raise_(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


async def test_a_mail_in_doubt_whose_address_is_none_any_more_ends_unsettled(stage):
    (mail,) = await keep_only(stage, 1)
    await change(stage, mail, state="ambiguous", copies=1)
    await readdress(stage, mail, "nobody at all")
    assert (await stage.deliver()).ambiguous == 1
    assert (await look(stage, mail)).reason == "unmailable"


async def test_a_resend_repeats_the_words_of_then_even_if_the_templates_have_changed(stage, tmp_path):
    (mail,) = await keep_only(stage, 1)
    assert (await stage.deliver()).sent == 1
    await change(stage, mail, state="ambiguous")
    words = tmp_path / "words"
    (words / "payment_failed").mkdir(parents=True)
    (words / "payment_failed" / "subject.txt").write_text("Other words\n\nAltogether\n")
    stage.mailer = TemplateMailer(words)
    assert stage.mailer.template_hash != MAILER.template_hash
    assert (await stage.deliver()).sent == 1
    first, second = stage.mailbox.messages
    assert first.data == second.data


# Mails that cannot be made


async def test_an_address_that_cannot_be_mailed_voids_its_mail_and_no_other(stage):
    bad, good = await keep_only(stage, 2)
    await readdress(stage, bad, "nobody at all")
    delivery = await stage.deliver()
    assert (delivery.sent, delivery.voided["unmailable"]) == (1, 1)
    assert [(await look(stage, one)).state for one in (bad, good)] == ["voided", "sent"]


async def test_a_mail_that_somebody_holds_while_it_is_being_made_stays_held(stage):
    (mail,) = await keep_only(stage, 1)
    await readdress(stage, mail, "nobody at all")
    stage.mailer = Meddled(elsewhere(stage, "UPDATE notifications SET state = 'failed'"))
    assert (await stage.deliver()).voided["unmailable"] == 0
    assert (await look(stage, mail)).state == "failed"


async def test_a_template_that_fails_is_told_by_file_and_line_and_tried_three_times_hours_apart(stage, tmp_path):
    (mail,) = await keep_only(stage, 1)
    await change(stage, mail, not_after=START + timedelta(days=9))
    words = tmp_path / "words"
    (words / "payment_failed").mkdir(parents=True)
    (words / "payment_failed" / "subject.txt").write_text("{{ nothing.like.this }}\n\nAltogether\n")
    stage.mailer = TemplateMailer(words)
    seen = []
    for _ in range(3):
        delivery = await stage.deliver()
        assert len(delivery.problems) == 1, "once a pass"
        assert "payment_failed/subject.txt:1: " in delivery.problems[0]
        after = await look(stage, mail)
        seen.append((after.state, after.poisoned, after.tries, delivery.failed))
        stage.world.advance(4 * HOUR)
    assert seen == [("ready", 1, 0, 0), ("ready", 2, 0, 0), ("failed", 3, 0, 1)]
    assert (await look(stage, mail)).next_try_at >= START + HOUR


async def test_a_mail_that_another_worker_claims_first_is_left_to_it(stage):
    (mail,) = await keep_only(stage, 1)
    made: list[int] = []
    take = elsewhere(
        stage,
        "UPDATE notifications SET state = 'claimed', owner = 'another', until_at = '2099-01-01T00:00:00.000000+00:00'",
    )

    def meanwhile() -> None:
        made.append(1)
        take()

    stage.mailer = Meddled(meanwhile)
    assert (await stage.deliver()).sent == 0
    after = await look(stage, mail)
    assert (after.state, after.owner, len(made)) == ("claimed", "another", 1)
    assert stage.mailbox.messages == []


async def test_a_mail_that_somebody_has_locked_is_made_once_and_left_for_the_next_pass(postgres_url, tmp_path):
    async with staged(healthy(20, start=START), postgres_url, tmp_path / "var") as stage:
        await stage.run()
        stage.world.advance(MINUTE)
        cause(stage.world, {FAILED: 2})
        await stage.run()
        locked, free = await rows(stage)
        made: list[int] = []
        stage.mailer = Meddled(lambda: made.append(1))
        async with stage.db.write() as conn, asyncio.timeout(20):
            await conn.execute(select(notifications).where(notifications.c.id == locked.id).with_for_update())
            assert (await stage.deliver()).sent_ids == [free.id]
        assert len(made) == 2
        assert (await stage.deliver()).sent_ids == [locked.id]


async def test_who_paid_while_his_mail_waited_behind_a_slow_server_is_not_mailed(stage, tmp_path):
    gate = asyncio.Event()
    async with Sink(tmp_path / "accepted.jsonl", {("DOT", 1): Act(gate=gate)}) as sink:
        transport = SmtpTransport("127.0.0.1", sink.port, security="none", connections=1)
        desk = LetterDesk(stage.mailer)
        delivering = Dispatch(stage.tools, stage.account, await stage.row(), transport, desk).deliver(stage.world.now)
        going = asyncio.create_task(delivering)
        while sink.passes["DOT"] == 0:
            await asyncio.sleep(0.005)
        async with stage.db.write() as conn:
            await conn.execute(update(episodes).values(closed_at=START, close_reason="healed"))
        stage.world.advance(2 * MINUTE)
        gate.set()
        delivery = await going
    assert (delivery.sent, delivery.voided["healed"]) == (1, 4)


# Limits and answers


async def test_a_pass_and_who_closes_the_episodes_of_its_mails_never_wait_in_a_circle(postgres_url, tmp_path):
    """Whatever the order in which the mails would leave."""
    async with staged(healthy(60, start=START), postgres_url, tmp_path / "var") as stage:
        await stage.run()
        stage.world.advance(MINUTE)
        cause(stage.world, {FAILED: 3})
        await stage.run()
        first, second, third = await rows(stage)
        for mail, before in ((first, 1), (second, 2), (third, 3)):
            await change(stage, mail, due_at=mail.due_at - before * MINUTE)
            async with stage.db.write() as conn:
                mac = await mac_of(stage, mail)
                await suppress(conn, mail.account_id, mac, scope="all", reason="said no", by="me", at=START)

        async def close() -> int:
            async with stage.db.write() as conn:
                return await void_episodes(conn, [(mail.episode_id, "healed") for mail in (first, second, third)])

        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with stage.db.write() as gate:
            await gate.execute(update(notifications).where(notifications.c.id == second.id).values(why="looked at"))
            going = [asyncio.create_task(one) for one in (close(), stage.deliver())]
            async with asyncio.timeout(20):
                while (await gate.execute(waiting)).scalar_one() < len(going):
                    await asyncio.sleep(0.01)
        await asyncio.gather(*going)
        assert await stage.states() == {"voided": 3}


async def test_a_fifth_urgent_mail_of_a_day_to_one_address_is_held_for_a_person(stage):
    *sent, fifth = await rows(stage)
    await change(stage, fifth, state="staged")
    assert (await stage.deliver()).sent == 4
    mac = await mac_of(stage, fifth)
    for mail in sent:
        await change(stage, mail, address_mac=mac)
    await change(stage, fifth, state="ready")
    delivery = await stage.deliver()
    assert (delivery.sent, delivery.held) == (0, 1)
    assert "5 mails in 24 h" in delivery.problems[0]
    assert ((await look(stage, fifth)).state, (await look(stage, fifth)).reason) == ("held", "per_address")
    # and one that somebody has held by hand meanwhile keeps that reason
    await change(stage, fifth, state="ready")
    await make_facts_old(stage)
    hold = elsewhere(stage, f"UPDATE notifications SET state = 'held', reason = 'by_hand' WHERE id = '{fifth.id}'")
    stage.change(provider=Asked(stage, hold))
    assert (await stage.deliver()).held == 0
    assert (await look(stage, fifth)).reason == "by_hand"


async def test_near_the_end_facts_of_a_day_must_do_when_the_api_is_down(stage):
    near, far = await keep_only(stage, 2)
    await change(stage, near, not_after=stage.world.now + 5 * HOUR)
    await make_facts_old(stage)
    stage.change(provider=Asked(stage, raise_(ProviderError("down"))))
    async with stage.db.write() as conn:  # the end of what it is worth is this row's own, not its step's
        await conn.execute(text("UPDATE episodes SET deadline_at = NULL"))
    delivery = await stage.deliver()
    assert [(await look(stage, one)).state for one in (near, far)] == ["sent", "ready"]
    assert (delivery.sent, delivery.snoozed["stale"]) == (1, 1)
    assert len(delivery.problems) == 2


async def test_what_is_snoozed_after_somebody_took_it_is_not_counted(stage):
    (mail,) = await keep_only(stage, 1)
    await make_facts_old(stage)
    hold = elsewhere(stage, "UPDATE notifications SET state = 'held', reason = 'by_hand'")

    def hold_and_fail() -> None:
        hold()
        raise ProviderError("down")

    stage.change(provider=Asked(stage, hold_and_fail))
    assert sum((await stage.deliver()).snoozed.values()) == 0
    assert (await look(stage, mail)).reason == "by_hand"


async def test_an_error_that_is_not_the_apis_is_no_reason_to_wait(stage):
    await make_facts_old(stage)
    stage.account = replace(stage.account, provider=Asked(stage, raise_(RuntimeError("ours"))))
    with pytest.raises(RuntimeError, match="ours"):
        await stage.deliver()
    assert stage.mailbox.messages == []
