"""deploy/postgres on a real PostgreSQL: each role can do its work, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from monitor.errors import StoreClosedError
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.engine import Database
from monitor.store.revision import require_current, upgrade
from monitor.store.schema import metadata
from monitor.usecases.housekeeping import keep_house
from monitor.usecases.pausing import pause
from monitor.usecases.plan import dry_run
from tests.harness import days, staged

FOLDER = Path(__file__).parents[2] / "deploy" / "postgres"
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
PERSONAL = {
    "customers": {"email", "name", "last_name", "reference", "address_mac"},
    "subscriptions": {"reference", "wallet", "subscription_hash", "manage_link", "bill_tx", "raw", "raw_mark"},
    "notifications": {"recipient", "letter", "why", "message_id", "address_mac"},
    "attempts": {"detail"},
    "facts": {"body"},
    "quarantine": {"raw"},
    "payments": {"tx_hash", "explorer_url", "reference", "reason"},
}

FORBIDDEN = [
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE SCHEMA mine",
    "ALTER TABLE events ADD COLUMN note text",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "DROP TRIGGER events_append_only ON events",
    "DROP TABLE notifications",
    "TRUNCATE attempts",
    "UPDATE events SET cause = NULL",
    "DELETE FROM events",
    "UPDATE attempts SET outcome = 'sent'",
    "DELETE FROM attempts",
    "UPDATE payment_events SET kind = 'payment_failed'",
    "DELETE FROM payment_events",
    "DELETE FROM notifications",
    "DELETE FROM subscriptions",
    "UPDATE templates SET files = ''",
    "INSERT INTO ledger_unlock (id, why) VALUES (1, 'because')",
    "UPDATE alembic_version SET version_num = '9999'",
    "CREATE ROLE another",
    "COPY events TO PROGRAM 'cat'",
]
UNREADABLE = [
    "SELECT email FROM customers",
    "SELECT * FROM customers",
    "SELECT recipient FROM notifications",
    "SELECT manage_link FROM subscriptions",
    "SELECT raw FROM quarantine",
]


def statements(name: str) -> str:
    """The file as the server gets it: psql's own lines are psql's."""
    lines = (FOLDER / name).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("\\"))


def as_role(url: str, role: str) -> str:
    return url.replace("//postgres@", f"//{role}@")


def connect(url: str, role: str) -> psycopg.Connection:
    return psycopg.connect(as_role(url, role).replace("+psycopg", ""), autocommit=True)


def allowed(role: psycopg.Connection, tried: list[str]) -> list[str]:
    """Those statements that the role was not refused for lack of a right."""
    done = []
    for statement in tried:
        try:
            role.execute(statement)
        except InsufficientPrivilege:
            continue
        done.append(statement)
    return done


async def test_a_role_without_its_grants_is_told_what_lacks(empty_postgres_url):
    with connect(empty_postgres_url, "postgres") as admin:
        admin.execute(statements("roles.sql"))
    owner, worker = (Database(as_role(empty_postgres_url, f"monitor_{name}")) for name in ("owner", "worker"))
    try:
        with pytest.raises(StoreClosedError, match="permission denied for schema .* as the role that owns its tables"):
            await upgrade(worker)
        await upgrade(owner)
        with pytest.raises(StoreClosedError, match="permission denied for table .* grant its roles their rights"):
            await require_current(worker)
    finally:
        await owner.aclose()
        await worker.aclose()


@pytest.fixture
async def url(empty_postgres_url):
    """A database whose owner made the tables, as docs/deploy.md does it."""
    with connect(empty_postgres_url, "postgres") as admin:
        admin.execute(statements("roles.sql"))
        admin.execute(statements("roles.sql"))  # a second time changes nothing
    database = Database(as_role(empty_postgres_url, "monitor_owner"))
    try:
        await upgrade(database)
    finally:
        await database.aclose()
    with connect(empty_postgres_url, "monitor_owner") as owner:
        owner.execute(statements("grants.sql"))
    return empty_postgres_url


async def test_the_worker_runs_delivers_and_plans(url, tmp_path):
    world = healthy(60, trials=4, start=START)
    async with staged(world, as_role(url, "monitor_worker"), tmp_path / "var") as stage:
        assert (await stage.run()).outcome == "complete"
        cause(world, {"low_on_funds": 2, "payment_failed:allowance_exhausted": 1})
        (tmp_path / "plan").mkdir()
        plan = await dry_run(stage.tools, stage.account, stage.mailer, tmp_path / "plan", stage.state_dir)
        assert (await stage.run()).outcome == "complete"
        sent = (await stage.deliver()).sent
        assert sent == len(stage.mailbox.messages) == sum(line.what == "send" for line in plan.lines) > 0
        kept = await keep_house(stage.tools, world.now + days(100))
        assert kept.pages > 0
        await pause(stage.tools, "acme", "qbitflow-v2", stage.account.mode)
    with connect(url, "monitor_owner") as owner:
        for table in ("events", "attempts"):
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0


async def test_the_worker_cannot_change_tables_or_the_ledger(url):
    with connect(url, "monitor_worker") as worker:
        assert allowed(worker, FORBIDDEN) == []


async def test_the_reader_cannot_read_what_is_personal(url):
    with connect(url, "monitor_reader") as reader:
        assert allowed(reader, UNREADABLE) == []


async def test_the_reader_sees_every_column_but_those_about_a_person(url):
    with connect(url, "monitor_reader") as reader:
        for table in metadata.sorted_tables:
            open_ = {
                column.name
                for column in table.columns
                if reader.execute(
                    "SELECT has_column_privilege(%s, %s, 'SELECT')", (table.name, column.name)
                ).fetchone()[0]
            }
            hidden = {column.name for column in table.columns} - open_
            assert hidden == PERSONAL.get(table.name, {"id", "why"} if table.name == "ledger_unlock" else set()), (
                table.name
            )


async def test_the_reader_cannot_write(url):
    with connect(url, "monitor_reader") as reader:
        reader.execute("SET default_transaction_read_only = off")
        for table in metadata.sorted_tables:
            for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                held = reader.execute("SELECT has_table_privilege(%s, %s)", (table.name, right)).fetchone()[0]
                assert not held, f"{right} on {table.name}"


async def test_somebody_else_cannot_even_connect(url):
    with connect(url, "postgres") as admin:
        admin.execute("DROP ROLE IF EXISTS somebody")
        admin.execute("CREATE ROLE somebody LOGIN")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(url, "somebody")


def test_every_table_is_thought_about():
    granted = statements("grants.sql")
    assert [table.name for table in metadata.sorted_tables if not re.search(rf"\b{table.name}\b", granted)] == []
