"""The two doors of a database, and what is said when it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from monitor.errors import ConfigError, StoreClosedError, StoreError
from monitor.store import engine as engines
from monitor.store.accounts import ensure_account, find_account
from monitor.store.engine import Database, filesystem_of
from monitor.store.revision import upgrade
from monitor.store.schema import customers, locks
from tests.store_rows import NOW, a_customer, an_account


async def test_what_fails_half_way_is_not_written(store):
    with pytest.raises(RuntimeError):
        async with store.write() as conn:
            await an_account(conn)
            raise RuntimeError("half way")
    async with store.read() as conn:
        assert await find_account(conn, "acme") is None


async def test_readers_do_not_wait_for_a_writer_and_see_what_was_committed(store):
    async with store.write() as writer:
        await an_account(writer)
        async with store.read() as reader:
            assert await find_account(reader, "acme") is None
    async with store.read() as reader:
        assert await find_account(reader, "acme") is not None


async def test_two_writers_who_read_first_both_succeed(store):
    """On SQLite a transaction that reads and then writes fails at once, unless it began IMMEDIATE."""
    async with store.write() as conn:
        await an_account(conn)

    async def change(name: str) -> None:
        async with store.write() as conn:
            await find_account(conn, "acme")
            await asyncio.sleep(0)
            await an_account(conn, name)

    await asyncio.gather(*(change(f"account-{n}") for n in range(8)))
    async with store.read() as conn:
        for n in range(8):
            assert await find_account(conn, f"account-{n}") is not None


async def test_an_error_never_shows_whom_a_statement_was_about(store):
    """Errors end up in logs; addresses and names must not."""
    address = "CANARY@customer.example".lower()
    with pytest.raises(StoreError) as caught:
        async with store.write() as conn:
            account = await an_account(conn)
            for _ in range(2):
                await a_customer(conn, account, "c1", email=address, name=address)
    assert address not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("rested_s", "survives"), [(0.0, True), (60.0, False)])
async def test_a_connection_is_asked_whether_it_lives_only_after_a_rest(postgres_url, monkeypatch, rested_s, survives):
    """A server that was started anew is not noticed; each of many short transactions is not preceded by a question."""
    monkeypatch.setattr(engines, "RESTED_S", rested_s)
    db, other = Database(postgres_url), Database(postgres_url)
    async with db.read() as conn:
        backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with other.write() as conn:
        await conn.execute(text("SELECT pg_terminate_backend(:backend, 5000)"), {"backend": backend})
    if survives:
        async with db.read() as conn:
            assert (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one() != backend
    else:
        with pytest.raises(StoreError):
            async with db.read() as conn:
                await conn.execute(text("SELECT 1"))
    async with db.read() as conn:
        await conn.execute(text("SELECT 1"))
    await other.aclose()
    await db.aclose()


async def test_a_database_that_is_closed_can_be_closed_again(store):
    await store.aclose()
    await store.aclose()


async def test_sqlite_keeps_what_was_sent_after_a_power_loss_and_checks_its_keys(sqlite_url):
    db = Database(sqlite_url)
    await upgrade(db)
    pragmas = {}
    async with db.read() as conn:
        for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout"):
            pragmas[name] = (await conn.execute(text(f"PRAGMA {name}"))).scalar_one()
    await db.aclose()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 30_000,
    }


async def test_postgres_prepares_nothing_that_a_pooler_would_lose(postgres_url):
    db = Database(postgres_url)
    await upgrade(db)
    for _ in range(8):
        async with db.read() as conn:
            await find_account(conn, "acme")
    async with db.read() as conn:
        for _ in range(8):
            await find_account(conn, "acme")
        assert (await conn.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one() == 0
        assert (await conn.execute(text("SHOW transaction_isolation"))).scalar_one() == "read committed"
    await db.aclose()


async def test_an_unpooled_database_keeps_no_connection(postgres_url):
    db = Database(postgres_url, pooled=False)
    async with db.read() as conn:
        assert (await conn.execute(text("SELECT 1"))).scalar_one() == 1
    assert isinstance(db.engine.pool, NullPool)
    await db.aclose()


# Addresses


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("postgresql://u@h/db", "postgresql+psycopg"),
        ("postgresql+psycopg2://u@h/db", "postgresql+psycopg"),
    ],
)
def test_a_plain_address_gets_the_driver_that_we_speak(url, driver):
    assert Database(url).url.drivername == driver


def test_a_database_that_we_do_not_speak_is_refused():
    with pytest.raises(ConfigError, match=r"database.url: mysql is not supported; use sqlite"):
        Database("mysql://u@h/db")


async def test_a_server_that_is_gone_without_a_word_is_given_up_within_a_minute_or_as_the_url_says(postgres_url):
    db = Database(f"{postgres_url}&keepalives_count=5")
    async with db.engine.connect() as conn:
        driver = (await conn.get_raw_connection()).driver_connection
        asked = driver.info.get_parameters()
    await db.aclose()
    assert int(asked["keepalives_idle"]) + 3 * int(asked["keepalives_interval"]) <= 60
    assert (asked["tcp_user_timeout"], asked["connect_timeout"]) == ("60000", "10")
    assert asked["keepalives_count"] == "5"


def test_a_link_that_leads_to_itself_lies_on_this_machine(tmp_path):
    loop = tmp_path / "loop.db"
    loop.symlink_to(loop)
    Database(f"sqlite:///{loop}").check_disk()  # what cannot be opened is said where it is opened


def test_a_database_in_memory_has_no_path():
    assert Database("sqlite://").path is None
    Database("sqlite://").check_disk()


# What is said when it refuses


async def test_a_missing_folder_is_named(tmp_path):
    db = Database(f"sqlite:///{tmp_path}/none/monitor.db")
    with pytest.raises(StoreError, match=r"none/monitor.db cannot be opened: does its folder exist"):
        await upgrade(db)
    await db.aclose()


async def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path):
    db = Database(f"postgresql://monitor:canary@/db?host={tmp_path}")
    with pytest.raises(StoreError, match="did not answer") as caught:
        async with db.read() as conn:
            await conn.execute(text("SELECT 1"))
    assert "canary" not in str(caught.value)
    await db.aclose()


async def test_a_database_of_that_server_that_is_not_there_is_named(postgres_url):
    db = Database(postgres_url.replace("/test_", "/no_such_"))
    with pytest.raises(
        StoreClosedError, match=r"the database postgresql://.*no_such_.*: make it, or mend database\.url"
    ):
        async with db.read() as conn:
            await conn.execute(text("SELECT 1"))
    await db.aclose()


async def test_another_refusal_is_told_in_the_databases_own_words(store):
    with pytest.raises(StoreError, match=r"(?i)refused: .*unique"):
        async with store.write() as conn:
            await ensure_account(conn, "acme", "p", "live")
            for _ in range(2):
                await conn.execute(insert(locks).values(name="x", token=1, holder="", beat_at=NOW, until_at=NOW))


async def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    error = OperationalError("", {}, Exception("unable to open database file"))
    told = engines._explained(error, Database(f"sqlite:///{tmp_path}/x.db"))
    assert type(told) is StoreError, "its disk may be mounted a moment later"
    assert (
        str(told)
        == f"the database {tmp_path}/x.db cannot be opened: does its folder exist, and may this user write there?"
    )


@pytest.mark.parametrize(
    "reason",
    ["database or disk is full", 'could not extend file "base/1/2": No space left on device', "disk I/O error"],
)
def test_a_full_disk_is_told_apart_from_a_database_that_does_not_answer(tmp_path, reason):
    error = OperationalError("", {}, Exception(reason))
    told = engines._explained(error, Database(f"sqlite:///{tmp_path}/x.db"))
    assert type(told) is StoreError, "somebody clears it, and the next try is well"
    assert str(told) == f"the database {tmp_path}/x.db cannot grow ({reason}): free some space; nothing was lost"


async def test_an_error_without_words_is_told_by_its_statement(store):
    told = engines._explained(OperationalError("SELECT 1", {}, Exception()), store)
    assert "did not answer" in str(told)


async def test_a_read_only_transaction_of_postgres_is_named(postgres_url):
    db = Database(postgres_url)
    await upgrade(db)
    with pytest.raises(StoreError, match=r"is read-only \(.*\): database.url must lead to the server") as refused:
        async with db.write() as conn:
            await conn.execute(text("SET TRANSACTION READ ONLY"))
            await an_account(conn)
    assert type(refused.value) is StoreError, "a standby may be the primary in a minute"
    await db.aclose()


PROGRAM = textwrap.dedent(
    """
    import asyncio, json, os, resource, signal, sys
    from monitor.errors import StoreError
    from monitor.store.accounts import find_account
    from monitor.store.engine import Database
    from sqlalchemy import text

    async def main(path, limit):
        db = Database(f"sqlite:///{path}")
        said = ""
        try:
            async with db.read() as conn:
                await conn.execute(text("SELECT 1 FROM accounts"))
            if int(limit):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
            async with db.write() as conn:
                await conn.execute(text("INSERT INTO accounts (name, provider, mode) VALUES ('acme', 'p', 'live')"))
                await conn.execute(
                    text("INSERT INTO templates (hash, files) VALUES ('h', :files)"), {"files": "x" * 3_000_000}
                )
        except StoreError as error:
            said = str(error)
        if int(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found = None
        try:
            async with db.read() as conn:
                found = await find_account(conn, "acme") is not None
        except StoreError:
            pass
        await db.aclose()
        print(json.dumps([said, found]))

    if sys.argv[3:]:
        import encodings.idna, sqlalchemy.dialects.sqlite.aiosqlite, aiosqlite, sqlite3  # while we may still read them
        Database("sqlite://")
        os.setgid(65534); os.setuid(65534)
    asyncio.run(main(*sys.argv[1:3]))
    """
)


def run_program(path: Path, *, limit: int = 0, nobody: bool = False) -> tuple[str, bool | None]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(limit), *(["nobody"] if nobody else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


async def test_a_full_disk_is_named_and_loses_nothing(sqlite_url, tmp_path):
    db = Database(sqlite_url)
    await upgrade(db)
    await db.aclose()
    path = tmp_path / "monitor.db"
    said, found = run_program(path, limit=path.stat().st_size + 100_000)
    assert "cannot grow" in said
    assert "free some space; nothing was lost" in said
    assert found is False
    said, found = run_program(path)
    assert (said, found) == ("", True), "with space again it goes on"


@pytest.fixture
def public_folder():
    """A folder that any user may enter; pytest's own are private."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
async def test_a_file_that_this_user_may_not_write_is_named(public_folder):
    path = public_folder / "monitor.db"
    db = Database(f"sqlite:///{path}")
    await upgrade(db)
    await db.aclose()
    path.chmod(0o444)
    said, found = run_program(path, nobody=True)
    assert f"the database {path} is read-only" in said or f"the database {path} cannot be opened" in said
    assert not found


# Disks


MOUNTS = """rootfs / ext4 rw 0 0
server:/export /mnt/share nfs4 rw 0 0
//host/x /mnt/share/win\\040dows cifs rw 0 0
tmpfs /mnt/share-local tmpfs rw 0 0
broken
none relative ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/share/win dows/x", "cifs"),
        ("/mnt/share-local", "tmpfs"),
    ],
)
def test_the_longest_mount_point_above_a_folder_decides(tmp_path, folder, kind):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert filesystem_of(Path(folder), mounts) == kind


def test_where_the_system_does_not_tell_nothing_is_claimed(tmp_path):
    assert filesystem_of(tmp_path, tmp_path / "no-such-file") == ""


@pytest.mark.parametrize("kind", sorted(engines._NETWORK_DISKS))
def test_a_network_disk_is_refused_with_the_way_out(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(engines, "filesystem_of", lambda _folder: kind)
    with pytest.raises(ConfigError, match=rf"lies on a network disk \({kind}\).*use a local disk or PostgreSQL"):
        Database(f"sqlite:///{tmp_path}/x.db").check_disk()


def test_a_link_does_not_hide_the_network_disk_it_leads_to(tmp_path, monkeypatch):
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "data").symlink_to(share)
    monkeypatch.setattr(engines, "filesystem_of", lambda folder: "nfs4" if folder == share else "ext4")
    with pytest.raises(ConfigError, match="lies on a network disk"):
        Database(f"sqlite:///{tmp_path}/data/x.db").check_disk()


def test_a_local_disk_and_a_server_are_fine(tmp_path):
    Database(f"sqlite:///{tmp_path}/x.db").check_disk()
    Database("postgresql://u@h/db").check_disk()


async def test_what_a_person_deletes_is_gone_from_the_file(sqlite_url, tmp_path):
    """`secure_delete`: an erase overwrites, it does not only forget."""
    db = Database(sqlite_url)
    await upgrade(db)
    async with db.write() as conn:
        account = await an_account(conn)
        await a_customer(conn, account, email="canary-address@customer.example")
    async with db.write() as conn:
        await conn.execute(customers.update().values(email=None))
    async with db.read() as conn:
        assert (await conn.execute(select(customers.c.email))).scalar_one() is None
    async with db.engine.connect() as conn:
        await conn.exec_driver_sql("COMMIT")
        await conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        await conn.exec_driver_sql("BEGIN")
    await db.aclose()
    assert b"canary-address" not in (tmp_path / "monitor.db").read_bytes()


def test_postgresql_without_its_driver_is_a_setting_to_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        ConfigError, match=r"database\.url: PostgreSQL needs .*install subscription-monitor\[postgres\]"
    ):
        Database("postgresql://somebody@127.0.0.1/monitor")


# Cancelled


async def test_a_cancelled_write_gives_its_lock_back_though_somebody_keeps_its_traceback(sqlite_url, monkeypatch):
    """The statement is one that was not read to its end when the cancellation met it."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_MS", 100)  # whoever meets a lock that is kept is told so
    db, kept = Database(sqlite_url), []

    async def work() -> None:
        async with db.write() as conn:
            for number in range(3):
                values = {"name": f"x{number}", "token": 1, "holder": "", "beat_at": NOW, "until_at": NOW}
                (await conn.execute(insert(locks).values(values).returning(locks.c.name))).all()

    for steps in range(60):
        task = asyncio.create_task(work())
        for _ in range(steps % 30):
            await asyncio.sleep(0)
        time.sleep(0.0004 * (steps % 3))  # noqa: ASYNC251  # the driver's thread gets ahead of the loop
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            kept.append(error)
        async with db.write() as conn:
            await conn.execute(delete(locks))
    assert kept, "no cancellation met a transaction"
    await db.aclose()
