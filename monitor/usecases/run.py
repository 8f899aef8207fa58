"""One pass over one account, up to the gate: facts, sweep, time, absence, guard. Delivery is `dispatch`.

Killed anywhere, the next start goes on: before a commit nothing happened, after it `run_pages` says where to go on, and
staged mails stay silent until a GATE.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from monitor.domain.model import Identity, RunState, Window
from monitor.errors import ConfigError
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow, change_account, ensure_account, lock_account
from monitor.store.asks import answer_all, newest_fact
from monitor.store.batches import run_batch
from monitor.store.engine import db_now
from monitor.store.locks import BEAT, RUN_LOCK, beat_lock, fence, lock_holder, release_lock, take_lock
from monitor.store.runs import (
    RESUME_WITHIN,
    RunRow,
    change_run,
    insert_run,
    newest_decision,
    run_totals,
    unfinished_run,
)
from monitor.store.subscriptions import count_live, creation_cuts
from monitor.store.witness import check_witness, note_witness, seal_witness
from monitor.usecases.absence import Absence, ask_missing
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.gate import Sight, Verdict, pass_gate
from monitor.usecases.hook_watch import watch_hooks
from monitor.usecases.identity import CLOCK_TOLERANCE, check_identity
from monitor.usecases.intake import fold_open_facts, walk_log
from monitor.usecases.prices import read_prices
from monitor.usecases.pull import Sweep, reader_of
from monitor.usecases.read_known import Errand
from monitor.usecases.reread import Joins, reread_all
from monitor.usecases.sweeping import read_the_past, sweep_and_pay
from monitor.usecases.tick import look_at_what_is_due

ROWS_PER_WINDOW = 2_500
MOST_WINDOWS = 4
DRY_RUN = "dry_run"
_EDGE = timedelta(seconds=1)  # both bounds are excluded by the API, so neighbouring windows overlap


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How this run was started. `at` names the instant of decisions; `slot` is the daemon's local date."""

    trigger: str = "cli"
    slot: str | None = None
    at: datetime | None = None
    state_dir: Path = Path("var")
    witness: str | None = None
    """A verdict taken elsewhere, for a run on a copy of the database."""
    check_witness: bool = True


@dataclass(slots=True)
class RunReport:
    """What one run did. `outcome`: complete, partial, held, already_running, already_done or interrupted."""

    account: str
    outcome: str
    now_at: datetime | None = None
    run_id: int | None = None
    baseline: bool = False
    counts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    held: tuple[str, ...] = ()
    batch_id: int | None = None
    plan_hash: str | None = None
    resumed: bool = False


class Run:
    """The steps of one run, in order. One instance, one run."""

    def __init__(self, tools: Tools, account: Account, options: RunOptions) -> None:
        """Nothing happens yet."""
        self._tools = tools
        self._account = account
        self._options = options
        self._lock = f"{RUN_LOCK}{account.name}"
        self._space: str | None = None
        self._read_since: int | None = None

    async def execute(self) -> RunReport:
        """Run up to the gate.

        Raises `ConfigError` when the key, the mode, the clock or the database do not fit, `ProviderError` when the API
        is out of reach altogether, `StoreError` when the database refuses.
        """
        if not self._tools.locks.hold_run(self._account.name):
            return RunReport(self._account.name, "already_running")
        try:
            return await self._locked()
        except BaseExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            self._tools.locks.release_run(self._account.name)

    async def _locked(self) -> RunReport:
        tools, account = self._tools, self._account
        async with tools.db.write() as conn:
            row = await ensure_account(conn, account.name, account.provider_name, account.mode)
            holder = await lock_holder(conn, self._lock)
            dead = holder is not None and tools.locks.is_dead(holder)
            token = await take_lock(conn, self._lock, tools.owner, steal=tools.db.is_sqlite or dead)
        if token is None:
            return RunReport(account.name, "already_running")
        tools.failpoint("after_lock")
        async with self._beating(token):
            account.provider.end_after(account.run_time)
            try:
                return await self._identified(row, token)
            finally:
                account.provider.end_after(None)
                async with tools.db.write() as conn:
                    await release_lock(conn, self._lock, token)

    @asynccontextmanager
    async def _beating(self, token: int) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await self._tools.sleep(BEAT.total_seconds())
                async with self._tools.db.write() as conn:
                    if not await beat_lock(conn, self._lock, token):
                        return  # the next PAGE or GATE finds out and stops

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _identified(self, row: AccountRow, token: int) -> RunReport:
        tools, account = self._tools, self._account
        identity = await account.provider.identify()
        check_identity(tools.clock, account, row, identity)
        now = travelled_now(tools.clock, row, self._options.at)
        bound_at = identity.api_at + (now - tools.clock.now())
        async with tools.db.write() as conn:
            witness = self._options.witness
            if self._options.check_witness:
                witness = await check_witness(conn, tools.db, self._options.state_dir)
                await self._refuse_yesterday(conn, row)
            self._space = identity.space_uuid
            same_api = row.provider == account.provider_name
            await change_account(conn, row.id, **self._account_values(identity, now, same_api=same_api))
            asked_at = await db_now(conn)
            run, resumed, abandoned = await self._begin(conn, row, token, now, bound_at, asked_at)
            known_before = await count_live(conn, row.id)
        if run is None:
            return RunReport(account.name, "already_done", now_at=now)
        if abandoned is not None:
            await self._gate(
                row, abandoned, Sweep(interrupted=True), Absence(), known_before, witness, RunState.ABANDONED
            )
        return await self._sweep(row, run, known_before, witness, resumed=resumed)

    async def _refuse_yesterday(self, conn: Any, row: AccountRow) -> None:
        """A journey through time goes forward only: the account would stay in the past, and see nothing."""
        newest = await newest_decision(conn, row.id)
        at = self._options.at
        if at is not None and newest is not None and at < newest:
            raise ConfigError(
                f"--now: {at:%Y-%m-%d %H:%M} lies before the newest run of {row.name} ({newest:%Y-%m-%d %H:%M} UTC), "
                "and time goes forward only; name a later instant, or add --dry-run to look at an earlier one"
            )

    def _account_values(self, identity: Identity, now: datetime, *, same_api: bool) -> dict[str, object]:
        values: dict[str, object] = {"mode": self._account.mode}
        if same_api:  # another API's name of the space counts once that API has been walked whole
            values["space_uuid"] = identity.space_uuid
        if self._options.at is not None:
            values["time_travel"] = now - self._tools.clock.now()
        return values

    async def _begin(
        self, conn: Any, row: AccountRow, token: int, now: datetime, bound_at: datetime, asked_at: datetime
    ) -> tuple[RunRow | None, bool, RunRow | None]:
        """The run to do, whether it goes on after a kill, and an older unfinished one that is given up."""
        unfinished = await unfinished_run(conn, row.id)
        # The API's Date has whole seconds: two starts of one moment may be bound in the other order.
        if unfinished is not None and -CLOCK_TOLERANCE < bound_at - unfinished.bound_at < RESUME_WITHIN:
            await change_run(conn, unfinished.id, token=token)
            return await unfinished_run(conn, row.id), True, None
        if unfinished is not None:
            await change_run(conn, unfinished.id, token=token, state=RunState.ABANDONED)
            unfinished = replace(unfinished, token=token)  # its gate is ours to pass now
        run = await insert_run(
            conn,
            account_id=row.id,
            slot=self._options.slot,
            trigger=self._options.trigger,
            token=token,
            now=now,
            bound_at=bound_at,
            asked_at=asked_at,
            windows=await self._windows(conn, row, bound_at),
            baseline=row.baselined_at is None,
        )
        return run, False, unfinished

    async def _windows(self, conn: Any, row: AccountRow, bound_at: datetime) -> tuple[Window, ...]:
        """Slices of creation time of about equal size; the last ends where the run began: inserts shift nothing."""
        parts = 1
        if row.baselined_at is not None and Capability.WINDOWS in self._account.provider.capabilities:
            parts = max(1, min(MOST_WINDOWS, await count_live(conn, row.id) // ROWS_PER_WINDOW))
        cuts = await creation_cuts(conn, row.id, parts)
        edges: list[datetime | None] = [None, *cuts, bound_at]
        return tuple(
            Window(number, None if after is None else after - _EDGE, before)
            for number, (after, before) in enumerate(pairwise(edges))
        )

    async def _sweep(
        self, row: AccountRow, run: RunRow, known_before: int, witness: str | None, *, resumed: bool
    ) -> RunReport:
        tools, account = self._tools, self._account
        problems = await read_prices(tools, account, row)
        log = await walk_log(tools, account, row, run.now_at)
        if log.problem is not None:
            problems.append(f"event log: {log.problem}")
        silence = await watch_hooks(tools, account, row, log.fresh, run.bound_at)
        if silence is not None:
            problems.append(f"webhooks: {silence}")
        await fold_open_facts(tools, row, run.now_at)
        async with tools.db.write() as conn:
            await fence(conn, self._lock, run.token)
            batch_id = await run_batch(conn, row.id, run.id, run.now_at)
            # what a resumed run read before it was killed may be older than a fact
            self._read_since = None if resumed else await newest_fact(conn, row.id)
            before = {"rows_before": (await run_totals(conn, run))[0]} if resumed else {}
        sweep, said, figures = await sweep_and_pay(tools, account, row, run, Errand(self._lock, batch_id))
        problems += said
        ticked = await look_at_what_is_due(
            tools, account, row, run.now_at, batch_id=batch_id, run_id=run.id, lock=(self._lock, run.token)
        )
        sweep.outcome.add(ticked)
        if not self._reads_all(sweep):
            joins = Joins(batch_id, run.id, self._lock, run.token)
            again = await reread_all(tools, account, row, run.now_at, joins=joins)
            sweep.outcome.add(again.outcome)
            problems += again.problems
        absence = Absence(missing=sweep.newly_gone, gone=sweep.gone)
        if sweep.complete and Capability.LIST in account.provider.capabilities:
            absence = await ask_missing(tools, account, row, run, batch_id=batch_id, lock=self._lock)
            problems += absence.problems
        report = RunReport(
            account.name,
            "interrupted" if sweep.interrupted else "",
            now_at=run.now_at,
            run_id=run.id,
            baseline=run.baseline,
            problems=problems,
            resumed=resumed,
            counts={**self._counts(sweep, absence, log.facts), **before, **figures},
        )
        if sweep.interrupted:
            return report  # the run row stays unfinished: the next start goes on from here
        state = RunState.COMPLETE if sweep.complete else RunState.PARTIAL
        verdict = await self._gate(row, run, sweep, absence, known_before, witness, state, report)
        report.outcome = "held" if verdict.held else state.value
        report.held = verdict.reasons
        report.batch_id = verdict.batch_id
        report.plan_hash = verdict.plan_hash
        report.counts["mails"] = verdict.mails
        if self._options.trigger != DRY_RUN:  # nothing of it is ever mailed
            await self._read_the_past(row, run, report)
        return report

    async def _read_the_past(self, row: AccountRow, run: RunRow, report: RunReport) -> None:
        problems, figures = await read_the_past(self._tools, self._account, row, run, lock=self._lock)
        if not problems and not figures:
            return
        report.problems += problems
        report.counts.update(figures)
        async with self._tools.db.write() as conn:
            await change_run(conn, run.id, counts=report.counts, problems="\n".join(report.problems) or None)

    def _reads_all(self, sweep: Sweep) -> bool:
        """Whether this sweep answers whatever facts had asked before it began."""
        lists = Capability.LIST in self._account.provider.capabilities
        return lists and sweep.complete and self._read_since is not None

    async def _gate(
        self,
        row: AccountRow,
        run: RunRow,
        sweep: Sweep,
        absence: Absence,
        known_before: int,
        witness: str | None,
        state: RunState,
        report: RunReport | None = None,
    ) -> Verdict:
        tools = self._tools
        tools.failpoint("before_gate")
        seal: tuple[str, int] | None = None
        async with tools.db.write() as conn:
            locked = await lock_account(conn, row.id)
            await fence(conn, self._lock, run.token)
            batch_id = await run_batch(conn, row.id, run.id, run.now_at)
            rows, newly_unknown = await run_totals(conn, run)
            sight = Sight(
                # a partial sweep must not hide behind the rows that it did not see
                population=(known_before or rows) if sweep.complete else rows,
                rows=rows,
                known_live=known_before,
                missing=absence.missing,
                newly_unknown=newly_unknown,
                witness=witness,
                provider_changed=locked.provider != self._account.provider_name,
            )
            verdict = await pass_gate(conn, self._account, locked, batch_id, sight, run.now_at)
            if sweep.complete:
                provider = {"provider": self._account.provider_name, "space_uuid": self._space}
                read_by = reader_of(self._account)
                await change_account(conn, row.id, sweep_started_at=run.asked_at, read_by=read_by, **provider)
            if (sweep.complete or sweep.knows_all) and locked.baselined_at is None:
                await change_account(conn, row.id, baselined_at=run.bound_at)
            if self._reads_all(sweep):
                await answer_all(conn, row.id, self._read_since or 0)
            if witness is None and self._options.check_witness:
                seal = await seal_witness(conn, tools.db)
                if seal[1] == 1:
                    # the first use: killed between commit and note, the database must not look as if its file was lost
                    note_witness(self._options.state_dir, seal[0], 0)
            await change_run(
                conn,
                run.id,
                state=RunState.HELD if verdict.held and state is RunState.COMPLETE else state,
                counts={} if report is None else report.counts,
                problems="\n".join(report.problems) if report is not None and report.problems else None,
                ended_at=tools.clock.now(),
            )
            tools.failpoint("before_gate_commit")
        tools.failpoint("after_gate_commit")
        if seal is not None:
            note_witness(self._options.state_dir, *seal)
        return verdict

    def _counts(self, sweep: Sweep, absence: Absence, facts: int) -> dict[str, Any]:
        outcome = {name: value for name, value in asdict(sweep.outcome).items() if name != "ids"}
        return {
            "pages": sweep.pages,
            "rows": sweep.rows,
            "bad": sweep.bad,
            "facts": facts,
            "missing": absence.missing,
            "gone": absence.gone,
            **outcome,
        }


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that made the sweep's tasks stop; the others only followed it."""
    error = group.exceptions[0]
    return _first_of(error) if isinstance(error, BaseExceptionGroup) else error
