"""Mail servers and disks that fail in the middle of a delivery, with the outbox, the log and the clock judged after it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.config.tables import CONNECTIONS
from monitor.domain.guard import Breaker
from monitor.domain.halt import HaltRule
from monitor.errors import StoreError
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.usecases.context import travelled_now
from monitor.usecases.dispatch import Delivery, Dispatch
from monitor.usecases.letters import LetterDesk
from tests.faults.rig.oracle import Verdict, verdict_of
from tests.faults.rig.proxy import Fault, Proxy
from tests.faults.rig.scene import Forge, acting
from tests.faults.rig.sink import Act, Sink
from tests.faults.rig.worker import FAILED, WIDE_OPEN
from tests.harness import Stage, staged

pytestmark = pytest.mark.faults
MINUTE = timedelta(minutes=1)


@dataclass
class Posting:
    """Mails that wait at the open gate, and a server that is told what to do with them."""

    on: Stage
    sink: Sink
    url: str
    script: dict[Any, Act]
    later: timedelta = timedelta()
    choices: dict[str, Any] = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        return self.on.world.now + self.later

    async def deliver(self, *, port: int | None = None, stage: Stage | None = None) -> Delivery:
        on = stage or self.on
        row = await on.row()
        how = {"security": "none", "own_name": "worker.example", **self.choices}
        transport = SmtpTransport("127.0.0.1", port or self.sink.port, **how)
        now = travelled_now(on.tools.clock, row, self.now)
        return await Dispatch(on.tools, on.account, row, transport, LetterDesk(on.mailer)).deliver(now)

    async def rows(self, sql: str) -> list[tuple]:
        async with self.on.db.read() as conn:
            return [tuple(row) for row in await conn.exec_driver_sql(sql)]

    def verdict(self) -> Verdict:
        verdict = verdict_of(self.url, self.sink.log)
        assert verdict.broken == {}, verdict.lines()
        return verdict


@asynccontextmanager
async def posting(url: str, folder: Path, mails: int, **how: Any) -> AsyncIterator[Posting]:
    world = healthy(mails + 5)
    script: dict[Any, Act] = {}
    async with staged(world, url, folder / "var") as on, Sink(folder / "accepted.jsonl", script, **how) as sink:
        on.change(guard=WIDE_OPEN)
        await on.run()
        cause(world, {"max_amount_reached": mails})
        await on.run()
        assert await on.states() == {"ready": mails}
        yield Posting(on, sink, url, script)


# The reply to the dot


async def test_a_reply_lost_after_the_dot_costs_one_second_copy_of_the_same_mail(database_url: str, tmp_path: Path):
    async with (
        posting(database_url, tmp_path, 1) as post,
        Proxy(post.sink.port, [Fault(cut_after_dot=True)]) as proxy,
    ):
        delivery = await post.deliver(port=proxy.listening)
        assert (delivery.sent, delivery.ambiguous) == (1, 1)
        first, second = post.sink.accepted()
        assert first.body == second.body
        assert b"Message-ID: " in first.body
        assert b"Date: " in first.body
        outcomes = await post.rows("SELECT copy, token, outcome FROM attempts ORDER BY id")
        assert outcomes == [(1, 1, "started"), (1, 1, "ambiguous"), (2, 2, "started"), (2, 2, "sent")]
        assert post.verdict().duplicates == [first.message_id]


async def test_a_resend_hours_later_in_other_words_is_still_the_same_mail(sqlite_url: str, tmp_path: Path):
    """Facts, clock and templates have moved on; Message-ID, Date and bytes have not."""
    async with posting(sqlite_url, tmp_path, 1) as post:
        post.script["DOT"] = Act(then="close", accept=True)
        post.on.tools = replace(post.on.tools, stopping=stop_after(post, 1))
        await post.deliver()
        post.script.clear()
        post.later = timedelta(hours=5)
        post.on.tools = replace(post.on.tools, stopping=lambda: False)
        async with post.on.db.write() as conn:
            await conn.exec_driver_sql("UPDATE customers SET name = 'Somebody else'")
            await conn.exec_driver_sql("UPDATE products SET name = 'Another name'")
        await post.deliver()
        first, second = post.sink.accepted()
        assert first.body == second.body


def stop_after(post: Posting, bodies: int) -> Callable[[], bool]:
    """A stop signal that comes while this body is being answered."""
    return lambda: post.sink.passes["DOT"] >= bodies


async def test_the_second_reply_lost_ends_unsettled_and_never_sends_a_third(database_url: str, tmp_path: Path):
    async with posting(database_url, tmp_path, 3) as post:
        post.script["DOT"] = Act(then="close", accept=True)
        await post.deliver()
        post.script.clear()
        for hours in (0, 1, 30):
            post.later = timedelta(hours=hours)
            await post.deliver()
        assert await post.on.states() == {"unsettled": 3}
        assert len(post.sink.accepted()) == 6
        verdict = post.verdict()
        assert (len(verdict.duplicates), len(verdict.ambiguities)) == (3, 6)


async def test_a_hundred_lost_replies_are_a_hundred_records_and_no_third_copy(sqlite_url: str, tmp_path: Path):
    async with (
        posting(sqlite_url, tmp_path, 100) as post,
        Proxy(post.sink.port, [Fault(cut_after_dot=True)] * 100) as proxy,
    ):
        await post.deliver(port=proxy.listening)
        verdict = post.verdict()
        assert len(verdict.ambiguities) == 100
        assert len(verdict.duplicates) + (await post.on.states()).get("unsettled", 0) >= 100
        assert verdict.unfinished == []


async def test_a_connection_cut_in_mid_body_is_in_doubt_too(sqlite_url: str, tmp_path: Path):
    """We cannot know how much of it the server has read."""
    async with (
        posting(sqlite_url, tmp_path, 1) as post,
        Proxy(post.sink.port, [Fault(cut_up_after=3000)]) as proxy,
    ):
        delivery = await post.deliver(port=proxy.listening)
        assert (delivery.sent, delivery.ambiguous) == (1, 1)
        assert len(post.sink.accepted()) == 1
        post.verdict()


@pytest.mark.parametrize(
    "script",
    [
        {"QUIT": Act(reply=b"421 4.3.2 closing\r\n", then="close")},
        {"QUIT": Act(then="close")},
        {"QUIT": Act(then="reset")},
        {"DOT": Act(reply=b"250 2.0.0 queued\r\n421 4.3.2 closing\r\n", then="close")},
        {"DOT": Act(reply=b"250 2.0.0 queued\r\n", then="close")},
    ],
    ids=["421 on QUIT", "close on QUIT", "reset on QUIT", "421 after the 250", "close after the 250"],
)
async def test_what_comes_after_the_250_is_ignored(script: dict, database_url: str, tmp_path: Path):
    async with posting(database_url, tmp_path, 12) as post:
        post.script.update(script)
        for _ in range(14):
            await post.deliver()
        assert await post.on.states() == {"sent": 12}
        verdict = post.verdict()
        assert (verdict.accepted, verdict.duplicates, verdict.ambiguities) == (12, [], [])


# Refusals


async def test_a_4xx_waits_five_minutes_at_least_and_then_the_mail_goes_once(database_url: str, tmp_path: Path):
    async with posting(database_url, tmp_path, 6) as post:
        post.script["DOT"] = Act(reply=b"451 4.3.0 later\r\n")
        assert (await post.deliver()).deferred == 6
        post.script.clear()
        post.later = 5 * MINUTE - timedelta(seconds=1)
        assert (await post.deliver()).sent == 0
        assert post.sink.accepted() == []
        post.later = 8 * MINUTE
        assert (await post.deliver()).sent == 6
        assert post.verdict().duplicates == []
        assert await post.rows("SELECT DISTINCT copies, tries FROM notifications") == [(1, 1)]


async def test_a_greylisting_server_gets_every_mail_within_half_an_hour_and_none_before_five_minutes(
    sqlite_url: str, tmp_path: Path
):
    """Passes every five minutes, as deliver's own schedule has them; released after ten."""
    async with posting(sqlite_url, tmp_path, 40) as post:
        post.script["RCPT"] = Act(reply=b"451 4.7.1 greylisted\r\n")
        asked = []
        for minutes in range(0, 45, 5):
            post.later = minutes * MINUTE
            if minutes >= 10:
                post.script.clear()
            before = post.sink.passes["RCPT"]
            await post.deliver()
            asked.append(post.sink.passes["RCPT"] - before)
            if minutes == 0:
                post.later = 5 * MINUTE - timedelta(seconds=1)
                await post.deliver()
                assert post.sink.passes["RCPT"] == 40
        assert await post.on.states() == {"sent": 40}
        assert len(post.sink.accepted()) == 40
        assert await post.rows("SELECT count(*) FROM attempts WHERE phase = 'data' AND copy > 1") == [(0,)]


REFUSED = b"550 5.1.1 no such user\r\n"


def why_stopped(delivery: Delivery, rule: HaltRule) -> str:
    """The other side's words, once the rule is the expected one."""
    assert delivery.stopped_by is not None
    assert delivery.stopped_by.rule is rule
    return delivery.stopped_by.why


async def test_ten_refusals_in_a_row_pause_the_sender_and_the_others_go_once_when_it_is_mended(
    database_url: str, tmp_path: Path
):
    async with posting(database_url, tmp_path, 60) as post:
        post.script["RCPT"] = Act(reply=b"550 5.2.1 disabled\r\n")
        delivery = await post.deliver()
        assert "10 mails in a row" in why_stopped(delivery, HaltRule.SENDER_PAUSED)
        refused = post.sink.passes["RCPT"]
        assert Breaker.IN_A_ROW <= refused <= Breaker.IN_A_ROW + CONNECTIONS
        assert await post.on.states() == {"failed": refused, "ready": 60 - refused}
        assert await post.rows("SELECT DISTINCT tries FROM notifications WHERE state = 'ready'") == [(0,)]
        post.script.clear()
        assert (await post.deliver()).stopped_by is not None, "it pauses for a quarter of an hour"
        assert post.sink.accepted() == []
        post.later = 16 * MINUTE
        assert (await post.deliver()).sent == 60 - refused
        assert post.verdict().duplicates == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_a_policy_refusal_pauses_the_sender_and_burns_no_try(verb: str, sqlite_url: str, tmp_path: Path):
    async with posting(sqlite_url, tmp_path, 30) as post:
        post.script[verb] = Act(reply=b"550 5.7.1 not from you\r\n")
        assert "5.7.1" in why_stopped(await post.deliver(), HaltRule.SENDER_PAUSED)
        assert post.sink.passes[verb] <= CONNECTIONS
        assert await post.on.states() == {"ready": 30}
        assert await post.rows("SELECT DISTINCT tries, copies FROM notifications") == [(0, 0)]
        post.script.clear()
        post.later = 61 * MINUTE
        assert (await post.deliver()).sent == 30
        assert post.verdict().duplicates == []


async def test_a_refused_login_pauses_the_sender_and_after_the_fix_all_mails_go_once(
    sqlite_url: str, tmp_path: Path, certificate: Path
):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with posting(sqlite_url, tmp_path, 20, tls=tls) as post:
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        post.choices = {"security": "starttls", "username": "shop", "password": "wrong", "tls_context": trust}
        post.script["AUTH"] = Act(reply=b"535 5.7.8 wrong\r\n")
        assert (await post.deliver()).stopped_by is not None
        assert post.sink.passes["AUTH"] <= CONNECTIONS
        assert post.sink.passes["MAIL"] == 0
        assert await post.on.states() == {"ready": 20}
        assert await post.rows("SELECT DISTINCT tries, copies FROM notifications") == [(0, 0)]
        post.script.clear()
        post.later = 16 * MINUTE
        assert (await post.deliver()).sent == 20
        assert post.verdict().accepted == 20


async def test_nobody_answers_at_the_mail_servers_address_and_no_try_is_burnt(sqlite_url: str, tmp_path: Path):
    async with posting(sqlite_url, tmp_path, 5) as post:
        post.script["CONNECT"] = Act(then="reset")
        assert why_stopped(await post.deliver(), HaltRule.SERVER_UNREACHABLE)
        assert await post.on.states() == {"ready": 5}
        assert await post.rows("SELECT DISTINCT tries, copies FROM notifications") == [(0, 0)]
        post.script.clear()
        assert (await post.deliver()).sent == 5


# Disks


async def test_a_database_that_refuses_after_the_250_costs_at_most_a_copy_a_connection_each_on_record(
    database_url: str, tmp_path: Path, forge: Forge
):
    """The mark failed, the server has the mail: `in_data` was committed before it, so that is known."""
    async with acting(healthy(60), database_url, tmp_path, forge) as scene:
        scene.cause(max_amount_reached=30)
        await scene.done(stages=("run",))
        failures = 0
        for number in range(1, 31):
            code, worker = await scene.work(stages=("deliver",), fail_at="before_mark_commit", kill_pass=number)
            if number == 1:
                assert scene.sink.accepted() == [], "no mark, no body"
                assert scene.sink.passes["DATA"] == 0
            if code == 0:
                break
            assert code == FAILED
            assert "No space left" in worker.report().error
            failures += 1
        verdict = scene.check()
        assert failures >= 3
        assert len(verdict.ambiguities) <= CONNECTIONS * failures


async def test_a_database_that_goes_away_ends_the_pass_with_an_error_and_no_further_mail(
    sqlite_url: str, tmp_path: Path
):
    async with posting(sqlite_url, tmp_path, 30) as post:

        def fail(name: str) -> None:
            if name == "before_mark_commit" and post.sink.passes["DOT"] >= CONNECTIONS:
                raise StoreError("the database did not answer")

        post.on.tools = replace(post.on.tools, failpoint=fail)
        with pytest.raises(StoreError):
            await post.deliver()
        assert post.sink.passes["DATA"] <= 2 * CONNECTIONS
        states = await post.on.states()
        assert states.get("in_data", 0) <= CONNECTIONS


# The guards in the statements themselves: whatever the code before them believes


async def test_a_row_whose_two_copies_are_spent_is_never_sent_again_whoever_made_it_ready(
    database_url: str, tmp_path: Path
):
    async with posting(database_url, tmp_path, 2) as post:
        async with post.on.db.write() as conn:
            await conn.exec_driver_sql("UPDATE notifications SET copies = 2")
        await post.deliver()
        assert post.sink.passes["DATA"] == 0
        assert post.sink.accepted() == []


async def test_a_batch_that_is_held_after_the_drainer_looked_is_not_claimed(database_url: str, tmp_path: Path):
    async with posting(database_url, tmp_path, 2) as post:
        on = post.on
        transport = SmtpTransport("127.0.0.1", post.sink.port, security="none")
        dispatch = Dispatch(on.tools, on.account, await on.row(), transport, LetterDesk(on.mailer))
        ids = [row[0] for row in await post.rows("SELECT id FROM notifications")]
        async with on.db.write() as conn:
            await conn.exec_driver_sql("UPDATE batches SET state = 'held'")
        assert await dispatch._claim(ids, post.now) == []
        assert await on.states() == {"ready": 2}


async def test_one_step_of_one_episode_is_one_row_for_one_customer_whatever_its_id(database_url: str, tmp_path: Path):
    async with posting(database_url, tmp_path, 1) as post:
        columns = (
            "account_id, subscription_id, episode_id, step, customer_key, batch_id, kind, variant, urgency, rank, "
            "state, created_at, due_at, next_try_at"
        )
        with pytest.raises(StoreError):
            async with post.on.db.write() as conn:
                await conn.exec_driver_sql(
                    f"INSERT INTO notifications (id, {columns}) SELECT 'another', {columns} FROM notifications"
                )
