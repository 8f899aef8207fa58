"""Accounts: one merchant's connection, and how far we are with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.store.inserting import insert_into
from monitor.store.schema import accounts


@dataclass(frozen=True, slots=True)
class AccountRow:
    id: int
    name: str
    provider: str
    space_uuid: str | None
    mode: str
    baselined_at: datetime | None
    sweep_started_at: datetime | None
    log_watermark: str | None
    payments_watermark: datetime | None
    requests_day: str | None
    requests_used: int
    time_travel: timedelta | None
    paused_at: datetime | None
    sender_paused_until: datetime | None
    sender_pause_reason: str | None
    hook_at: datetime | None = None
    hook_missed_at: datetime | None = None
    hook_problem: str | None = None
    read_by: bytes | None = None
    prices_unread_since: datetime | None = None
    prices_problem: str | None = None


_COLUMNS = tuple(accounts.c[name] for name in AccountRow.__dataclass_fields__)


async def find_account(conn: AsyncConnection, name: str) -> AccountRow | None:
    """The stored account; None before its first run."""
    row = (await conn.execute(select(*_COLUMNS).where(accounts.c.name == name))).one_or_none()
    return None if row is None else AccountRow(*row)


async def ensure_account(conn: AsyncConnection, name: str, provider: str, mode: str) -> AccountRow:
    """The stored account, made now if this is first contact. Idempotent, also when two processes meet at it."""
    found = await find_account(conn, name)
    if found is not None:
        return found
    await conn.execute(
        insert_into(conn, accounts)
        .values(name=name, provider=provider, mode=mode)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    # it is there now: written by this transaction, or by one that the insert waited for
    return AccountRow(*(await conn.execute(select(*_COLUMNS).where(accounts.c.name == name))).one())


async def lock_account(conn: AsyncConnection, account_id: int) -> AccountRow:
    """The account under its row lock: GATE and DECIDE begin with it, so that two of them never count at once.

    A lock that rows may still refer to (FOR NO KEY UPDATE): a PAGE that writes an event meanwhile must not wait for a
    GATE which in turn waits for that PAGE's notifications.
    """
    statement = select(*_COLUMNS).where(accounts.c.id == account_id).with_for_update(key_share=True)
    return AccountRow(*(await conn.execute(statement)).one())


async def change_account(conn: AsyncConnection, account_id: int, **values: object) -> None:
    """Set columns of one account."""
    await conn.execute(update(accounts).where(accounts.c.id == account_id).values(**values))
