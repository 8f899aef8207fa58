"""Why did she get this mail, or none? The time line of a subscription, and every step of every episode with its rule.

Reads only the ledger: what it does not hold is not told. With an instant, what was known then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Situation
from monitor.domain.spending import SPENDING
from monitor.domain.words import CAUSES, ENDINGS, UNKNOWN, masked, moment, name_of
from monitor.errors import ConfigError, NotFoundError
from monitor.store.engine import Database
from monitor.store.subscriptions import StoredSubscription, load_subscriptions
from monitor.store.views import attempts_of, find_subscriptions, history_of, mails_by_prefix, run_that_asked
from monitor.usecases.missing import no_mail
from monitor.usecases.spells import Spell, StepTold, tell_spells
from monitor.usecases.telling import Mail, Told, tell, tell_attempt
from monitor.usecases.told_events import Terms, facts_of, tell_event

_QUIET_ATTEMPTS = frozenset({"started", "sent"})
_GIVE = "give a subscription's or a payment's id, the merchant's reference, a mail's id or an address"
_SITUATIONS = frozenset(situation.value for situation in Situation if situation not in SPENDING)


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of the time line. `what`: seen, event, ended, sent, not_sent, waits, attempt, decision."""

    at: datetime
    what: str
    sentence: str
    because: str = ""
    rule: str | None = None
    ref: str | None = None
    dated: bool = True
    """False: it happened at `at` or later; the ledger keeps no instant of it."""


@dataclass(frozen=True, slots=True)
class Story:
    """One subscription, or payment. `address` is masked unless the reader was told to show it; None: none is known."""

    account: str
    zone: str
    subscription: str | None
    product: str | None
    address: str | None
    now: datetime
    """By the account's own time, which a test account may have moved."""
    situation: str | None = None
    summary: str = ""
    next: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    spells: tuple[Spell, ...] = ()
    lines: tuple[Line, ...] = ()
    """Newest first."""
    payment: str | None = None
    """Of a payment that belongs to no subscription: its id, and `subscription` is None."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that the ledger says about what was asked for; `known_at` None is now."""

    asked: str
    known_at: datetime | None
    stories: tuple[Story, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """What explaining needs. `zones` are the accounts' time zones by name; `address_mac` finds any spelling."""

    db: Database
    address_mac: Callable[[str], str]
    zones: Mapping[str, str]
    now: datetime
    show_addresses: bool = False

    async def explain(self, asked: str, *, account: str | None = None, known_at: datetime | None = None) -> Explanation:
        """The stories of a subscription, or of all subscriptions of everybody with this address.

        A subscription is named by its id, by the merchant's reference, or by the id of one of its mails, which may be
        shortened as listings do. Raises `NotFoundError` when there is none, `ConfigError` when nothing was asked.
        """
        asked = asked.strip()
        if not asked:
            raise ConfigError(f"nothing was asked for: {_GIVE}")
        macs = [self.address_mac(asked)] if "@" in asked else []
        async with self.db.read() as conn:
            found = await find_subscriptions(conn, asked, macs, account)
            if not found:
                mails = await mails_by_prefix(conn, asked)
                if len(mails) > 1:
                    raise no_mail(asked, mails)
                found = await find_subscriptions(conn, mails[0], (), account) if mails else []
            if not found:
                raise NotFoundError(_nothing(asked, account))
            stories = [await self._story(conn, row, known_at) for row in found]
        return Explanation(asked, known_at, tuple(stories))

    async def _story(self, conn: AsyncConnection, found: Any, known_at: datetime | None) -> Story:
        zone = ZoneInfo(self.zones.get(found.account, "UTC"))
        events, episodes, rows = await history_of(conn, found.id)
        attempts = await attempts_of(conn, [row.id for row in rows])
        stored = (await load_subscriptions(conn, found.account_id, ids=[found.id]))[found.ext_id]
        now = self.now + (found.time_travel or timedelta())
        run = await run_that_asked(conn, found.account_id, found.first_asked_at)
        seen_at = found.first_asked_at if run is None else run.now_at
        if events and events[0].old is None:
            seen_at = events[0].at
        shown = self.shown
        story = Story(found.account, zone.key, found.ext_id, found.product, shown(found.email), now)
        if known_at is not None and seen_at > known_at:
            return replace(story, summary=f"Not known then: first seen {moment(seen_at, zone)}")
        if known_at is not None:
            events = [row for row in events if row.at <= known_at]
            attempts = [row for row in attempts if row.at <= known_at]
            rows = [row for row in rows if row.created_at <= known_at]
        closed = {row.id: row.closed_at for row in episodes}
        mails = [
            Mail(
                row,
                [one for one in attempts if one.notification_id == row.id],
                closed.get(row.episode_id),
                shown(row.recipient),
            )
            for row in rows
        ]
        told = [tell(mail, zone, known_at or now, known_at) for mail in mails]
        pairs = list(zip(mails, told, strict=True))
        spells = tell_spells(episodes, events, pairs, stored, zone, now=now, known_at=known_at)
        terms = Terms(zone, found.symbol, found.decimals)
        first = _first_line(seen_at, zone, found, baseline=run is not None and run.baseline)
        lines = [
            first,
            *(_event_line(row, terms) for row in events),
            *_ends(spells),
            *(mail_line(one, spells) for one in told),
            *attempt_lines(mails, attempts),
            *decisions(rows, known_at),
        ]
        facts: Mapping[str, str] = {}
        if known_at is None:
            read_at = await _read_at(conn, found.account_id, stored)
            facts = {**facts_of(stored, terms), "last read": moment(read_at, zone)}
        summary, situation = _summary(spells, events, seen_at, stored, zone, known_at=known_at)
        return replace(
            story,
            situation=situation,
            summary="; ".join([summary, *_beside(spells, zone)]),
            next=_next(spells, found, zone, known_at=known_at),
            facts=facts,
            spells=spells,
            lines=newest_first(lines),
        )

    def shown(self, address: str | None) -> str | None:
        """The address as this reader may see it."""
        return address if self.show_addresses or address is None else masked(address)


async def _read_at(conn: AsyncConnection, account_id: int, stored: StoredSubscription) -> datetime:
    """When it was read last, by the clock of the run's decisions; the row itself has the database's clock."""
    run = await run_that_asked(conn, account_id, stored.asked_at)
    read_at: datetime = stored.asked_at if run is None else run.now_at + (stored.asked_at - run.asked_at)
    return read_at


def _nothing(asked: str, account: str | None) -> str:
    where = f" in account {account}" if account is not None else ""
    if "@" in asked:
        return f"no customer's address and no subscription is {asked}{where}: is it spelled as the payment API has it?"
    return f"no subscription or payment {asked} is known{where}: {_GIVE}"


def _first_line(seen_at: datetime, zone: ZoneInfo, found: Any, *, baseline: bool) -> Line:
    if baseline:
        return Line(seen_at, "seen", "First seen at the first contact with the account: recorded, nothing was mailed")
    product = f" ({found.product})" if found.product else ""
    return Line(seen_at, "seen", f"First seen{product}", f"account baselined {moment(found.baselined_at, zone)}")


def _event_line(row: Any, terms: Terms) -> Line:
    return Line(row.at, "event", tell_event(row, terms), ref=f"run {row.run_id}" if row.run_id else None)


def _ends(spells: tuple[Spell, ...]) -> list[Line]:
    return [
        Line(
            spell.closed_at,
            "ended",
            f"{name_of(spell.kind).capitalize()} ended: {ENDINGS.get(spell.close_reason or '', UNKNOWN)}",
        )
        for spell in spells
        if spell.closed_at is not None
    ]


def newest_first(lines: list[Line]) -> tuple[Line, ...]:
    """Of one instant, what came last in the order of writing is the newest."""
    numbered = sorted(enumerate(lines), key=lambda pair: (pair[1].at, pair[0]), reverse=True)
    return tuple(line for _, line in numbered)


def mail_line(told: Told, spells: tuple[Spell, ...]) -> Line:
    """A mail's entry; of one of these spells, because of what faced its reader then."""
    what = {"sent": "sent", "voided": "not_sent", "failed": "not_sent"}.get(told.state, "waits")
    steps = [step for spell in spells for step in spell.steps if step.notification == told.id]
    because = steps[0].because if steps else told.because
    return Line(told.sort_at, what, told.sentence, because, told.rule, told.id, told.at is not None)


def attempt_lines(mails: list[Mail], attempts: list[Any]) -> list[Line]:
    """What the mail server said, and what was decided about single mails."""
    names = {mail.row.id: name_of(mail.row.kind) for mail in mails}
    return [
        Line(
            row.at,
            "decision" if row.phase == "operator" else "attempt",
            f"{names[row.notification_id].capitalize()}: {tell_attempt(row)}",
            ref=row.notification_id,
        )
        for row in attempts
        if row.outcome not in _QUIET_ATTEMPTS
    ]


def decisions(rows: list[Any], known_at: datetime | None) -> list[Line]:
    """The held batches of this subscription's mails that an operator let go; of open ones he decided mail by mail."""
    taken = {
        row.batch_id: row
        for row in rows
        if row.decided_at is not None
        and row.batch_state == "open"
        and row.batch_reason is not None
        and (known_at is None or row.decided_at <= known_at)
    }
    return [
        Line(row.decided_at, "decision", f"The held plan of batch {row.batch_id} was approved by {row.decided_by}")
        for row in taken.values()
    ]


def _summary(
    spells: tuple[Spell, ...],
    events: list[Any],
    seen_at: datetime,
    stored: StoredSubscription,
    zone: ZoneInfo,
    *,
    known_at: datetime | None,
) -> tuple[str, str]:
    """What the customer faces in billing and since when, with the situation's stable name."""
    faced = [row for row in events if row.kind in _SITUATIONS]
    current = faced[-1].kind if faced else Situation.HEALTHY.value
    if known_at is None:
        current = stored.situation.value
    open_spell = next((spell for spell in spells if spell.open and not spell.beside), None)
    if open_spell is not None and current != Situation.UNKNOWN:
        cause = CAUSES.get(stored.cause.value) if stored.cause is not None and known_at is None else None
        since = moment(open_spell.opened_at, zone)
        return f"{name_of(current).capitalize()} since {since}{f': {cause}' if cause else ''}", current
    changes = [row for row in faced if row.kind == current]
    since = moment(changes[-1].at if changes else seen_at, zone)
    if current == Situation.UNKNOWN:
        return f"In a state that this version does not know since {since}; nothing is mailed meanwhile", current
    return f"{name_of(current).capitalize()} since {since}{'' if changes else ' (first seen)'}", current


def _beside(spells: tuple[Spell, ...], zone: ZoneInfo) -> list[str]:
    """What the customer faces besides billing."""
    return [f"{name_of(one.kind)} since {moment(one.opened_at, zone)}" for one in spells if one.open and one.beside]


def _next(spells: tuple[Spell, ...], found: Any, zone: ZoneInfo, *, known_at: datetime | None) -> str:
    """The next thing to happen, or to do."""
    open_spells = [spell for spell in spells if spell.open]
    if not open_spells:
        if known_at is None and found.next_look_at is not None:
            return f"Nothing is due. It is looked at again {moment(found.next_look_at, zone)}"
        return "Nothing is due"
    parts = []
    if known_at is None and found.paused_at is not None:
        parts.append(f"The account is paused by hand since {moment(found.paused_at, zone)}")
    if any(spell.muted for spell in open_spells):
        parts.append(f"Muted since the first contact: `monitor adopt --account {found.account}` unmutes it")
    for spell in open_spells:
        waiting = [step for step in spell.steps if step.outcome in OPEN_OUTCOMES]
        parts += [_step_words(step) for step in waiting]
        if not waiting and not spell.muted:
            whose = f' of "{name_of(spell.kind)}"' if len(open_spells) > 1 else ""
            parts.append(f"No further mail is planned for this episode{whose}")
        if spell.deadline_at is not None:
            parts.append(f"{'The period ends' if spell.beside else 'Deadline'} {moment(spell.deadline_at, zone)}")
    return ". ".join(parts)


OPEN_OUTCOMES = frozenset({"staged", "held", "ready", "claimed", "in_data", "ambiguous", "waiting", "not_due", "due"})


def _step_words(step: StepTold) -> str:
    because = f" ({step.because})" if step.because else ""
    command = f"; `{step.command}`" if step.command else ""
    return f"{step.sentence}{because}{command}"
