"""What merchants measured of pay-as-you-go subscriptions: one row each, the newest figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.usage import Usage
from monitor.store.bulk import one_of
from monitor.store.inserting import insert_into
from monitor.store.schema import subscriptions, usages

_COLUMNS = tuple(f.name for f in fields(Usage))


async def write_usages(conn: AsyncConnection, account_id: int, found: Mapping[int, Usage], now: datetime) -> None:
    """Write these figures, by the subscription's row id; older ones are gone."""
    if not found:
        return
    rows = [
        {
            "subscription_id": row_id,
            "account_id": account_id,
            "imported_at": now,
            **{name: getattr(usage, name) for name in _COLUMNS},
        }
        for row_id, usage in found.items()
    ]
    statement = insert_into(conn, usages)
    moving = {name: statement.excluded[name] for name in (*_COLUMNS, "imported_at")}
    await conn.execute(statement.on_conflict_do_update(index_elements=["subscription_id"], set_=moving), rows)


async def look_again(conn: AsyncConnection, row_ids: list[int], now: datetime) -> None:
    """Have these subscriptions judged again: their figures say something new."""
    if row_ids:
        await conn.execute(
            update(subscriptions).where(one_of(conn, subscriptions.c.id, row_ids)).values(next_look_at=now)
        )


def read_usage(values: Mapping[Any, Any]) -> Usage | None:
    """The figures beside a subscription (an outer join: there may be none)."""
    if values["used_usd"] is None:
        return None
    return Usage(**{name: values[name] for name in _COLUMNS})


USAGE_COLUMNS = tuple(usages.c[name] for name in _COLUMNS)
"""What `read_usage` reads; no subscription has a column of these names."""
