"""Adopt what the first contact found: unmute its episodes, and put their mails before an operator as a held plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Situation, Source
from monitor.store.accounts import AccountRow, find_account, lock_account
from monitor.store.batches import APPROVAL_LASTS, batch_size, close_gate, new_batch
from monitor.store.ledger import muted_open, unmute
from monitor.store.scratch import scratch_copy
from monitor.store.subscriptions import load_subscriptions
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.missing import no_account
from monitor.usecases.observe import rejudge
from monitor.usecases.writing import Pen

ORIGIN = "adopt"
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was unmuted, and what waits for approval now. No `batch_id`: nothing was muted."""

    account: str
    episodes: int = 0
    mails: int = 0
    batch_id: int | None = None
    plan_hash: str | None = None
    valid_until: datetime | None = None
    kinds: tuple[tuple[str, int], ...] = ()

    @property
    def silent(self) -> int:
        """Episodes that cause no mail now: too late, not due yet, or nobody to mail."""
        return self.episodes - self.mails


async def adopt(tools: Tools, account: Account, *, by: str, situation: Situation | None = None) -> Adoption:
    """Unmute the open episodes of the baseline, of one situation or all, and plan their mails; none goes unasked.

    One transaction, so that no gate ever sees the batch collecting. A second call finds nothing left.
    Raises `NotFoundError` before the account's first run.
    """
    async with tools.db.write() as conn:
        row = await find_account(conn, account.name)
        if row is None:
            raise no_account(account.name)
        row = await lock_account(conn, row.id)
        now = travelled_now(tools.clock, row, None)
        found = {subscription for subscription, _ in await muted_open(conn, row.id, situation)}
        if not found:
            return Adoption(account.name)
        batch_id = await new_batch(conn, row.id, ORIGIN, now)
        episodes = await _plan(conn, account, row, sorted(found), situation, Pen(now, Source.TIME, batch_id))
        kinds = await batch_size(conn, batch_id)
        mails = sum(count for _, count in kinds)
        reason = json.dumps([[ORIGIN, f"{by} adopted what the first contact had found; nothing goes without approval"]])
        _, digest = await close_gate(
            conn, batch_id, opened=not mails, reason=reason if mails else None, counts={"episodes": episodes}, now=now
        )
    return Adoption(account.name, episodes, mails, batch_id, digest, now + APPROVAL_LASTS, kinds)


async def adopt_on_paper(
    tools: Tools, account: Account, folder: Path, state_dir: Path, *, by: str, situation: Situation | None = None
) -> Adoption:
    """What `adopt` would do now, done on a scratch copy in `folder`, which the caller removes; nothing else changes."""
    scratch, _ = await scratch_copy(tools.db, folder, account.name, state_dir)
    try:
        return await adopt(replace(tools, db=scratch), account, by=by, situation=situation)
    finally:
        await scratch.aclose()


async def _plan(
    conn: AsyncConnection,
    account: Account,
    row: AccountRow,
    found: Sequence[int],
    situation: Situation | None,
    pen: Pen,
) -> int:
    """Unmute and judge again, some hundred at a time; returns how many episodes were unmuted."""
    policy = account.policy(row)
    unmuted = 0
    for first in range(0, len(found), AT_ONCE):
        some = found[first : first + AT_ONCE]
        await load_subscriptions(conn, row.id, ids=some, lock=True)  # before their episodes, as everybody locks
        locked = set(some)
        muted = [
            episode for subscription, episode in await muted_open(conn, row.id, situation) if subscription in locked
        ]
        await unmute(conn, muted, pen.now)
        await rejudge(conn, row, policy, some, pen)
        unmuted += len(muted)
    return unmuted
