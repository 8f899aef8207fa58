"""Bring in what the merchant measured of pay-as-you-go subscriptions: used, limit and period of each, from a CSV.

No API tells usage (docs/decisions/0013). The figures only have their subscriptions judged again: the next run or
delivery pass does that, with everything it asks of any mail. The same file again changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.spending import USAGE_FRESH, limit_of
from monitor.domain.usage import Usage
from monitor.errors import ConfigError
from monitor.store.accounts import AccountRow, ensure_account
from monitor.store.subscriptions import StoredSubscription, load_subscriptions
from monitor.store.usages import look_again, write_usages
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.importing import rows_of, subscription_id

AT_ONCE = 500
FAR = timedelta(days=366)
"""No billing period is longer than a year (forecast rules): an end beyond is a mistyped year."""
SKEW = timedelta(minutes=5)
"""How far the merchant's clock may be ahead of ours."""
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_COLUMNS = {
    "subscription": ("subscription", "subscription_id", "subscriptionid", "subscriptionuuid", "id"),
    "used": ("used", "used_usd", "usage", "usage_usd"),
    "limit": ("limit", "limit_usd", "max_spending", "max_spending_per_period", "maxspendingperperiod"),
    "period_end": ("period_end", "period_end_at", "periodend"),
    "period_start": ("period_start", "period_start_at", "periodstart"),
    "as_of": ("as_of", "asof", "measured_at"),
}
_NEEDED = ("subscription", "used", "period_end")


@dataclass(slots=True)
class UsageImported:
    """What became of a file's lines. `bad`: line numbers with the reason; what stands there is not repeated."""

    lines: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    over: int = 0
    """About a period that has ended: nothing is stored, nothing is sent."""
    older: int = 0
    """Measured before what is known already, which stays."""
    bad: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line's figures; `as_of` None: as of now."""

    number: int
    used_usd: Decimal
    limit_usd: Decimal | None
    period_start_at: datetime | None
    period_end_at: datetime
    as_of: datetime | None

    def usage(self, now: datetime) -> Usage:
        """The figures, as if their period were heard of for the first time."""
        return Usage(
            used_usd=self.used_usd,
            limit_usd=self.limit_usd,
            period=self.period_end_at,
            period_end_at=self.period_end_at,
            as_of=now if self.as_of is None else min(self.as_of, now),
            period_start_at=self.period_start_at,
        )


async def import_usage(tools: Tools, account: Account, lines: Iterable[str]) -> UsageImported:
    """Write the usage of subscriptions by their ids; whose figures say something new is judged again.

    Two lines about one subscription are both refused: the sum, the newest and a mistake would all look like that.
    Raises `ConfigError` for a file without the needed headings.
    """
    done = UsageImported()
    async with tools.db.write() as conn:
        row = await ensure_account(conn, account.name, account.provider_name, account.mode)
    now = travelled_now(tools.clock, row, None)
    wanted = _alone(_lines(lines, done, now), done)
    ids = list(wanted)
    for start in range(0, len(ids), AT_ONCE):
        some = {ext_id: wanted[ext_id] for ext_id in ids[start : start + AT_ONCE]}
        async with tools.db.write() as conn:
            await _write(conn, row, some, done, now)
    done.bad.sort()
    return done


async def _write(
    conn: AsyncConnection, row: AccountRow, lines: Mapping[str, _Line], done: UsageImported, now: datetime
) -> None:
    stored = await load_subscriptions(conn, row.id, ext_ids=lines, lock=True)
    found: dict[int, Usage] = {}
    news: list[int] = []
    for ext_id, line in lines.items():
        known = stored.get(ext_id)
        if known is None:
            done.bad.append((line.number, "this subscription is not known; the next run may bring it"))
            continue
        usage = line.usage(now)
        if limit_of(known.snapshot, usage) is None:
            done.bad.append((line.number, "no limit: the API tells none of this subscription, so the file has to"))
        elif usage.period_end_at <= now:
            done.over += 1
        else:
            _compare(known, usage, found, news, done, now)
    await write_usages(conn, row.id, found, now)
    await look_again(conn, news, now)


def _compare(
    known: StoredSubscription,
    usage: Usage,
    found: dict[int, Usage],
    news: list[int],
    done: UsageImported,
    now: datetime,
) -> None:
    before = known.told.usage
    if before is None:
        done.new += 1
    elif usage.as_of < before.as_of:
        done.older += 1
        return
    else:
        if usage.is_of(before, now):
            usage = usage.in_period_of(before)
        if usage.says_as(before):
            done.unchanged += 1
        else:
            done.changed += 1
    if usage != before:
        found[known.id] = usage
    # a mail that was not sent because its figures were stale may go with the same ones, measured anew
    if before is None or not usage.says_as(before) or now - before.as_of > USAGE_FRESH:
        news.append(known.id)


def _lines(lines: Iterable[str], done: UsageImported, now: datetime) -> list[tuple[str, _Line]]:
    """(subscription id, figures) of the good lines."""
    rows = rows_of(lines)
    _, headings = next(rows, (0, []))
    places = _places([one.strip().casefold() for one in headings])
    good = []
    for number, fields in rows:
        done.lines += 1
        given = {name: fields[at].strip() for name, at in places.items() if at < len(fields)}
        try:
            good.append((_id(given), _line(number, given, now)))
        except ValueError as error:
            done.bad.append((number, str(error)))
    return good


def _alone(good: list[tuple[str, _Line]], done: UsageImported) -> dict[str, _Line]:
    by_id: dict[str, list[_Line]] = {}
    for ext_id, line in good:
        by_id.setdefault(ext_id, []).append(line)
    for several in by_id.values():
        if len(several) > 1:
            numbers = ", ".join(str(line.number) for line in several)
            why = f"lines {numbers} are about one subscription: one line tells the usage of its whole period"
            done.bad += [(line.number, why) for line in several]
    return {ext_id: several[0] for ext_id, several in by_id.items() if len(several) == 1}


def _places(headings: list[str]) -> dict[str, int]:
    places = {
        name: headings.index(heading) for name, known in _COLUMNS.items() for heading in known if heading in headings
    }
    if missing := [name for name in _NEEDED if name not in places]:
        raise ConfigError(
            f"the file has no column {missing[0]}: its first line names the columns subscription, used, limit, "
            "period_end, and if you like period_start and as_of"
        )
    return places


def _id(given: Mapping[str, str]) -> str:
    ext_id = given.get("subscription", "")
    if not ext_id or len(ext_id) > 100 or not ext_id.isprintable():
        raise ValueError("no subscription id")
    return subscription_id(ext_id) or ext_id


def _line(number: int, given: Mapping[str, str], now: datetime) -> _Line:
    used = _dollars(given, "used")
    if used is None:
        raise ValueError("used is empty; nothing used is 0")
    limit = _dollars(given, "limit")
    if limit == 0:
        raise ValueError("the limit is 0: a subscription without a limit has no line")
    end_at, start_at, as_of = (_instant(given, name) for name in ("period_end", "period_start", "as_of"))
    if end_at is None:
        raise ValueError("period_end is empty")
    if end_at > now + FAR:
        raise ValueError("period_end is more than a year away")
    if start_at is not None and start_at >= end_at:
        raise ValueError("period_start is not before period_end")
    if as_of is not None and as_of > now + SKEW:
        raise ValueError("as_of is in the future")
    if as_of is not None and start_at is not None and as_of < start_at:
        raise ValueError("as_of is before period_start")
    return _Line(number, used, limit, start_at, end_at, as_of)


def _dollars(given: Mapping[str, str], name: str) -> Decimal | None:
    """An exact amount; None for an empty field. Twelve digits before and behind the point are compared exactly."""
    text = given.get(name, "")
    if not text:
        return None
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f'{name} is no amount of dollars; write it like "402.50"')
    return Decimal(text)


def _instant(given: Mapping[str, str], name: str) -> datetime | None:
    """An instant in UTC; None for an empty field. A time without a zone could be meant for any, so it is refused."""
    text = given.get(name, "")
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f'{name} is no time with a zone; write it like "2026-05-01T00:00:00+02:00"')
