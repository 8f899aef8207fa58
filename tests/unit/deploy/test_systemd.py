"""The units are hardened, agree with one another, and load every secret that the shipped settings need."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from monitor.config import load_settings
from monitor.config.settings import Settings
from monitor.store.engine import filesystem_of

FOLDER = Path(__file__).parents[3] / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
WORKERS = [path for path in SERVICES if "alert" not in path.name]
TIMERS = sorted(FOLDER.glob("*.timer"))
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = 1.5
STOP_S = 20
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (apt install systemd)")


def named(path: Path) -> str:
    return path.name


def directives(path: Path) -> dict[str, list[str]]:
    """Every `Key=value` of a unit, whatever its section."""
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key].append(value)
    return found


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ANALYZE, "--no-pager", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=named)
def test_a_unit_is_exposed_at_most_so_much(unit):
    answer = analyze("security", "--offline=true", f"--threshold={int(MOST_EXPOSED * 10)}", unit)
    figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer.stdout)
    assert figure, answer.stderr
    assert float(figure[1]) <= MOST_EXPOSED
    assert answer.returncode == 0


@needs_systemd
def test_systemd_understands_every_line(tmp_path):
    for unit in (*SERVICES, *TIMERS):
        # The program is not installed on this machine; all else stays.
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    answer = analyze("verify", "--man=no", *sorted(tmp_path.iterdir()))
    said = [line for line in answer.stderr.splitlines() if str(tmp_path) in line or "subscription-monitor" in line]
    assert (answer.returncode, said) == (0, [])


@needs_systemd
@pytest.mark.parametrize("timer", TIMERS, ids=named)
def test_a_timer_comes_round(timer):
    for when in directives(timer)["OnCalendar"]:
        answer = analyze("calendar", when)
        assert "Next elapse: " in answer.stdout, answer.stderr
        assert "never" not in answer.stdout


def test_the_daily_pass_is_made_up_for_and_keeps_its_zone():
    timer = directives(FOLDER / "subscription-monitor.timer")
    assert timer["Persistent"] == ["true"]
    assert re.search(r" 07:00:00 [A-Z]\w+/\w+$", timer["OnCalendar"][0])
    assert timer["RandomizedDelaySec"]


@pytest.mark.parametrize("timer", TIMERS, ids=named)
def test_a_timer_has_a_service_of_its_name(timer):
    assert timer.with_suffix(".service") in SERVICES
    assert directives(timer)["WantedBy"] == ["timers.target"]


@pytest.mark.parametrize("key", ["LoadCredential", "Environment", "User", "DynamicUser", "StateDirectory", "UMask"])
def test_all_services_share_user_folder_settings_and_secrets(key):
    assert len({tuple(directives(path)[key]) for path in WORKERS}) == 1
    assert directives(WORKERS[0])[key]


def test_the_hardening_is_the_same_everywhere():
    mark = "# What is left of the machine.\n"
    assert len({path.read_text().partition(mark)[2].partition("\n\n")[0].strip() for path in SERVICES}) == 1


@pytest.mark.parametrize("unit", WORKERS, ids=named)
def test_a_stop_leaves_time_for_the_replies_of_mails_in_flight(unit):
    assert int(directives(unit)["TimeoutStopSec"][0]) > STOP_S
    assert directives(unit)["KillSignal"] == ["SIGTERM"]


@pytest.mark.parametrize("unit", WORKERS, ids=named)
def test_what_needs_a_person_leaves_the_unit_failed_and_a_clean_stop_does_not(unit):
    found = directives(unit)
    assert found["SuccessExitStatus"] == ["143"]
    assert found["OnFailure"] == ["subscription-monitor-alert@%n.service"]


def test_the_daemon_is_not_started_again_with_settings_that_are_wrong():
    assert directives(FOLDER / "subscription-monitor-daemon.service")["RestartPreventExitStatus"] == ["2"]


def test_the_disk_of_the_database_is_seen_though_the_unit_hides_most_of_proc():
    """ProcSubset=pid leaves a process its own folder and no /proc/mounts."""
    assert {tuple(directives(path)["ProcSubset"]) for path in WORKERS} == {("pid",)}
    assert inspect.signature(filesystem_of).parameters["mounts"].default == Path("/proc/self/mounts")


@pytest.fixture
def credentials(tmp_path):
    """What systemd would hand over: one file for each LoadCredential= line."""
    values = {
        "accounts.acme.api_key": "sk_1_key",
        "smtp.password": "letmein",
        "database.url": "postgresql://monitor_worker@db/monitor",
        "secret_key": "ab" * 32,
        "alerts.urls": "mailtos://monitor:letmein@smtp.example.com",
    }
    folder = tmp_path / "credentials"
    folder.mkdir()
    for line in directives(WORKERS[0])["LoadCredential"]:
        name, _, source = line.partition(":")
        assert source == f"subscription-monitor.{name}"
        (folder / name).write_text(values.pop(name))
        (folder / name).chmod(0o400)
    assert values == {}
    return folder


def test_the_credentials_are_the_secrets_of_the_shipped_settings(credentials):
    settings = load_settings(FOLDER / "monitor.toml", {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert settings.account("acme").api_key.get_secret_value() == "sk_1_key"
    assert settings.smtp.password.get_secret_value() == "letmein"
    assert settings.secret_key_file == credentials / "secret_key"
    assert settings.alerts.urls
    assert settings.database.is_sqlite  # as long as the file names one


def test_without_its_line_the_database_is_the_credentials(credentials, tmp_path):
    file = tmp_path / "monitor.toml"
    file.write_text(re.sub(r"^url = .*$", "", (FOLDER / "monitor.toml").read_text(), flags=re.MULTILINE))
    settings = load_settings(file, {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert settings.database.url.get_secret_value().startswith("postgresql://")


def test_the_state_is_where_the_unit_may_write(credentials):
    settings: Settings = load_settings(FOLDER / "monitor.toml", {"CREDENTIALS_DIRECTORY": str(credentials)})
    folder = Path("/var/lib") / directives(WORKERS[0])["StateDirectory"][0]
    assert settings.state_dir == folder
    assert str(folder) in settings.database.url.get_secret_value()


@pytest.mark.parametrize("argument", ["check", "two words"])
def test_the_operators_command_runs_as_the_service_does(tmp_path, argument):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    service = FOLDER / "subscription-monitor.service"
    dropin = "[Service]\nLoadCredential=accounts.shop.api_key:subscription-monitor.accounts.shop.api_key"
    script(bin_ / "systemctl", f'[ "$*" = "cat subscription-monitor.service" ] && cat {service} && echo "{dropin}"')
    script(bin_ / "systemd-run", 'for each in "$@"; do printf "%s\\n" "$each"; done; exit 3')
    done = subprocess.run(
        [FOLDER / "subscription-monitor", "outbox", argument],
        env={**os.environ, "PATH": f"{bin_}:/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    given = done.stdout.splitlines()
    assert done.returncode == 3, done.stderr
    options, command = given[: given.index("--")], given[given.index("--") + 1 :]
    assert command == [directives(service)["ExecStart"][0].split()[0], "outbox", argument]
    assert {"--wait", "--pipe", "--collect"} <= set(options)
    for key in ("LoadCredential", "Environment", "User", "DynamicUser", "StateDirectory", "UMask"):
        for value in directives(service)[key]:
            assert f"--property={key}={value}" in options
    assert options[-1].endswith("accounts.shop.api_key"), "a drop-in comes after what it changes"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
