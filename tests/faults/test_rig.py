"""The rig itself: an oracle that cannot see a broken promise proves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.faults.rig.killer import kill_at_random, run_once, until_clean
from tests.faults.rig.oracle import Row, judge, verdict_of
from tests.faults.rig.sink import Accepted, read_log, read_script

pytestmark = pytest.mark.faults


def mail(number: int = 1, *, sha: str = "a", to: str = "ann@customer.example") -> Accepted:
    return Accepted(f"<{number}@acme>", "billing@acme.example", (to,), sha, None, tls=False, connection=1)


def row(number: int = 1, state: str = "sent", *, ambiguities: int = 0) -> Row:
    return Row(f"n{number}", state, f"<{number}@acme>", "ann@customer.example", ambiguities)


def test_a_mail_sent_once_breaks_nothing():
    verdict = judge([row()], [mail()])
    assert verdict.broken == {}
    assert verdict.unfinished == []


@pytest.mark.parametrize(
    ("rows", "accepted", "promise"),
    [
        ([row()], [], "lost"),
        ([row()], [mail(), mail()], "unrecorded_duplicates"),
        ([row(ambiguities=2)], [mail()] * 3, "third_copies"),
        ([row(state="ready")], [mail()], "unrecorded"),
        ([row(state="failed")], [mail()], "unrecorded"),
        ([row()], [mail(), mail(2)], "foreign"),
        ([row()], [mail(to="eve@evil.example")], "wrong_recipient"),
        ([row(ambiguities=1)], [mail(), mail(sha="b")], "altered"),
    ],
)
def test_each_broken_promise_is_seen(rows, accepted, promise):
    assert list(judge(rows, accepted).broken) == [promise]


def test_a_second_copy_with_its_ambiguity_on_record_is_counted_and_allowed():
    verdict = judge([row(ambiguities=1)], [mail(), mail()])
    assert verdict.broken == {}
    assert (verdict.duplicates, verdict.ambiguities) == (["<1@acme>"], ["<1@acme>"])


def test_a_row_that_still_waits_is_unfinished():
    assert judge([row(state="ready")], []).unfinished == ["<1@acme>"]


def test_the_oracle_reads_outbox_and_attempts_of_either_database(empty_database_url, tmp_path: Path):
    engine = create_engine(empty_database_url.replace("+aiosqlite", ""))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notifications (id TEXT, state TEXT, message_id TEXT, recipient TEXT)"))
        connection.execute(text("CREATE TABLE attempts (notification_id TEXT, outcome TEXT)"))
        connection.execute(
            text("INSERT INTO notifications VALUES ('n1', 'unsettled', '<1@acme>', 'ann@customer.example')")
        )
        connection.execute(text("INSERT INTO attempts VALUES ('n1', 'reply_lost'), ('n1', 'deferred')"))
    engine.dispose()
    verdict = verdict_of(empty_database_url, tmp_path / "no-log")
    assert (verdict.ambiguities, verdict.accepted, verdict.broken) == (["<1@acme>"], 0, {})


WORKER = """
import os, pathlib, sys, time
marks = pathlib.Path(sys.argv[1])
print("ready", flush=True)
for step in range(len(marks.read_text()) if marks.exists() else 0, 5):
    with marks.open("a") as file:
        file.write("x")
    if len(sys.argv) > 2 and step < 4:
        os.kill(os.getpid(), 9)
    time.sleep(0.02)
"""


def test_a_worker_is_killed_at_its_failpoint_until_it_ends(tmp_path: Path):
    marks = tmp_path / "marks"
    story = until_clean(lambda n: [sys.executable, "-c", WORKER, str(marks), str(n)], most=10)
    assert story.kills == 4
    assert story.clean
    assert len(marks.read_text()) == 5


def test_random_kills_are_counted_from_readiness_and_end_with_a_clean_start(tmp_path: Path):
    marks = tmp_path / "marks"
    story = kill_at_random([sys.executable, "-c", WORKER, str(marks)], kills=50, longest=0.05, seed=1)
    assert story.clean
    assert story.kills == story.starts - 1
    assert marks.read_text() == "xxxxx"


def test_a_worker_that_fails_is_no_clean_end():
    with pytest.raises(AssertionError, match="ended with 7"):
        run_once([sys.executable, "-c", "import sys; print('ready'); sys.exit(7)"], kill_after=None)


def test_the_sink_runs_as_a_process_of_its_own(tmp_path: Path):
    import smtplib
    import subprocess

    log = tmp_path / "accepted.jsonl"
    script = tmp_path / "script.json"
    script.write_text('{"RCPT:1": {"reply": "451 4.7.1 later\\r\\n"}}')
    sink = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.rig.sink", "--log", str(log), "--script", str(script), "--no-bodies"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline().split()[1])
        with smtplib.SMTP("127.0.0.1", port) as client:
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@acme.example", ["ann@customer.example"], "Message-ID: <1@acme>\r\n\r\nhello")
            client.sendmail("a@acme.example", ["ann@customer.example"], "Message-ID: <1@acme>\r\n\r\nhello")
    finally:
        sink.terminate()
        sink.communicate()
    assert sink.returncode == 0
    assert [(mail.message_id, mail.recipients) for mail in read_log(log)] == [("<1@acme>", ("ann@customer.example",))]


def test_a_script_may_speak_of_the_nth_time():
    script = read_script('{"DOT:3": {"then": "close"}, "MAIL": {"reply": "250 fine\\r\\n", "delay": 0.5}}')
    assert script["DOT", 3].then == "close"
    assert (script["MAIL"].reply, script["MAIL"].delay) == (b"250 fine\r\n", 0.5)


async def test_the_proxy_slices_delays_and_swallows(tmp_path: Path):
    from datetime import timedelta

    from monitor.mail.smtp import SmtpTimeouts, SmtpTransport
    from monitor.mail.transport import ReplyLostError
    from tests.faults.rig.proxy import Fault, Proxy
    from tests.faults.rig.sink import Sink

    blink = timedelta(milliseconds=200)
    faults = [Fault(slice_to=1, delay=0.0001), Fault(cut_after_dot=True, how="blackhole")]
    async with Sink(tmp_path / "log") as sink, Proxy(sink.port, faults) as proxy:
        for expected in (None, ReplyLostError):
            waits = SmtpTimeouts(final=blink, quit=blink)
            server = SmtpTransport("127.0.0.1", proxy.listening, security="none", own_name="worker", timeouts=waits)
            async with server.session() as session:
                await session.envelope("billing@acme.example", "ann@customer.example")
                if expected is None:
                    await session.body(b"Message-ID: <1@acme>\r\n\r\nhello\r\n")
                else:
                    with pytest.raises(expected):
                        await session.body(b"Message-ID: <2@acme>\r\n\r\nhello\r\n")
        assert [mail.message_id for mail in sink.accepted()] == ["<1@acme>", "<2@acme>"]
