"""One account after another: run it, deliver, and keep what there is to tell. One account's error stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from monitor.cli.exits import Exit, code_of
from monitor.errors import ConfigError, MonitorError
from monitor.store.accounts import find_account
from monitor.store.summaries import EventCount, HeldMails, MailCount, events_of_run, held_waiting, mails_counted
from monitor.usecases.deliver import deliver_account
from monitor.usecases.dispatch import Delivery
from monitor.usecases.run import Run, RunOptions, RunReport
from monitor.usecases.watch import levels
from monitor.wiring.process import Wiring

_DELIVERS_AFTER = frozenset({"complete", "partial", "held", "already_done"})


@dataclass(frozen=True, slots=True)
class Stages:
    """What to do with each account. `at` names the instant of decisions."""

    sync: bool = True
    deliver: bool = True
    at: datetime | None = None
    trigger: str = "cli"


@dataclass(slots=True)
class Pass:
    """What was done with one account, and how it ended."""

    account: str
    zone: str
    report: RunReport | None = None
    delivery: Delivery | None = None
    changes: list[EventCount] = field(default_factory=list)
    mails: list[MailCount] = field(default_factory=list)
    waiting_for_people: list[HeldMails] = field(default_factory=list)
    """What is held, of this run or earlier."""
    newly_held: bool = False
    """The guard held a batch in this pass, of this run or of what came in between."""
    error: MonitorError | None = None

    @property
    def outcome(self) -> str:
        """The run's outcome; `failed` after an error, `delivered` where only mails were delivered."""
        if self.error is not None:
            return "failed"
        return "delivered" if self.report is None else self.report.outcome

    @property
    def exit_code(self) -> Exit:
        """2 for the operator to mend, 3 held by the guard, 1 for what failed; a waiting mail is no failure."""
        if self.error is not None:
            return code_of(self.error)
        if self.newly_held or self.outcome == "held" or (self.delivery is not None and self.delivery.held):
            return Exit.HELD
        failed = self.outcome in {"partial", "interrupted"}
        return Exit.FAILURES if failed or _failed(self.delivery) else Exit.DONE

    def as_json(self) -> dict[str, Any]:
        """The stable keys of `--format json`."""
        report, delivery = self.report, self.delivery
        return {
            "account": self.account,
            "outcome": self.outcome,
            "exit_code": int(self.exit_code),
            "error": None if self.error is None else {"type": type(self.error).__name__, "message": str(self.error)},
            "run": None
            if report is None
            else {
                "id": report.run_id,
                "now": report.now_at,
                "baseline": report.baseline,
                "resumed": report.resumed,
                "counts": report.counts,
                "changes": [
                    {"kind": one.kind, "new": one.new, "cause": one.cause, "count": one.count} for one in self.changes
                ],
                "batch": report.batch_id,
                "plan_hash": report.plan_hash,
                "held": report.held,
                "problems": report.problems,
            },
            "mails": [
                {"kind": one.kind, "state": one.state.value, "reason": one.reason, "count": one.count}
                for one in self.mails
            ],
            "delivery": None if delivery is None else delivery_json(delivery),
            "waiting_for_people": [
                {"batch": one.batch_id, "whole": one.whole, "mails": one.mails} for one in self.waiting_for_people
            ],
        }


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """A delivery's figures; rules with their counts."""
    halt = delivery.stopped_by
    return {
        "sent": delivery.sent,
        "failed": delivery.failed,
        "deferred": delivery.deferred,
        "ambiguous": delivery.ambiguous,
        "held": delivery.held,
        "voided": {rule: number for rule, number in sorted(delivery.voided.items()) if number},
        "snoozed": {rule: number for rule, number in sorted(delivery.snoozed.items()) if number},
        "waiting": delivery.waiting,
        "waiting_until": delivery.waiting_until,
        "stopped_by": None if halt is None else {"rule": halt.rule.value, "why": halt.why, "until": halt.until},
        "problems": delivery.problems,
    }


async def pass_over(wiring: Wiring, name: str, stages: Stages) -> Pass:
    """Do the stages with one account. An error of ours is kept in the answer, any other is raised."""
    done = Pass(name, wiring.settings.account(name).timezone)
    try:
        await _stages(wiring, done, stages)
    except MonitorError as error:
        done.error = error
    return done


async def _stages(wiring: Wiring, done: Pass, stages: Stages) -> None:
    account, tools = wiring.account(done.account), wiring.tools
    before = {one.batch_id for one in await _held(wiring, done.account) if one.whole}
    if stages.sync:
        options = RunOptions(trigger=stages.trigger, at=stages.at, state_dir=wiring.settings.state_dir)
        done.report = await Run(tools, account, options).execute()
    if stages.deliver and (done.report is None or done.report.outcome in _DELIVERS_AFTER):
        transport = wiring.transport(done.account)
        state_dir = wiring.settings.state_dir
        done.delivery = await deliver_account(
            tools, account, transport, wiring.mailer, at=stages.at, state_dir=state_dir
        )
    await _look_back(wiring, done)
    done.newly_held = any(one.whole and one.batch_id not in before for one in done.waiting_for_people)


async def _look_back(wiring: Wiring, done: Pass) -> None:
    report, delivery = done.report, done.delivery
    ids: Sequence[str] = () if delivery is None else delivery.sent_ids
    async with wiring.db.read() as conn:
        if report is not None and report.run_id is not None:
            done.changes = await events_of_run(conn, report.run_id)
        done.mails = await mails_counted(conn, None if report is None else report.batch_id, ids)
    done.waiting_for_people = await _held(wiring, done.account)


async def _held(wiring: Wiring, name: str) -> list[HeldMails]:
    async with wiring.db.read() as conn:
        row = await find_account(conn, name)
        return [] if row is None else await held_waiting(conn, row.id)


def _failed(delivery: Delivery | None) -> bool:
    if delivery is None:
        return False
    halt = delivery.stopped_by
    return bool(delivery.failed or (halt is not None and not halt.rule.expected))


async def write_metrics(wiring: Wiring, done: Sequence[Pass], path: Path) -> None:
    """Write what these passes did, and how things stand, as a text file. Raises `ConfigError` for the path."""
    for one in done:
        if one.report is not None or one.error is not None:
            wiring.meter.ran(one.account, one.outcome, {} if one.report is None else one.report.counts)
        if one.delivery is not None:
            wiring.meter.delivered(one.account, one.delivery.by_kind, one.delivery.rescued)
    now = wiring.tools.clock.now()
    wiring.meter.show(await levels(wiring.db, wiring.watched(), now), now)
    try:
        wiring.meter.write(path)
    except OSError as error:
        raise ConfigError(f"--metrics-file: {path} cannot be written ({error.strerror}); name another one") from None
