"""The cron file has the shape that cron reads, and runs commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from monitor.config import load_settings
from monitor.config.crontab import cron_trigger

FOLDER = Path(__file__).parents[3] / "deploy" / "cron"
LINES = [
    line
    for line in (FOLDER / "subscription-monitor.cron").read_text().splitlines()
    if line and not line.startswith("#")
]
JOBS = [line.split(maxsplit=6) for line in LINES if not re.match(r"[A-Z_]+=", line)]
VARIABLES = dict(line.split("=", 1) for line in LINES if re.match(r"[A-Z_]+=", line))


def test_every_line_is_a_variable_or_a_job_for_the_services_user():
    assert len(JOBS) + len(VARIABLES) == len(LINES)
    assert {job[5] for job in JOBS} == {"subscription-monitor"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job[6])
def test_a_job_fires(job):
    cron_trigger(" ".join(job[:5]), ZoneInfo("UTC"))
    assert "%" not in " ".join(job), "cron reads % as the end of the line"


def test_there_is_a_pass_a_day_and_a_delivery_every_five_minutes():
    times = {re.search(r"bin/monitor (\w+)", job[6])[1]: " ".join(job[:5]) for job in JOBS}
    assert times == {"run": "7 7 * * *", "deliver": "*/5 * * * *"}


def test_complaints_reach_the_operator():
    assert "@" in VARIABLES["MAILTO"]
    assert VARIABLES["MONITOR_CONFIG"] == "/etc/subscription-monitor/monitor.toml"


@pytest.mark.parametrize(("code", "told"), [(0, False), (1, True), (2, True), (3, True)])
def test_a_pass_is_told_of_unless_it_ended_well(tmp_path, code, told):
    """cron knows no exit codes: it mails what is written."""
    assert written(tmp_path, "run", code) == ("result\ncomplaint\n" if told else "")


@pytest.mark.parametrize("code", [0, 1])
def test_a_delivery_writes_complaints_only(tmp_path, code):
    assert written(tmp_path, "deliver", code) == "complaint\n"


def written(tmp_path: Path, name: str, code: int) -> str:
    """What cron would mail of this job, with a monitor that writes to both and ends with `code`."""
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\necho result\necho complaint >&2\nexit {code}\n")
    monitor.chmod(0o755)
    (line,) = [job[6] for job in JOBS if f"bin/monitor {name}" in job[6]]
    command = line.replace("/opt/subscription-monitor/bin/monitor", str(monitor))
    shell = [VARIABLES["SHELL"], "-c", command]
    return subprocess.run(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def test_the_file_ends_with_a_line_end_or_cron_ignores_its_last_line():
    assert (FOLDER / "subscription-monitor.cron").read_text().endswith("\n")


def test_the_shipped_settings_read_secrets_from_files(tmp_path):
    (tmp_path / "secrets").mkdir()
    for name, value in {"acme-key": "sk_1_key", "smtp-password": "letmein"}.items():
        (tmp_path / "secrets" / name).write_text(value)
        (tmp_path / "secrets" / name).chmod(0o600)
    file = tmp_path / "monitor.toml"
    file.write_text((FOLDER / "monitor.toml").read_text())
    settings = load_settings(file, {})
    assert settings.account("acme").api_key.get_secret_value() == "sk_1_key"
    assert settings.state_dir == Path("/var/lib/subscription-monitor")
