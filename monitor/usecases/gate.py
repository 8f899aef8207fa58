"""The GATE: count what a batch would do against the last 24 hours, then open it or hold it whole.

One transaction under the account's row lock, so that two gates never count at once. States have advanced before; only
the visibility of the mails is decided here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.guard import BatchCounts, Reason, Rule, judge
from monitor.store.accounts import AccountRow
from monitor.store.batches import batch_size, close_gate, count_open, find_batch, mails_per_day, staged_ids
from monitor.store.ledger import touched_by_class
from monitor.store.notices import count_one_off, payments_by_class
from monitor.usecases.context import Account

LIVE_COLLECTS = timedelta(seconds=120)
_ROLLING = timedelta(hours=24)
_PAYMENTS_OF = timedelta(days=30)
_REMEMBERED_DAYS = 14
_LOOK_BACK = timedelta(days=120)  # far enough to find 14 days that mailed, also for a quiet merchant


@dataclass(frozen=True, slots=True)
class Sight:
    """What this batch saw, for the guard. `population` is what the shares are taken of."""

    population: int
    rows: int = 0
    known_live: int = 0
    missing: int = 0
    newly_unknown: int = 0
    witness: str | None = None
    provider_changed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a batch ended at the gate. No reasons: it is open."""

    batch_id: int
    mails: int
    plan_hash: str
    reasons: tuple[str, ...] = ()
    rules: tuple[str, ...] = field(default=())

    @property
    def held(self) -> bool:
        """Somebody must look before any of these mails goes."""
        return bool(self.reasons)


async def pass_gate(
    conn: AsyncConnection,
    account: Account,
    row: AccountRow,
    batch_id: int,
    sight: Sight,
    now: datetime,
) -> Verdict:
    """Judge one collecting batch; the caller holds the account's row lock and commits."""
    await find_batch(conn, batch_id, lock=True)  # whoever stages into it at this instant is counted too
    new_mails = len(await staged_ids(conn, batch_id))
    today, past_days = await _mails_by_day(conn, row.id, account.zone, now)
    counts = BatchCounts(
        population=sight.population,
        touched_by_class=await touched_by_class(conn, row.id, now - _ROLLING),
        payments=await count_one_off(conn, row.id, now - _PAYMENTS_OF),
        payments_by_class=await payments_by_class(conn, row.id, now - _ROLLING),
        missing=sight.missing,
        known_live=sight.known_live,
        rows=sight.rows,
        newly_unknown=sight.newly_unknown,
        mails_today=today,
        past_days=past_days,
        new_mails=new_mails,
        mails=sum(size for _kind, size in await batch_size(conn, batch_id)),
        witness_mismatch=sight.witness is not None,
        provider_changed=sight.provider_changed,
    )
    reasons: Sequence[Reason] = judge(counts, account.guard)
    sentences = tuple(_sentence(reason, sight) for reason in reasons)
    mails, digest = await close_gate(
        conn,
        batch_id,
        opened=not reasons,
        reason=json.dumps([[reason.rule.value, sentence] for reason, sentence in zip(reasons, sentences, strict=True)])
        if reasons
        else None,
        counts={key: value for key, value in asdict(counts).items() if key != "past_days"},
        now=now,
    )
    return Verdict(batch_id, mails, digest, sentences, tuple(reason.rule.value for reason in reasons))


def _sentence(reason: Reason, sight: Sight) -> str:
    if reason.rule is Rule.RESTORED and sight.witness is not None:
        return sight.witness
    return reason.sentence


async def _mails_by_day(
    conn: AsyncConnection, account_id: int, zone: str, now: datetime
) -> tuple[int, tuple[int, ...]]:
    """Mails sent on the account's local today or open already, and sent on the newest 14 earlier days that mailed."""
    local = ZoneInfo(zone)
    per_day = Counter(at.astimezone(local).date() for at in await mails_per_day(conn, account_id, now - _LOOK_BACK))
    today = now.astimezone(local).date()
    past = sorted((day for day in per_day if day < today), reverse=True)[:_REMEMBERED_DAYS]
    return per_day.get(today, 0) + await count_open(conn, account_id), tuple(per_day[day] for day in past)
