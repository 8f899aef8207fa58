"""What an operator should know without asking: a run that is missing, a plan that waits, a sender that pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from monitor.config.slots import missing_since
from monitor.domain.words import count
from monitor.errors import ConfigError, StoreError
from monitor.metrics import Level
from monitor.store.accounts import AccountRow, find_account
from monitor.store.engine import Database
from monitor.store.revision import require_current
from monitor.store.watching import runs_seen, unreachable, waiting_now

NEAR = timedelta(hours=72)
UNREAD = timedelta(hours=6)
"""So long prices may stay unread before the operator hears of it: a short trouble of the API is none of mails."""
_LISTED = 5


class Cause(StrEnum):
    """What there can be to tell; a stable word."""

    DATABASE = "database"
    GUARD_HOLD = "guard_hold"
    KEY = "key"
    MISSING_RUN = "missing_run"
    PRICES = "prices"
    SENDER_PAUSED = "sender_paused"
    UNREACHABLE = "unreachable"
    WEBHOOKS = "webhooks"


UNREADY = frozenset({Cause.DATABASE, Cause.MISSING_RUN, Cause.SENDER_PAUSED})
"""With these the work is not being done; the others are a person's to decide."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An account as somebody watches over it."""

    name: str
    schedule: str
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. The sentence names no customer's address."""

    account: str | None
    cause: Cause
    sentence: str


async def look_after(
    db: Database, watched: Sequence[Watched], now: datetime, *, since: datetime | None = None
) -> list[Finding]:
    """Everything that is wrong at `now`. `since`: before it nobody was there, so no run was missed before."""
    found: list[Finding] = []
    for one in watched:
        async with db.read() as conn:
            row = await find_account(conn, one.name)
            seen = None if row is None else await runs_seen(conn, row.id)
            waiting = None if row is None else await waiting_now(conn, row.id, now)
            lost = [] if row is None else await unreachable(conn, row.id, now, now + NEAR)
        whole_at = None if seen is None else seen.whole_at
        missing = _missing(one, whole_at, now, since)
        if missing is not None:
            found.append(Finding(one.name, Cause.MISSING_RUN, missing))
        if row is not None:
            found += [*_sender(row, now), *_prices(row, now)]
            found += [Finding(one.name, Cause.WEBHOOKS, row.hook_problem)] if row.hook_problem else []
        if waiting is not None and waiting.held_batches:
            text = (
                f"{count(waiting.held_batches, 'batch', 'batches')} of mails held: `monitor outbox batches` shows why"
            )
            found.append(Finding(one.name, Cause.GUARD_HOLD, text))
        if lost:
            found.append(Finding(one.name, Cause.UNREACHABLE, _lost(lost)))
    return found


async def readiness(db: Database, watched: Sequence[Watched], now: datetime) -> list[Finding]:
    """Why the work is not being done; nothing means that it is. Never raises for a database out of reach."""
    try:
        await require_current(db)
        return [one for one in await look_after(db, watched, now) if one.cause in UNREADY]
    except (ConfigError, StoreError) as error:
        return [Finding(None, Cause.DATABASE, str(error))]


async def levels(db: Database, watched: Sequence[Watched], now: datetime) -> list[Level]:
    """What the gauges show; an account without a first run is not among them."""
    result = []
    for one in watched:
        async with db.read() as conn:
            row = await find_account(conn, one.name)
            if row is None:
                continue
            seen = await runs_seen(conn, row.id)
            waiting = await waiting_now(conn, row.id, now)
        result.append(
            Level(
                account=one.name,
                waiting=waiting.ready,
                oldest_at=waiting.oldest_at,
                held_batches=waiting.held_batches,
                last_complete_at=seen.whole_at,
                paused=row.paused_at is not None,
                sender_paused=bool(_sender(row, now)),
            )
        )
    return result


def _missing(one: Watched, whole_at: datetime | None, now: datetime, since: datetime | None) -> str | None:
    if whole_at is None and since is None:
        return "no run was ever complete: start `monitor run` or `monitor daemon`"
    last = max(at for at in (whole_at, since) if at is not None)
    if missing_since(one.schedule, one.zone, last, now) is None:
        return None
    when = "ever" if whole_at is None else f"since {whole_at:%Y-%m-%d %H:%M} UTC"
    return f"no run was complete {when}: see `monitor runs list` and the log"


def _sender(row: AccountRow, now: datetime) -> list[Finding]:
    until = row.sender_paused_until
    if until is None or until <= now:
        return []
    text = f"the sender pauses until {until:%H:%M} UTC: {row.sender_pause_reason}"
    return [Finding(row.name, Cause.SENDER_PAUSED, text)]


def _prices(row: AccountRow, now: datetime) -> list[Finding]:
    since = row.prices_unread_since
    if since is None or now - since < UNREAD:
        return []
    text = (
        f"products and tokens cannot be read since {since:%Y-%m-%d %H:%M} UTC, so mails name no new product, price or "
        f"token: {row.prices_problem}"
    )
    return [Finding(row.name, Cause.PRICES, text)]


def _lost(lost: Sequence[tuple[str, str | None, datetime, str]]) -> str:
    lines = [
        f"{reference or ext_id} ends {deadline:%Y-%m-%d %H:%M} UTC ({rule})"
        for ext_id, reference, deadline, rule in lost[:_LISTED]
    ]
    rest = f", and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
    return f"{count(len(lost), 'customer')} cannot be reached and will be lost: {'; '.join(lines)}{rest}"
