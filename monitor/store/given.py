"""Many rows handed to one statement as a table of their own, so that a group of mails costs what one mail does.

They travel as one JSON text: the statement stays the same for any number of rows, is built and compiled once, and both
databases can join it (SQLite `json_each`, PostgreSQL `json_to_recordset`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    FromClause,
    String,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
)
from sqlalchemy.types import TypeEngine

ROWS = "given_rows"
"""The statement's parameter that takes `as_json(rows)`."""
IDS = "given_ids"


def given_rows(dialect: str, columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """A table of these columns whose rows the parameter `ROWS` holds; a column that a row lacks is NULL."""
    text = bindparam(ROWS, type_=Text())
    if dialect == "postgresql":
        typed = [column(name, kind) for name, kind in columns.items()]
        return (
            func.json_to_recordset(cast(text, JSON)).table_valued(*typed, name="given").render_derived(with_types=True)
        )
    each = func.json_each(text).table_valued("value", name="each")
    picked = [
        type_coerce(func.json_extract(each.c.value, f"$.{name}"), kind).label(name) for name, kind in columns.items()
    ]
    return select(*picked).subquery("given")


def among(dialect: str, key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """What to say beside `key == given.c.id` so that the key's index is used: PostgreSQL is told the ids themselves.

    It takes every table made of JSON for a hundred rows, and would read a small outbox as a whole for four. SQLite
    looks each given row up; told the ids too, it would begin there and read all given rows again for each of them.
    """
    return (key == any_(bindparam(IDS, type_=ARRAY(String()))),) if dialect == "postgresql" else ()


def as_parameters(dialect: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows, each with its `id`, for a statement with `given_rows` and `among`; in the order of their ids."""
    ordered = sorted(rows, key=lambda row: row["id"])
    given: dict[str, Any] = {ROWS: as_json(ordered)}
    return given | {IDS: [row["id"] for row in ordered]} if dialect == "postgresql" else given


def as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as the statement takes them; instants in the one form that both databases read and sort by."""
    return json.dumps(list(rows), default=_instant)


@lru_cache(maxsize=64)  # the rows of a group tell of the same few
def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")
