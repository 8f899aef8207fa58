"""Connections and transactions. Who asks for `write()` owns the transaction; store functions never commit.

SQLite: every writing transaction is BEGIN IMMEDIATE (a deferred one that reads and then writes fails at once under
contention, whatever busy_timeout says), WAL, synchronous=FULL (NORMAL may roll a `sent` mark back after a power loss).
PostgreSQL: READ COMMITTED, no prepared statements that a pooler in transaction mode would lose.
"""

from __future__ import annotations

import os
import re
from asyncio import CancelledError
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import URL, ColumnElement, Dialect, event, literal_column, make_url, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from monitor.errors import ConfigError, StoreClosedError, StoreError
from monitor.store.types import Instant

BUSY_TIMEOUT_MS = 30_000
RESTED_S = 2.0
"""A PostgreSQL connection that lay unused for longer is asked whether it still lives."""
_RESTS = "rests_since"
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""When libpq gives a server up that is gone without a word, as after a failover: within a minute, not two hours.

Seconds, the last one milliseconds. What the URL says itself counts before it.
"""
_NOT_OPENED = "cannot be opened: does its folder exist, and may this user write there?"
_SAID: tuple[tuple[tuple[str, ...], str, type[StoreError]], ...] = (
    (("disk is full", "no space", "disk i/o"), "cannot grow ({reason}): free some space; nothing was lost", StoreError),
    (("unable to open",), _NOT_OPENED, StoreError),
    (
        ("read-only transaction",),
        "is read-only ({reason}): database.url must lead to the server that takes writes",
        StoreError,
    ),
    (("readonly",), "is read-only: give this user write access to the file and its folder", StoreClosedError),
    (
        ("permission denied for schema",),
        "refused ({reason}): do this as the role that owns its tables",
        StoreClosedError,
    ),
    (
        ("permission denied for",),
        "refused ({reason}): grant its roles their rights after every upgrade",
        StoreClosedError,
    ),
    (("no such table", "does not exist"), "lacks its tables ({reason}): run `monitor db upgrade`", StoreClosedError),
)
"""What databases say, and what we say with the thing to fix; most specific first.

What may pass (a disk is cleared or mounted, a standby takes over) is worth another try; the rest waits for a person.
"""
_NO_SUCH_PLACE = re.compile(r'(?:database|role) "[^"]*" does not exist')
_NETWORK_DISKS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.rclone", "fuse.s3fs", "fuse.davfs", "fuse.vmhgfs-fuse"),
    }
)


class Database:
    """One database, SQLite or PostgreSQL, behind the same two doors: `read()` and `write()`."""

    def __init__(self, url: str, *, pooled: bool = True) -> None:
        """Nothing is opened yet. Raises `ConfigError` for a scheme we do not speak, or whose driver is missing."""
        self.url = _async_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database) if self.is_sqlite and self.url.database else None
        self.engine = self._engine(pooled=pooled)

    def _engine(self, *, pooled: bool) -> AsyncEngine:
        if not self.is_sqlite:
            patience = {name: value for name, value in _PATIENCE.items() if name not in self.url.query}
            pool = {"pool_size": 8, "max_overflow": 8} if pooled else {"poolclass": NullPool}
            try:
                engine = create_async_engine(
                    self.url,
                    hide_parameters=True,  # they hold names and addresses, and errors end up in logs
                    connect_args={"prepare_threshold": None, **patience},
                    **pool,
                )
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"database.url: PostgreSQL needs the module {error.name}, which is not installed: "
                    "install subscription-monitor[postgres]"
                ) from None
            event.listen(engine.sync_engine, "checkin", _note_rest)
            event.listen(engine.sync_engine, "checkout", partial(_wake, engine.sync_engine.dialect))
            return engine
        engine = create_async_engine(self.url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        event.listen(engine.sync_engine, "invalidate", _give_lock_back)
        return engine

    @property
    def place(self) -> str:
        """The file, or the URL as an operator writes it, without its password."""
        if self.path is not None:
            return str(self.path)
        return self.url.set(drivername=self.url.get_backend_name()).render_as_string(hide_password=True)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write: committed at the end, rolled back on any exception.

        Raises `StoreError` when the database refuses (read-only, full, gone).
        """
        self._check_folder()
        try:
            async with self.engine.connect() as conn, conn.begin():
                yield conn
        except DBAPIError as error:
            raise _explained(error, self) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; it never waits for a writer."""
        self._check_folder()
        try:
            async with self.engine.connect() as conn:
                await conn.execution_options(monitor_read=True)
                async with conn.begin():
                    yield conn
        except DBAPIError as error:
            raise _explained(error, self) from error

    def _check_folder(self) -> None:
        """Before the driver: its thread would complain on stderr beside our error."""
        if self.path is not None and not self.path.parent.is_dir():
            raise _cannot_be_opened(str(self.path))

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        await self.engine.dispose()

    def check_disk(self) -> None:
        """Refuse a SQLite file on a network disk, where its locks are not to be trusted. Raises `ConfigError`."""
        if self.path is None:
            return
        kind = filesystem_of(Path(os.path.realpath(self.path)).parent)  # a link may lead to the network, or nowhere
        if kind in _NETWORK_DISKS:
            raise ConfigError(
                f"database.url: {self.path} lies on a network disk ({kind}), where SQLite's locks do not hold; "
                "use a local disk or PostgreSQL",
            )


async def db_now(conn: AsyncConnection) -> datetime:
    """The database's own clock (aware UTC): leases and observation times are its, on every machine the same."""
    if conn.dialect.name == "postgresql":
        value = (await conn.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return value.astimezone(UTC)  # type: ignore[no-any-return]  # psycopg gives an aware datetime
    value = (await conn.execute(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))).scalar_one()
    return datetime.fromisoformat(f"{value}+00:00")


def db_clock_after(dialect: str, wait: timedelta) -> ColumnElement[datetime]:
    """The database's clock that much later, for a statement to write: what `db_now` would ask for first."""
    seconds = int(wait.total_seconds())
    if dialect == "postgresql":
        return literal_column(f"clock_timestamp() + interval '{seconds} seconds'", Instant())
    return literal_column(f"strftime('%Y-%m-%dT%H:%M:%f', 'now', '+{seconds} seconds') || '000+00:00'", Instant())


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the filesystem that holds `folder`; "" where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        inside = os.path.commonpath([point, str(folder)]) == point if point.startswith("/") else False
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def _async_url(url: str) -> URL:
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"database.url: {backend} is not supported; use sqlite:///file.db or postgresql://user@host/db")


def _note_rest(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[_RESTS] = monotonic()


def _wake(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Ask a connection that has rested for a while whether it still lives: a server may have been started anew.

    As SQLAlchemy's `pool_pre_ping` does before every transaction, which costs a short one a third of its time.
    """
    rests_since = record.info.get(_RESTS)
    if rests_since is None or monotonic() - rests_since < RESTED_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # we say BEGIN ourselves
    cursor = dbapi_connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        "cache_size=-4000",  # KiB, and each connection has its own: 16 MB each cost a small host 80 MB
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Any) -> None:
    reading = conn.get_execution_options().get("monitor_read", False)
    conn.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _give_lock_back(connection: Any, _record: object, _error: BaseException | None) -> None:
    """End the transaction of a connection that is given up, as after a cancelled statement, before it is closed.

    A closed connection lives on inside SQLite, its write lock too, for as long as something holds a cursor of it that
    was not read to its end: the traceback of the cancellation does, until the garbage collector comes.
    """
    # a second cancellation must not keep it from being closed; the first one goes on behind this
    with suppress(Exception, CancelledError):
        connection.rollback()


def _explained(error: DBAPIError, database: Database) -> StoreError:
    """Our error for theirs, with the thing to fix. Most specific first."""
    reason = str(error.orig).splitlines()[0] if error.orig is not None and str(error.orig) else str(error)
    where = database.place
    lowered = reason.lower()
    said, kind = next(
        ((said, kind) for words, said, kind in _SAID if any(word in lowered for word in words)), (None, StoreError)
    )
    if _NO_SUCH_PLACE.search(lowered):
        said = "did not answer ({reason}): make it, or mend database.url"
    if said is None:
        said = "did not answer: {reason}" if isinstance(error, OperationalError) else "refused: {reason}"
    return kind(f"the database {where} {said.format(reason=reason)}")


def _cannot_be_opened(where: str) -> StoreError:
    return StoreError(f"the database {where} {_NOT_OPENED}")
