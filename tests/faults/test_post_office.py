"""Between a claimed mail and its outcome: every way that a connection, a reply, a database or a stop signal can turn.

In this process, over real SMTP and a real database; `test_kills_at_failpoints` kills whole workers at the same places.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from monitor.clock import ManualClock
from monitor.domain.guard import Breaker
from monitor.domain.model import NotificationState
from monitor.errors import StoreError
from monitor.mail.smtp import SmtpTransport
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.store.schema import attempts, notifications, suppressions
from monitor.store.transit import Wanted, claim
from monitor.usecases import marks, post
from monitor.usecases.context import Tools
from monitor.usecases.marks import ClaimedMail
from monitor.usecases.post import PostOffice
from tests.faults.rig.sink import Act, Sink
from tests.store_rows import NOW, a_batch, a_mail, a_subscription, an_account, an_episode

pytestmark = pytest.mark.faults
S = NotificationState
FREE = {"owner": None, "until_at": None, "reason": "returned", "copies": 0, "tries": 0}


@dataclass
class Counter:
    """A database with claimed mails on one side, a scripted mail server on the other."""

    db: Database
    sink: Sink
    script: dict[Any, Act]
    locks: FileLocks
    account: int
    shelf: tuple[int, str, int]
    stopping: bool = False
    fail: dict[str, Exception] = field(default_factory=dict)
    """Failpoints that raise, once each."""

    async def claimed(self, count: int, **values: Any) -> list[ClaimedMail]:
        recipient = values.pop("recipient", "c{}@x.example")
        sub, episode, batch = self.shelf
        mails = []
        async with self.db.write() as conn:
            for n in range(count):
                row = {"batch_id": batch, "step": f"step-{self.sink.passes['step']}", "state": S.READY, **values}
                self.sink.passes["step"] += 1
                mail_id = await a_mail(conn, self.account, sub, episode, **row)
                mails.append((mail_id, recipient.format(n)))
            tokens = await claim(
                conn, [Wanted(mail_id) for mail_id, _ in mails], owner=self.locks.owner, lease=timedelta(minutes=15)
            )
        return [
            ClaimedMail(
                id=mail_id,
                kind="payment_failed",
                token=tokens[mail_id],
                tries=values.get("tries", 0),
                sender="billing@acme.example",
                recipient=address,
                message=f"Message-ID: <{mail_id}@acme.example>\r\n\r\nHello\r\n".encode(),
                address_mac=f"mac-{mail_id}",
                frozen={"recipient": address, "message_id": f"<{mail_id}@acme.example>"},
                in_doubt=values.get("copies", 0) > 0,
            )
            for mail_id, address in mails
        ]

    def office(self, connections: int = 2, **choices: Any) -> PostOffice:
        choices = {"security": "none", "own_name": "worker.example", **choices}
        tools = Tools(
            db=self.db,
            clock=ManualClock(NOW),
            owner=self.locks.owner,
            locks=self.locks,
            address_mac=str,
            sleep=asyncio.sleep,
            failpoint=self.pass_by,
            stopping=lambda: self.stopping,
        )
        transport = SmtpTransport("127.0.0.1", self.sink.port, **choices)
        return PostOffice(
            tools, transport, account_id=self.account, breaker=Breaker(), now=NOW, connections=connections
        )

    def pass_by(self, name: str) -> None:
        if name in self.fail:
            raise self.fail.pop(name)

    async def post(self, mails: list[ClaimedMail], connections: int = 2, **choices: Any) -> PostOffice:
        async with self.office(connections, **choices) as office:
            await office.send(mails)
            await office.finish()
        return office

    async def rows(self, mails: list[ClaimedMail]) -> list[dict[str, Any]]:
        async with self.db.read() as conn:
            found = await conn.execute(select(notifications).where(notifications.c.id.in_([one.id for one in mails])))
            by_id = {row.id: dict(row._mapping) for row in found}
        return [by_id[one.id] for one in mails]

    async def states(self, mails: list[ClaimedMail]) -> list[str]:
        return [row["state"] for row in await self.rows(mails)]

    async def outcomes(self) -> list[tuple[str, int, str]]:
        async with self.db.read() as conn:
            a = attempts.c
            return [tuple(row) for row in await conn.execute(select(a.phase, a.copy, a.outcome).order_by(a.id))]

    async def nothing_of_it_left(self, mails: list[ClaimedMail], **values: Any) -> None:
        """All wait again as if nothing had been tried."""
        expected = {**FREE, "state": S.READY, "next_try_at": NOW, **values}
        for row in await self.rows(mails):
            assert {name: row[name] for name in expected} == expected


@asynccontextmanager
async def opened(url: str, folder: Path, **how: Any) -> AsyncIterator[Counter]:
    db, locks = Database(url), FileLocks(folder)
    script: dict[Any, Act] = {}
    async with db.write() as conn:
        account = await an_account(conn)
        sub = await a_subscription(conn, account)
        shelf = (sub, await an_episode(conn, account, sub), await a_batch(conn, account))
    async with Sink(folder / "accepted.jsonl", script, **how) as sink:
        yield Counter(db, sink, script, locks, account, shelf)
    locks.close()
    await db.aclose()


@pytest.fixture(params=[(), ("PIPELINING",)], ids=["one by one", "pipelining"])
async def counter(request, sqlite_url: str, tmp_path: Path):
    async with opened(sqlite_url, tmp_path, offers=("8BITMIME", *request.param)) as made:
        yield made


@pytest.fixture
async def pipeline(sqlite_url: str, tmp_path: Path):
    async with opened(sqlite_url, tmp_path, offers=("8BITMIME", "PIPELINING")) as made:
        yield made


# Connections


async def test_connections_are_kept_from_one_group_to_the_next(counter):
    first, second = await counter.claimed(6), await counter.claimed(6)
    async with counter.office() as office:
        for mails in (first, second):
            await office.send(mails)
            await office.finish()
            assert not office.outstanding
            assert set(await counter.states(mails)) == {S.SENT}
    assert counter.sink.passes["CONNECT"] == 2
    assert counter.sink.passes["QUIT"] == 2


async def test_a_pass_ends_with_its_last_mark_and_not_when_somebody_looks_again(counter, monkeypatch):
    monkeypatch.setattr(post, "NOTICE_STOP_S", 60.0)
    mails = await counter.claimed(3)
    async with counter.office() as office, asyncio.timeout(5.0):
        await office.send(mails)
        await office.finish()
    assert set(await counter.states(mails)) == {S.SENT}


async def test_a_server_that_lets_in_one_connection_gets_all_mails_over_it(counter):
    counter.script["CONNECT", 2] = counter.script["CONNECT", 3] = Act(
        reply=b"421 4.3.2 one at a time\r\n", then="close"
    )
    first, second = await counter.claimed(8), await counter.claimed(8)
    async with counter.office(connections=3) as office:
        await office.send(first)
        await office.finish()
        await office.send(second)
        await office.finish()
        assert not office.halted
    assert set(await counter.states(first + second)) == {S.SENT}
    assert counter.sink.passes["CONNECT"] == 3, "who was refused does not knock again in this pass"


async def test_a_server_that_lets_nobody_in_is_unreachable_and_no_try_is_counted(counter):
    counter.script["CONNECT"] = Act(reply=b"421 4.3.2 busy\r\n", then="close")
    mails = await counter.claimed(3)
    office = await counter.post(mails)
    assert "421" in office.posted.unreachable
    assert office.halted
    await counter.nothing_of_it_left(mails)


async def test_a_connection_refused_by_policy_pauses_the_sender(counter):
    counter.script["CONNECT"] = Act(reply=b"554 5.7.1 not from you\r\n", then="close")
    mails = await counter.claimed(3)
    office = await counter.post(mails)
    assert "554" in office.posted.pause
    await counter.nothing_of_it_left(mails)


async def test_a_connection_lost_at_the_envelope_gives_its_mail_back(counter):
    counter.script["MAIL"] = Act(then="reset")
    mails = await counter.claimed(3)
    office = await counter.post(mails, connections=1)
    assert office.posted.unreachable is not None
    await counter.nothing_of_it_left(mails)
    assert await counter.outcomes() == []


async def test_a_new_connection_that_would_be_in_clear_pauses_the_sender(sqlite_url, tmp_path, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with opened(sqlite_url, tmp_path, tls=tls) as counter:
        counter.script["STARTTLS", 2] = Act(reply=b"454 4.7.0 not now\r\n")
        mails = await counter.claimed(3)
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        office = await counter.post(
            mails, connections=1, security="starttls", tls_context=trust, mails_per_connection=1
        )
        assert "STARTTLS" in office.posted.pause
        assert await counter.states(mails[:1]) == [S.SENT]
        await counter.nothing_of_it_left(mails[1:])


# One mail ahead


async def test_a_mail_that_was_announced_goes_back_when_its_turn_does_not_come(pipeline, monkeypatch):
    monkeypatch.setattr(post, "NOTICE_STOP_S", 0.01)
    gate = asyncio.Event()
    pipeline.script["DOT"] = Act(gate=gate)
    mails = await pipeline.claimed(4)
    async with pipeline.office(connections=1) as office:
        await office.send(mails)
        await asyncio.wait_for(pipeline.sink.bodies_in.wait(), 5)
        pipeline.stopping = True
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert await pipeline.states(mails) == [S.SENT, S.READY, S.READY, S.READY]
    await pipeline.nothing_of_it_left(mails[1:])
    assert (pipeline.sink.passes["MAIL"], pipeline.sink.passes["DATA"]) == (2, 1), "it was announced, and no more"


async def test_a_mail_that_was_announced_goes_back_when_the_one_before_it_breaks_the_connection(pipeline):
    pipeline.script["MAIL", 3] = Act(then="reset")
    pipeline.script["CONNECT", 2] = Act(then="close")
    mails = await pipeline.claimed(5)
    office = await pipeline.post(mails, connections=1)
    assert office.posted.unreachable is not None
    assert await pipeline.states(mails) == [S.SENT, S.SENT, S.READY, S.READY, S.READY]
    await pipeline.nothing_of_it_left(mails[2:])


async def test_a_refused_body_burns_no_try_of_the_mail_announced_behind_it(pipeline):
    """The sender pauses: what is said of the next envelope by then is nobody's news."""
    pipeline.script["DOT"] = Act(reply=b"550 5.7.1 policy\r\n")
    pipeline.script["RCPT", 2] = Act(reply=b"550 5.1.1 who?\r\n")
    mails = await pipeline.claimed(4)
    office = await pipeline.post(mails, connections=1)
    assert "550 5.7.1" in office.posted.pause
    await pipeline.nothing_of_it_left(mails[1:])
    assert await pipeline.outcomes() == [("data", 1, "started")]


async def test_an_office_that_closes_announces_nothing_more(pipeline):
    rcpt = asyncio.Event()
    pipeline.script["RCPT", 1] = Act(gate=rcpt)
    mails = await pipeline.claimed(1)
    async with pipeline.office(connections=0) as office:
        office._connections = 1
        await office.send(mails)
        office._connections = 0  # so that the mark of the end alone is "more than there are connections"
        asyncio.get_running_loop().call_later(0.05, rcpt.set)
    assert await pipeline.states(mails) == [S.SENT]
    assert pipeline.sink.passes["MAIL"] == 1


async def test_no_mail_waits_behind_a_slow_reply_while_another_connection_is_free(pipeline):
    gate = asyncio.Event()
    pipeline.script["DOT", 1] = Act(gate=gate)
    mails = await pipeline.claimed(7)  # enough that the slow connection has announced another one
    async with pipeline.office(connections=2) as office:
        await office.send(mails)
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while (await pipeline.states(mails)).count(S.SENT) < 6:
                    await asyncio.sleep(0.005)
        before = await pipeline.states(mails)
        gate.set()
        await office.finish()
    assert sorted(before) == [S.IN_DATA, *[S.SENT] * 6]
    assert await pipeline.states(mails) == [S.SENT] * 7


@pytest.mark.parametrize(("seconds", "sent"), [(post.BELIEVED_S, 4), (post.BELIEVED_S + 1, 1)])
async def test_what_waited_long_for_a_connection_is_examined_again(counter, seconds, sent):
    gate = asyncio.Event()
    counter.script["DOT", 1] = Act(gate=gate)
    mails = await counter.claimed(4)
    async with counter.office(connections=1) as office:
        going = asyncio.create_task(office.send(mails))
        while counter.sink.passes["DOT"] == 0:
            await asyncio.sleep(0.005)
        office._tools.clock.advance(timedelta(seconds=seconds))
        gate.set()
        await going
        await office.finish()
    assert await counter.states(mails) == [S.SENT] * sent + [S.READY] * (4 - sent)
    await counter.nothing_of_it_left(mails[sent:])


async def test_each_mail_is_marked_between_its_own_recipient_and_its_own_data(pipeline):
    """However early its envelope was said."""
    said: list[str] = []
    mails = await pipeline.claimed(6)
    pipeline.pass_by = lambda name: (
        said.append(name) if name in {"after_rcpt", "after_in_data", "after_reply"} else None
    )
    marks_at_data: list[str] = []

    def at_data() -> None:
        marks_at_data.append(said[-1])

    pipeline.script["DATA"] = Act(call=at_data)
    async with pipeline.office(connections=1) as office:
        await office.send(mails)
        await office.finish()
    assert said == ["after_rcpt", "after_in_data", "after_reply"] * 6
    assert marks_at_data == ["after_in_data"] * 6


# Replies


@pytest.mark.parametrize(("copies", "ends"), [(0, S.VOIDED), (1, S.UNSETTLED)])
async def test_an_address_that_this_server_cannot_be_told_ends_the_mail_and_not_the_group(counter, copies, ends):
    bad = await counter.claimed(1, recipient="jörg@x.example", copies=copies)
    good = await counter.claimed(2)
    await counter.post(bad + good, connections=1)
    (row,) = await counter.rows(bad)
    assert (row["state"], row["reason"], row["copies"]) == (ends, "unmailable", copies)
    assert "SMTPUTF8" in row["why"]
    assert await counter.states(good) == [S.SENT, S.SENT]


async def test_an_address_that_does_not_exist_is_never_mailed_again(counter):
    counter.script["RCPT", 1] = Act(reply=b"550 5.1.1 no such user\r\n")
    mails = await counter.claimed(2)
    await counter.post(mails, connections=1)
    assert await counter.states(mails) == [S.FAILED, S.SENT]
    async with counter.db.read() as conn:
        rows = (await conn.execute(select(suppressions))).all()
    assert [(row.address_mac, row.scope, row.by) for row in rows] == [(mails[0].address_mac, "all", "delivery")]


async def test_a_line_that_goes_dead_before_the_go_ahead_is_no_doubt_and_a_try(counter):
    counter.script["DATA", 1] = Act(then="close")
    mails = await counter.claimed(2)
    await counter.post(mails, connections=1)
    first, second = await counter.rows(mails)
    assert (first["state"], first["copies"], first["tries"], first["reason"]) == (S.READY, 0, 1, "deferred")
    assert first["next_try_at"] >= NOW + timedelta(minutes=5)
    assert second["state"] == S.SENT
    assert ("data", 1, "deferred") in await counter.outcomes()


@pytest.mark.parametrize(("copies", "ends"), [(0, S.FAILED), (1, S.UNSETTLED)])
async def test_a_mail_that_was_put_off_too_often_is_given_up(counter, copies, ends):
    counter.script["RCPT"] = Act(reply=b"450 4.2.0 later\r\n")
    mails = await counter.claimed(1, tries=100, copies=copies)
    await counter.post(mails)
    (row,) = await counter.rows(mails)
    assert (row["state"], row["reason"], row["tries"], row["copies"]) == (ends, "gave_up", 101, copies)


@pytest.mark.parametrize(("copies", "ends"), [(0, S.AMBIGUOUS), (1, S.UNSETTLED)])
async def test_a_lost_reply_leaves_the_mail_in_doubt_and_a_second_one_ends_it(counter, copies, ends):
    counter.script["DOT"] = Act(then="close", accept=True)
    mails = await counter.claimed(1, copies=copies)
    await counter.post(mails)
    (row,) = await counter.rows(mails)
    assert (row["state"], row["reason"], row["copies"]) == (ends, "reply_lost", copies + 1)
    assert await counter.outcomes() == [("data", copies + 1, "started"), ("dot", copies + 1, "ambiguous")]


async def test_a_mail_that_was_taken_over_before_its_mark_is_not_sent_and_not_touched(counter):
    mails = await counter.claimed(1)
    async with counter.db.write() as conn:
        await conn.execute(update(notifications).values(token=notifications.c.token + 1, owner="another"))
    await counter.post(mails)
    (row,) = await counter.rows(mails)
    assert (row["state"], row["owner"]) == (S.CLAIMED, "another")
    assert counter.sink.passes["DATA"] == 0
    assert counter.sink.passes["RSET"] == 1


# Marks


@pytest.mark.parametrize(("patience", "at_work", "commits"), [(30.0, 2, 1), (0.0, 2, 2), (30.0, 1, 2)])
async def test_a_mark_waits_a_little_for_those_who_may_ask_soon(counter, monkeypatch, patience, at_work, commits):
    """Nobody waits for a connection that has nothing to send, nor for long."""
    monkeypatch.setattr(marks, "GATHER_S", patience)
    done: list[str] = []
    monkeypatch.setattr(counter, "pass_by", lambda name: done.append(name) if name == "before_mark" else None)
    first, second = await counter.claimed(2)
    async with counter.office() as office:
        office._at_work = at_work
        one = asyncio.create_task(office._marker.in_data(first))
        if commits > 1:
            assert await one == 1
        else:
            await asyncio.sleep(0.01)
        assert await office._marker.in_data(second) == 1
        assert await one == 1
    assert len(done) == commits


async def test_no_mark_no_body_and_the_error_is_told(counter):
    counter.fail["before_mark_commit"] = StoreError("the disk is full")
    mails = await counter.claimed(3)
    with pytest.raises(StoreError, match="the disk is full"):
        await counter.post(mails)
    assert counter.sink.passes["DATA"] == 0
    assert set(await counter.states(mails)) == {S.CLAIMED}, "its lease, or its dead owner, brings it back"


async def test_after_a_database_error_no_other_connection_begins_a_mail(counter):
    """One waits for its reply while the mark of the other fails: its own `sent` cannot be written, so it stays in_data."""
    dot = asyncio.Event()
    counter.script["DOT"] = Act(gate=dot)
    mails = await counter.claimed(4)
    with pytest.raises(StoreError, match="gone"):
        async with counter.office() as office:
            await office.send(mails[:1])
            await asyncio.wait_for(counter.sink.bodies_in.wait(), 5)
            counter.fail["before_mark_commit"] = StoreError("gone")
            await office.send(mails[1:])
            await office.finish()
            asyncio.get_running_loop().call_later(0.05, dot.set)
    assert counter.sink.passes["DATA"] == 1
    assert sorted(await counter.states(mails)) == [S.CLAIMED, S.CLAIMED, S.CLAIMED, S.IN_DATA]


async def test_who_asks_for_a_mark_after_the_marks_have_ended_is_told_why(counter):
    rcpt = asyncio.Event()
    counter.script["RCPT", 2] = Act(gate=rcpt)
    counter.fail["before_mark_commit"] = StoreError("gone")
    mails = await counter.claimed(2)
    began = time.monotonic()
    with pytest.raises(StoreError, match="gone"):
        async with counter.office() as office:
            await office.send(mails)
            await office.finish()
            asyncio.get_running_loop().call_later(0.05, rcpt.set)
    assert time.monotonic() - began < post.DRAIN_S / 2, "it does not wait for a mark that never comes"
    assert counter.sink.passes["DATA"] == 0
    assert await counter.states(mails) == [S.CLAIMED, S.CLAIMED]


async def test_a_mark_that_nobody_waits_for_any_more_is_no_error_of_its_own(counter):
    """The connection was cancelled at the end of its patience, while its mark was being written."""
    held = asyncio.Event()
    mails = await counter.claimed(1)
    office = counter.office()
    real = office._marker._commit

    async def slow(*args: Any) -> Any:
        held.set()
        await asyncio.sleep(0.05)
        return await real(*args)

    office._marker._commit = slow
    task = asyncio.create_task(enter_and_send(office, mails))
    await asyncio.wait_for(held.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await counter.states(mails) == [S.IN_DATA], "in doubt: the next start settles it"
    assert counter.sink.passes["DATA"] == 0


async def enter_and_send(office: PostOffice, mails: list[ClaimedMail]) -> None:
    async with office:
        await office.send(mails)
        await office.finish()


async def test_marks_that_fail_when_nobody_waits_any_more_are_told_once(counter):
    held = asyncio.Event()
    mails = await counter.claimed(1)
    office = counter.office()

    async def fail(*_: Any) -> Any:
        held.set()
        await asyncio.sleep(0.05)
        raise StoreError("gone")

    office._marker._commit = fail
    task = asyncio.create_task(enter_and_send(office, mails))
    await asyncio.wait_for(held.wait(), 5)
    task.cancel()
    with pytest.raises(StoreError, match="gone"):
        await task


# Ends


async def test_a_stop_signal_lets_replies_come_and_gives_the_rest_back(counter, monkeypatch):
    monkeypatch.setattr(post, "NOTICE_STOP_S", 0.01)
    gate = asyncio.Event()
    counter.script["DOT"] = Act(gate=gate)
    mails = await counter.claimed(6)
    async with counter.office() as office:
        await office.send(mails)
        await asyncio.wait_for(counter.sink.bodies_in.wait(), 5)
        while counter.sink.passes["DOT"] < 2:
            await asyncio.sleep(0)
        counter.stopping = True
        asyncio.get_running_loop().call_later(0.05, gate.set)
        await office.finish()
        assert len(office.outstanding) == 6
    assert await counter.states(mails) == [S.SENT, S.SENT, S.READY, S.READY, S.READY, S.READY]
    assert counter.sink.passes["DATA"] == 2


async def test_after_a_stop_signal_no_longer_than_patience_lasts_and_what_was_in_its_body_stays_in_doubt(
    counter, monkeypatch
):
    monkeypatch.setattr(post, "NOTICE_STOP_S", 0.01)
    monkeypatch.setattr(post, "DRAIN_S", 0.05)
    counter.script["DOT"] = Act(then="hang")
    mails = await counter.claimed(3)
    async with counter.office(connections=1) as office:
        await office.send(mails)
        await asyncio.wait_for(counter.sink.bodies_in.wait(), 5)
        counter.stopping = True
        await office.finish()
    assert await counter.states(mails) == [S.IN_DATA, S.READY, S.READY]
    await counter.nothing_of_it_left(mails[1:])


async def test_mails_handed_in_after_a_stop_signal_go_back_at_once(counter):
    first, second = await counter.claimed(2), await counter.claimed(3)
    async with counter.office() as office:
        await office.send(first)
        await office.finish()
        counter.stopping = True
        await office.send(second)
    assert counter.sink.passes["MAIL"] == 2
    await counter.nothing_of_it_left(second)


async def test_cancelled_it_waits_for_nobody_and_gives_back_what_had_not_begun(counter):
    counter.script["DOT"] = Act(then="hang")
    mails = await counter.claimed(3)
    task = asyncio.create_task(enter_and_send(counter.office(connections=1), mails))
    await asyncio.wait_for(counter.sink.bodies_in.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await counter.states(mails) == [S.IN_DATA, S.READY, S.READY]


async def test_what_breaks_one_connection_is_told_when_all_have_ended(counter):
    counter.fail["after_rcpt"] = OSError(28, "No space left on device")
    mails = await counter.claimed(4)
    with pytest.raises(OSError, match="No space"):
        await counter.post(mails, connections=1)
    assert counter.sink.passes["DATA"] == 0
    assert await counter.states(mails) == [S.CLAIMED, S.READY, S.READY, S.READY]


async def test_an_error_of_the_caller_is_the_one_that_is_told(counter):
    counter.fail["after_rcpt"] = OSError(28, "No space left on device")
    mails = await counter.claimed(2)

    async def claim_more() -> None:
        raise StoreError("the claim failed")

    with pytest.raises(StoreError, match="the claim failed"):
        async with counter.office(connections=1) as office:
            await office.send(mails)
            await claim_more()
