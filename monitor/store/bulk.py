"""Many rows at once, by the driver's widest door: COPY on PostgreSQL, one statement for many rows on SQLite.

The same transaction, constraints and triggers as ever; only the way of a value to the database is shorter. SQLAlchemy
asks the type of each column for each value, which for a first sync was most of the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    String,
    Table,
    Text,
    any_,
    cast,
    func,
    literal,
    select,
    text,
    true,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from monitor.store.types import Units, instant_text, instant_texts

_CHUNKS = (256, 64, 16, 4, 1)
"""Rows a statement on SQLite: few different texts, so that the driver's cache of prepared statements knows them."""

_MARK = "\x1f"  # ASCII's own separator of units: no key that anybody has seen holds one
Row = Sequence[Any]


async def insert_new(
    conn: AsyncConnection, table: Table, account_id: int, names: Sequence[str], rows: Sequence[Row]
) -> dict[str, int]:
    """Insert rows of one account, which `ext_id` tells apart; returns the row id of each that was inserted.

    An `ext_id` that another transaction inserted meanwhile is left out. Ids are drawn before, since COPY returns none.
    They have ids in the order in which they are given, and go in by that of `ext_id`: two who insert the same rows at
    once never wait for one another in a circle.
    """
    key = names.index("ext_id")
    left = list(rows)
    while left:
        ids = await _draw_ids(conn, table, len(left))
        try:
            async with conn.begin_nested():
                numbered = [(row_id, *row) for row_id, row in zip(ids, left, strict=True)]
                numbered.sort(key=itemgetter(key + 1))
                await append(conn, table, ("id", *names), numbered)
        except IntegrityError:
            taken = await _taken(conn, table, account_id, [row[key] for row in left])
            if not taken:
                raise
            left = [row for row in left if row[key] not in taken]
            continue
        return {row[key]: row_id for row_id, row in zip(ids, left, strict=True)}
    return {}


async def append(conn: AsyncConnection, table: Table, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert rows as they are. Raises what SQLAlchemy raises, `IntegrityError` for one that may not be."""
    if not rows:
        return
    driver: Any = (await conn.get_raw_connection()).driver_connection
    given, plain = _plain(table, names, rows, units_as_text=conn.dialect.name == "sqlite")
    if conn.dialect.name == "postgresql":
        statement = _copy_text(table.name, given)
        with _as_sqlalchemy(conn, statement):
            async with driver.cursor() as cursor, cursor.copy(statement) as copy:
                for row in plain:
                    await copy.write_row(row)
        return
    for chunk in _chunks(list(plain)):
        statement = _insert_text(table.name, given, len(chunk))
        with _as_sqlalchemy(conn, statement):
            # nothing is fetched: to execute and to close would be two errands of the driver's thread
            await driver.execute_fetchall(statement, list(chain.from_iterable(chunk)))


def one_of(conn: AsyncConnection, column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column IN values` as one parameter: a statement of one text, however many there are."""
    if conn.dialect.name == "postgresql":
        return column == any_(_array(list(values), Text() if isinstance(column.type, String) else BigInteger()))
    return column.in_(select(rows_of(conn, values)))


def rows_of(conn: AsyncConnection, texts: Collection[str]) -> ColumnElement[str]:
    """Texts as the column of a table, one a row: for a question that looks each up for itself, as `by_keys` does."""
    if conn.dialect.name == "postgresql":
        asked = func.unnest(_array(list(texts), Text())).table_valued("value").render_derived()
    else:
        asked = func.json_each(json.dumps(list(texts))).table_valued("value")
    return asked.c.value


def by_keys(
    conn: AsyncConnection, table: Table, account_id: int, keys: Collection[str], *columns: ColumnElement[Any]
) -> Select[Any]:
    """These columns of an account's rows, by `ext_id`: each key is looked up for itself.

    Before PostgreSQL has counted a table (a first sync, a restored dump) it takes an account for a handful of rows, and
    would read all of them, through any index that begins with the account, to find a page's.
    """
    mine = table.c.account_id == account_id
    if conn.dialect.name != "postgresql":
        return select(*columns).where(mine, one_of(conn, table.c.ext_id, keys))
    key = rows_of(conn, keys)
    row = select(*columns).where(mine, table.c.ext_id == key).limit(1).lateral("row")
    return select(*row.c).select_from(key.table.join(row, true()))


def _array(values: Sequence[Any], kind: TypeEngine[Any]) -> ColumnElement[Any]:
    """An array of texts or numbers, known while the statement is planned; as one text where no value has the mark.

    The driver writes an array value by value, which for the keys of a page takes longer than looking them up.
    """
    joined = _MARK.join(map(str, values))
    if not joined or joined.count(_MARK) >= len(values):
        return literal(values, ARRAY(kind))
    return cast(func.string_to_array(literal(joined, Text()), literal(_MARK, Text())), ARRAY(kind))


async def _draw_ids(conn: AsyncConnection, table: Table, count: int) -> Sequence[int]:
    if conn.dialect.name == "postgresql":
        # the sequence is looked up once: beside `nextval` it would be for each id
        drawn = text(
            "SELECT array_agg(nextval(named.sequence)) FROM generate_series(1, :count), "
            "(SELECT pg_get_serial_sequence(:name, 'id')::regclass AS sequence OFFSET 0) named"
        ).bindparams(name=table.name, count=count)
        return list((await conn.execute(drawn)).scalar_one())
    # BEGIN IMMEDIATE: nobody else inserts before we commit
    last = (await conn.execute(select(func.coalesce(func.max(table.c.id), 0)))).scalar_one()
    return range(last + 1, last + 1 + count)


async def _taken(conn: AsyncConnection, table: Table, account_id: int, keys: Sequence[str]) -> set[str]:
    return set((await conn.execute(by_keys(conn, table, account_id, keys, table.c.ext_id))).scalars())


def _as_it_is(value: Any) -> Any:
    return value


class _Plainly(dict[type, Callable[[Any], Any]]):
    """How a value of a type is written. Another type must not reach the database."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if not issubclass(kind, StrEnum):
            raise TypeError(f"a {kind.__name__} has no column")
        self[kind] = str.__str__  # the exact text: drivers look an enum up slowly
        return str.__str__


_PLAINLY = _Plainly(
    {
        str: _as_it_is,
        int: _as_it_is,
        bool: _as_it_is,
        bytes: _as_it_is,
        datetime: instant_text,
        Decimal: "{:f}".format,
        timedelta: lambda value: int(value.total_seconds()),
    }
)


def _plain(
    table: Table, names: Sequence[str], rows: Sequence[Row], *, units_as_text: bool
) -> tuple[tuple[str, ...], Iterable[Row]]:
    """The rows as both drivers take them without asking for a type: text, whole numbers, bytes, nothing.

    It goes by columns, most of which hold one type or nothing; what is nothing in all rows is left to the database.
    SQLite keeps token amounts as text, since its own numbers end at 64 bits.
    """
    given: list[str] = []
    columns: list[Sequence[Any]] = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        column = table.c[name]
        if column.server_default is None and values.count(None) == len(values):
            continue
        given.append(name)
        if units_as_text and isinstance(column.type, Units):
            columns.append([None if value is None else str(value) for value in values])
            continue
        columns.append(_written(values))
    return tuple(given), zip(*columns, strict=True)


def _written(values: Sequence[Any]) -> Sequence[Any]:
    """A column as drivers take it; nearly always its values are of one type, or nothing."""
    kinds = {*map(type, values)} - {type(None)}
    if kinds == {datetime}:
        return instant_texts(values)
    writers = {_PLAINLY[kind] for kind in kinds}
    if writers <= {_as_it_is}:
        return values
    write = writers.pop() if len(writers) == 1 else _by_its_type
    return [None if value is None else write(value) for value in values]


def _by_its_type(value: Any) -> Any:
    return _PLAINLY[type(value)](value)


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    at = 0
    for size in _CHUNKS:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


@lru_cache(maxsize=64)
def _copy_text(table: str, names: tuple[str, ...]) -> str:
    return f"COPY {table} ({', '.join(map(_quoted, names))}) FROM STDIN"


@lru_cache(maxsize=64)
def _insert_text(table: str, names: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(names))})"
    columns = ", ".join(map(_quoted, names))
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # names of our own schema


def _quoted(name: str) -> str:
    return f'"{name}"'


@contextmanager
def _as_sqlalchemy(conn: AsyncConnection, statement: str) -> Iterator[None]:
    """The driver's errors as SQLAlchemy raises them: who handles those must not learn of a second door."""
    base: Any = conn.dialect.dbapi
    try:
        yield
    except base.Error as error:
        raise DBAPIError.instance(
            statement, None, error, base.Error, hide_parameters=True, dialect=conn.dialect
        ) from error
