"""Databases that were put back or copied, and clocks that are wrong: nothing is mailed until a person has looked."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from monitor.errors import ConfigError
from monitor.sandbox.seeding import healthy
from tests.faults.rig.scene import Forge, acting
from tests.harness import staged

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("skew", [timedelta(minutes=5), -timedelta(minutes=5)], ids=["ahead", "behind"])
async def test_a_clock_that_is_five_minutes_off_passes_and_one_second_more_is_refused(
    skew: timedelta, sqlite_url: str, tmp_path: Path
):
    async with staged(healthy(20), sqlite_url, tmp_path / "var") as on:
        on.faults.clock_skew = skew
        assert (await on.run()).outcome == "complete"
        on.faults.requests.clear()
        on.faults.clock_skew = skew + skew / 300
        with pytest.raises(ConfigError, match="differ by 301 s"):
            await on.run()
        assert on.faults.requests["subscriptions"] == 0
        on.faults.clock_skew = timedelta()
        assert (await on.run()).outcome == "complete", "the refusal left no lock and no half of a run behind"


def copy_database(source: Path, target: Path) -> None:
    for name in (source.name, f"{source.name}-wal"):
        if (source.parent / name).exists():
            shutil.copyfile(source.parent / name, target.with_name(name.replace(source.name, target.name)))


async def test_a_backup_that_is_put_back_holds_its_mails_with_the_reason(tmp_path: Path, forge: Forge):
    """Yesterday's file in place of today's: what it thinks is new was mailed long ago."""
    file, backup = tmp_path / "monitor.db", tmp_path / "backup.db"
    async with acting(healthy(80), f"sqlite+aiosqlite:///{file}", tmp_path, forge) as scene:
        await scene.done()
        copy_database(file, backup)
        scene.cause(max_amount_reached=7)
        await scene.done()
        mailed = len(scene.sink.accepted())
        assert mailed == 7
        for name in ("monitor.db-wal", "monitor.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        file.write_bytes(backup.read_bytes())  # the same inode: only the count can tell
        if (wal := tmp_path / "backup.db-wal").exists():
            shutil.copyfile(wal, tmp_path / "monitor.db-wal")
        report = await scene.done()
        assert report.outcome == "held"
        assert "restored from a backup" in " ".join(report.problems)
        await scene.done()
        assert len(scene.sink.accepted()) == mailed
        assert scene.states() == {"held": 7}


async def test_a_copied_database_holds_its_mails_with_the_reason(tmp_path: Path, forge: Forge):
    """Two hosts by mistake: the copy lives elsewhere, whatever its count says."""
    file, other = tmp_path / "monitor.db", tmp_path / "other.db"
    async with acting(healthy(80), f"sqlite+aiosqlite:///{file}", tmp_path, forge) as scene:
        copy_database(file, other)
        shutil.copytree(tmp_path / "var", tmp_path / "var2")
        scene.cause(max_amount_reached=7)
        copied = {"url": f"sqlite+aiosqlite:///{other}", "state_dir": str(tmp_path / "var2")}
        report = await scene.done(**copied)
        assert report.outcome == "held"
        assert "copied" in " ".join(report.problems)
        assert scene.sink.accepted() == []
        assert (await scene.done()).outcome == "complete"
        scene.check()


async def test_a_postgres_database_made_from_another_holds_its_mails(
    postgres_url: str, postgres_server: str, tmp_path: Path, forge: Forge
):
    name = postgres_url.split("@/")[1].partition("?")[0]
    async with acting(healthy(80), postgres_url, tmp_path, forge) as scene:
        with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres_server}", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name} STRATEGY file_copy")
            try:
                scene.cause(max_amount_reached=7)
                report = await scene.done(url=postgres_url.replace(f"/{name}?", f"/{name}_copy?"))
                assert report.outcome == "held"
                assert "copied" in " ".join(report.problems)
                assert scene.sink.accepted() == []
            finally:
                admin.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")
        assert (await scene.done()).outcome == "complete"
        scene.check()


async def test_a_host_that_slept_is_not_taken_for_a_restored_one(sqlite_url: str, tmp_path: Path, forge: Forge):
    async with acting(healthy(60), sqlite_url, tmp_path, forge) as scene:
        scene.world.advance(timedelta(days=3))
        report = await scene.done()
        assert (report.outcome, report.problems) == ("complete", [])
