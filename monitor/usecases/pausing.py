"""The kill switch of one account: its mail stops at once, wherever it is being sent from; its states still move."""

from __future__ import annotations

from datetime import datetime

from monitor.store.accounts import change_account, ensure_account
from monitor.usecases.context import Tools


async def pause(tools: Tools, name: str, provider: str, mode: str) -> datetime:
    """Stop the account's mail; returns since when it is stopped. Pausing a paused account changes nothing."""
    async with tools.db.write() as conn:
        row = await ensure_account(conn, name, provider, mode)
        since = row.paused_at or tools.clock.now()
        await change_account(conn, row.id, paused_at=since)
    return since


async def resume(tools: Tools, name: str, provider: str, mode: str) -> datetime | None:
    """Let its mail go on; returns since when it had stopped, None when it had not."""
    async with tools.db.write() as conn:
        row = await ensure_account(conn, name, provider, mode)
        await change_account(conn, row.id, paused_at=None)
    return row.paused_at
