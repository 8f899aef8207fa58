"""The command line in a test: a merchant's world, served, with a folder in which `monitor` is started."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import structlog

from monitor.cli.main import main
from monitor.sandbox.entities import Merchant
from monitor.sandbox.faults import Faults
from monitor.sandbox.seeding import healthy
from monitor.sandbox.server import in_thread
from monitor.sandbox.transitions import cause

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
NOW = ("--now", START.isoformat())

SETTINGS = """
[database]
url = "{database}"
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
{smtp}
[accounts.acme]
provider = "{provider}"
mode = "{mode}"
base_url = "{url}"
api_key = "{key}"
sender = "Acme Billing <billing@acme.example>"
brand = {{ name = "Acme", url = "https://acme.example" }}
timezone = "Europe/Budapest"
link_hosts = ["qbitflow.example"]
mail_test_rows = true
{more}
"""


# Root writes where it pleases; without this capability it obeys file modes like everybody (capabilities(7)).
# 24 is PR_CAPBSET_DROP, 1 is CAP_DAC_OVERRIDE; it is refused to others, who obey anyway.
OBEY = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "monitor", *sys.argv[1:]])
"""


class Shop:
    """A merchant's world, served, with a folder in which `monitor` is started."""

    def __init__(self, sandbox, faults, folder: Path) -> None:
        self.sandbox, self.faults, self.folder = sandbox, faults, folder
        self.world = sandbox.server.world

    def configure(self, **other: object) -> None:
        values = {
            "database": "sqlite:///monitor.db",
            "port": self.sandbox.mailbox.port,
            "smtp": "",
            "provider": "qbitflow-v2",
            "mode": "test",
            "url": self.sandbox.url,
            "key": self.world.ids.api_key,
            "more": "",
            **other,
        }
        file = self.folder / "monitor.toml"
        file.write_text(SETTINGS.format(**values))
        file.chmod(0o600)

    def start(self, *arguments: str, obeying: bool = False) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MONITOR_")}
        return subprocess.Popen(
            [sys.executable, *(("-c", OBEY) if obeying else ("-m", "monitor")), *arguments],
            cwd=self.folder,
            env={**environ, "COLUMNS": "100", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def monitor(self, *arguments: str, obeying: bool = False) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, obeying=obeying)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def told(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same in this process: quicker, for what needs no process of its own."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def cause(self, **situations: int) -> dict[str, tuple[str, ...]]:
        wanted = {name.replace("__", ":"): number for name, number in situations.items()}
        return self.sandbox.call(lambda world: cause(world, wanted))

    @property
    def mails(self):
        return self.sandbox.mailbox.messages

    def mails_by_kind(self) -> Counter[str]:
        return Counter(mail.message["Feedback-ID"].partition(":")[0] for mail in self.mails)


@contextmanager
def shop_of(folder: Path, size: int = 60, trials: int = 0) -> Iterator[Shop]:
    """A shop of so many subscriptions, with settings that fit it; the log is put back afterwards."""
    faults = Faults()
    world = healthy(size, trials=trials, start=START, merchant=Merchant(mode="test"))
    with in_thread(world, faults) as sandbox:
        shop = Shop(sandbox, faults, folder)
        shop.configure()
        try:
            yield shop
        finally:
            logging.getLogger().handlers.clear()  # they write to this test's streams
            structlog.reset_defaults()
