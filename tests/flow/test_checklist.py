"""`monitor check` as the list before production: each line in each of its ways to end."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import structlog

from monitor.cli.checks import merchant, place
from monitor.cli.checks.finding import Mark
from monitor.cli.main import main
from monitor.config import load_settings
from monitor.store import engine
from monitor.store.accounts import AccountRow
from monitor.store.engine import Database
from monitor.store.revision import upgrade
from monitor.store.watching import RunsSeen
from monitor.store.witness import note_witness, seal_witness
from tests.faults.rig.sink import Act, Sink
from tests.shell import SETTINGS, shop_of

LIVE = "sk_6f1c2d3e-0000-4000-8000-000000000001_live_secret"
TEST = "sk_6f1c2d3e-0000-4000-8000-000000000001_test_secret"
NOW = datetime(2026, 4, 2, 9, 0, tzinfo=UTC)
VALUES = {
    "database": "sqlite:///monitor.db",
    "port": 1025,
    "smtp": "",
    "provider": "qbitflow-v2",
    "mode": "live",
    "url": "https://api.example/v2",
    "key": LIVE,
    "more": "",
}
ROW = AccountRow(**{**dict.fromkeys(AccountRow.__dataclass_fields__), "id": 1, "name": "acme", "mode": "live"})


@pytest.fixture
def file(tmp_path):
    return tmp_path / "monitor.toml"


@pytest.fixture
def settings_of(file):
    def settings_of(head="", **values):
        file.write_text(head + SETTINGS.replace("mail_test_rows = true", "").format(**{**VALUES, **values}))
        file.chmod(0o600)
        return load_settings(file, {})

    return settings_of


def marks(findings) -> list[Mark]:
    return [one.mark for one in findings]


# --- secrets


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


def test_a_secret_that_git_keeps_is_to_be_mended_and_one_beside_it_is_not(file, tmp_path, settings_of):
    (tmp_path / "acme-key").write_text(LIVE)
    (tmp_path / "acme-key").chmod(0o600)
    settings_of()
    file.write_text(file.read_text().replace(f'api_key = "{LIVE}"', 'api_key_file = "acme-key"'))
    git(tmp_path, "init", "-q")
    (found,) = place.secrets(file, {})
    assert (found.mark, found.text) == (Mark.OK, f"accounts.acme.api_key from {tmp_path / 'acme-key'}")
    git(tmp_path, "add", "acme-key")
    (found,) = place.secrets(file, {})
    assert found.mark is Mark.FAIL
    assert found.text.startswith(f"accounts.acme.api_key: stands in {tmp_path / 'acme-key'}, which git keeps")


def test_a_secret_in_the_settings_file_is_a_hint_and_in_a_repository_more(file, tmp_path, settings_of):
    settings_of()
    (found,) = place.secrets(file, {})
    assert found.mark is Mark.HINT
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "monitor.toml")
    assert marks(place.secrets(file, {})) == [Mark.FAIL]


def test_where_no_git_is_installed_nothing_is_claimed(file, settings_of, monkeypatch):
    settings_of()
    monkeypatch.setenv("PATH", "")
    assert marks(place.secrets(file, {})) == [Mark.HINT]


def test_a_key_of_the_environment_is_told_as_such(file, settings_of):
    settings_of()
    environ = {"MONITOR__ACCOUNTS__ACME__API_KEY": LIVE}
    assert [one.text for one in place.secrets(file, environ)] == ["accounts.acme.api_key from the environment"]


def test_what_opens_only_a_server_on_this_machine_is_not_called_nothing(file, settings_of):
    settings_of(url="http://127.0.0.1:8787/v2")
    assert [one.text for one in place.secrets(file, {})] == ["none that others could use"]


# --- mails


def test_a_folder_of_templates_that_is_not_there_is_one_line_of_the_list(settings_of):
    found = place.mails(settings_of('templates_dir = "nowhere"\n'))
    assert found.mark is Mark.FAIL
    assert "nowhere is no folder; create it" in found.text


def test_a_faulty_template_is_placed_once(settings_of, tmp_path):
    (tmp_path / "own" / "paused").mkdir(parents=True)
    (tmp_path / "own" / "paused" / "body.txt").write_text("{{ nothing_here }}")
    found = place.mails(settings_of('templates_dir = "own"\n'))
    assert found.text == "templates_dir: paused/body.txt:1: 'nothing_here' is undefined"


# --- who is told


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise's, at its first import
@pytest.mark.parametrize(
    ("head", "mark", "text"),
    [
        ("", Mark.HINT, "nobody is told of errors"),
        ('alerts.urls = ["json://127.0.0.1/"]\n', Mark.OK, "the daemon tells 1 address of what needs a person"),
        ('alerts.urls = ["json://127.0.0.1/", "nosuch://x"]\n', Mark.FAIL, "alerts.urls[1]: Apprise knows no such"),
        ('heartbeat_url = "https://hc.example/1"\n', Mark.OK, "heartbeat_url is told"),
    ],
)
def test_it_is_told_who_hears_of_errors(settings_of, head, mark, text):
    found = place.alerts(settings_of(head))
    assert found.mark is mark
    assert text in found.text


# --- test mode first


def test_a_live_account_that_was_never_tried_is_sent_to_a_test_key_first(settings_of):
    settings = settings_of()
    (found,) = merchant.mode(settings, "acme", place.Known())
    assert found.mark is Mark.HINT
    assert "use a test key first" in found.text
    (found,) = merchant.mode(settings, "acme", place.Known({"acme": ROW}))
    assert found.mark is Mark.HINT, "a run that never was complete is no trial"
    (found,) = merchant.mode(settings, "acme", place.Known({"acme": replace(ROW, baselined_at=NOW)}))
    assert (found.mark, found.text) == (Mark.OK, "live; its customers are known since 2 Apr 2026, 11:00 CEST")


def test_a_live_account_beside_a_test_account_that_ran_was_tried(settings_of):
    trial = "\n".join(
        [
            "[accounts.trial]",
            'provider = "qbitflow-v2"',
            'mode = "test"',
            'base_url = "https://api.example/v2"',
            f'api_key = "{TEST}"',
            'sender = "billing@acme.example"',
            'brand = { name = "Acme", url = "https://acme.example" }',
        ]
    )
    settings = settings_of(more=trial)
    known = place.Known({"trial": replace(ROW, name="trial", mode="test", baselined_at=NOW)})
    (found,) = merchant.mode(settings, "acme", known)
    assert (found.mark, found.text) == (Mark.OK, "live; tried with the test account trial")


def test_what_becomes_of_test_rows_is_told_where_it_surprises(settings_of):
    silent = list(merchant.mode(settings_of(mode="test", key=TEST), "acme", place.Known()))
    assert marks(silent) == [Mark.OK, Mark.HINT]
    assert "recorded, never mailed" in silent[1].text
    loud = list(merchant.mode(settings_of(more="mail_test_rows = true"), "acme", place.Known()))
    assert "test rows are mailed too" in loud[-1].text


# --- how its mails look


def test_a_colour_or_language_that_a_mail_would_replace_is_told(settings_of, file):
    assert list(merchant.looks(settings_of(more='locale = "en-GB"'), "acme")) == []
    settings_of(more='locale = "xy"')
    file.write_text(file.read_text().replace('acme.example" }', 'acme.example", color = "blue" }'))
    color, language = merchant.looks(load_settings(file, {}), "acme")
    assert color.text.startswith("accounts.acme.brand.color is no colour like #3456d1")
    assert language.text == "accounts.acme.locale: there are no mails in 'xy', so they go out in English; there is: en"
    assert marks([color, language]) == [Mark.HINT, Mark.HINT]


# --- the schedule


@pytest.mark.parametrize(
    ("last", "mark", "text"),
    [
        (None, Mark.HINT, "must start it; a daemon runs at its start, then 3 Apr 2026, 07:00 CEST (0 7 * * *)"),
        (NOW - timedelta(hours=20), Mark.OK, "the daemon's next run is 3 Apr 2026, 07:00 CEST"),
        (NOW - timedelta(hours=27), Mark.HINT, "no run was complete since 1 Apr 2026, 08:00 CEST"),
    ],
)
def test_it_is_told_whether_something_runs_the_account(settings_of, last, mark, text):
    known = place.Known({"acme": ROW}, {"acme": RunsSeen(whole_at=last, last_slot=last and date(2026, 4, 2))})
    (found,) = merchant.schedule(settings_of(), "acme", known, NOW)
    assert found.mark is mark
    assert text in found.text


def test_a_daemon_that_is_started_after_a_run_by_hand_is_said_to_run_at_once(settings_of):
    known = place.Known({"acme": ROW}, {"acme": RunsSeen(whole_at=NOW, last_slot=date(2026, 4, 1))})
    (found,) = merchant.schedule(settings_of(), "acme", known, NOW)
    assert "a daemon runs at its start, then 3 Apr 2026" in found.text


def test_a_schedule_of_several_times_a_day_is_a_hint(settings_of):
    found = list(merchant.schedule(settings_of(more='schedule = "0 7,19 * * *"'), "acme", place.Known(), NOW))
    assert "the daemon runs at the first" in found[-1].text


# --- the mail server


@pytest.mark.parametrize(
    ("script", "mark", "text"),
    [
        ({}, Mark.OK, "takes mail from billing@acme.example; 8 connections at once at most"),
        ({"MAIL": Act(b"550 5.7.60 no\r\n")}, Mark.FAIL, "accounts.acme.sender: 127.0.0.1:"),
        ({"MAIL": Act(b"451 4.3.0 later\r\n")}, Mark.HINT, "accounts.acme.sender"),
        ({"RCPT": Act(b"550 5.1.1 no\r\n")}, Mark.HINT, "accounts.acme.reply_to"),
    ],
)
async def test_the_mail_server_is_asked_to_take_the_sender_and_gets_no_mail(settings_of, tmp_path, script, mark, text):
    async with Sink(tmp_path / "sink.jsonl", script) as sink:
        (found,) = await merchant.mail_server(settings_of(port=sink.port), "acme")
    assert found.mark is mark
    assert text in found.text
    assert sink.accepted() == []
    assert "DATA" not in sink.passes


# --- the database


async def test_a_database_of_a_newer_version_is_to_be_mended_and_an_older_one_is_not(settings_of, tmp_path):
    db = Database(f"sqlite:///{tmp_path / 'monitor.db'}")
    await upgrade(db)

    async def told(revision):
        async with db.write() as conn:
            await conn.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        return [one async for one in place.database(settings_of(), place.Known())]

    (found,) = await told("9999")
    assert found.mark is Mark.FAIL
    assert "install the newer version of the monitor again" in found.text
    (found,) = await told("0001")
    assert (found.mark, found.text) == (Mark.HINT, "at revision 0001: the next run upgrades it")
    await db.aclose()


async def test_a_new_database_is_its_users_alone_and_an_older_one_that_is_not_is_a_hint(settings_of, tmp_path):
    path = tmp_path / "monitor.db"
    db = Database(f"sqlite:///{path}")
    await upgrade(db)
    await db.aclose()
    assert path.stat().st_mode & 0o777 == 0o600
    assert marks([one async for one in place.database(settings_of(), place.Known())]) == [Mark.OK]
    path.chmod(0o644)
    *_, found = [one async for one in place.database(settings_of(), place.Known())]
    assert (found.mark, "chmod 600" in found.text) == (Mark.HINT, True)
    await upgrade(db)
    await db.aclose()
    assert path.stat().st_mode & 0o777 == 0o644, "what an operator chose stays"


async def test_a_restored_database_is_told_before_a_run_is_held_for_it(settings_of, tmp_path):
    settings = settings_of()
    db = Database(f"sqlite:///{tmp_path}/monitor.db")
    await upgrade(db)
    settings.state_dir.mkdir()
    async with db.write() as conn:
        seal = await seal_witness(conn, db)
    note_witness(settings.state_dir, *seal)
    assert marks([one async for one in place.database(settings, place.Known())]) == [Mark.OK]
    note_witness(settings.state_dir, seal[0], seal[1] + 1)
    *_, found = [one async for one in place.database(settings, place.Known())]
    assert found.mark is Mark.HINT
    assert found.text.endswith("it was restored from a backup; no mail leaves before you approve the next run's batch")
    await db.aclose()


async def test_a_disk_that_is_nearly_full_is_told_before_the_first_run_too(settings_of, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_LITTLE_SPACE", 2**80)
    settings = settings_of()
    first = [one async for one in place.database(settings, place.Known())]
    db = Database(f"sqlite:///{tmp_path}/monitor.db")
    await upgrade(db)
    await db.aclose()
    later = [one async for one in place.database(settings, place.Known())]
    assert marks(first) == marks(later) == [Mark.OK, Mark.HINT]
    assert all("nearly full: free some space" in found[-1].text for found in (first, later))


# --- as a user: `check` and the start say what, where and how, and end with 2

BAD = {
    "a schedule that never fires": (
        {"more": 'schedule = "0 7 31 2 *"'},
        ("accounts.acme.schedule", "names a date that never comes", 'write it like "0 7 * * *"'),
    ),
    "a weekday by the wrong number": (
        {"more": 'schedule = "0 7 * * 8"'},
        ("accounts.acme.schedule", "bad weekday field '8'", "weekdays 0-7 with 0 and 7 = Sunday"),
    ),
    "an unknown zone": (
        {"zone": "Europe/Budapst"},
        ("accounts.acme.timezone", "is no time zone", 'write a name like "Europe/Budapest"'),
    ),
    "a unit without its credential": (
        {"key": None},
        ("accounts.acme.api_key", "is missing", "LoadCredential=accounts.acme.api_key:", "/etc/credstore/"),
    ),
    "a database on a network share": (
        {"database": "sqlite:///share/monitor.db"},
        ("database.url", "lies on a network disk (nfs4)", "use a local disk or PostgreSQL"),
    ),
    "a state folder that cannot be made": (
        {"head": 'state_dir = "monitor.toml/var"\n'},
        ("state_dir", "cannot be made (Not a directory)", "name another folder"),
    ),
}


@pytest.fixture
def told(file, tmp_path, monkeypatch, capsys):
    """What a command said, and its exit code, with these settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("INVOCATION_ID", "a unit of systemd")
    monkeypatch.setattr(engine, "filesystem_of", lambda folder: "nfs4" if folder.name == "share" else "ext4")

    def told(command, *, head="", zone="Europe/Budapest", key=TEST, **values):
        text = head + SETTINGS.format(**{**VALUES, "mode": "test", "key": key, **values})
        text = text.replace("Europe/Budapest", zone).replace('api_key = "None"\n', "")
        file.write_text(text.replace("https://api.example/v2", "http://127.0.0.1:9/v2"))
        file.chmod(0o600)
        code = main([command])
        return code, " ".join("".join(capsys.readouterr()).split())

    yield told
    logging.getLogger().handlers.clear()  # they write to this test's streams
    structlog.reset_defaults()


OF_THE_SETTINGS = [bad for bad, (values, _) in BAD.items() if not {"database", "head"} & set(values)]
CASES = [(bad, command) for bad in BAD for command in ("run", "daemon")] + [(bad, "check") for bad in OF_THE_SETTINGS]


@pytest.mark.parametrize(("bad", "command"), CASES)
def test_bad_input_ends_with_2_and_says_what_and_how_to_mend_it(told, bad, command):
    values, words = BAD[bad]
    code, said = told(command, **values)
    assert code == 2, said
    assert [word for word in words if word not in said] == [], said


async def test_check_follows_a_link_to_where_the_first_run_makes_the_file(settings_of, tmp_path):
    (tmp_path / "monitor.db").symlink_to("elsewhere/monitor.db")
    (missing,) = [one async for one in place.database(settings_of(), place.Known())]
    assert (missing.mark, missing.text) == (Mark.FAIL, f"database.url: {tmp_path / 'elsewhere'} does not exist")
    (tmp_path / "elsewhere").mkdir()
    (found, *_) = [one async for one in place.database(settings_of(), place.Known())]
    assert found.mark is Mark.OK


async def test_check_names_a_network_share_and_a_state_folder_that_cannot_be_made(settings_of, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "filesystem_of", lambda _folder: "nfs4")
    settings = settings_of('state_dir = "monitor.toml/var"\n')
    (found,) = [one async for one in place.database(settings, place.Known())]
    assert (found.mark, "use a local disk or PostgreSQL" in found.text) == (Mark.FAIL, True)
    found = place.state_folder(settings)
    assert (found.mark, "name another folder" in found.text) == (Mark.FAIL, True)


def test_check_names_a_state_folder_that_cannot_be_written(tmp_path):
    with shop_of(tmp_path, size=5) as shop:
        (tmp_path / "var").mkdir(mode=0o500)
        ended = shop.monitor("check", obeying=True)
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 2, said
    assert "var is not writable for this user; change its owner or name another folder" in said
