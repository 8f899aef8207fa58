"""What all tables share: the metadata with its naming rules, and two column helpers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ForeignKey, MetaData, text

from monitor.store.types import RowId

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def account_column() -> Column[int]:
    """Every row belongs to one account."""
    return Column("account_id", RowId, ForeignKey("accounts.id"), nullable=False)


def where(condition: str) -> dict[str, Any]:
    """The arguments of a partial index, on both databases."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}
