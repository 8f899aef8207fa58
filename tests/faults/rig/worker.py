"""The product in a process that may be killed: a run and a delivery against a served sandbox and a mail server.

`python -m tests.faults.rig.worker` is a warm parent: it imports everything once, prints `ready`, then obeys lines of
JSON. `{"start": {...}}` forks a worker for that job and answers `{"pid": n}`; `{"wait": n}` answers `{"code": c}`.
`--job FILE` is one cold worker in this process, which prints `ready` when its imports are done.

Failpoints are injected through `Tools.failpoint`: the worker kills itself at the n-th pass of the one that is named.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.clock import ManualClock
from monitor.domain.guard import GuardLimits
from monitor.domain.letter import Brand
from monitor.domain.model import Kind, Mode
from monitor.errors import MonitorError
from monitor.mail.mailer import TemplateMailer
from monitor.mail.samples import sample
from monitor.mail.smtp import SmtpTransport
from monitor.providers import qbitflow_v2
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.usecases import dispatch, post
from monitor.usecases.context import Account, Tools
from monitor.usecases.deliver import deliver_account
from monitor.usecases.run import Run, RunOptions
from monitor.wiring.keys import address_mac
from tests.harness import unsynced

WIDE_OPEN = GuardLimits(share=Decimal(1), small=100_000, mails_floor=100_000, missing=Decimal(1))
"""Limits that never hold: these tests are about deaths, not about the guard."""
MAILER = TemplateMailer()
FAILED, BUSY = 1, 4


@dataclass(frozen=True)
class Job:
    """One start of a worker. Everything in it is JSON."""

    url: str
    state_dir: str
    api: str
    key: str
    smtp: int
    now: str
    report: str
    stages: tuple[str, ...] = ("run", "deliver")
    kill_at: str | None = None
    kill_pass: int = 1
    fail_at: str | None = None
    """Raise an OSError (a full disk) there instead, at the same pass."""
    drain_s: float | None = None
    """Shorten the wait for replies after a stop signal."""
    claim_at_once: int | None = None
    """Claim fewer mails: what is claimed and killed was rendered for nothing."""
    page_rows: int | None = None
    """Ask for smaller pages: many pages of few rows."""


@dataclass
class Report:
    """What a worker did, as it wrote it down before it left."""

    outcome: str = ""
    delivery: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    error: str = ""


mac = address_mac(b"a key for tests")


async def instantly(_seconds: float) -> None:
    await asyncio.sleep(0)


def account_at(api: str, key: str, clock: ManualClock, **choices: Any) -> Account:
    """The account that all workers work for."""
    provider = qbitflow_v2.QBitFlowV2(base_url=api, api_key=key, account="acme", clock=clock, sleep=instantly)
    values: dict[str, Any] = {
        "name": "acme",
        "provider_name": "qbitflow-v2",
        "mode": Mode.LIVE,
        "provider": provider,
        "sender": "Acme Billing <billing@acme.example>",
        "sender_address": "billing@acme.example",
        "reply_to": "help@acme.example",
        "brand": Brand("Acme", "https://acme.example", "#3456d1"),
        "zone": "Europe/Budapest",
        "link_hosts": frozenset({"qbitflow.example", "acme.example"}),
        "guard": WIDE_OPEN,
    }
    return Account(**{**values, **choices})


def failpoint_of(job: Job, passes: Counter[str]) -> Callable[[str], None]:
    """Counts every pass; dies, or fails as a full disk would, at the one that the job names."""

    def pass_by(name: str) -> None:
        passes[name] += 1
        if passes[name] != job.kill_pass:
            return
        if name == job.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == job.fail_at:
            raise OSError(28, "No space left on device")

    return pass_by


async def work(job: Job) -> tuple[int, Report]:
    """One start: the stages of the job, then the exit code."""
    report, passes = Report(), Counter[str]()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    if job.drain_s is not None:
        post.DRAIN_S = job.drain_s
    if job.claim_at_once is not None:
        dispatch.CLAIM_AT_ONCE = job.claim_at_once
    if job.page_rows is not None:
        qbitflow_v2.PAGE_ROWS = job.page_rows
    db, clock, locks = (
        unsynced(Database(job.url)),
        ManualClock(datetime.fromisoformat(job.now)),
        FileLocks(Path(job.state_dir)),
    )
    account = account_at(job.api, job.key, clock)
    tools = Tools(
        db=db,
        clock=clock,
        owner=locks.owner,
        locks=locks,
        address_mac=mac,
        sleep=asyncio.sleep,
        failpoint=failpoint_of(job, passes),
        stopping=stopped.is_set,
    )
    code = 0
    try:
        if "run" in job.stages:
            done = await Run(tools, account, RunOptions(state_dir=Path(job.state_dir))).execute()
            report.outcome, report.problems = done.outcome, [*done.problems, *done.held]
        if report.outcome == "already_running":
            code = BUSY
        elif "deliver" in job.stages:
            transport = SmtpTransport("127.0.0.1", job.smtp, security="none", own_name="worker.example")
            delivery = await deliver_account(tools, account, transport, MAILER)
            told = {one.name: getattr(delivery, one.name) for one in fields(delivery)}
            report.delivery = {name: value for name, value in told.items() if name != "by_kind"}
    except (MonitorError, OSError) as error:
        report.error, code = f"{type(error).__name__}: {error}", FAILED
    finally:
        report.passes = dict(passes)
        await account.provider.aclose()
        await db.aclose()
        locks.close()
    return code, report


def run_job(values: dict[str, Any]) -> int:
    """In this process, from beginning to end; the report is written whole or not at all."""
    job = Job(**values)
    code, report = asyncio.run(work(job))
    fresh = Path(f"{job.report}.new")
    fresh.write_text(json.dumps(vars(report), default=str))
    fresh.replace(job.report)
    return code


def _fork(values: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        errors = os.open(f"{values['report']}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.dup2(errors, 2)
        code = run_job(values)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    """The warm parent: forks on demand, until its input ends; then nothing of it stays behind."""
    alive: set[int] = set()
    for kind in Kind:  # or every child compiles the templates again
        MAILER.make(sample(kind))
    gc.collect()
    gc.freeze()  # what the children share is not written to by their collector, so it stays shared
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, int] = {}
        if "start" in order:
            answer["pid"] = _fork(order["start"])
            alive.add(answer["pid"])
        else:
            _, status = os.waitpid(order["wait"], 0)
            answer["code"] = os.waitstatus_to_exitcode(status)
            alive.discard(order["wait"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path)
    given = parser.parse_args()
    if given.job is None:
        _serve()
        return 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return run_job(json.loads(given.job.read_text()))


if __name__ == "__main__":
    sys.exit(main())
