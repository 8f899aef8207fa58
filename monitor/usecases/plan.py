"""The dry run: a real run on a scratch copy of the database, with a mailbox that only takes notes.

So the plan is what the real run would do by construction, not by imitation: the same code reads the API, judges, passes
the gate and examines every mail. Only the copy is written, and no mail server is ever connected.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from monitor.domain.model import NotificationState
from monitor.domain.replies import Phase
from monitor.mail.transport import Reply
from monitor.store.accounts import find_account
from monitor.store.engine import Database
from monitor.store.plans import PlannedMail, mail_states, planned_mails
from monitor.store.scratch import scratch_copy
from monitor.usecases.context import Account, Tools
from monitor.usecases.deliver import deliver_account
from monitor.usecases.dispatch import Delivery
from monitor.usecases.letters import Mailer
from monitor.usecases.run import DRY_RUN, Run, RunOptions, RunReport

_VOLATILE = ("date_header", "now", "first_in_episode", "in_reply_to")
_ENDS = {
    NotificationState.SENT: "send",
    NotificationState.HELD: "hold",
    NotificationState.VOIDED: "void",
    NotificationState.FAILED: "fail",
    NotificationState.UNSETTLED: "unsettled",
}


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One mail of the plan. `what`: send, wait, hold, void, fail; `facts` is a hash of what it would say."""

    mail: PlannedMail
    what: str
    facts: str | None


@dataclass(slots=True)
class Plan:
    """What a real run started now would do."""

    report: RunReport
    delivery: Delivery
    lines: list[PlanLine] = field(default_factory=list)

    @property
    def plan_hash(self) -> str:
        """The hash of the mails that would be sent or held, as the gate would compute it."""
        ids = sorted(line.mail.id for line in self.lines if line.what in {"send", "wait", "hold"})
        return sha256("\n".join(ids).encode()).hexdigest()


async def dry_run(
    tools: Tools, account: Account, mailer: Mailer, folder: Path, state_dir: Path, *, at: datetime | None = None
) -> Plan:
    """Plan a run of this account in `folder`, which the caller removes. Raises what a run raises."""
    scratch, witness = await scratch_copy(tools.db, folder, account.name, state_dir)
    try:
        before = await _states(scratch, account.name)
        dry = replace(tools, db=scratch, locks=_NoLocks(tools.locks))
        options = RunOptions(trigger=DRY_RUN, at=at, state_dir=folder, witness=witness, check_witness=False)
        report = await Run(dry, account, options).execute()
        delivery = await deliver_account(dry, account, _NotingTransport(), mailer, at=report.now_at, witness=witness)
        async with scratch.read() as conn:
            row = await find_account(conn, account.name)
            mails = [] if row is None else await planned_mails(conn, row.id)
        lines = [_line(mail) for mail in mails if _matters(mail, before)]
        return Plan(report, delivery, lines)
    finally:
        await scratch.aclose()


async def _states(scratch: Database, account: str) -> dict[str, str]:
    async with scratch.read() as conn:
        row = await find_account(conn, account)
        return {} if row is None else await mail_states(conn, row.id)


def _matters(mail: PlannedMail, before: dict[str, str]) -> bool:
    """What the run would change or still keeps waiting; not what had ended before."""
    waiting = mail.state in {NotificationState.READY, NotificationState.AMBIGUOUS, NotificationState.HELD}
    return waiting or before.get(mail.id) != mail.state


def _line(mail: PlannedMail) -> PlanLine:
    return PlanLine(mail, _ENDS.get(mail.state, "wait"), _facts_hash(mail.letter))


def _facts_hash(letter: str | None) -> str | None:
    if letter is None:
        return None
    values: dict[str, Any] = json.loads(letter)
    kept = {key: value for key, value in values.items() if key not in _VOLATILE}
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _NoLocks:
    """A dry run is alone on its copy; who is dead is seen on the real locks."""

    real: Any

    def hold_run(self, account: str) -> bool:
        return bool(account)

    def release_run(self, account: str) -> None:
        """Nothing was held."""

    def is_dead(self, owner: str) -> bool:
        return bool(self.real.is_dead(owner))


class _NotingTransport:
    """A mail server that says yes and delivers nothing; it opens no connection."""

    pipelining = False
    connections = 1

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_NotingTransport]:
        yield self

    async def envelope(self, sender: str, recipient: str) -> Reply:
        return Reply(Phase.RCPT, 250 if sender and recipient else 550)

    async def body(self, message: bytes, following: tuple[str, str] | None = None) -> Reply:  # noqa: ARG002  # it says yes to all
        return Reply(Phase.DOT, 250 if message else 554)

    async def reset(self) -> None:
        """Nothing to forget."""
