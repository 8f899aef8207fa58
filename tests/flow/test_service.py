"""`monitor daemon` as a supervisor has it: a real process, real signals, real pages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from monitor.sandbox.seeding import healthy
from monitor.sandbox.server import in_thread
from monitor.sandbox.transitions import cause

SETTINGS = """
[database]
url = "sqlite:///monitor.db"
[smtp]
port = {port}
[accounts.acme]
provider = "qbitflow-v2"
mode = "{mode}"
base_url = "{url}"
api_key = "{key}"
sender = "Acme Billing <billing@acme.example>"
brand = {{ name = "Acme", url = "https://acme.example" }}
link_hosts = ["qbitflow.example"]
mail_test_rows = true
window = "00:00-23:59"
"""


class Process:
    """`monitor daemon`, with what it said so far."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "monitor", "daemon", "-c", "monitor.toml", "--serve", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.said: list[dict] = []

    def until(self, event: str) -> dict:
        """Read on to this event of its log; a line that is no JSON is for people."""
        assert self.process.stderr
        for line in self.process.stderr:
            if line.startswith("{"):
                self.said.append(json.loads(line))
                if self.said[-1]["event"] == event:
                    return self.said[-1]
        raise AssertionError(f"ended without {event}: {self.said}")


@pytest.fixture
def sandbox():
    with in_thread(healthy(40, start=datetime.now(UTC))) as sandbox:
        yield sandbox


@pytest.fixture
def daemon(sandbox, tmp_path):
    world = sandbox.server.world
    text = SETTINGS.format(port=sandbox.mailbox.port, mode=world.merchant.mode, url=sandbox.url, key=world.ids.api_key)
    (tmp_path / "monitor.toml").write_text(text)
    daemon = Process(tmp_path)
    yield daemon
    daemon.process.kill()
    daemon.process.communicate()


def test_it_runs_by_itself_reloads_on_sighup_keeps_good_settings_and_stops_on_sigterm(daemon, sandbox, tmp_path):
    address = daemon.until("serving")["at"]
    assert daemon.until("run_ended")["outcome"] == "complete"
    assert httpx.get(f"{address}/healthz").status_code == 200
    assert httpx.get(f"{address}/readyz").json()["ready"] is True
    assert 'monitor_pulls_total{account="acme",outcome="complete"} 1.0' in httpx.get(f"{address}/metrics").text

    settings = tmp_path / "monitor.toml"
    good = settings.read_text()
    settings.write_text(good + "\nnonsense = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert "nonsense" in daemon.until("settings_kept")["why"]

    settings.write_text(good.replace("Acme Billing", "Acme"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until("settings_reloaded")
    assert httpx.get(f"{address}/readyz").json()["ready"] is True
    assert 'monitor_pulls_total{account="acme",outcome="complete"} 1.0' in httpx.get(f"{address}/metrics").text

    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(25) == 143
    assert time.monotonic() - began < 25


def test_after_a_kill_the_next_start_delivers_what_is_due(daemon, sandbox, tmp_path):
    daemon.until("run_ended")
    daemon.process.kill()
    daemon.process.wait()
    sandbox.call(lambda world: cause(world, {"low_on_funds": 2}))
    ran = subprocess.run(
        [sys.executable, "-m", "monitor", "sync", "-c", "monitor.toml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    second = Process(tmp_path)
    try:
        assert second.until("mails_delivered")["sent"] >= 1
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(25) == 130
    finally:
        second.process.kill()
        second.process.communicate()
    assert sandbox.mailbox.messages


def test_pause_and_resume_say_what_they_did(daemon, tmp_path):
    daemon.until("run_ended")

    def monitor(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "monitor", *arguments, "-c", "monitor.toml"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    paused = monitor("pause", "acme", "--format", "json")
    assert (paused.returncode, json.loads(paused.stdout)["account"]) == (0, "acme")
    assert "mail again" in monitor("resume", "acme").stdout
    assert "was not paused" in monitor("resume", "acme").stdout
    unknown = monitor("pause", "nobody")
    assert (unknown.returncode, "there is: acme" in unknown.stderr) == (2, True)
