"""Where workers die: a served sandbox and a mail server in the test's own process, workers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from monitor.sandbox.faults import Faults
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.transitions import cause
from monitor.sandbox.world import World
from monitor.store.engine import Database
from monitor.store.revision import upgrade
from tests.faults.rig.oracle import Verdict, verdict_of
from tests.faults.rig.sink import Script, Sink
from tests.faults.rig.worker import Job, Report

ROOT = Path(__file__).parents[3]
KILLED = -signal.SIGKILL
LONGEST = 120.0
"""Seconds after which a worker hangs rather than works."""


class Forge:
    """The warm parent of the workers; one a test process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.rig.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, order: dict[str, Any]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Worker:
    """A worker that was started. Its pid is its own until `end` has seen it off."""

    pid: int
    job: Job
    forge: Forge

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, how)

    async def end(self) -> int:
        """Wait until it has ended; its exit code, -9 when it was killed."""
        handle, ended = os.pidfd_open(self.pid), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(handle, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), LONGEST)
        except TimeoutError as error:
            self.kill()
            raise AssertionError(f"a worker did not end in {LONGEST} s: {self.errors()}") from error
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        code = self.forge.ask({"wait": self.pid})["code"]
        assert code in {0, 1, 4, KILLED}, f"a worker ended with {code}: {self.errors()}"
        return code

    def errors(self) -> str:
        path = Path(f"{self.job.report}.err")
        return path.read_text()[-3000:] if path.exists() else ""

    def report(self) -> Report:
        """What it wrote down. Raises when it was killed before."""
        return Report(**json.loads(Path(self.job.report).read_text()))


@dataclass
class Scene:
    """The parts of one test, and what was done to its workers."""

    world: World
    faults: Faults
    server: SandboxServer
    sink: Sink
    forge: Forge
    url: str
    folder: Path
    starts: int = 0
    kills: int = 0
    expected: list[str] = field(default_factory=list)
    """The addresses that must get their mail."""

    def start(self, **changes: Any) -> Worker:
        """Start a worker; `changes` are fields of `Job`."""
        self.starts += 1
        values: dict[str, Any] = {
            "url": self.url,
            "state_dir": str(self.folder / "var"),
            "api": self.server.url,
            "key": self.world.ids.api_key,
            "smtp": self.sink.port,
            "now": self.world.now.isoformat(),
            "report": str(self.folder / f"report-{self.starts}.json"),
        }
        job = Job(**{**values, **changes})
        return Worker(self.forge.ask({"start": asdict(job)})["pid"], job, self.forge)

    async def work(self, **changes: Any) -> tuple[int, Worker]:
        """Start a worker and see it off."""
        worker = self.start(**changes)
        code = await worker.end()
        self.kills += code == KILLED
        return code, worker

    async def done(self, **changes: Any) -> Report:
        """Start a worker that must end by itself, without an error."""
        code, worker = await self.work(**changes)
        assert code == 0, (code, worker.errors(), Path(worker.job.report).read_text())
        return worker.report()

    def cause(self, **wanted: int) -> None:
        """Move subscriptions into situations; their customers are expected to be told. `:` is written `__`."""
        caused = cause(self.world, {name.replace("__", ":"): count for name, count in wanted.items()})
        for ids in caused.values():
            for ext_id in ids:
                customer = self.world.get(ext_id).customer
                assert customer is not None
                self.expected.append(customer.email)

    def verdict(self) -> Verdict:
        return verdict_of(self.url, self.sink.log)

    def states(self) -> dict[str, int]:
        return dict(self.rows("SELECT state, count(*) FROM notifications GROUP BY state"))

    def rows(self, sql: str, **values: Any) -> list[Any]:
        return self._execute(lambda connection: list(connection.execute(text(sql), values)))

    def write(self, sql: str, **values: Any) -> None:
        self._execute(lambda connection: connection.execute(text(sql), values))

    def _execute(self, act: Callable[[Any], Any]) -> Any:
        engine = create_engine(self.url.replace("+aiosqlite", ""))
        try:
            with engine.begin() as connection:
                return act(connection)
        finally:
            engine.dispose()

    def check(self, *, untold: Iterable[str] = ()) -> Verdict:
        """Every promise about every mail so far: none lost, none doubled without a record, none a third time.

        `untold` are expected addresses that may have got nothing, since their mail ended in doubt.
        """
        verdict = self.verdict()
        assert verdict.broken == {}, verdict.lines()
        assert verdict.unfinished == [], (verdict.lines(), self.states())
        told = {mail.recipients[0] for mail in self.sink.accepted()}
        doubtful = set(untold) | {
            row[0] for row in self.rows("SELECT recipient FROM notifications WHERE state = 'unsettled'")
        }
        silent = set(self.expected) - told - doubtful
        assert silent == set(), ("never told", silent, self.states())
        assert told <= set(self.expected), ("told for nothing", told - set(self.expected))
        return verdict


@asynccontextmanager
async def acting(
    world: World, url: str, folder: Path, forge: Forge, *, script: Script | None = None, baseline: bool = True
) -> AsyncIterator[Scene]:
    """Serve the world and a mail server; with `baseline` the account has met its world already."""
    database = Database(url)
    await upgrade(database)
    await database.aclose()
    folder.mkdir(parents=True, exist_ok=True)
    faults = Faults()
    async with (
        SandboxServer(world, faults, clock=world.clock) as server,
        Sink(folder / "accepted.jsonl", {} if script is None else script, keep_bodies=False) as sink,
    ):
        scene = Scene(world, faults, server, sink, forge, url, folder)
        if baseline:
            await scene.done(stages=("run",))
        yield scene
