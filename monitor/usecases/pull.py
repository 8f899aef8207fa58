"""Walk the windows of a sweep: fetch ahead, compare, and hand what changed to one writer.

Per window one producer runs ahead of the writer by two pages at most. A page that fails for good breaks its window,
never the others; only a window that ended with "no cursor" counts as walked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.diff import state_hash
from monitor.domain.model import BadRow, FailureSeen, Page, Snapshot, Source, Status, Told, Window
from monitor.errors import ProviderError
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow
from monitor.store.engine import db_now
from monitor.store.facts import put_in_quarantine
from monitor.store.locks import fence
from monitor.store.runs import RunRow, pages_of, record_page
from monitor.store.subscriptions import known_rows, load_subscriptions
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Observed, Outcome, observe
from monitor.usecases.writing import Pen

AHEAD = 2
PAGES_PER_WRITE = 10
ROWS_PER_WRITE = 1000
QUESTIONS_AT_ONCE = 4
EMPTY_PAGES = 3  # empty pages in a row, each with a fresh cursor, before a window counts as broken


@dataclass(slots=True)
class Fetched:
    """One page on its way to the writer: what changed, and the ids of all who were on it."""

    window: int
    n: int
    cursor_in: str | None
    cursor_out: str | None
    size: int
    bad: tuple[BadRow, ...]
    changed: list[Observed]
    seen: set[int]
    seen_new: list[str]


@dataclass(slots=True)
class Sweep:
    """How a sweep went. `broken` tells why each window did not end by "no cursor"."""

    outcome: Outcome = field(default_factory=Outcome)
    pages: int = 0
    rows: int = 0
    bad: int = 0
    newly_bad: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    interrupted: bool = False
    gone: int = 0
    """Known subscriptions that the API answered 404 for, where each is read by itself."""
    newly_gone: int = 0
    knows_all: bool = False
    """No id is left that was found and never read, though a budget may have kept others from being read again."""

    @property
    def complete(self) -> bool:
        """Every window was walked to its end: only then absence means anything."""
        return not self.broken and not self.interrupted


class Pull:
    """One sweep of one run."""

    def __init__(
        self, tools: Tools, account: Account, row: AccountRow, run: RunRow, *, lock: str, batch_id: int
    ) -> None:
        """`lock` and the run's token fence every write."""
        self._tools = tools
        self._account = account
        self._row = row
        self._run = run
        self._lock = lock
        self._pen = Pen(run.now_at, source=Source.PULL, batch_id=batch_id, run_id=run.id)
        self._sweep = Sweep()
        self._queue: asyncio.Queue[Fetched | None] = asyncio.Queue(maxsize=AHEAD * max(1, len(run.windows)))

    async def walk(self) -> Sweep:
        """Walk every window, going on where an earlier process was killed. Provider errors end up in `broken`."""
        async with self._tools.db.read() as conn:
            done = await pages_of(conn, self._run.id)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_all(len(self._run.windows)))
            for window in self._run.windows:
                walked = [page for page in done if page[0] == window.number]
                group.create_task(self._produce(window, walked))
        return self._sweep

    async def _produce(self, window: Window, walked: Sequence[tuple[int, int, str, str | None]]) -> None:
        try:
            await self._walk_window(window, walked)
        except ProviderError as error:
            self._sweep.broken[window.number] = str(error)
        await self._queue.put(None)

    async def _walk_window(self, window: Window, walked: Sequence[tuple[int, int, str, str | None]]) -> None:
        used = {cursor_in for _, _, cursor_in, _ in walked}
        cursor = walked[-1][3] if walked else None
        n = walked[-1][1] + 1 if walked else 0
        empty = 0
        if walked and cursor is None:
            return  # walked to its end before the kill
        while not self._tools.stopping():
            async with self._tools.db.read() as conn:
                asked_at = await db_now(conn)
            page = await self._account.provider.subscriptions(window, cursor)
            self._tools.failpoint("after_page_fetch")
            used.add(cursor or "")
            await self._queue.put(await self._compare(window, n, cursor, page, asked_at))
            if page.next_cursor is None:
                return
            empty = empty + 1 if page.size == 0 else 0
            if page.next_cursor in used or empty >= EMPTY_PAGES:
                self._sweep.broken[window.number] = "the API's cursors go round in a circle"
                return
            cursor, n = page.next_cursor, n + 1
        self._sweep.interrupted = True

    async def _compare(self, window: Window, n: int, cursor: str | None, page: Page, asked_at: datetime) -> Fetched:
        """Sort a page into unchanged rows, of which only the id is kept, and candidates for the writer."""
        ext_ids = [snapshot.ext_id for snapshot, _ in page.rows]
        ext_ids += [bad.ext_id for bad in page.bad if bad.ext_id is not None]
        async with self._tools.db.read() as conn:
            known = await known_rows(conn, self._row.id, ext_ids)
        changed = [
            Observed(snapshot, raw, asked_at)
            for snapshot, raw in page.rows
            if snapshot.ext_id not in known or known[snapshot.ext_id].state_hash != state_hash(snapshot)
        ]
        return Fetched(
            window=window.number,
            n=n,
            cursor_in=cursor,
            cursor_out=page.next_cursor,
            size=page.size,
            bad=page.bad,
            changed=await self._with_causes(changed),
            seen={one.id for one in known.values()},
            seen_new=[ext_id for ext_id in ext_ids if ext_id not in known],
        )

    async def _with_causes(self, changed: list[Observed]) -> list[Observed]:
        """Ask why the bills of failing rows failed, where nothing told so yet."""
        failing = [one for one in changed if one.snapshot.status is Status.PAST_DUE]
        if not failing or Capability.FAILURES not in self._account.provider.capabilities:
            return changed
        async with self._tools.db.read() as conn:
            stored = await load_subscriptions(conn, self._row.id, ext_ids=[one.snapshot.ext_id for one in failing])
        asking = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def ask(one: Observed) -> Observed:
            before = stored.get(one.snapshot.ext_id)
            async with asking:
                failure = await newest_failure(self._account, one.snapshot, Told() if before is None else before.told)
            return replace(one, failure=failure)

        answered = {one.snapshot.ext_id: one for one in await asyncio.gather(*map(ask, failing))}
        return [answered.get(one.snapshot.ext_id, one) for one in changed]

    async def _write_all(self, producers: int) -> None:
        pending: list[Fetched] = []
        while producers:
            page = await self._queue.get()
            if page is None:
                producers -= 1
                continue
            pending.append(page)
            if len(pending) >= PAGES_PER_WRITE or sum(len(one.changed) for one in pending) >= ROWS_PER_WRITE:
                await self._write(pending)
                pending = []
        if pending:
            await self._write(pending)

    async def _write(self, pages: list[Fetched]) -> None:
        """PAGE: one transaction; it fails as a whole when another run took the lock over."""
        tools = self._tools
        tools.failpoint("before_page")
        async with tools.db.write() as conn:
            await fence(conn, self._lock, self._run.token)
            tools.failpoint("after_fence")
            newly_bad = await put_in_quarantine(
                conn, self._row.id, [bad for page in pages for bad in page.bad], self._pen.now
            )
            policy = self._account.policy(self._row)
            changed = [one for page in pages for one in page.changed]
            outcome = await observe(conn, self._row, policy, changed, self._pen, tools.address_mac)
            await self._also(conn, pages)
            tools.failpoint("after_observe")
            for page in pages:
                seen = page.seen | {outcome.ids[ext_id] for ext_id in page.seen_new if ext_id in outcome.ids}
                await record_page(
                    conn,
                    run_id=self._run.id,
                    win=page.window,
                    n=page.n,
                    cursor_in=page.cursor_in,
                    cursor_out=page.cursor_out,
                    rows=page.size,
                    bad=len(page.bad),
                    seen=seen,
                )
            tools.failpoint("before_page_commit")
        tools.failpoint("after_page_commit")
        self._count(pages, outcome, len(newly_bad))

    async def _also(self, conn: AsyncConnection, pages: Sequence[Fetched]) -> None:
        """What else belongs into the transaction of these pages: here, nothing."""

    def _count(self, pages: list[Fetched], outcome: Outcome, newly_bad: int) -> None:
        sweep = self._sweep
        sweep.outcome.add(replace(outcome, ids={}))  # a quarter of a million ids are not kept
        sweep.newly_bad += newly_bad
        for page in pages:
            sweep.pages += 1
            sweep.rows += page.size
            sweep.bad += len(page.bad)
        self._tools.progress("pull", sweep.rows, None)


async def newest_failure(account: Account, snapshot: Snapshot, told: Told) -> FailureSeen | None:
    """The failed bill that explains this spell, from the API; None where it is told already or nobody says.

    The failures list never decides anything but words, so an error of it costs the words only.
    """
    if told.failure_units is not None and told.failure_attempt == snapshot.failed_attempts:
        return None
    try:
        failures = await account.provider.failures(snapshot.ext_id)
    except ProviderError:
        return None
    return max(failures, key=lambda one: one.at, default=None)
