"""Take in facts: walk the event log back to the last event known, and fold what it told into the subscriptions.

A fact is a link, a cause, a bill; never a state. It only has its subscription judged again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Fact, LogPage
from monitor.domain.told import fold_facts
from monitor.errors import ProviderError
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow, change_account
from monitor.store.facts import finish_facts, insert_facts, open_facts, put_in_quarantine
from monitor.store.subscriptions import load_subscriptions, told_values, update_subscriptions
from monitor.usecases.context import Account, Tools

FOLD_AT_ONCE = 500
_LINK: dict[str, Any] = {"manage_link": None, "manage_link_at": None}  # a link is printed, never judged


@dataclass(slots=True)
class LogWalk:
    """What the walk brought. `problem` says why it did not reach the last event known; the next run walks again."""

    pages: int = 0
    facts: int = 0
    problem: str | None = None
    fresh: list[datetime] = field(default_factory=list)
    """When that happened which nothing but the log has told; empty for a first walk, whose past tells nothing."""


async def walk_log(tools: Tools, account: Account, row: AccountRow, now: datetime) -> LogWalk:
    """Read the log newest first, down to the watermark; the watermark moves only when all of it is stored."""
    walk = LogWalk()
    if Capability.LOG not in account.provider.capabilities:
        return walk
    newest: str | None = None
    cursor: str | None = None
    used: set[str] = set()
    try:
        while not tools.stopping():
            page = await account.provider.log(cursor)
            newest = newest or (page.ids[0] if page.ids else None)
            walk.pages += 1
            reached = await _store_page(tools, row, page, walk, now)
            tools.progress("log", walk.facts, None)
            if reached or page.next_cursor is None:
                break
            if page.next_cursor in used:
                walk.problem = "the event log's cursors go round in a circle"
                return walk
            used.add(page.next_cursor)
            cursor = page.next_cursor
        else:
            walk.problem = "interrupted"
            return walk
    except ProviderError as error:
        walk.problem = str(error)
        return walk
    if newest is not None and newest != row.log_watermark:
        async with tools.db.write() as conn:
            await change_account(conn, row.id, log_watermark=newest)
    return walk


async def fold_open_facts(tools: Tools, row: AccountRow, now: datetime) -> int:
    """Fold waiting facts into known subscriptions and have those judged again; returns how many were folded.

    A fact about a subscription never seen waits until a page shows it.
    """
    folded = 0
    while True:
        async with tools.db.write() as conn:
            done = await _fold_some(conn, row, now)
        if not done:
            return folded
        folded += done


async def _store_page(tools: Tools, row: AccountRow, page: LogPage, walk: LogWalk, now: datetime) -> bool:
    """Store one page; True when it reached the watermark."""
    reached = row.log_watermark is not None and row.log_watermark in page.ids
    fresh = page.facts
    if reached:
        newer = set(page.ids[: page.ids.index(row.log_watermark or "")])
        fresh = tuple(fact for fact in page.facts if fact.dedupe_key in newer)
    async with tools.db.write() as conn:
        # before the first complete sweep nothing is asked apart: that sweep reads everything
        keys = set(await insert_facts(conn, row.id, fresh, now, ask=row.baselined_at is not None))
        await put_in_quarantine(conn, row.id, page.bad, now)
    walk.facts += len(keys)
    if row.log_watermark is not None:
        walk.fresh += [fact.at for fact in fresh if fact.dedupe_key in keys]
    return reached


async def _fold_some(conn: AsyncConnection, row: AccountRow, now: datetime) -> int:
    waiting = await open_facts(conn, row.id, known_only=True, limit=FOLD_AT_ONCE)
    ext_ids = {fact.subscription_ext_id or "" for _, fact in waiting}
    if not ext_ids:
        return 0
    all_of_them = await open_facts(conn, row.id, ext_ids)
    stored = await load_subscriptions(conn, row.id, ext_ids=ext_ids, lock=True)
    facts: dict[str, list[Fact]] = {}
    for _, fact in all_of_them:
        facts.setdefault(fact.subscription_ext_id or "", []).append(fact)
    rows = []
    for ext_id, one in stored.items():
        told = fold_facts(one.told, facts.get(ext_id, ()))
        if told == one.told:
            continue
        matters = replace(told, **_LINK) != replace(one.told, **_LINK)
        row_values = {"row_id": one.id, **told_values(told)}
        rows.append((row_values, matters))
    await update_subscriptions(conn, [{**values, "next_look_at": now} for values, matters in rows if matters])
    await update_subscriptions(conn, [values for values, matters in rows if not matters])
    await finish_facts(conn, [fact_id for fact_id, _ in all_of_them], now)
    return len(all_of_them)
