"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
from sqlalchemy import BigInteger, Dialect, Integer, Numeric, String
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import TypeDecorator, TypeEngine

RowId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only INTEGER PRIMARY KEY by itself


_WHOLE_SECONDS, _WITH_MICROSECONDS = len("2026-01-31T23:59:59Z"), len("2026-01-31T23:59:59.123456Z")
_NAIVE = "a naive time must not reach the database"


def instant_text(value: datetime) -> str:
    """An aware instant as SQLite keeps it and PostgreSQL reads it. Raises `ValueError` for a naive one."""
    if value.tzinfo is not UTC:
        if value.tzinfo is None:
            raise ValueError(_NAIVE)
        value = value.astimezone(UTC)
    return value.isoformat(timespec="microseconds")


def instant_texts(values: Sequence[datetime | None]) -> list[str | None]:
    """`instant_text` of a whole column: `isoformat` takes ten times as long as reading the row that it stands in."""
    written: list[str | None] = []
    for value, text in zip(values, msgspec.to_builtins(values), strict=True):
        if value is None:
            written.append(None)
        elif len(text) == _WITH_MICROSECONDS:
            written.append(f"{text[:-1]}+00:00")
        elif len(text) == _WHOLE_SECONDS:
            written.append(f"{text[:-1]}.000000+00:00")
        else:  # no Z at its end: of another zone, or of none
            written.append(instant_text(value))
    return written


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant: timestamptz on PostgreSQL; fixed-width ISO text on SQLite, which sorts as time does."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(32))  # type: ignore[arg-type]  # text is how SQLite keeps it

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(_NAIVE)
        return value if dialect.name == "postgresql" else instant_text(value)

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return datetime.fromisoformat(str(value))


class Units(TypeDecorator[int]):
    """Token amounts in the smallest unit. 24 tokens of 18 decimals overflow 64 bits, so never a plain integer."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[int]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(78, 0))  # type: ignore[arg-type]  # typed by what we hand out, not by how it is kept
        return dialect.type_descriptor(String(78))  # type: ignore[arg-type]  # typed by what we hand out, not by how it is kept

    def process_bind_param(self, value: int | None, dialect: Dialect) -> object:
        if value is None:
            return None
        return Decimal(value) if dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: object, dialect: Dialect) -> int | None:
        return None if value is None else int(str(value))


class Usd(TypeDecorator[Decimal]):
    """An exact amount of dollars: numeric on PostgreSQL, text on SQLite, which would make it a float."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Decimal]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric())
        return dialect.type_descriptor(String(64))  # type: ignore[arg-type]  # typed by what we hand out, not by how it is kept

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> object:
        if value is None or dialect.name == "postgresql":
            return value
        return format(value, "f")

    def process_result_value(self, value: object, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(str(value))


class Seconds(TypeDecorator[timedelta]):
    """A duration, kept as whole seconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value.total_seconds())

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else timedelta(seconds=int(value))
