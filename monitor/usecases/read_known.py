"""The other way of pulling: read each known subscription by itself, for an API that has no list.

It hands pages of rows to the same compare and write steps as a walk does; its pages are made of what answered. A page
is one transaction, and a run that was killed goes on with whom it had not read yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BadRow, Page, Snapshot, Window
from monitor.errors import ProviderAuthError, ProviderError, RateLimitedError
from monitor.providers.base import KnownReader
from monitor.store.accounts import AccountRow
from monitor.store.discovery import Target, lock_rows, note_read, note_tried, targets, untried
from monitor.store.engine import db_now
from monitor.store.runs import RunRow, seen_in
from monitor.store.subscriptions import note_gone
from monitor.usecases.budget import RESERVED, Budget
from monitor.usecases.context import Account, Tools
from monitor.usecases.discovery import discover
from monitor.usecases.pull import Compared, Fetched, Pull, Sweep
from monitor.usecases.read_customers import read_customers

ROWS_PER_PAGE = 100
FAILURES_IN_A_ROW = 5
"""So many ids without an answer, one after another: the API is down, and the rest is not asked."""


@dataclass(slots=True)
class _Read:
    """What has answered since the last page. `asked_at`: the database's time before the first of them was asked."""

    asked_at: datetime
    rows: list[tuple[Snapshot, bytes]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    """Row ids of those that were stored before."""
    gone: list[tuple[int, int]] = field(default_factory=list)
    """(row id, in how many runs they were gone before)"""
    tried: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.rows) + len(self.bad) + len(self.gone) + len(self.tried)


@dataclass(frozen=True, slots=True)
class Errand:
    """Where a run's reading belongs: its lock and its batch."""

    lock: str
    batch_id: int


Figures = Mapping[str, int | None]


async def sweep_all(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, errand: Errand
) -> tuple[Sweep, list[str], Figures]:
    """Walk the API's list, or read every known id where it has none: the sweep, its problems, further figures."""
    if isinstance(account.provider, KnownReader):
        return await _read_all(tools, account, row, run, errand, account.provider)
    sweep = await Pull(tools, account, row, run, lock=errand.lock, batch_id=errand.batch_id).walk()
    return sweep, [f"window {number + 1}: {reason}" for number, reason in sorted(sweep.broken.items())], {}


async def _read_all(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, errand: Errand, reader: KnownReader
) -> tuple[Sweep, list[str], Figures]:
    """Find ids, read them all, then the customers they name."""
    budget = Budget(account, row, reader, run.now_at)
    found = await discover(tools, account, row, run, budget, lock=errand.lock, batch_id=errand.batch_id)
    sweep = await ReadKnown(tools, account, row, run, errand, reader, budget).walk()
    customers = await read_customers(tools, account.provider, row, reader, budget, run.asked_at)
    async with tools.db.write() as conn:
        await budget.keep(conn, row.id)
        waiting = await untried(conn, row.id)
    sweep.outcome.staged += found.paid.staged
    sweep.outcome.voided += found.paid.voided
    sweep.interrupted = sweep.interrupted or found.paid.interrupted
    sweep.knows_all = found.paid.problem is None and not sweep.interrupted and not waiting
    if found.paid.problem is not None:
        sweep.broken.setdefault(0, f"new subscriptions: {found.paid.problem}")
    problems = [*sweep.broken.values(), *([f"customers: {customers.problem}"] if customers.problem else [])]
    left = None if budget.limit is None else max(0, budget.limit - budget.used)
    counts = {
        "found": found.found,
        "customers_read": customers.read,
        "requests": budget.spent,
        "requests_today": budget.used,
        "requests_left": left,
        **found.paid.figures,
    }
    return sweep, problems, counts


class ReadKnown(Pull):
    """One sweep of one run over the known ids."""

    def __init__(
        self,
        tools: Tools,
        account: Account,
        row: AccountRow,
        run: RunRow,
        errand: Errand,
        reader: KnownReader,
        budget: Budget,
    ) -> None:
        """As `Pull`; `budget` is shared with whoever asks the API in this run."""
        super().__init__(tools, account, row, run, lock=errand.lock, batch_id=errand.batch_id)
        self._reader = reader
        self._budget = budget
        self._asked_at = run.asked_at
        self._page = _Read(run.asked_at)
        self._parts: dict[int, _Read] = {}
        self._n = 0
        self._unanswered = 0
        self._failed_in_a_row = 0
        self._failure: ProviderError | None = None

    async def _walk_window(self, window: Window, walked: Sequence[tuple[int, int, str, str | None]]) -> None:
        tools = self._tools
        async with tools.db.read() as conn:
            done = await seen_in(conn, self._run.id)
            wanted = [one for one in await targets(conn, self._row.id, self._run.now_at) if one.row_id not in done]
            self._asked_at = self._page.asked_at = await db_now(conn)
        self._n = walked[-1][1] + 1 if walked else 0
        todo = iter(wanted)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._account.read_at_once):
                group.create_task(self._work(window, todo))
        if self._page.size:
            await self._turn_page(window)
        self._judge(len(wanted), sum(1 for _ in todo))

    def _judge(self, wanted: int, left: int) -> None:
        """Why some were not read, if some were not; `left` were not even asked for."""
        told = f"{left + self._unanswered} of {wanted} known subscriptions were not read"
        if left and self._tools.stopping():
            self._sweep.interrupted = True
        elif left and not self._budget.allows(_READING):
            self._sweep.broken[0] = (
                f"{told}: today's {self._budget.limit} requests are used up (accounts.{self._account.name}"
                ".daily_requests); the next run begins with the most urgent and the longest unseen"
            )
        elif self._failure is not None:
            self._sweep.broken[0] = f"{told}: {self._failure}"

    async def _work(self, window: Window, todo: Iterator[Target]) -> None:
        while self._may_ask() and (target := next(todo, None)) is not None:
            await self._ask(target)
            if self._page.size >= ROWS_PER_PAGE:
                await self._turn_page(window)

    def _may_ask(self) -> bool:
        refused = isinstance(self._failure, RateLimitedError | ProviderAuthError)
        down = self._failed_in_a_row >= FAILURES_IN_A_ROW
        return not (refused or down or self._tools.stopping()) and self._budget.allows(_READING)

    async def _ask(self, target: Target) -> None:
        asked_at = self._asked_at
        try:
            answer = await self._reader.read(target.ext_id)
        except ProviderError as error:
            # one that fails costs itself; that many in a row, or a refusal of all, end the sweep
            self._failure = error
            self._unanswered += 1
            self._failed_in_a_row += 1
            return
        self._tools.failpoint("after_page_fetch")
        self._failed_in_a_row = 0
        page = self._page
        page.asked_at = min(page.asked_at, asked_at)
        if isinstance(answer, BadRow):
            page.bad.append(answer)
        elif answer is not None:
            page.rows.append(answer)
            page.again += [] if target.row_id is None else [target.row_id]
            return
        elif target.row_id is not None:
            page.gone.append((target.row_id, target.gone_seen))
        if target.row_id is None:
            page.tried.append(target.ext_id)

    async def _turn_page(self, window: Window) -> None:
        """Hand what has answered to the writer, and begin another page."""
        full, self._page = self._page, _Read(self._asked_at)
        n, self._n = self._n, self._n + 1
        async with self._tools.db.read() as conn:
            self._asked_at = await db_now(conn)
        page = Page(tuple(full.rows), tuple(full.bad), next_cursor=None, size=len(full.rows) + len(full.bad))
        self._parts[n] = full
        gone = tuple(row_id for row_id, _ in full.gone)
        await self._fetched.put(Fetched(window.number, n, str(n), page, full.asked_at, gone))

    async def _before(self, conn: AsyncConnection, pages: Sequence[Compared]) -> None:
        parts = [self._parts[page.n] for page in pages]
        gone = {row_id for part in parts for row_id, _ in part.gone}
        await lock_rows(conn, gone.union(*(part.again for part in parts)))

    async def _also(self, conn: AsyncConnection, pages: Sequence[Compared]) -> None:
        run_id, now, account_id = self._run.id, self._run.now_at, self._row.id
        for part in [self._parts.pop(page.n) for page in pages]:
            await note_read(conn, part.again, part.asked_at)
            await note_tried(conn, account_id, part.tried, now)
            for row_id, before in part.gone:
                await note_gone(conn, account_id, row_id, asked_at=part.asked_at, run_id=run_id, now=now)
                self._sweep.newly_gone += before == 0
            self._sweep.gone += len(part.gone)
        await self._budget.keep(conn, account_id)


_READING = 1 - 1 / RESERVED
