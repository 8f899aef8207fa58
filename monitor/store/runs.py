"""Runs, the pages they read and whom they saw there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import RunState, Situation, Window
from monitor.store.bulk import append
from monitor.store.schema import events, quarantine, run_pages, runs
from monitor.store.seen import RowIds, packed, unpacked

RESUME_WITHIN = timedelta(hours=6)


class PageDone(NamedTuple):
    """A page that was read: its place in the walk, and the row ids of all who were on it."""

    win: int
    n: int
    cursor_in: str | None
    cursor_out: str | None
    rows: int
    bad: int
    seen: Collection[int]


@dataclass(frozen=True, slots=True)
class RunRow:
    id: int
    token: int
    now_at: datetime
    bound_at: datetime
    asked_at: datetime
    windows: tuple[Window, ...]
    baseline: bool
    state: RunState
    counts: dict[str, Any]
    started_at: datetime


async def unfinished_run(conn: AsyncConnection, account_id: int) -> RunRow | None:
    """The run of this account that was killed or is going on; there is at most one."""
    statement = (
        select(runs)
        .where(runs.c.account_id == account_id, runs.c.state == RunState.RUNNING)
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    row = (await conn.execute(statement)).one_or_none()
    return None if row is None else _read(row)


async def find_run(conn: AsyncConnection, run_id: int) -> RunRow:
    """One run. Raises when there is none: a batch of origin run always has one."""
    return _read((await conn.execute(select(runs).where(runs.c.id == run_id))).one())


async def newest_decision(conn: AsyncConnection, account_id: int) -> datetime | None:
    """The latest instant at which a run of this account decided; None before the first."""
    found: datetime | None = (
        await conn.execute(select(func.max(runs.c.now_at)).where(runs.c.account_id == account_id))
    ).scalar_one_or_none()
    return found


async def insert_run(
    conn: AsyncConnection,
    *,
    account_id: int,
    slot: str | None,
    trigger: str,
    token: int,
    now: datetime,
    bound_at: datetime,
    asked_at: datetime,
    windows: Sequence[Window],
    baseline: bool,
) -> RunRow | None:
    """Begin a run; None when this slot has its run already."""
    try:
        async with conn.begin_nested():
            made = await conn.execute(
                insert(runs)
                .values(
                    account_id=account_id,
                    slot=slot,
                    trigger=trigger,
                    token=token,
                    now_at=now,
                    bound_at=bound_at,
                    asked_at=asked_at,
                    windows=json.dumps([[w.number, _text(w.created_after), _text(w.created_before)] for w in windows]),
                    baseline=baseline,
                    state=RunState.RUNNING,
                    counts="{}",
                    started_at=now,
                )
                .returning(runs),
            )
            return _read(made.one())
    except IntegrityError:
        return None


async def change_run(conn: AsyncConnection, run_id: int, **values: Any) -> None:
    """Set columns of a run; `counts` may be a mapping."""
    if isinstance(values.get("counts"), Mapping):
        values["counts"] = json.dumps(values["counts"], sort_keys=True)
    await conn.execute(update(runs).where(runs.c.id == run_id).values(**values))


async def record_pages(conn: AsyncConnection, run_id: int, pages: Sequence[PageDone]) -> None:
    """Pages are done: their cursors, and who was on them. The same cursor twice is an error of the database's own."""
    names = ("run_id", "win", "n", "cursor_in", "cursor_out", "rows", "bad", "seen")
    rows = [
        (run_id, page.win, page.n, page.cursor_in or "", page.cursor_out, page.rows, page.bad, packed(page.seen))
        for page in pages
    ]
    await append(conn, run_pages, names, rows)


async def pages_of(conn: AsyncConnection, run_id: int) -> list[tuple[int, int, str, str | None]]:
    """(window, number, cursor sent, cursor received) of the pages done, in order."""
    statement = (
        select(run_pages.c.win, run_pages.c.n, run_pages.c.cursor_in, run_pages.c.cursor_out)
        .where(run_pages.c.run_id == run_id)
        .order_by(run_pages.c.win, run_pages.c.n)
    )
    return [(row.win, row.n, row.cursor_in, row.cursor_out) for row in await conn.execute(statement)]


async def seen_in(conn: AsyncConnection, run_id: int) -> RowIds:
    """Row ids of all subscriptions that a page of this run showed."""
    seen = RowIds()
    result = await conn.stream(select(run_pages.c.seen).where(run_pages.c.run_id == run_id))
    async for (block,) in result:
        seen.add(unpacked(block))
    return seen


async def run_totals(conn: AsyncConnection, run: RunRow) -> tuple[int, int]:
    """(rows read, rows that became unreadable or of unknown status) of a run, whoever wrote its pages."""
    rows = (
        await conn.execute(select(func.coalesce(func.sum(run_pages.c.rows), 0)).where(run_pages.c.run_id == run.id))
    ).scalar_one()
    account = select(runs.c.account_id).where(runs.c.id == run.id).scalar_subquery()
    bad = (
        await conn.execute(
            select(func.count()).where(quarantine.c.account_id == account, quarantine.c.first_at == run.now_at),
        )
    ).scalar_one()
    unknown = (
        await conn.execute(
            select(func.count()).where(events.c.run_id == run.id, events.c.kind == Situation.UNKNOWN),
        )
    ).scalar_one()
    return int(rows), int(bad) + int(unknown)


def _read(row: Any) -> RunRow:
    return RunRow(
        id=row.id,
        token=row.token,
        now_at=row.now_at,
        bound_at=row.bound_at,
        asked_at=row.asked_at,
        windows=tuple(Window(n, _instant(after), _instant(before)) for n, after, before in json.loads(row.windows)),
        baseline=row.baseline,
        state=RunState(row.state),
        counts=json.loads(row.counts),
        started_at=row.started_at,
    )


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
