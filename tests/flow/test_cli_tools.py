"""The commands around a run: set up, check, look at mails, try out."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sqlite3
import ssl
import stat
import subprocess
import threading
from contextlib import closing, contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from monitor.cli import main as entry
from tests.faults.rig.sink import Act, Sink
from tests.shell import NOW, shop_of

COMMANDS = (
    "demo run sync deliver init check preview send-test sandbox db explain events episodes outbox runs suppressions adopt"
).split()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MONITOR_CONFIG", raising=False)
    with shop_of(tmp_path) as opened:
        yield opened


@contextmanager
def mail_server(folder, script, tls):
    """A scripted mail server in a thread of its own; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    sink = Sink(folder / "sink.jsonl", script, tls=tls)
    asyncio.run_coroutine_threadsafe(sink.__aenter__(), loop).result()
    try:
        yield sink
    finally:
        asyncio.run_coroutine_threadsafe(sink.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A server's TLS context whose certificate this process trusts."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "this test makes a certificate with the openssl command: install openssl"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-subj", "/CN=sink",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    return context


# --- help and the last line of defence


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(shop, command):
    told = shop.told(command, "--help")
    assert told.returncode == 0
    assert "Usage: monitor" in told.stdout


def test_the_version_is_told(shop):
    assert re.fullmatch(r"monitor \d+\.\d+\.\d+\S*\n", shop.told("--version").stdout)


def test_an_error_nobody_expected_is_short_and_its_details_hold_no_address(shop, monkeypatch):
    def broken(_arguments, **_how):
        raise KeyError("anna@customer.example")

    monkeypatch.setattr(entry, "app", broken)
    told = shop.told("run")
    assert told.returncode == 1
    assert told.stderr.startswith("error: unexpected KeyError")
    assert "Traceback" not in told.stderr
    details = re.search(r"Details: (\S+)", told.stderr)[1]
    written = Path(details).read_text()
    assert "Traceback" in written
    assert "anna" not in written
    debugged = shop.told("--debug", "run")
    assert "Traceback" in debugged.stderr
    assert "anna" not in debugged.stderr


# --- check


def test_check_says_ok_of_everything_and_sends_nothing(shop):
    told = shop.told("check")
    assert told.returncode == 0, told.stdout
    assert told.stdout.count("✓") == 8
    assert "Nothing to mend, 3 hints." in told.stdout
    assert len(shop.mails) == 0
    assert not (shop.folder / "monitor.db").exists()
    shop.told("run", *NOW)
    found = json.loads(shop.told("check", "--format", "json").stdout)
    assert found["ok"]
    assert {one["what"] for one in found["checks"]} >= {"settings", "database", "mails", "acme: key"}


def test_check_names_every_setting_to_mend_at_once(shop):
    shop.configure(port=1, key="sk_01980001-0003-7000-8000-000000000000_test_ffffffffffffffff")
    told = shop.told("check")
    words = " ".join(told.stdout.split())
    assert told.returncode == 2
    assert "accounts.acme" in words
    assert "smtp.host, smtp.port: 127.0.0.1:1" in words
    assert "2 things to mend" in words


def test_check_names_the_file_and_line_of_a_template_with_an_unknown_variable(shop):
    folder = shop.folder / "templates" / "paused"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("{{ product }} is paused\n{{ prodct }} takes a rest, as you wished it to\n")
    file = shop.folder / "monitor.toml"
    file.write_text('templates_dir = "templates"\n' + file.read_text())
    told = shop.told("check")
    assert told.returncode == 2
    assert "paused/subject.txt:2" in told.stdout
    assert "prodct" in told.stdout


def test_check_names_a_wrong_clock_and_a_wrong_setting(shop):
    from datetime import timedelta

    shop.faults.clock_skew = timedelta(minutes=-7)
    assert "set this machine's time" in " ".join(shop.told("check").stdout.split())
    shop.configure(more="colour = 3")
    wrong = shop.told("check")
    assert wrong.returncode == 2
    assert "accounts.acme.colour" in wrong.stdout


def test_check_tries_the_login_and_says_when_it_is_refused(shop, tls):
    with mail_server(shop.folder, {"AUTH": Act(b"535 5.7.8 no\r\n")}, tls) as sink:
        login = f'[accounts.acme.smtp]\nhost = "127.0.0.1"\nport = {sink.port}\nsecurity = "starttls"'
        shop.configure(more=f'{login}\nusername = "acme"\npassword = "canary-password"')
        told = shop.told("check")
        assert told.returncode == 2
        assert "accounts.acme.smtp.password" in told.stdout
        assert "canary" not in told.stdout + told.stderr


def test_a_login_that_is_refused_pauses_the_sender_burns_no_attempt_and_ends_with_1(shop, tls):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    with mail_server(shop.folder, {"AUTH": Act(b"535 5.7.8 no\r\n")}, tls) as sink:
        login = f'[accounts.acme.smtp]\nhost = "127.0.0.1"\nport = {sink.port}\nsecurity = "starttls"'
        shop.configure(more=f'{login}\nusername = "acme"\npassword = "canary-password"')
        told = shop.told("run", *NOW)
    assert told.returncode == 1
    assert "the sender pauses until 1 Apr 2026, 11:15 CEST: " in " ".join(told.stdout.split())
    shop.configure()
    later = NOW[1].replace("09:00", "09:20")
    assert shop.told("deliver", "--now", later).returncode == 0
    assert len(shop.mails) == 2


# --- set up


def test_init_writes_settings_that_lead_on_and_never_overwrites_them(shop):
    (shop.folder / "monitor.toml").unlink()
    told = shop.told("init", "--sandbox")
    assert told.returncode == 0
    assert "monitor check" in told.stdout
    assert stat.S_IMODE((shop.folder / "monitor.toml").stat().st_mode) == 0o600
    again = shop.told("init")
    assert again.returncode == 2
    assert "stays as it is" in again.stderr


def test_db_current_differs_before_the_upgrade_and_agrees_after_it(shop):
    before = shop.told("db", "current", "--format", "json")
    assert (before.returncode, json.loads(before.stdout)["database"]) == (2, None)
    assert "run `monitor db upgrade`" in shop.told("db", "current").stderr
    assert "Upgraded: empty -> " in shop.told("db", "upgrade").stdout
    assert "already" in shop.told("db", "upgrade").stdout
    assert shop.told("db", "current").returncode == 0
    with closing(sqlite3.connect(shop.folder / "monitor.db", isolation_level=None)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    late = shop.told("db", "current")
    assert late.returncode == 2
    assert "newer than this code" in late.stderr and "db upgrade" not in late.stderr


# --- mails


def test_preview_prints_each_part_and_writes_all_three(shop):
    text = shop.told("preview", "payment_failed", "--variant", "approval_revoked")
    assert text.returncode == 0, text.stderr
    assert "approval" in text.stdout
    assert "</html>" in shop.told("preview", "paused", "--format", "html").stdout
    assert shop.told("preview", "paused", "--output", "looks").returncode == 0
    assert sorted(path.suffix for path in (shop.folder / "looks").iterdir()) == [".eml", ".html", ".txt"]
    message = message_from_bytes(next((shop.folder / "looks").glob("*.eml")).read_bytes(), policy=policy.default)
    assert message["From"] == "Acme Billing <billing@acme.example>"


def test_preview_works_without_any_settings(shop):
    (shop.folder / "monitor.toml").unlink()
    assert "Studio plan" in shop.told("preview", "stopped").stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("preview", "paused", "--variant", "nothing"), "there is: none"),
        (("preview", "payment_failed", "--variant", "rain"), "approval_revoked"),
        (("preview", "paused", "--step", "last_call"), "there is: first"),
        (("preview", "paused", "--locale", "xx"), "there is: en"),
        (("preview", "birthday"), "low_on_funds"),
        (("send-test", "paused", "--to", "nobody"), "write it like me@acme.example"),
    ],
)
def test_a_wrong_choice_ends_with_2_and_lists_the_right_ones(shop, arguments, told):
    ended = shop.told(*arguments)
    assert ended.returncode == 2, ended.stdout
    assert told in " ".join(ended.stderr.replace("│", " ").split())


def test_a_test_mail_goes_to_oneself_and_is_marked(shop):
    sent = shop.told("send-test", "trial_ending", "--to", "me@acme.example")
    assert sent.returncode == 0, sent.stderr
    assert [mail.recipients for mail in shop.mails] == [("me@acme.example",)]
    assert shop.mails[0].message["Subject"].startswith("[Test] ")


def test_a_test_mail_never_goes_to_a_customer_however_the_address_is_spelled(shop):
    shop.told("run", *NOW)
    customer = shop.world.customers[3].email
    for spelling in (customer, customer.upper(), f" {customer} "):
        refused = shop.told("send-test", "paused", "--to", spelling)
        assert refused.returncode != 0
        assert "never goes to a customer" in refused.stderr
    assert len(shop.mails) == 0


# --- try out


def test_the_sandbox_prints_what_settings_need_and_can_be_moved(shop):
    process = shop.start("sandbox", "--size", "40", "--port", "0", "--smtp-port", "0", "--control")
    told = ""
    while "_control/advance" not in told:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        told += line
    control = re.search(r"http://\S+/_control", told)[0]
    with urlopen(Request(f"{control}/cause", data=b'{"paused": 2}', method="POST")) as answer:
        assert len(json.load(answer)["paused"]) == 2
    shop.configure(
        url=re.search(r'base_url = "(\S+)"', told)[1],
        key=re.search(r'api_key = "(\S+)"', told)[1],
        port=re.search(r"port = (\d+)", told)[1],
    )
    assert shop.told("check").returncode == 0
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_named(shop):
    taken = shop.told("sandbox", "--smtp-port", str(shop.sandbox.mailbox.port), "--port", "0")
    assert taken.returncode == 2
    assert "--smtp-port" in taken.stderr


def test_the_demo_tells_three_days_in_which_nobody_is_mailed_twice(shop):
    told = shop.told("demo")
    assert told.returncode == 0, told.stderr
    assert [title for title in ("Day 1", "Day 2", "Day 3") if title not in told.stdout] == []
    assert "0 mails sent: every mail goes once." in told.stdout
    assert "The guard holds the whole batch" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 100
    demo = shop.folder / "demo"
    page = (demo / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert [link for link in links if not (demo / link).exists()] == []
    mails = sorted((demo / "mails").glob("*.eml"))
    assert len(mails) == page.count(">eml<") > 15
    assert "91 mails held: nobody is mailed until a person has looked" in page
    shown = re.findall(r"<pre>monitor (.+?)</pre>", page)
    assert [command.split()[1] for command in shown] == ["review", "list"]
    assert [shop.told(*command.split()).returncode for command in shown] == [0, 0]
    ids = [message_from_bytes(path.read_bytes(), policy=policy.default)["Message-ID"] for path in mails]
    assert len(set(ids)) == len(ids)
    assert shop.told("explain", "-c", "demo/monitor.toml", "customer76@customer.example").returncode == 0


def test_the_demo_as_json_is_one_document_with_every_kind_of_mail_and_of_silence(shop):
    told = json.loads(shop.told("demo", "--format", "json", "--keep", "shown").stdout)
    assert [scene["title"] for scene in told["scenes"]][:2] == ["First contact", "Day 1"]
    assert told["again"]["delivery"]["sent"] == 0
    assert told["scenes"][-1]["outcome"] == "held"
    assert told["index"] == "shown/index.html"
    mails = [mail for scene in told["scenes"] for mail in scene["mails"]]
    assert [mail for mail in mails if not mail["why"]] == []
    assert {mail["kind"] for mail in mails if mail["what"] == "sent"} == {
        "low_on_funds", "max_amount_reached", "payment_failed", "trial_ending", "trial_expired", "cancelled",
        "stopped", "paused", "recovered",
    }  # fmt: skip
    assert {mail["reason"] for mail in mails if mail["what"] != "sent"} == {
        "baseline", "already_told", "window", "recovered", "customer_deleted", "unmailable", "operator_decides", "guard",
    }  # fmt: skip


def test_the_demo_of_the_billing_platform_tells_each_payment_once(shop):
    told = shop.told("demo", "--provider", "billing-platform")
    assert told.returncode == 0, told.stderr
    assert max(map(len, told.stdout.splitlines())) <= 100
    assert "0 mails sent: every mail goes once." in told.stdout
    events = re.findall(r"(bp-\d+) +u-\d+ +[\d.]+ EUR +([\w :]+?) *$", told.stdout, flags=re.MULTILINE)
    assert len(events) == len(set(events)) == 10
    assert {what.partition(":")[0] for _, what in events} == {
        "succeeded",
        "failed",
        "expired",
        "cancelled",
        "pending long",
    }
    assert ("bp-7124", "pending long") in events
    assert ("bp-7124", "succeeded") in events
    assert f"{len(events)} events of payments, each told once." in told.stdout


def test_the_demo_removes_no_folder_that_is_not_its_own(shop):
    mine = shop.folder / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    told = shop.told("demo", "--keep", "mine")
    assert told.returncode == 2
    assert (mine / "thesis.txt").read_text() == "years of work"
