"""One migrated PostgreSQL database for many tests: emptied after each, made anew when a test changed more than rows.

Making a database costs more than most tests, and its first connections read the whole catalog.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg.sql import SQL, Identifier

NAME = "test_kept"
LARGE = 1_000_000
"""Bytes from which a table is truncated, lest the next tests read its dead rows; it costs more than deleting few."""

STRUCTURE = """
SELECT md5(string_agg(part, ';' ORDER BY part)) FROM (
  SELECT concat_ws(' ', oid, relname, relowner, relacl) AS part FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', a.attrelid, a.attname, a.atttypid, a.attacl) FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
  UNION ALL SELECT concat_ws(' ', oid, tgname, tgenabled) FROM pg_trigger
  UNION ALL SELECT concat_ws(' ', oid, nspname, nspacl) FROM pg_namespace WHERE nspname NOT LIKE 'pg_temp%'
    AND nspname NOT LIKE 'pg_toast%'
  UNION ALL SELECT concat_ws(' ', oid, datname, datacl) FROM pg_database WHERE datname = current_database()
  UNION ALL SELECT concat_ws(' ', setdatabase, setrole, setconfig) FROM pg_db_role_setting
) AS parts
"""


class Kept:
    """A database that is as good as new for each test. `migrate` brings an empty one to this code's revision."""

    def __init__(self, server: str, migrate: Callable[[str], None]) -> None:
        self.server = server
        self.migrate = migrate
        self.structure = ""
        self.tables: dict[str, list[tuple]] = {}
        self._make()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@/{NAME}?host={self.server}"

    def _connected(self, name: str) -> psycopg.Connection:
        return psycopg.connect(f"postgresql://postgres@/{name}?host={self.server}", autocommit=True)

    def drop(self) -> None:
        with self._connected("postgres") as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")

    def _make(self) -> None:
        self.drop()
        with self._connected("postgres") as admin:
            admin.execute(f"CREATE DATABASE {NAME} STRATEGY file_copy")
        self.migrate(self.url)
        with self._connected(NAME) as db:
            names = [row[0] for row in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
            self.tables = {
                name: db.execute(SQL("SELECT * FROM {}").format(Identifier(name))).fetchall() for name in names
            }
            self.structure = self._structure(db)

    def _structure(self, db: psycopg.Connection) -> str:
        found = db.execute(STRUCTURE).fetchone()
        assert found is not None
        return found[0]

    def renew(self) -> None:
        """After a test: cut off who is still connected, and let nothing of it stay."""
        with suppress(psycopg.Error), self._connected(NAME) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if self._structure(db) == self.structure:
                self._empty(db)
                return
        self._make()

    def _empty(self, db: psycopg.Connection) -> None:
        db.execute("SET session_replication_role = replica")  # what may only grow is emptied too
        large = {
            row[0]
            for row in db.execute(
                f"SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_relation_size(oid) > {LARGE}"
            )
        }
        with db.transaction():
            for name, rows in self.tables.items():
                table = Identifier(name)
                db.execute(SQL("TRUNCATE {} CASCADE" if name in large else "DELETE FROM {}").format(table))
                for row in rows:
                    places = SQL(", ").join(SQL("%s") for _ in row)
                    db.execute(SQL("INSERT INTO {} VALUES ({})").format(table, places), row)
            db.execute(
                "SELECT setval(oid::regclass, 1, false) FROM pg_class"
                " WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
            )
