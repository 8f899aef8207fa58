"""The witness: what tells a restored or copied database from a host that slept.

The database remembers where it lives and how often it was used; a file outside of it counts too. A database whose count
is behind the file's was restored; one that lives elsewhere was copied.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

import msgspec
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.store.engine import Database
from monitor.store.inserting import insert_into
from monitor.store.schema import instance

FILE_NAME = "witness"
_CLUSTER = "SELECT system_identifier::text || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()"


async def check_witness(conn: AsyncConnection, database: Database, state_dir: Path) -> str | None:
    """None when this database is the one that was used last; else a sentence that says what is odd.

    Writes nothing: `seal_witness` accepts. On PostgreSQL the file may be missing: a container's folder is new.
    """
    row = (await conn.execute(select(instance))).one_or_none()
    here = await _place(conn, database)
    noted = _read_file(state_dir / FILE_NAME)
    if row is None:
        return None
    if row.witness != here:
        return "the database lives elsewhere than when it was used last: it was copied, moved or restored"
    if noted is None:
        if database.path is None:
            return None
        return f"the file {state_dir / FILE_NAME} is missing, so nobody can tell whether this database is the newest"
    if noted.uuid != row.uuid:
        return f"the file {state_dir / FILE_NAME} belongs to another database"
    if noted.counter > row.counter:
        return "the database is older than its last use: it was restored from a backup"
    return None


async def seal_witness(conn: AsyncConnection, database: Database) -> tuple[str, int]:
    """Count this use and accept the place; returns what `note_witness` writes once the transaction is committed."""
    here = await _place(conn, database)
    # two accounts may see a new database at once: the first row stands
    first = insert_into(conn, instance).values(id=1, uuid=str(uuid4()), witness=here, counter=0)
    await conn.execute(first.on_conflict_do_nothing())
    done = await conn.execute(
        update(instance)
        .values(witness=here, counter=instance.c.counter + 1)
        .returning(instance.c.uuid, instance.c.counter),
    )
    row = done.one()
    return row.uuid, int(row.counter)


def note_witness(state_dir: Path, uuid: str, counter: int) -> None:
    """Write the count outside the database. Never before the commit: a file ahead of it would cry wolf."""
    target = state_dir / FILE_NAME
    fresh = target.with_suffix(f".{os.getpid()}.new")  # two processes may note at once
    fresh.write_text(json.dumps({"uuid": uuid, "counter": counter}), encoding="utf-8")
    fresh.replace(target)


class _Note(msgspec.Struct):
    uuid: str
    counter: int


def _read_file(path: Path) -> _Note | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Note)
    except (OSError, msgspec.DecodeError):
        return None


async def _place(conn: AsyncConnection, database: Database) -> str:
    if database.path is not None:
        stat = database.path.stat()
        return json.dumps(["sqlite", _machine(), stat.st_dev, stat.st_ino])
    oid = (
        await conn.execute(text("SELECT oid::bigint FROM pg_database WHERE datname = current_database()"))
    ).scalar_one()
    return json.dumps(["postgresql", await _system(conn), int(oid)])


async def _system(conn: AsyncConnection) -> str:
    """Cluster and timeline, where this role may ask: a promoted standby and a restored cluster differ in it."""
    try:
        async with conn.begin_nested():
            found = await conn.execute(
                text(_CLUSTER),
            )
            return str(found.scalar_one())
    except DBAPIError:
        return "unknown"


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
