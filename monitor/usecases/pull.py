"""Walk the windows of a sweep: fetch ahead, compare, and hand what changed to one writer.

Three stages work at once: a producer for each window, which asks for the next page while the last one is compared; one
that compares all pages that have come meanwhile; and the writer. A page that fails for good breaks its window, never
the others; only a window that ended with "no cursor" counts as walked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor import __version__
from monitor.domain.diff import raw_mark, reading, state_hash
from monitor.domain.model import BadRow, FailureSeen, Page, Snapshot, Source, Status, Told, Window
from monitor.errors import ProviderError
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow
from monitor.store.engine import db_now
from monitor.store.facts import put_in_quarantine
from monitor.store.locks import fence
from monitor.store.runs import PageDone, RunRow, pages_of, record_pages
from monitor.store.subscriptions import Known, Renewed, known_rows, load_subscriptions, renew_marks
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Observed, Outcome, observe
from monitor.usecases.writing import Pen

AHEAD = 16
COMPARED_AHEAD = 4
PAGES_AT_ONCE = 10
PAGES_PER_WRITE = 20
ROWS_PER_WRITE = 2000
QUESTIONS_AT_ONCE = 4
COUNTED_S = 10.0
"""How long our own clock may stand in for the database's: after a long wait the two may have drifted apart."""
EMPTY_PAGES = 3  # empty pages in a row, each with a fresh cursor, before a window counts as broken


@dataclass(slots=True)
class Fetched:
    """One page as it came. `asked_at` is the database's time before the request, or a little earlier."""

    window: int
    n: int
    cursor_in: str | None
    page: Page
    asked_at: datetime
    gone: tuple[int, ...] = ()
    """Row ids of those that the API answered for without a row: they count as seen."""


@dataclass(slots=True)
class Compared:
    """One page on its way to the writer: what changed, and the ids of all who were on it."""

    window: int
    n: int
    cursor_in: str | None
    cursor_out: str | None
    size: int
    bad: tuple[BadRow, ...]
    changed: list[Observed]
    seen: list[int]
    seen_new: list[str]
    renewed: list[Renewed]

    def done(self, ids: Mapping[str, int]) -> PageDone:
        """The row of a page whose new rows have these ids by now."""
        seen = self.seen + [ids[ext_id] for ext_id in self.seen_new if ext_id in ids]
        return PageDone(self.window, self.n, self.cursor_in, self.cursor_out, self.size, len(self.bad), seen)


@dataclass(slots=True)
class _Read:
    """The rows of a page: those that were read, each with its mark; those that cannot be; row ids of the unchanged."""

    rows: list[tuple[Snapshot, bytes, bytes | None]]
    bad: list[BadRow]
    same: list[int]

    def ext_ids(self) -> list[str]:
        """Whose rows were looked into; a bad one counts as seen where it tells whose it is."""
        return [row[0].ext_id for row in self.rows] + [bad.ext_id for bad in self.bad if bad.ext_id is not None]


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


def reader_of(account: Account) -> bytes:
    """Who reads this account's rows: this version of the program, in this API's words."""
    return reading(__version__, account.provider.name)


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
        self._reading = reader_of(account)
        self._renews = row.read_by != self._reading
        self._db_time = (run.asked_at, 0.0)
        self._fetched: asyncio.Queue[Fetched | None] = asyncio.Queue(maxsize=AHEAD * max(1, len(run.windows)))
        self._compared: asyncio.Queue[list[Compared] | None] = asyncio.Queue(maxsize=COMPARED_AHEAD)

    async def walk(self) -> Sweep:
        """Walk every window, going on where an earlier process was killed. Provider errors end up in `broken`."""
        async with self._tools.db.read() as conn:
            done = await pages_of(conn, self._run.id)
            self._db_time = await db_now(conn), self._tools.clock.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_all())
            group.create_task(self._compare_all(len(self._run.windows)))
            for window in self._run.windows:
                walked = [page for page in done if page[0] == window.number]
                group.create_task(self._produce(window, walked))
        return self._sweep

    async def _produce(self, window: Window, walked: Sequence[tuple[int, int, str, str | None]]) -> None:
        try:
            await self._walk_window(window, walked)
        except ProviderError as error:
            self._sweep.broken[window.number] = str(error)
        await self._fetched.put(None)

    async def _walk_window(self, window: Window, walked: Sequence[tuple[int, int, str, str | None]]) -> None:
        used = {cursor_in for _, _, cursor_in, _ in walked}
        cursor = walked[-1][3] if walked else None
        n = walked[-1][1] + 1 if walked else 0
        empty = 0
        if walked and cursor is None:
            return  # walked to its end before the kill
        while not self._tools.stopping():
            asked_at = await self._database_time()
            page = await self._account.provider.subscriptions(window, cursor)
            self._tools.failpoint("after_page_fetch")
            used.add(cursor or "")
            await self._fetched.put(Fetched(window.number, n, cursor, page, asked_at))
            if page.next_cursor is None:
                return
            empty = empty + 1 if page.size == 0 else 0
            if page.next_cursor in used or empty >= EMPTY_PAGES:
                self._sweep.broken[window.number] = "the API's cursors go round in a circle"
                return
            cursor, n = page.next_cursor, n + 1
        self._sweep.interrupted = True

    async def _database_time(self) -> datetime:
        """The database's time now, or a little less: what it told last, and how long that is ago by our own clock.

        It is asked once for all pages that are compared together, and the answer was under way before our clock began.
        """
        told, heard = self._db_time
        passed = self._tools.clock.monotonic() - heard
        if passed <= COUNTED_S:
            return told + timedelta(seconds=passed)
        async with self._tools.db.read() as conn:
            told = await db_now(conn)
        self._db_time = told, self._tools.clock.monotonic()
        return told

    async def _compare_all(self, producers: int) -> None:
        while producers:
            pages: list[Fetched] = []
            come = [await self._fetched.get()]
            while not self._fetched.empty() and len(come) < PAGES_AT_ONCE:
                come.append(self._fetched.get_nowait())
            for page in come:
                if page is None:
                    producers -= 1
                else:
                    pages.append(page)
            if pages:
                await self._compared.put(await self._compare(pages))
        await self._compared.put(None)

    async def _compare(self, pages: Sequence[Fetched]) -> list[Compared]:
        """Sort pages into unchanged rows, of which only the id is kept, and candidates for the writer."""
        marked = [self._marked(one.page) for one in pages]
        asked = {ext_id for rows in marked for ext_id, _, _ in rows}
        known = dict(await self._known(asked))
        reads = []
        for one, rows in zip(pages, marked, strict=True):
            reads.append(self._read(one.page, rows, known))
            await asyncio.sleep(0)  # the other stages wait for an answer each, and a page takes milliseconds
        others = {ext_id for read in reads for ext_id in read.ext_ids()} - asked
        if others:
            known |= await self._known(others)
        compared = [self._sorted(one, read, known) for one, read in zip(pages, reads, strict=True)]
        changed = await self._with_causes([one for page in compared for one in page.changed])
        at = iter(changed)
        for page in compared:
            page.changed = [next(at) for _ in page.changed]
        return compared

    async def _known(self, ext_ids: Collection[str]) -> dict[str, Known]:
        async with self._tools.db.read() as conn:
            known = await known_rows(conn, self._row.id, ext_ids)
            self._db_time = await db_now(conn), self._tools.clock.monotonic()
        return known

    def _marked(self, page: Page) -> list[tuple[str, bytes, bytes]]:
        """(vendor id, mark, row) of the rows that nobody has read; "" for an id that does not show."""
        if page.unread is None:
            return []
        id_in, reader = page.unread.id_in, self._reading
        return [(id_in(raw) or "", raw_mark(raw, reader), raw) for raw in page.unread.raws]

    def _read(self, page: Page, marked: Sequence[tuple[str, bytes, bytes]], known: Mapping[str, Known]) -> _Read:
        """Read the rows whose bytes are not those that were stored last; the others are unchanged."""
        read = _Read([(snapshot, raw, None) for snapshot, raw in page.rows], list(page.bad), [])
        if page.unread is None:
            return read
        for ext_id, mark, raw in marked:
            before = known.get(ext_id)
            if before is not None and before.raw_mark == mark:
                read.same.append(before.id)
                continue
            row = page.unread.read(raw)
            if isinstance(row, BadRow):
                read.bad.append(row)
            else:
                read.rows.append((*row, mark))
        return read

    def _sorted(self, one: Fetched, read: _Read, known: Mapping[str, Known]) -> Compared:
        ext_ids = read.ext_ids()
        changed: list[Observed] = []
        renewed: list[Renewed] = []
        for snapshot, raw, mark in read.rows:
            before = known.get(snapshot.ext_id)
            if before is None or before.state_hash != state_hash(snapshot):
                changed.append(Observed(snapshot, raw, one.asked_at, raw_mark=mark, first_sight=before is None))
            elif mark is not None and (self._renews or before.raw_mark is None):
                renewed.append(Renewed(before.id, before.state_hash, mark))
        return Compared(
            window=one.window,
            n=one.n,
            cursor_in=one.cursor_in,
            cursor_out=one.page.next_cursor,
            size=one.page.size,
            bad=tuple(read.bad),
            changed=changed,
            seen=[*one.gone, *read.same] + [known[ext_id].id for ext_id in ext_ids if ext_id in known],
            seen_new=[ext_id for ext_id in ext_ids if ext_id not in known],
            renewed=renewed,
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

    async def _write_all(self) -> None:
        pending: list[Compared] = []
        while (pages := await self._compared.get()) is not None:
            pending += pages
            if len(pending) >= PAGES_PER_WRITE or sum(len(one.changed) for one in pending) >= ROWS_PER_WRITE:
                await self._write(pending)
                pending = []
        if pending:
            await self._write(pending)

    async def _write(self, pages: list[Compared]) -> None:
        """PAGE: one transaction; it fails as a whole when another run took the lock over."""
        tools = self._tools
        tools.failpoint("before_page")
        async with tools.db.write() as conn:
            await fence(conn, self._lock, self._run.token)
            tools.failpoint("after_fence")
            newly_bad = await put_in_quarantine(
                conn, self._row.id, [bad for page in pages for bad in page.bad], self._pen.now
            )
            await self._before(conn, pages)
            policy = self._account.policy(self._row)
            changed = [one for page in pages for one in page.changed]
            outcome = await observe(conn, self._row, policy, changed, self._pen, tools.address_mac)
            await self._also(conn, pages)
            tools.failpoint("after_observe")
            await record_pages(conn, self._run.id, [page.done(outcome.ids) for page in pages])
            tools.failpoint("before_page_commit")
        tools.failpoint("after_page_commit")
        await self._renew([one for page in pages for one in page.renewed])
        self._count(pages, outcome, len(newly_bad))

    async def _renew(self, renewed: list[Renewed]) -> None:
        """Marks have a transaction of their own: their rows and those of the pages are locked each in one order."""
        if renewed:
            async with self._tools.db.write() as conn:
                await fence(conn, self._lock, self._run.token)
                await renew_marks(conn, sorted(renewed))

    async def _before(self, conn: AsyncConnection, pages: Sequence[Compared]) -> None:
        """What must be locked before anything is written: here, nothing but the rows that `observe` locks."""

    async def _also(self, conn: AsyncConnection, pages: Sequence[Compared]) -> None:
        """What else belongs into the transaction of these pages: here, nothing."""

    def _count(self, pages: list[Compared], outcome: Outcome, newly_bad: int) -> None:
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
