"""Migrations and mapped tables say the same on both databases, and the ledger cannot be rewritten."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import delete, func, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from monitor.errors import ConfigError, StoreClosedError, StoreError
from monitor.store import revision as revisions
from monitor.store.engine import Database
from monitor.store.revision import code_revision, database_revision, require_current, upgrade
from monitor.store.schema import attempts, events, ledger_unlock, metadata
from tests.store_rows import NOW, a_mail, a_subscription, an_account, an_episode, an_event

LATER = datetime(2026, 4, 2, tzinfo=UTC)


@pytest.fixture
async def empty(empty_database_url):
    db = Database(empty_database_url)
    yield db
    await db.aclose()


@pytest.fixture
async def db(database_url):
    db = Database(database_url)
    yield db
    await db.aclose()


def _differences(conn) -> list[object]:
    context = MigrationContext.configure(conn, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_migrations_and_mapped_tables_agree(db):
    async with db.read() as conn:
        assert await conn.run_sync(_differences) == []


def _shape(conn) -> dict[str, object]:
    """What alembic's comparison is blind to: conditions of partial indexes, defaults, foreign keys."""
    seen = inspect(conn)
    shape: dict[str, object] = {}
    for name in sorted(set(seen.get_table_names()) - {"alembic_version"}):
        indexes = {
            index["name"]: (
                tuple(index["column_names"]),
                bool(index["unique"]),
                str(index.get("dialect_options", {}).get(f"{conn.dialect.name}_where", "")),
            )
            for index in seen.get_indexes(name)
            if "duplicates_constraint" not in index
        }
        shape[name] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)],
            "indexes": indexes,
            "uniques": sorted((u["name"], tuple(u["column_names"])) for u in seen.get_unique_constraints(name)),
            "keys": sorted((tuple(k["constrained_columns"]), k["referred_table"]) for k in seen.get_foreign_keys(name)),
            "primary": tuple(seen.get_pk_constraint(name)["constrained_columns"]),
        }
    return shape


async def test_the_migrated_tables_are_the_mapped_ones_to_the_last_condition_of_an_index(db, tmp_path):
    async with db.read() as conn:
        migrated = await conn.run_sync(_shape)
    async with db.write() as conn:
        await conn.run_sync(_drop_everything)
        await conn.run_sync(metadata.create_all)
    async with db.read() as conn:
        mapped = await conn.run_sync(_shape)
    assert migrated.keys() == mapped.keys()
    for name, shape in mapped.items():
        assert migrated[name] == shape, name


def _drop_everything(conn) -> None:
    seen = inspect(conn)
    if conn.dialect.name == "sqlite":
        conn.execute(text("PRAGMA defer_foreign_keys=ON"))
    for name in seen.get_table_names():
        conn.execute(text(f"DROP TABLE {name}" + (" CASCADE" if conn.dialect.name == "postgresql" else "")))


async def test_an_upgrade_begins_with_an_empty_database_and_is_idempotent(empty):
    assert await database_revision(empty) is None
    assert await upgrade(empty) == (None, code_revision())
    assert await upgrade(empty) == (code_revision(), code_revision())
    assert await database_revision(empty) == code_revision()
    await require_current(empty)


async def test_an_upgrade_that_fails_half_way_leaves_nothing_behind(empty, monkeypatch):
    def breaks(sync) -> None:
        sync.execute(text("CREATE TABLE half_done (id INTEGER)"))
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(revisions, "_upgrade", breaks)
        with pytest.raises(RuntimeError):
            await upgrade(empty)
    async with empty.read() as conn:
        assert await conn.run_sync(lambda sync: inspect(sync).get_table_names()) == []
    assert await upgrade(empty) == (None, code_revision())


async def test_a_database_older_than_the_code_names_the_command(db):
    async with db.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(ConfigError, match=r"is at revision 0001, this code needs \S+: run `monitor db upgrade`"):
        await require_current(db)


async def test_a_database_without_tables_names_the_command(empty):
    with pytest.raises(ConfigError, match=r"has no tables yet: run `monitor db upgrade`"):
        await require_current(empty)


async def test_a_database_newer_than_the_code_is_refused_by_both(db):
    async with db.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (require_current, upgrade):
        with pytest.raises(ConfigError, match=r"9999, which is newer than this code"):
            await refuse(db)


async def test_an_installation_without_migrations_says_so(monkeypatch, tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text("")
    monkeypatch.setattr(revisions, "_FOLDER", Path(tmp_path))
    with pytest.raises(ConfigError, match="install the package again"):
        code_revision()


async def test_reading_an_unmigrated_database_says_what_to_run(empty):
    with pytest.raises(StoreClosedError, match=r"lacks its tables .*: run `monitor db upgrade`"):
        async with empty.read() as conn:
            await conn.execute(select(events.c.id))


# The ledger


@pytest.fixture
async def ledger(db):
    """A database with one event and one attempt."""
    async with db.write() as conn:
        account = await an_account(conn)
        sub = await a_subscription(conn, account)
        await an_event(conn, account, sub)
        episode = await an_episode(conn, account, sub)
        mail = await a_mail(conn, account, sub, episode)
        await conn.execute(
            insert(attempts).values(notification_id=mail, copy=1, token=1, phase="data", outcome="started", at=NOW)
        )
    return db


CHANGES = {"events": (events, {"kind": "healthy"}), "attempts": (attempts, {"outcome": "sent"})}


@pytest.mark.parametrize("name", CHANGES)
async def test_no_row_of_the_ledger_can_be_changed(ledger, name):
    table, values = CHANGES[name]
    with pytest.raises((DBAPIError, StoreError), match="append-only"):
        async with ledger.write() as conn:
            await conn.execute(update(table).values(**values))


@pytest.mark.parametrize("name", CHANGES)
async def test_no_row_of_the_ledger_can_be_changed_even_when_it_is_unlocked(ledger, name):
    table, values = CHANGES[name]
    with pytest.raises((DBAPIError, StoreError), match="append-only"):
        async with ledger.write() as conn:
            await conn.execute(insert(ledger_unlock).values(why="to tidy up"))
            await conn.execute(update(table).values(**values))


@pytest.mark.parametrize("name", CHANGES)
async def test_no_row_of_the_ledger_can_be_deleted(ledger, name):
    table, _ = CHANGES[name]
    with pytest.raises((DBAPIError, StoreError), match="append-only"):
        async with ledger.write() as conn:
            await conn.execute(delete(table))
    async with ledger.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(table))).scalar_one() == 1


@pytest.mark.parametrize("name", CHANGES)
async def test_a_row_of_the_ledger_is_deleted_only_in_the_transaction_that_unlocks_it(ledger, name):
    table, _ = CHANGES[name]
    async with ledger.write() as conn:
        await conn.execute(insert(ledger_unlock).values(why="erase of a person"))
        await conn.execute(delete(table))
        await conn.execute(delete(ledger_unlock))
    async with ledger.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(table))).scalar_one() == 0
