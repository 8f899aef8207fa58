"""How much memory a sync takes: `python -m benchmarks.memory_sync [rows]`.

The API is served by a process of its own, so that only the monitor's memory is counted. Prints the resident set and its
highest point after the first sync, one without changes, and one with a thousand changes. The promise is 200 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from monitor.clock import ManualClock
from monitor.domain.guard import GuardLimits
from monitor.domain.letter import Brand
from monitor.domain.model import Mode
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.store.revision import upgrade
from monitor.usecases.context import Account, Tools
from monitor.usecases.run import Run, RunOptions

ROWS = 250_000
CHANGES = 1_000
LIMIT_MB = 200
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


def resident_mb() -> tuple[float, float]:
    """(resident set now, its highest point) of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(name: str, seconds: float, rows: int) -> None:
    rate = rows / seconds if seconds else 0
    now, peak = resident_mb()
    print(f"{name:<24}{seconds:>9.1f}{rate:>9.0f}{now:>10.1f}{peak:>10.1f}", flush=True)


async def sync(url: str, key: str, world: subprocess.Popen[str], folder: Path, changes: int) -> None:
    db = Database(f"sqlite:///{folder / 'monitor.db'}")
    await upgrade(db)
    clock = ManualClock(START)
    locks = FileLocks(folder)
    provider = QBitFlowV2(base_url=url, api_key=key, account="acme", clock=clock, sleep=asyncio.sleep)
    tools = Tools(
        db=db,
        clock=clock,
        owner=locks.owner,
        locks=locks,
        address_mac=lambda address: hashlib.sha256(address.encode()).hexdigest(),
        sleep=asyncio.sleep,
    )
    account = Account(
        name="acme",
        provider_name="qbitflow-v2",
        mode=Mode.LIVE,
        provider=provider,
        sender="Acme <billing@acme.example>",
        sender_address="billing@acme.example",
        reply_to="help@acme.example",
        brand=Brand("Acme", "https://acme.example", "#3456d1"),
        zone="Europe/Budapest",
        guard=GuardLimits(share=Decimal(1), mails_floor=10**9),
    )
    print(f"{'step':<24}{'seconds':>9}{'rows/s':>9}{'RSS MB':>10}{'peak MB':>10}")
    line("before", 0, 0)
    for name in ("first sync", "nothing changed", f"{changes} changes"):
        if name.endswith("changes"):
            print(changes, file=world.stdin, flush=True)
            _line_of(world)
        begun = time.perf_counter()
        report = await Run(tools, account, RunOptions(state_dir=folder)).execute()
        line(name, time.perf_counter() - begun, report.counts["rows"])
        if report.outcome != "complete":
            raise SystemExit(f"{name}: {report}")
    await provider.aclose()
    await db.aclose()
    locks.close()


def _line_of(world: subprocess.Popen[str]) -> str:
    assert world.stdout is not None
    return world.stdout.readline()


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    command = [sys.executable, "-m", "benchmarks.memory_world", str(rows)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as world,
        tempfile.TemporaryDirectory(prefix="memory-sync-") as folder,
    ):
        url, key = json.loads(_line_of(world))
        asyncio.run(sync(url, key, world, Path(folder), min(CHANGES, rows // 10)))
        print(file=world.stdin, flush=True)
    peak = resident_mb()[1]
    print(f"{peak:.0f} MB: {'below' if peak < LIMIT_MB else 'ABOVE'} the promise of {LIMIT_MB} MB")
    sys.exit(peak >= LIMIT_MB)


if __name__ == "__main__":
    main()
