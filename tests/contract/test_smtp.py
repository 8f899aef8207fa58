"""The SMTP edge against a real server on loopback that can be told to misbehave."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.domain.replies import Phase
from monitor.errors import ConfigError, UnmailableAddressError
from monitor.mail.smtp import SmtpTimeouts, SmtpTransport
from monitor.mail.transport import (
    ConnectionFailedError,
    InsecureConnectionError,
    LoginRefusedError,
    ReplyError,
    ReplyLostError,
)
from tests.faults.rig.proxy import Fault, Proxy
from tests.faults.rig.sink import Act, Sink

SENDER = "billing@acme.example"
ANN = "ann@customer.example"
MAIL = b"Message-ID: <1@acme.example>\r\nSubject: hello\r\n\r\nyours\r\n"
BLINK = timedelta(milliseconds=150)
PHASES = {"MAIL": Phase.MAIL, "RCPT": Phase.RCPT, "DATA": Phase.DATA, "DOT": Phase.DOT}
PATIENT = SmtpTimeouts(quit=BLINK)


def transport(port: int, timeouts: SmtpTimeouts = PATIENT, **options) -> SmtpTransport:
    return SmtpTransport(
        "127.0.0.1", port, **({"security": "none", "own_name": "worker", "timeouts": timeouts} | options)
    )


async def deliver(port: int, *, message: bytes = MAIL, recipient: str = ANN, **options):
    async with transport(port, **options).session() as session:
        await session.envelope(SENDER, recipient)
        return await session.body(message)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "accepted.jsonl"


# (the server's bytes, the code that must be reported, the enhanced code)
REPLIES: dict[str, tuple[bytes, int | None, str | None]] = {
    "greylisted": (b"451 4.7.1 try later\r\n", 451, "4.7.1"),
    "busy": (b"450 4.2.0 mailbox busy\r\n", 450, "4.2.0"),
    "full": (b"452 4.2.2 full\r\n", 452, "4.2.2"),
    "storage": (b"452 4.3.1 no space\r\n", 452, "4.3.1"),
    "closing": (b"421 4.3.2 going down\r\n", 421, "4.3.2"),
    "params": (b"455 4.5.1 not now\r\n", 455, "4.5.1"),
    "no_such_user": (b"550 5.1.1 who?\r\n", 550, "5.1.1"),
    "bad_domain": (b"550 5.1.2 where?\r\n", 550, "5.1.2"),
    "moved": (b"551 5.1.6 moved\r\n", 551, "5.1.6"),
    "disabled": (b"550 5.2.1 disabled\r\n", 550, "5.2.1"),
    "full_for_good": (b"552 5.2.2 over quota\r\n", 552, "5.2.2"),
    "too_long": (b"552 5.2.3 too long\r\n", 552, "5.2.3"),
    "too_big": (b"552 5.3.4 too big\r\n", 552, "5.3.4"),
    "policy": (b"550 5.7.1 policy\r\n", 550, "5.7.1"),
    "spf": (b"550 5.7.23 SPF\r\n", 550, "5.7.23"),
    "dmarc": (b"550 5.7.26 unauthenticated\r\n", 550, "5.7.26"),
    "auth_needed": (b"530 5.7.0 log in\r\n", 530, "5.7.0"),
    "auth_bad": (b"535 5.7.8 no\r\n", 535, "5.7.8"),
    "bad_sender": (b"553 5.1.8 sender's domain\r\n", 553, "5.1.8"),
    "failed": (b"554 5.0.0 failed\r\n", 554, "5.0.0"),
    "syntax": (b"501 5.5.4 syntax\r\n", 501, "5.5.4"),
    "order": (b"503 5.5.1 order\r\n", 503, "5.5.1"),
    "no_enhanced": (b"550 no\r\n", 550, None),
    "contradiction": (b"550 4.7.1 greylisted, really\r\n", 550, "4.7.1"),
    "several_lines": (b"550-5.1.1 first\r\n550-5.1.1 second\r\n550 5.1.1 third\r\n", 550, "5.1.1"),
    "bare": (b"554\r\n", 554, None),
    "garbage": (b"\x00\xff hello?\r\n", None, None),
    "no_code": (b"OK fine\r\n", None, None),
    "long_line": (b"250 " + b"x" * 65536 + b"\r\n", None, None),
    "far_code": (b"999 what\r\n", 999, None),
}


@pytest.mark.parametrize("verb", PHASES)
@pytest.mark.parametrize("name", REPLIES)
async def test_every_refusal_is_reported_with_its_phase_code_and_enhanced_code(log, verb, name):
    data, code, enhanced = REPLIES[name]
    readable = code is not None and code < 600
    async with Sink(log, {verb: Act(data, accept=False)}) as sink:
        async with asyncio.timeout(10):
            if verb == "DOT" and not readable:
                with pytest.raises(ReplyLostError):
                    await deliver(sink.port)
            else:
                with pytest.raises(ReplyError) as caught:
                    await deliver(sink.port)
                assert (caught.value.reply.phase, caught.value.reply.code) == (PHASES[verb], code)
                assert caught.value.reply.enhanced == enhanced
        assert sink.accepted() == []


async def test_a_host_without_an_address_is_told_so(monkeypatch):
    async def unknown(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", unknown)
    with pytest.raises(ConnectionFailedError, match="failed at connect: Name or service not known"):
        await deliver(1)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_lost_before_the_body_is_safe_to_retry(log, verb, then):
    async with Sink(log, {verb: Act(then=then)}) as sink:
        with pytest.raises(ConnectionFailedError) as caught:
            await deliver(sink.port)
        assert caught.value.phase is PHASES[verb]
        assert sink.accepted() == []


async def test_a_connection_that_ends_with_the_go_ahead_has_taken_nothing(log, monkeypatch):
    async with Sink(log) as sink, transport(sink.port).session() as session:
        await session.envelope(SENDER, ANN)
        wire = session._open.wire
        reply = wire.reply

        async def reply_and_lose(wait):
            answer = await reply(wait)
            wire._transport.abort()
            return answer

        monkeypatch.setattr(wire, "reply", reply_and_lose)
        with pytest.raises(ConnectionFailedError):
            await session.body(MAIL)
        assert sink.accepted() == []


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_lost_after_the_dot_leaves_it_open_whether_the_mail_arrived(log, then):
    async with Sink(log, {"DOT": Act(then=then)}) as sink:
        with pytest.raises(ReplyLostError):
            await deliver(sink.port)
        assert len(sink.accepted()) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_reply_cut_off_on_its_way_back_is_ambiguous(log, how):
    async with Sink(log) as sink, Proxy(sink.port, otherwise=Fault(cut_after_dot=True, how=how)) as proxy:
        with pytest.raises(ReplyLostError):
            await deliver(proxy.listening)
        assert [mail.message_id for mail in sink.accepted()] == ["<1@acme.example>"]


async def test_a_connection_cut_in_the_middle_of_the_body_is_ambiguous_too(log):
    async with Sink(log) as sink, Proxy(sink.port, otherwise=Fault(cut_up_after=50_000)) as proxy:
        with pytest.raises(ReplyLostError):
            await deliver(proxy.listening, message=MAIL + b"x" * 70 + b"\r\n" * 100_000)
        assert sink.accepted() == []


async def test_a_slow_250_is_waited_for(log):
    gate = asyncio.Event()
    async with Sink(log, {"DOT": Act(gate=gate)}) as sink:
        # every other wait is over at once: only the final one is long
        hasty = SmtpTimeouts(command=timedelta(seconds=5), data=timedelta(seconds=5), final=timedelta(minutes=10))
        task = asyncio.create_task(deliver(sink.port, timeouts=hasty))
        await sink.bodies_in.wait()
        assert not task.done()
        gate.set()
        assert (await task).code == 250
        assert len(sink.accepted()) == 1


def test_the_final_reply_is_waited_for_ten_minutes_and_the_others_as_the_standard_says():
    waits = SmtpTimeouts()
    assert waits.final == timedelta(minutes=10)
    assert waits.command == timedelta(minutes=5)
    assert waits.data == timedelta(minutes=2)


async def test_a_final_reply_that_never_comes_is_ambiguous(log):
    async with Sink(log, {"DOT": Act(then="hang")}) as sink:
        with pytest.raises(ReplyLostError):
            await deliver(sink.port, timeouts=SmtpTimeouts(final=BLINK, quit=BLINK))


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_reply_that_never_comes_before_the_body_is_safe_to_retry(log, verb):
    async with Sink(log, {verb: Act(then="hang")}) as sink:
        with pytest.raises(ConnectionFailedError):
            await deliver(sink.port, timeouts=SmtpTimeouts(command=BLINK, data=BLINK, quit=BLINK))


@pytest.mark.parametrize(
    "act",
    [Act(b"421 4.4.2 bye\r\n", then="close"), Act(then="close"), Act(then="reset"), Act(then="hang"), Act(b"junk\r\n")],
    ids=["421", "close", "reset", "hang", "junk"],
)
async def test_nothing_that_happens_at_quit_undoes_a_mail_that_was_taken(log, act):
    async with Sink(log, {"QUIT": act}) as sink:
        assert (await deliver(sink.port)).code == 250
        assert len(sink.accepted()) == 1


async def test_a_connection_closed_right_after_the_250_is_no_failure(log):
    async with Sink(log, {"DOT": Act(b"250 2.0.0 queued\r\n", then="close")}) as sink:
        assert (await deliver(sink.port)).code == 250


async def test_many_mails_go_over_one_connection_with_one_recipient_each(log):
    async with Sink(log) as sink:
        async with transport(sink.port).session() as session:
            for number in range(20):
                await session.envelope(SENDER, f"c{number}@customer.example")
                await session.body(MAIL)
        assert [mail.recipients for mail in sink.accepted()] == [(f"c{n}@customer.example",) for n in range(20)]
        assert {mail.connection for mail in sink.accepted()} == {1}
        assert sink.violations == []


async def test_a_connection_is_renewed_after_its_share_of_mails(log):
    async with Sink(log) as sink:
        async with transport(sink.port, mails_per_connection=2).session() as session:
            for _ in range(5):
                await session.envelope(SENDER, ANN)
                await session.body(MAIL)
        assert [mail.connection for mail in sink.accepted()] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("act", [Act(b"421 4.7.0 too many\r\n", then="close"), Act(then="close")], ids=["421", "close"])
async def test_a_kept_connection_that_the_server_ended_is_replaced_without_an_error(log, act):
    async with Sink(log, {("MAIL", 2): act}) as sink:
        async with transport(sink.port).session() as session:
            for _ in range(2):
                await session.envelope(SENDER, ANN)
                await session.body(MAIL)
        assert [mail.connection for mail in sink.accepted()] == [1, 2]


async def test_a_421_on_a_fresh_connection_is_reported_and_not_tried_again(log):
    async with Sink(log, {"MAIL": Act(b"421 4.3.2 no\r\n", then="close")}) as sink:
        with pytest.raises(ReplyError) as caught:
            await deliver(sink.port)
        assert caught.value.reply.code == 421
        assert sink.passes["connection"] == 1


async def test_a_421_instead_of_the_250_is_a_refusal_and_the_next_mail_gets_a_new_connection(log):
    async with Sink(log, {("DOT", 1): Act(b"421 4.3.0 later\r\n", then="close")}) as sink:
        async with transport(sink.port).session() as session:
            await session.envelope(SENDER, ANN)
            with pytest.raises(ReplyError):
                await session.body(MAIL)
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
        assert [mail.connection for mail in sink.accepted()] == [2]


async def test_a_refused_recipient_does_not_spoil_the_next_mail(log):
    async with Sink(log, {("RCPT", 1): Act(b"550 5.1.1 who?\r\n")}) as sink:
        async with transport(sink.port).session() as session:
            with pytest.raises(ReplyError):
                await session.envelope(SENDER, "nobody@customer.example")
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
        assert [mail.recipients for mail in sink.accepted()] == [(ANN,)]
        assert {mail.connection for mail in sink.accepted()} == {1}


async def test_a_refusal_on_a_kept_connection_is_not_asked_for_again(log):
    async with Sink(log, {("RCPT", 2): Act(b"550 5.1.1 who?\r\n")}) as sink:
        async with transport(sink.port).session() as session:
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
            with pytest.raises(ReplyError):
                await session.envelope(SENDER, "nobody@customer.example")
        assert sink.passes["RCPT"] == 2


async def test_a_connection_that_spoke_garbage_is_not_used_again(log):
    async with Sink(log, {("MAIL", 1): Act(b"junk\r\n250 left over\r\n")}) as sink:
        async with transport(sink.port).session() as session:
            with pytest.raises(ReplyError):
                await session.envelope(SENDER, ANN)
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
        assert [mail.connection for mail in sink.accepted()] == [2]
        assert sink.passes["RSET"] == 0


async def test_a_reset_envelope_sends_nothing(log):
    async with Sink(log) as sink:
        async with transport(sink.port).session() as session:
            await session.envelope(SENDER, "gone@customer.example")
            await session.reset()
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
        assert [mail.recipients for mail in sink.accepted()] == [(ANN,)]


async def test_a_reset_that_fails_only_costs_the_connection(log):
    async with Sink(log, {"RSET": Act(then="close")}) as sink:
        async with transport(sink.port).session() as session:
            await session.envelope(SENDER, ANN)
            await session.reset()
            await session.reset()
            await session.envelope(SENDER, ANN)
            await session.body(MAIL)
        assert [mail.connection for mail in sink.accepted()] == [2]


@pytest.mark.parametrize("code", [251, 252])
async def test_a_server_that_forwards_or_cannot_verify_has_taken_the_recipient(log, code):
    async with Sink(log, {"RCPT": Act(b"%d 2.1.5 well\r\n" % code)}) as sink:
        assert (await deliver(sink.port)).code == 250


async def test_lines_that_begin_with_a_dot_and_bare_line_ends_arrive_as_they_should(log):
    async with Sink(log) as sink:
        await deliver(sink.port, message=b"Subject: dots\n\n.\n..two\r\n.\r\nlone\rend")
        assert sink.accepted()[0].body == b"Subject: dots\r\n\r\n.\r\n..two\r\n.\r\nlone\r\nend\r\n"


@pytest.mark.parametrize(
    "evil",
    [
        "ann@customer.example>\r\nRCPT TO:<eve@evil.example",
        "ann@customer.example\nDATA",
        "a\x00@b.example",
        "ann@a.example,eve@b.example",
        "Ann <ann@a.example>",
        "@a:b@c.example",
        "",
        "ann",
        "a\ud800@b.example",
    ],
)
async def test_an_address_cannot_smuggle_a_command(log, evil):
    async with Sink(log) as sink:
        with pytest.raises(UnmailableAddressError):
            await deliver(sink.port, recipient=evil)
        assert [verb for verb, _, _ in sink.commands if verb in {"RCPT", "DATA"}] == []


async def test_an_international_address_needs_a_server_that_takes_it(log):
    async with Sink(log, offers=("8BITMIME",)) as sink:
        with pytest.raises(UnmailableAddressError):
            await deliver(sink.port, recipient="jürgen@customer.example")
    async with Sink(log) as sink:
        await deliver(sink.port, recipient="jürgen@customer.example")
        assert sink.accepted()[0].recipients == ("jürgen@customer.example",)


async def test_a_cancelled_body_leaves_no_reply_for_the_next_mail(log):
    gate = asyncio.Event()
    async with Sink(log, {("DOT", 1): Act(b"550 5.1.1 for the first\r\n", gate=gate)}) as sink:
        async with transport(sink.port).session() as session:
            await session.envelope(SENDER, ANN)
            first = asyncio.create_task(session.body(MAIL))
            await sink.bodies_in.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            gate.set()
            await session.envelope(SENDER, ANN)
            assert (await session.body(MAIL)).code == 250
        assert (sink.passes["connection"], sink.passes["RSET"]) == (2, 0)


async def test_a_cancelled_command_leaves_no_reply_for_the_next_one(log):
    gate = asyncio.Event()
    async with Sink(log, {("MAIL", 1): Act(b"550 5.7.1 for the first\r\n", gate=gate)}) as sink:
        async with transport(sink.port).session() as session:
            first = asyncio.create_task(session.envelope(SENDER, ANN))
            while sink.passes["MAIL"] == 0:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            gate.set()
            await session.envelope(SENDER, ANN)
            assert (await session.body(MAIL)).code == 250
        assert (sink.passes["connection"], sink.passes["RSET"]) == (2, 0)


# --- connecting ---------------------------------------------------------------------------------------------------


async def test_no_server_is_a_failed_connection(log):
    async with Sink(log) as sink:
        port = sink.port
    with pytest.raises(ConnectionFailedError, match="failed at connect: Connection refused") as caught:
        await deliver(port)
    assert caught.value.phase is Phase.CONNECT


@pytest.mark.parametrize("greeting", [b"554 5.3.2 no service here\r\n", b"421 4.3.2 later\r\n"])
async def test_a_greeting_that_refuses_is_reported(log, greeting):
    async with Sink(log, {"CONNECT": Act(greeting, then="close")}) as sink:
        with pytest.raises(ReplyError) as caught:
            await deliver(sink.port)
        assert caught.value.reply.phase is Phase.CONNECT
        assert caught.value.reply.code == int(greeting[:3])


async def test_a_silent_greeting_ends_in_time(log):
    async with Sink(log, {"CONNECT": Act(then="hang")}) as sink:
        with pytest.raises(ConnectionFailedError):
            await deliver(sink.port, timeouts=SmtpTimeouts(connect=BLINK, quit=BLINK))


async def test_a_server_without_ehlo_is_greeted_the_old_way(log):
    async with Sink(log, {"EHLO": Act(b"502 5.5.1 what?\r\n")}) as sink:
        assert (await deliver(sink.port)).code == 250


async def test_a_server_that_refuses_both_greetings_is_reported(log):
    refuse = Act(b"550 5.7.1 go away\r\n")
    async with Sink(log, {"EHLO": refuse, "HELO": refuse}) as sink:
        with pytest.raises(ReplyError) as caught:
            await deliver(sink.port)
        assert caught.value.reply.phase is Phase.HELO


# --- TLS and login ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by itself."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "these tests make a certificate with the openssl command: install openssl"
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=sink",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def server_tls(certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


@pytest.fixture
def trust(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "cert.pem"))


LOGIN = {"username": "acme", "password": "canary-password"}


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_login_and_mail_go_only_under_tls(log, server_tls, trust, security):
    async with Sink(log, tls=server_tls, implicit_tls=security == "tls") as sink:
        await deliver(sink.port, security=security, tls_context=trust, **LOGIN)
        assert [mail.tls for mail in sink.accepted()] == [True]
        assert {verb for verb, _, secure in sink.commands if not secure} <= {"EHLO", "STARTTLS"}
        assert "AUTH" in {verb for verb, _, _ in sink.commands}


STRIPPED = {
    "not offered": {"offers": ("NO-STARTTLS",)},
    "refused for now": {"script": {"STARTTLS": Act(b"454 4.7.0 not now\r\n")}},
    "refused for good": {"script": {"STARTTLS": Act(b"502 5.5.1 what?\r\n")}},
    "clear text after the go-ahead": {"script": {"STARTTLS": Act(b"220 go\r\n250 injected\r\n", then="close")}},
}


@pytest.mark.parametrize("case", STRIPPED)
async def test_stripped_tls_ends_the_session_before_anything_is_said_in_clear(log, server_tls, trust, case):
    async with Sink(log, tls=server_tls, **STRIPPED[case]) as sink:
        with pytest.raises((InsecureConnectionError, ConnectionFailedError)):
            await deliver(sink.port, security="starttls", tls_context=trust, **LOGIN)
        assert {verb for verb, _, _ in sink.commands} <= {"EHLO", "STARTTLS"}


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_nobody_vouches_for_is_refused(log, server_tls, security):
    async with Sink(log, tls=server_tls, implicit_tls=security == "tls") as sink:
        with pytest.raises(InsecureConnectionError):
            await deliver(sink.port, security=security, **LOGIN)
        assert {verb for verb, _, _ in sink.commands} <= {"EHLO", "STARTTLS"}


async def test_a_certificate_of_another_host_is_refused(log, server_tls, trust):
    async with Sink(log, tls=server_tls) as sink:
        elsewhere = SmtpTransport(
            "localhost", sink.port, security="starttls", tls_context=trust, own_name="worker", **LOGIN
        )
        with pytest.raises(InsecureConnectionError):
            async with elsewhere.session():
                pass
        assert {verb for verb, _, _ in sink.commands} <= {"EHLO", "STARTTLS"}


def test_a_login_in_clear_cannot_even_be_configured():
    with pytest.raises(ConfigError, match="smtp.username"):
        SmtpTransport("127.0.0.1", 25, security="none", **LOGIN)


async def test_a_login_without_tls_is_refused_even_if_the_configuration_were_bent(log):
    async with Sink(log, offers=("AUTH PLAIN",)) as sink:
        bent = transport(sink.port)
        bent._username = "acme"
        with pytest.raises(InsecureConnectionError):
            async with bent.session():
                pass
        assert "AUTH" not in {verb for verb, _, _ in sink.commands}


async def test_a_refused_login_is_tried_once_and_is_the_senders_trouble(log, server_tls, trust):
    async with Sink(log, {"AUTH": Act(b"535 5.7.8 no\r\n")}, tls=server_tls) as sink:
        with pytest.raises(LoginRefusedError) as caught:
            await deliver(sink.port, security="starttls", tls_context=trust, **LOGIN)
        assert (caught.value.reply.phase, caught.value.reply.code) == (Phase.AUTH, 535)
        assert sink.passes["AUTH"] == 1
        assert "canary" not in str(caught.value)


async def test_a_login_server_in_trouble_is_a_reply_like_others(log, server_tls, trust):
    async with Sink(log, {"AUTH": Act(b"454 4.7.0 later\r\n")}, tls=server_tls) as sink:
        with pytest.raises(ReplyError) as caught:
            await deliver(sink.port, security="starttls", tls_context=trust, **LOGIN)
        assert not isinstance(caught.value, LoginRefusedError)


async def test_a_server_without_a_login_we_know_is_the_senders_trouble(log, server_tls, trust):
    greeting = Act(b"250-sink\r\n250-STARTTLS\r\n250 AUTH NTLM\r\n")
    async with Sink(log, {"EHLO": greeting}, tls=server_tls) as sink:
        with pytest.raises(LoginRefusedError):
            await deliver(sink.port, security="starttls", tls_context=trust, **LOGIN)


async def test_a_connection_reset_while_logging_in_is_a_failed_connection(log, server_tls, trust):
    async with Sink(log, {"AUTH": Act(then="close")}, tls=server_tls) as sink:
        with pytest.raises(ConnectionFailedError):
            await deliver(sink.port, security="starttls", tls_context=trust, **LOGIN)
