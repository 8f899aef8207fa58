"""Which trouble an operator was told of, and when."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.store.inserting import insert_into
from monitor.store.schema import alerts


async def alerts_told(conn: AsyncConnection, after: datetime, until: datetime) -> set[tuple[str, str]]:
    """(account, cause) of those told after the one instant and by the other: a clock that ran ahead hushes nobody."""
    a = alerts.c
    found = await conn.execute(select(a.account, a.cause).where(a.told_at > after, a.told_at <= until))
    return {(account, cause) for account, cause in found}


async def note_alert(conn: AsyncConnection, account: str, cause: str, at: datetime) -> None:
    """This was told at `at`. The account is its name, "" where the trouble is of none."""
    noted = insert_into(conn, alerts).values(account=account, cause=cause, told_at=at)
    await conn.execute(noted.on_conflict_do_update(index_elements=["account", "cause"], set_={"told_at": at}))
