"""INSERT with ON CONFLICT, which SQLite and PostgreSQL both have and plain SQL has not."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def insert_into(conn: AsyncConnection, table: Table) -> postgresql.Insert:
    """The insert of this connection's dialect; what is used of the two is the same, so one of them is the type."""
    if conn.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)  # type: ignore[return-value]  # the same methods, no common base
