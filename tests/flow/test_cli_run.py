"""The command line as a shell sees it: real processes, a served API, a real mailbox, exit codes and what was printed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest

from monitor.sandbox import faults as bad
from monitor.sandbox.seeding import make_trial
from tests.shell import NOW, START, shop_of


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a shop of so many subscriptions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MONITOR_CONFIG", raising=False)
    with ExitStack() as stack:
        yield lambda size=60, trials=0: stack.enter_context(shop_of(tmp_path, size, trials))


@pytest.fixture
def shop(opened):
    return opened()


# --- the work itself


def test_thirty_transitions_of_a_thousand_make_thirty_right_mails_and_a_second_run_none(opened):
    shop = opened(1000, 20)
    first = shop.told("run", *NOW)
    assert (first.returncode, len(shop.mails)) == (0, 0)
    assert "1,020 subscriptions" in first.stdout
    assert "recorded only" in first.stdout

    caused = shop.cause(
        payment_failed__insufficient_balance=5,
        payment_failed__allowance_exhausted=4,
        payment_failed__approval_revoked=3,
        max_amount_reached=5,
        trial_ending=3,
        trial_expired=3,
        cancelled__customer=3,
        stopped=2,
        paused=2,
    )
    second = shop.monitor("run", *NOW)
    assert second.returncode == 0, second.stderr
    assert "30 sent" in second.stdout
    assert len(shop.mails) == 30
    for situation, ids in caused.items():
        kind = situation.partition(":")[0]
        owners = {shop.world.get(ext_id).customer.email for ext_id in ids}
        told = {mail.recipients[0] for mail in shop.mails if mail.message["Feedback-ID"].startswith(f"{kind}:")}
        assert owners <= told

    third = shop.told("run", *NOW)
    assert (third.returncode, len(shop.mails)) == (0, 30)
    assert "none sent" in third.stdout
    assert third.stderr == ""


def test_json_on_stdout_is_one_document_with_the_outcome_of_every_account(shop):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    told = json.loads(shop.monitor("run", *NOW, "--format", "json").stdout)
    account = told["accounts"][0]
    assert (told["exit_code"], account["outcome"]) == (0, "complete")
    assert account["delivery"]["sent"] == 2
    assert account["mails"] == [{"kind": "paused", "state": "sent", "reason": None, "count": 2}]
    assert account["run"]["now"] == "2026-04-01T09:00:00Z"
    assert {"kind": "paused", "new": "paused", "cause": None, "count": 2} in account["run"]["changes"]


def test_sync_sends_nothing_and_deliver_sends_what_it_decided(shop):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    assert shop.told("sync", *NOW).returncode == 0
    assert len(shop.mails) == 0
    delivered = shop.told("deliver", *NOW)
    assert (delivered.returncode, len(shop.mails)) == (0, 2)
    assert "2 sent" in delivered.stdout


def test_mails_that_wait_for_the_sending_hours_are_counted_with_their_hour_and_the_command(shop):
    shop.told("run", *NOW)
    shop.sandbox.call(lambda world: world.advance(timedelta(hours=12)))
    shop.cause(paused=3)
    late = shop.told("run", "--now", shop.world.now.isoformat())
    assert (late.returncode, len(shop.mails)) == (0, 0)
    words = " ".join(late.stdout.split())
    assert "3 mails wait for 2 Apr 2026, 08:00" in words
    assert "monitor deliver" in words


def test_what_the_guard_holds_ends_with_3_and_says_why_and_what_to_type(shop):
    shop.told("run", *NOW)
    shop.cause(paused=30)
    held = shop.told("run", *NOW)
    assert (held.returncode, len(shop.mails)) == (3, 0)
    words = " ".join(held.stdout.split())
    assert "30 of 60 live subscriptions became paused, or are first told of it, in 24 h; the limit is 20 %" in words
    assert "monitor outbox review" in words


def test_a_dry_run_changes_no_byte_sends_nothing_and_says_what_a_run_then_does(shop):
    shop.told("run", *NOW)
    shop.cause(paused=2, payment_failed__insufficient_balance=1)
    before = {path.name: path.read_bytes() for path in shop.folder.glob("monitor.db*")}
    plan = shop.monitor("run", "--dry-run", *NOW, "--format", "json", "--output", "plan.json")
    assert plan.returncode == 0, plan.stderr
    assert {path.name: path.read_bytes() for path in shop.folder.glob("monitor.db*")} == before
    assert len(shop.mails) == 0
    told = json.loads(plan.stdout)
    assert json.loads((shop.folder / "plan.json").read_text()) == told
    lines = told["accounts"][0]["lines"]
    assert Counter(line["what"] for line in lines) == {"send": 3}
    assert all("***@" in line["recipient"] for line in lines)
    shop.told("run", *NOW)
    sent = {mail.message["Message-ID"].strip("<>").partition("@")[0] for mail in shop.mails}
    assert sent == {line["id"] for line in lines}


def test_a_dry_run_before_the_first_run_leaves_no_file_behind(shop):
    before = sorted(path.name for path in shop.folder.iterdir())
    plan = shop.told("run", "--dry-run", *NOW)
    assert plan.returncode == 0, plan.stderr
    assert "first run: it records what is there and mails nothing" in plan.stdout
    assert sorted(path.name for path in shop.folder.iterdir()) == before


def test_a_first_run_that_notifies_says_so_before_and_after(shop):
    shop.configure(more='first_run = "notify"\nwindow = "00:00-23:59"')
    shop.cause(payment_failed__insufficient_balance=2)
    plan, first = shop.told("run", "--dry-run", *NOW), shop.told("run", *NOW)
    assert "mails what already needs an action" in plan.stdout
    assert "what already needed an action has its mail too" in first.stdout
    assert "2 sent" in first.stdout
    assert "recorded only" not in first.stdout


def test_one_failing_account_stops_no_other_and_its_error_decides_the_exit_code(shop):
    shop.configure(
        more="""
[accounts.zulu]
provider = "qbitflow-v2"
mode = "test"
base_url = "https://zulu.example"
campaigns = "monitor.toml"
api_key = "sk_01980001-0003-7000-8000-000000000000_test_00"
sender = "billing@zulu.example"
brand = { name = "Zulu", url = "https://zulu.example" }
""".replace("accounts.zulu", "accounts.aaa")
    )
    both = shop.told("run", *NOW, "--format", "json")
    told = json.loads(both.stdout)
    assert both.returncode == 2
    assert {one["account"]: one["outcome"] for one in told["accounts"]} == {"acme": "complete", "aaa": "failed"}
    assert "come in a later version" in both.stderr
    assert shop.told("run", *NOW, "--account", "acme").returncode == 0


def test_a_start_while_another_run_works_ends_with_0_and_says_so(shop):
    shop.told("run", *NOW)
    code = (
        "import sys; from pathlib import Path; from monitor.store.flock import FileLocks; "
        "locks = FileLocks(Path('var')); print(locks.hold_run('acme'), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=shop.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline().strip() == "True"
    second = shop.told("run", *NOW, "--format", "json")
    other.communicate("")
    assert second.returncode == 0
    assert json.loads(second.stdout)["accounts"][0]["outcome"] == "already_running"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_cleanly_and_the_next_start_goes_on(opened, signum, code):
    shop = opened(450)
    shop.told("run", *NOW)
    shop.cause(paused=3)
    process = shop.start("run", *NOW)

    def interrupt(_number: int) -> None:
        process.send_signal(signum)

    shop.faults.between_pages = interrupt
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "stopping" in err
    assert "Traceback" not in err
    assert len(shop.mails) == 0
    shop.faults.clear()
    assert shop.told("run", *NOW).returncode == 0
    assert shop.mails_by_kind() == {"paused": 3}


def test_a_time_limit_ends_a_run_cleanly_and_the_next_start_goes_on(opened):
    shop = opened(450)
    shop.told("run", *NOW)
    shop.cause(paused=3)
    shop.faults.add(bad.rate_limited("2"), route="subscriptions", page=2, times=1)
    limited = shop.told("run", *NOW, "--limit-seconds", "1")
    assert limited.returncode == 1
    assert "the next start goes on from here" in limited.stdout
    assert shop.told("run", *NOW).returncode == 0
    assert shop.mails_by_kind() == {"paused": 3}


# --- bad input gets a clear error with the thing to fix


BAD_SETTINGS = {
    "an unknown key": ({"more": "colour = 3"}, "accounts.acme.colour"),
    "a live key on a test account": (
        {"key": "sk_01980001-0003-7000-8000-000000000000_live_b1441d254bd86cd7"},
        "the key is a live key",
    ),
    "mail in clear to another machine": (
        {"smtp": "", "more": '[accounts.acme.smtp]\nhost = "mx.example"\nport = 25\nsecurity = "none"'},
        "sends mail in clear to another machine",
    ),
    "a login in clear": ({"smtp": 'username = "a"\npassword = "b"'}, "smtp.username"),
    "no time zone": ({"more": 'locale = "e n"'}, "accounts.acme.locale"),
    "a provider nobody knows": ({"provider": "qbitflow-v9"}, "accounts.acme.provider"),
    "a member by UUID on v1": ({"provider": "qbitflow-v1", "more": 'on_behalf_of = "0198-a"'}, "on_behalf_of"),
    "a key of nobody": ({"key": "sk_01980001-0003-7000-8000-000000000000_test_ffffffffffffffff"}, "api_key"),
    "a database of another kind": ({"database": "mysql://a/b"}, "database.url"),
    "a database in a file": ({"database": "sqlite:///monitor.toml/x.db"}, "database.url"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_wrong_setting_ends_with_2_and_names_the_setting(shop, case):
    settings, told = BAD_SETTINGS[case]
    shop.configure(**settings)
    run = shop.told("run", *NOW)
    assert run.returncode == 2, run.stderr
    assert told in run.stderr
    assert run.stderr.startswith("error: ")
    assert len(shop.mails) == 0


ANSWERS = {
    "HTML": (bad.html(200), 1, "JSON"),
    "truncated JSON": (bad.truncated(0.5), 1, "acme"),
    "a cursor that repeats": (bad.repeat_cursor, 1, "cursor"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_broken_answer_of_the_api_ends_with_1_says_so_and_the_next_run_mends_it(opened, case):
    shop = opened(250)
    shop.told("run", *NOW)
    shop.cause(paused=2)
    act, code, told = ANSWERS[case]
    shop.faults.add(act, route="subscriptions", page=2)
    broken = shop.told("run", *NOW)
    assert broken.returncode == code, broken.stderr
    assert told in broken.stdout + broken.stderr
    shop.faults.clear()
    assert shop.told("run", *NOW).returncode == 0
    assert shop.mails_by_kind() == {"paused": 2}


def test_a_clock_that_is_wrong_ends_with_2(shop):
    shop.faults.clock_skew = timedelta(minutes=6)
    run = shop.told("run", *NOW)
    assert run.returncode == 2
    assert "set this machine's time" in run.stderr


def test_a_key_of_another_mode_or_space_ends_with_2(shop):
    shop.told("run", *NOW)
    shop.faults.me = {"uuid": "01980001-0001-7000-8000-00000000ffff"}
    other = shop.told("run", *NOW)
    assert other.returncode == 2
    assert "another space" in other.stderr


def test_travelling_in_time_is_refused_where_customers_are_real(shop):
    shop.configure(mode="live", key="sk_01980001-0003-7000-8000-000000000000_live_b1441d254bd86cd7")
    run = shop.told("run", *NOW)
    assert run.returncode == 2
    assert "--now" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--now", "tomorrow"), "2026-04-02T09:00:00+02:00"),
        (("run", "--now", "2026-04-02T09:00"), "time zone"),
        (("run", "--output", "plan.json"), "--dry-run"),
        (("run", "--account", "nobody"), "there is: acme"),
        (("run", "--config", "nowhere.toml"), "monitor init"),
        (("frobnicate",), "frobnicate"),
        (("run", "--format", "yaml"), "yaml"),
    ],
)
def test_a_wrong_argument_ends_with_2_and_says_what_is_right(shop, arguments, told):
    run = shop.told(*arguments)
    assert run.returncode == 2
    assert told in " ".join(run.stderr.split())


def test_a_database_of_a_newer_version_is_left_alone(shop):
    shop.told("run", *NOW)
    with sqlite3.connect(shop.folder / "monitor.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    for command in (("run", *NOW), ("check",), ("db", "upgrade"), ("run", "--dry-run", *NOW)):
        told = shop.told(*command)
        assert told.returncode == 2, (command, told.stdout, told.stderr)
        assert "newer" in told.stdout + told.stderr


def test_a_mail_server_that_is_not_there_costs_no_mail_and_ends_with_1(shop):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    shop.configure(port=1)
    dead = shop.told("run", *NOW)
    assert dead.returncode == 1
    assert "the mail server cannot be reached" in dead.stdout
    shop.configure()
    assert shop.told("deliver", *NOW).returncode == 0
    assert len(shop.mails) == 2


def test_what_time_makes_due_all_at_once_is_held_by_deliver_too(shop):
    """Forty trials come near their end together: nobody ran, but the batch of the clock has a gate of its own."""
    shop.told("run", *NOW)
    shop.sandbox.call(
        lambda world: [make_trial(world, sub, START + timedelta(days=10)) for sub in world.subscriptions[:40]]
    )
    assert shop.told("run", *NOW).returncode == 0
    due = (START + timedelta(days=3, hours=2)).isoformat()
    shop.told("deliver", "--now", due)
    held = shop.told("deliver", "--now", (START + timedelta(days=3, hours=3)).isoformat())
    assert (held.returncode, len(shop.mails)) == (3, 0), held.stdout
    assert "monitor outbox review" in held.stdout


def test_a_database_that_is_read_only_is_named_and_nothing_is_lost(shop):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    database = shop.folder / "monitor.db"
    database.chmod(0o444)
    for command in (("run", *NOW), ("check",)):
        told = shop.monitor(*command, obeying=True)
        assert told.returncode == 2, (command, told.stdout)
        words = "".join((told.stdout + told.stderr).split())  # a long path may be folded anywhere
        assert "monitor.dbisread-only:givethisuserwriteaccess" in words
    assert len(shop.mails) == 0
    database.chmod(0o600)
    assert shop.told("run", *NOW).returncode == 0
    assert len(shop.mails) == 2


def test_a_state_folder_that_cannot_be_written_is_named(shop):
    (shop.folder / "var").mkdir(mode=0o500)
    told = shop.monitor("run", *NOW, obeying=True)
    assert told.returncode == 2
    assert "state_dir" in told.stderr
