"""The next mail's envelope in one packet with the dot of the last (RFC 2920), and everything that may come of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from monitor.domain.replies import Phase
from monitor.errors import UnmailableAddressError
from monitor.mail.smtp import SmtpTimeouts
from monitor.mail.transport import ConnectionFailedError, ReplyError, ReplyLostError
from tests.contract.test_smtp import ANN, BLINK, MAIL, REPLIES, SENDER, transport
from tests.faults.rig.sink import Act, Sink

BOB, CAT = "bob@customer.example", "cat@customer.example"
PLAIN = ("8BITMIME", "SMTPUTF8")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "accepted.jsonl"


@asynccontextmanager
async def mails_of(log, script=None, **options) -> AsyncIterator[tuple]:
    async with Sink(log, script or {}) as sink, transport(sink.port, **options).session() as session:
        assert session.pipelining
        yield sink, session


def recipients(sink: Sink) -> list[str]:
    assert sink.violations == []
    return [mail.recipients[0] for mail in sink.accepted()]


@asynccontextmanager
async def recording(extension: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that says yes to everything, and what it was sent, packet by packet."""
    packets: list[bytes] = []
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 recorder\r\n")
        in_body = False
        while data := await reader.read(65536):
            packets.append(data)
            if in_body:
                writer.write(b"250 taken\r\n")
                data = data.partition(b"\r\n.\r\n")[2]
                in_body = False
            for line in data.splitlines():
                in_body = line == b"DATA"
                ehlo = b"250-recorder\r\n250 " + extension + b"\r\n"
                writer.write(ehlo if line.startswith(b"EHLO") else b"354 go\r\n" if in_body else b"250 ok\r\n")
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], packets
        await left.wait()


async def send_two(port: int) -> None:
    async with transport(port).session() as session:
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)


MAIL_RCPT = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n"


async def test_an_envelope_leaves_with_the_dot_before_it_and_data_always_alone():
    async with recording(b"PIPELINING") as (port, packets):
        await send_two(port)
    sender, ann, bob = (text.encode() for text in (SENDER, ANN, BOB))
    assert packets[1:] == [
        MAIL_RCPT % (sender, ann),
        b"DATA\r\n",
        MAIL + b".\r\n" + MAIL_RCPT % (sender, bob),
        b"DATA\r\n",
        MAIL + b".\r\n",
        b"QUIT\r\n",
    ]


async def test_a_server_that_does_not_announce_it_is_told_one_thing_at_a_time():
    async with recording(b"8BITMIME") as (port, packets):
        await send_two(port)
    verbs = [packet[:4] for packet in packets]
    assert verbs == [b"EHLO", *[b"MAIL", b"RCPT", b"DATA", MAIL[:4]] * 2, b"QUIT"]
    assert all(packet.count(b"\r\n") == 1 for packet in packets if not packet.startswith(MAIL[:4]))


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
async def test_every_refusal_of_an_announced_envelope_is_told_when_its_turn_comes(log, verb):
    """A server that ends the connection at the first word of a second mail is asked again on a new one."""
    async with Sink(log) as sink:
        for data, code, enhanced in REPLIES.values():
            sink.script = {(verb, sink.passes[verb] + 2): Act(data)}
            async with transport(sink.port).session() as session:
                await session.envelope(SENDER, ANN)
                assert (await session.body(MAIL, (SENDER, BOB))).code == 250
                if code == 421:
                    await session.envelope(SENDER, BOB)
                    continue
                with pytest.raises(ReplyError) as caught:
                    await session.envelope(SENDER, BOB)
                reply = caught.value.reply
                assert (reply.phase, reply.code, reply.enhanced) == (Phase(verb.lower()), code, enhanced)
                await session.envelope(SENDER, CAT)
                assert (await session.body(MAIL)).code == 250
        assert set(recipients(sink)) == {ANN, CAT}


async def test_an_announced_mail_that_is_taken_back_sends_nothing(log):
    async with mails_of(log) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
        await session.reset()
        await session.envelope(SENDER, CAT)
        await session.body(MAIL)
    assert recipients(sink) == [ANN, CAT]
    assert sink.passes["connection"] == 1


async def test_another_mail_than_the_announced_one_is_the_one_that_is_sent(log):
    async with mails_of(log) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
        await session.envelope(SENDER, CAT)
        await session.body(MAIL)
    assert recipients(sink) == [ANN, CAT]
    assert (sink.passes["connection"], sink.passes["RSET"]) == (1, 1)


async def test_an_announced_mail_is_no_hindrance_to_a_farewell(log):
    async with mails_of(log) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
    assert recipients(sink) == [ANN]
    assert sink.passes["QUIT"] == 1


async def test_a_body_that_is_refused_leaves_the_announced_mail_its_connection(log):
    async with mails_of(log, {("DOT", 1): Act(b"554 5.6.0 not this one\r\n")}) as (sink, session):
        await session.envelope(SENDER, ANN)
        with pytest.raises(ReplyError):
            await session.body(MAIL, (SENDER, BOB))
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)
    assert recipients(sink) == [BOB]
    assert (sink.passes["connection"], sink.passes["RSET"]) == (1, 0)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (Act(b"421 4.3.0 later\r\n"), ReplyError),
        (Act(b"junk\r\n", accept=False), ReplyLostError),
        (Act(then="close", accept=False), ReplyLostError),
    ],
    ids=["421", "junk", "close"],
)
async def test_after_a_connection_that_ended_with_the_body_the_announced_mail_gets_a_new_one(log, act, error):
    """Whatever else the server may have said about it."""
    async with mails_of(log, {("DOT", 1): act}) as (sink, session):
        await session.envelope(SENDER, ANN)
        with pytest.raises(error):
            await session.body(MAIL, (SENDER, BOB))
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)
    assert [(mail.recipients[0], mail.connection) for mail in sink.accepted()] == [(BOB, 2)]


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_that_ends_after_the_250_is_replaced_for_the_announced_mail(log, verb, then):
    async with mails_of(log, {(verb, 2): Act(then=then)}) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)
    assert [mail.connection for mail in sink.accepted()] == [1, 2]


async def test_a_new_connection_that_fails_too_is_reported(log):
    script = {("MAIL", 2): Act(then="close"), ("CONNECT", 2): Act(then="close")}
    async with mails_of(log, script) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, BOB))
        with pytest.raises(ConnectionFailedError):
            await session.envelope(SENDER, BOB)
    assert recipients(sink) == [ANN]


async def test_a_refused_sender_is_reported_though_the_connection_ends_before_the_other_reply(log):
    async with mails_of(log, {"MAIL": Act(b"550 5.7.1 not you\r\n", then="close")}) as (_, session):
        with pytest.raises(ReplyError) as caught:
            await session.envelope(SENDER, ANN)
    assert (caught.value.reply.phase, caught.value.reply.code) == (Phase.MAIL, 550)


async def test_an_address_that_cannot_be_said_is_not_announced(log):
    async with mails_of(log) as (sink, session):
        await session.envelope(SENDER, ANN)
        await session.body(MAIL, (SENDER, "x@y.example>\r\nRCPT TO:<eve@evil.example"))
        with pytest.raises(UnmailableAddressError):
            await session.envelope(SENDER, "x@y.example>\r\nRCPT TO:<eve@evil.example")
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)
    assert recipients(sink) == [ANN, BOB]


async def test_announced_mails_count_towards_a_connections_share(log):
    names = [ANN, BOB, CAT, "dan@customer.example", "eve@customer.example"]
    async with mails_of(log, mails_per_connection=2) as (sink, session):
        for name, then in zip(names, [*names[1:], None], strict=True):
            await session.envelope(SENDER, name)
            await session.body(MAIL, then and (SENDER, then))
    assert [(mail.recipients[0], mail.connection) for mail in sink.accepted()] == list(
        zip(names, [1, 1, 2, 2, 3], strict=True)
    )


async def test_a_farewell_out_of_turn_is_no_reply_to_the_next_command(log):
    """An idle server says 421 by itself before it closes: what comes after it belongs to nothing."""
    async with mails_of(log, {("DOT", 1): Act(b"250 2.0.0 queued\r\n421 4.4.2 idle\r\n")}) as (sink, session):
        await session.envelope(SENDER, ANN)
        assert (await session.body(MAIL)).code == 250
        await session.envelope(SENDER, BOB)
        await session.body(MAIL)
    assert [mail.connection for mail in sink.accepted()] == [1, 2]


async def test_a_silent_server_is_not_waited_for_at_the_farewell_though_replies_are_outstanding(log):
    script = {("MAIL", 2): Act(then="hang")}
    async with mails_of(log, script, timeouts=SmtpTimeouts(quit=BLINK)) as (sink, session):
        await session.envelope(SENDER, ANN)
        async with asyncio.timeout(timedelta(seconds=5).total_seconds()):
            await session.body(MAIL, (SENDER, BOB))
    assert recipients(sink) == [ANN]


@pytest.mark.parametrize("offers", [PLAIN, (*PLAIN, "PIPELINING")], ids=["one by one", "pipelining"])
async def test_no_reply_of_a_refused_envelope_is_left_for_the_next(log, offers):
    async with Sink(log, {("MAIL", 1): Act(b"451 4.7.1 not yet\r\n")}, offers=offers) as sink:
        async with transport(sink.port).session() as session:
            with pytest.raises(ReplyError):
                await session.envelope(SENDER, ANN)
            await session.envelope(SENDER, BOB)
            assert (await session.body(MAIL)).code == 250
        assert recipients(sink) == [BOB]
        assert sink.passes["connection"] == 1
