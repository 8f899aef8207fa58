"""Webhook load against `monitor serve`: SQLite on this disk, and a sandbox from which it reads again meanwhile.

`python -m benchmarks.hooks`: 200/s for 60 s, a burst of 1,000/s for 10 s, then ten kills in such a burst with a sender
that repeats. Times count from the instant at which a delivery was due: one that waits for its turn waits in them too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from monitor.clock import SystemClock
from monitor.sandbox.entities import Merchant
from monitor.sandbox.seeding import healthy
from monitor.sandbox.world import World

SECRET = "whsec_benchmark_0198"
SUBSCRIPTIONS = 1_000
PROCESS = [sys.executable, "-m", "monitor"]
SETTINGS = """
[database]
url = "sqlite:///monitor.db"
[accounts.acme]
provider = "qbitflow-v2"
mode = "test"
base_url = "http://127.0.0.1:{api}/v2"
api_key = "{key}"
sender = "Acme Billing <billing@acme.example>"
brand = {{ name = "Acme", url = "https://acme.example" }}
webhook_secret = "{secret}"
"""


@dataclass
class Load:
    """What came of a load; latencies in milliseconds."""

    latencies: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    repeats: int = 0
    cpu_s: float = 0.0

    def row(self, name: str) -> str:
        times = sorted(self.latencies)
        at = {share: times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.99)}
        other = sum(count for code, count in self.codes.items() if not 200 <= code < 300)
        return (
            f"{name:<28} {len(times):>7,} answered, {other} not 2xx, p50 {at[0.5]:.1f} ms, p99 {at[0.99]:.1f} ms, "
            f"max {times[-1]:.0f} ms, {1000 * self.cpu_s / len(times):.2f} ms of CPU each"
        )


def main() -> None:
    """Run all three and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--burst", type=int, default=1_000)
    parser.add_argument("--burst-seconds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the database lies; default: a temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        asyncio.run(measure(Path(name), chosen))


async def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Everything in one folder, one process after another."""
    world = healthy(
        SUBSCRIPTIONS, trials=SUBSCRIPTIONS // 20, seed=1, start=SystemClock().now(), merchant=Merchant(mode="test")
    )
    api, smtp, port = (free_port() for _ in range(3))
    (folder / "monitor.toml").write_text(SETTINGS.format(api=api, key=world.ids.api_key, secret=SECRET))
    sandbox = [*PROCESS, "sandbox", "--size", str(SUBSCRIPTIONS), "--port", str(api), "--smtp-port", str(smtp)]
    with running(sandbox, folder):
        await reachable(api)
        ran = await asyncio.create_subprocess_exec(*PROCESS, "run", cwd=folder, stdout=subprocess.DEVNULL)
        if await ran.wait():
            raise SystemExit("the first run failed")
        async with serving(folder, port) as process:
            for name, rate, seconds in (
                (f"{chosen.rate}/s for {chosen.seconds} s", chosen.rate, chosen.seconds),
                (f"{chosen.burst}/s for {chosen.burst_seconds} s", chosen.burst, chosen.burst_seconds),
            ):
                before = cpu_s(process.pid)
                load = await send(world, port, rate, seconds, name)
                load.cpu_s = cpu_s(process.pid) - before
                print(load.row(name), f"({lost(folder, load)} lost)")
        if chosen.kills:
            load = await killed(world, folder, port, chosen)
            times = f"{chosen.kills} kills in a burst"
            print(load.row(times), f"({load.repeats} repeats, {lost(folder, load)} lost of those answered 2xx)")


async def killed(world: World, folder: Path, port: int, chosen: argparse.Namespace) -> Load:
    """A burst during which the process is killed and started again, by a sender that repeats what was not answered."""
    chance = random.Random(7)
    seconds = max(chosen.burst_seconds, chosen.kills * 3)
    done = asyncio.Event()

    async def kill_and_start() -> None:
        for _ in range(chosen.kills):
            async with serving(folder, port) as process:
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                process.send_signal(signal.SIGKILL)
                process.wait()
        async with serving(folder, port):
            await done.wait()

    killing = asyncio.create_task(kill_and_start())
    load = await send(world, port, chosen.burst, seconds, "killed", again=True)
    done.set()
    await killing
    return load


async def send(world: World, port: int, rate: int, seconds: int, name: str, *, again: bool = False) -> Load:
    """Deliveries at this rate, each due at its own instant whatever became of the others."""
    load, total = Load(), rate * seconds
    turn, began = iter(range(total)), time.perf_counter() + 0.2

    async def work() -> None:
        link = Link(port)
        for n in turn:
            due = began + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            event_id = f"evt_{name.replace(' ', '').replace('/', '')}-{n}"
            code = await link.post(event_id, world.ids.subscription(n % SUBSCRIPTIONS))
            while again and not 200 <= code < 300:
                load.repeats += 1
                await asyncio.sleep(0.3)
                code = await link.post(event_id, world.ids.subscription(n % SUBSCRIPTIONS))
            load.latencies.append((time.perf_counter() - due) * 1000)
            load.codes[code] += 1
            if 200 <= code < 300:
                load.answered.add(event_id)
        link.close()

    await asyncio.gather(*(work() for _ in range(min(rate, 200))))
    return load


class Link:
    """One kept connection that says just enough HTTP, so that the sender costs little beside what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, event_id: str, ext_id: str) -> int:
        """Sign and send one event; the status, 0 for no answer."""
        body = (
            f'{{"id":"{event_id}","type":"subscription.statusChanged","version":"v2","createdAt":"2026-04-02T09:00:31Z",'
            f'"test":true,"data":{{"uuid":"{ext_id}","previousStatus":"active","status":"pastDue"}}}}'
        ).encode()
        stamp = str(int(time.time()))
        made = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        head = (
            f"POST /hooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"QBitFlow-Signature: t={stamp},v1={made}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            return int(answer[9:12])
        except (OSError, EOFError, ValueError):
            self.close()
            return 0

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def lost(folder: Path, load: Load) -> int:
    """How many of those that were answered 2xx are not in the database."""
    with sqlite3.connect(f"file:{folder / 'monitor.db'}?mode=ro", uri=True) as db:
        stored = {row[0] for row in db.execute("SELECT dedupe_key FROM facts")}
    return len(load.answered - stored)


@asynccontextmanager
async def serving(folder: Path, port: int) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`monitor serve` while the block runs."""
    with running([*PROCESS, "serve", "--bind", f"127.0.0.1:{port}"], folder) as process:
        await reachable(port)
        yield process


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs; what it says is kept in the folder."""
    with (folder / f"{command[3]}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


async def reachable(port: int) -> None:
    """Wait until somebody listens there."""
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(json.dumps({"port": port}))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far, its reading again included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
