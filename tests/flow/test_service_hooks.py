"""`monitor serve` and `monitor sandbox --webhooks` as processes: from a webhook on the wire to a row in the database."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest

from monitor.sandbox.seeding import healthy
from monitor.sandbox.sender import PUNCTUAL, HookSender
from monitor.sandbox.server import in_thread
from monitor.sandbox.transitions import cause
from tests.flow.test_service import SETTINGS

SECRET = "whsec_sandbox_1"


@pytest.fixture
def sandbox():
    with in_thread(healthy(40, start=datetime.now(UTC))) as sandbox:
        yield sandbox


def test_serve_takes_webhooks_and_reads_what_they_tell(sandbox, tmp_path):
    world = sandbox.server.world
    text = SETTINGS.format(port=sandbox.mailbox.port, mode=world.merchant.mode, url=sandbox.url, key=world.ids.api_key)
    (tmp_path / "monitor.toml").write_text(f'{text}webhook_secret = "{SECRET}"\n')
    monitor = [sys.executable, "-m", "monitor"]
    ran = subprocess.run([*monitor, "run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    command = [*monitor, "serve", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        address = next(line for line in process.stderr if "serving" in line).split()[1].removesuffix("/healthz,")

        async def send() -> None:
            sender = HookSender(world, f"{address}/hooks/acme", [SECRET], manner=PUNCTUAL)
            cause(world, {"low_on_funds": 2})
            assert await sender.send() == {200: 2}
            assert await sender.send_test() == 200
            await sender.aclose()

        import asyncio

        asyncio.run_coroutine_threadsafe(send(), sandbox._loop).result()
        told, until = "", time.monotonic() + 30
        while 'outcome="read"} 2.0' not in told and time.monotonic() < until:
            time.sleep(0.1)
            told = httpx.get(f"{address}/metrics").text
        assert 'monitor_hook_reads_total{account="acme",outcome="read"} 2.0' in told
        assert 'monitor_hooks_total{account="acme",outcome="test"} 1.0' in told
        process.terminate()
        assert process.wait(25) == 143
    finally:
        process.kill()
        process.communicate()
    told = subprocess.run(
        [*monitor, "events", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.count('"webhook"') == 2
