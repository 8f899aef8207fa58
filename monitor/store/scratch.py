"""A scratch copy of the database, on which a dry run is a real run.

SQLite: the file and its -wal are copied and the copy is opened, since opening the original leaves -wal and -shm behind
even read-only. PostgreSQL: one REPEATABLE READ, READ ONLY transaction fills a scratch SQLite file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, insert, literal, null, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.errors import StoreError
from monitor.store.engine import Database
from monitor.store.payments import find_payment_walk
from monitor.store.revision import database_revision, require_current, upgrade
from monitor.store.schema import (
    accounts,
    attempts,
    batches,
    currencies,
    customers,
    discovered,
    episodes,
    events,
    facts,
    instance,
    metadata,
    notifications,
    payment_events,
    payment_walks,
    payments,
    products,
    quarantine,
    run_pages,
    runs,
    subscriptions,
    suppressions,
    usages,
)
from monitor.store.witness import check_witness

_CHUNK = 2_000
_COPY_TRIES = 20
_REPLIES_KEPT = 200
_WALKED_BACK = timedelta(days=2)
"""A walk goes a day back from the watermark; the second is for an API whose clock is not ours."""


async def scratch_copy(database: Database, folder: Path, account: str, state_dir: Path) -> tuple[Database, str | None]:
    """A database in `folder` that holds what a run of `account` needs, and the witness's verdict on the original.

    Nothing is written to the original; a missing one is an empty one. Raises `ConfigError` for a database of another
    revision (a SQLite copy is brought up to date instead), `StoreError` when it cannot be read.
    """
    target = folder / "scratch.db"
    if database.path is None:
        await require_current(database)
    elif database.path.exists():
        _copy_files(database.path, target)
    copy = Database(f"sqlite:///{target}")
    try:
        return copy, await _fill(copy, database, account, state_dir)
    except BaseException:
        await copy.aclose()
        raise


async def _fill(copy: Database, database: Database, account: str, state_dir: Path) -> str | None:
    """Bring the copy up to date, and on PostgreSQL copy the rows into it; returns the witness's verdict."""
    fresh = await database_revision(copy) is None
    await upgrade(copy)
    if database.path is not None:
        if fresh:
            return None
        async with copy.read() as conn:
            return await check_witness(conn, database, state_dir)
    async with database.read() as source:
        await source.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        verdict = await check_witness(source, database, state_dir)
        async with copy.write() as sink:
            await sink.execute(text("PRAGMA defer_foreign_keys=ON"))
            await _copy_rows(source, sink, account)
    return verdict


def _copy_files(source: Path, target: Path) -> None:
    """Copy the file and its -wal at one instant: again, until nothing moved meanwhile."""
    wal = source.with_name(source.name + "-wal")
    for _ in range(_COPY_TRIES):
        before = _stat(source), _stat(wal)
        try:
            shutil.copyfile(source, target)
            if before[1] is not None:
                shutil.copyfile(wal, target.with_name(target.name + "-wal"))
        except FileNotFoundError:
            continue  # a checkpoint took the -wal away between the look and the copy
        except OSError as error:
            raise StoreError(f"the database {source} cannot be copied for a dry run: {error}") from error
        if (_stat(source), _stat(wal)) == before:
            return
        target.with_name(target.name + "-wal").unlink(missing_ok=True)
    raise StoreError(f"the database {source} does not hold still for a dry run: try again when the run has ended")


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


async def _copy_rows(source: AsyncConnection, sink: AsyncConnection, account: str) -> None:
    found = (await source.execute(select(accounts.c.id).where(accounts.c.name == account))).scalar_one_or_none()
    if found is None:
        return
    walk = await find_payment_walk(source, int(found))
    for name, statement in _needed(int(found), None if walk is None else walk.watermark).items():
        result = await source.stream(statement)
        async for rows in result.mappings().partitions(_CHUNK):
            await sink.execute(insert(metadata.tables[name]), [dict(row) for row in rows])


def _needed(account_id: int, watermark: datetime | None) -> Mapping[str, Select[Any]]:
    """What a run reads, without what it never looks at: raw payloads, old pages, facts that are folded in."""
    bare = [column for column in subscriptions.c if column.name != "raw"]
    known_bad = [column for column in quarantine.c if column.name != "raw"]
    own_runs = select(runs.c.id).where(runs.c.account_id == account_id)
    met_again = _met_again(account_id, watermark)
    own_mails = select(notifications.c.id).where(notifications.c.account_id == account_id)
    replies = (select(attempts).where(attempts.c.notification_id.in_(own_mails)).order_by(attempts.c.id.desc())).limit(
        _REPLIES_KEPT
    )
    return {
        "instance": select(instance),
        "accounts": select(accounts).where(accounts.c.id == account_id),
        "customers": select(customers).where(customers.c.account_id == account_id),
        "discovered": select(discovered).where(discovered.c.account_id == account_id),
        "products": select(products).where(products.c.account_id == account_id),
        "currencies": select(currencies).where(currencies.c.account_id == account_id),
        "subscriptions": select(*bare, null().label("raw")).where(subscriptions.c.account_id == account_id),
        "usages": select(usages).where(usages.c.account_id == account_id),
        "payments": select(payments).where(met_again),
        "payment_walks": select(payment_walks).where(payment_walks.c.account_id == account_id),
        "payment_events": select(payment_events).where(
            payment_events.c.payment_id.in_(select(payments.c.id).where(met_again))
        ),
        "runs": select(runs).where(runs.c.account_id == account_id),
        "run_pages": select(run_pages).where(
            run_pages.c.run_id.in_(own_runs.where(runs.c.state == "running")),
        ),
        "events": select(events).where(events.c.account_id == account_id),
        "facts": select(facts).where(
            facts.c.account_id == account_id, facts.c.done_at.is_(None) | facts.c.ask_at.is_not(None)
        ),
        "episodes": select(episodes).where(episodes.c.account_id == account_id),
        "batches": select(batches).where(batches.c.account_id == account_id),
        "notifications": select(notifications).where(notifications.c.account_id == account_id),
        "attempts": replies,
        # which rows were bad before: only new ones may hold a plan
        "quarantine": select(*known_bad, literal(b"").label("raw")).where(quarantine.c.account_id == account_id),
        "suppressions": select(suppressions).where(suppressions.c.account_id == account_id),
    }


def _met_again(account_id: int, watermark: datetime | None) -> ColumnElement[bool]:
    """The payments that a walk may meet again, or that a mail tells of; not every bill that was ever paid."""
    p = payments.c
    told = select(notifications.c.payment_id).where(notifications.c.account_id == account_id)
    if watermark is None:
        return and_(p.account_id == account_id, p.id.in_(told))
    newer = p.created_at >= watermark - _WALKED_BACK
    one_off = p.subscription_ext_id.is_(None)
    return and_(p.account_id == account_id, or_(one_off, p.created_at.is_(None), newer, p.id.in_(told)))
