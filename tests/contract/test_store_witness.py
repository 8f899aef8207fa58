"""The witness: a restored, moved or copied database is told apart from a host that slept."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from sqlalchemy import select, text, update

from monitor.store import witness as witnesses
from monitor.store.engine import Database
from monitor.store.schema import instance
from monitor.store.witness import check_witness, note_witness, seal_witness


async def check(store: Database, folder) -> str | None:
    async with store.read() as conn:
        return await check_witness(conn, store, folder)


async def use(store: Database, folder) -> tuple[str, int]:
    async with store.write() as conn:
        seal = await seal_witness(conn, store)
    note_witness(folder, *seal)
    return seal


async def test_the_first_use_is_believed_and_counted(store, tmp_path):
    assert await check(store, tmp_path) is None
    uuid, counter = await use(store, tmp_path)
    assert counter == 1
    assert await use(store, tmp_path) == (uuid, 2)
    assert await check(store, tmp_path) is None
    assert json.loads((tmp_path / "witness").read_text()) == {"uuid": uuid, "counter": 2}


async def test_checking_writes_nothing(store, tmp_path):
    await check(store, tmp_path)
    async with store.read() as conn:
        assert (await conn.execute(select(instance))).one_or_none() is None
    assert not (tmp_path / "witness").exists()


async def test_a_database_behind_its_last_use_was_restored(store, tmp_path):
    uuid, counter = await use(store, tmp_path)
    note_witness(tmp_path, uuid, counter + 1)
    assert await check(store, tmp_path) == "the database is older than its last use: it was restored from a backup"


async def test_a_database_ahead_of_the_file_is_fine_for_the_file_is_written_last(store, tmp_path):
    """Killed between the commit and the note: no alarm."""
    await use(store, tmp_path)
    async with store.write() as conn:
        await seal_witness(conn, store)
    assert await check(store, tmp_path) is None


async def test_the_file_of_another_database_is_told(store, tmp_path):
    await use(store, tmp_path)
    note_witness(tmp_path, "another", 1)
    assert "belongs to another database" in await check(store, tmp_path)


async def test_a_missing_file_counts_on_one_machine_and_not_in_a_new_container(store, tmp_path):
    await use(store, tmp_path)
    (tmp_path / "witness").unlink()
    odd = await check(store, tmp_path)
    assert (odd is not None and "is missing" in odd) is store.is_sqlite


@pytest.mark.parametrize("content", ["", "{", '{"uuid": 1}'])
async def test_a_file_that_cannot_be_read_is_a_missing_one(store, tmp_path, content):
    await use(store, tmp_path)
    (tmp_path / "witness").write_text(content)
    assert (await check(store, tmp_path) is not None) is store.is_sqlite


async def test_a_database_that_lives_elsewhere_is_told_until_it_is_accepted(store, tmp_path):
    await use(store, tmp_path)
    async with store.write() as conn:
        await conn.execute(update(instance).values(witness='["another", "place"]'))
    assert "lives elsewhere" in await check(store, tmp_path)
    await use(store, tmp_path)
    assert await check(store, tmp_path) is None


async def test_a_copied_file_is_told(sqlite_url, tmp_path):
    from monitor.store.revision import upgrade

    first = Database(sqlite_url)
    await upgrade(first)
    await use(first, tmp_path)
    await first.aclose()
    shutil.copy(tmp_path / "monitor.db", tmp_path / "copy.db")
    os.replace(tmp_path / "copy.db", tmp_path / "monitor.db")
    again = Database(sqlite_url)
    assert "lives elsewhere" in await check(again, tmp_path)
    await again.aclose()


async def test_a_role_that_may_not_ask_for_the_cluster_still_has_a_place(postgres_url, tmp_path, monkeypatch):
    from monitor.store.revision import upgrade

    db = Database(postgres_url)
    await upgrade(db)
    monkeypatch.setattr(witnesses, "_CLUSTER", "SELECT secret FROM a_table_we_may_not_read")
    await use(db, tmp_path)
    async with db.read() as conn:
        place = json.loads((await conn.execute(select(instance.c.witness))).scalar_one())
        oid = (
            await conn.execute(text("SELECT oid::bigint FROM pg_database WHERE datname = current_database()"))
        ).scalar_one()
    assert place == ["postgresql", "unknown", oid]
    assert await check(db, tmp_path) is None
    await db.aclose()


async def test_a_machine_without_an_id_has_a_place_too(store, tmp_path, monkeypatch):
    class NoFile:
        def __init__(self, _path: str) -> None: ...

        def read_text(self, **_how: str) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(witnesses, "Path", NoFile)
    assert witnesses._machine() == ""
