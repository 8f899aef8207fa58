"""Judge what was seen against what is stored, and write the outcome whole: the heart of PAGE, OBSERVE and TICK.

Everything here happens inside the caller's one transaction: state, events, episodes and staged notifications commit
together or not at all. Nothing here waits for a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.decide import Decision, Policy, Standing, decide
from monitor.domain.diff import state_hash
from monitor.domain.model import (
    CustomerSeen,
    Fact,
    FailureSeen,
    Situation,
    Snapshot,
    Source,
    Told,
    Track,
)
from monitor.domain.told import NOTHING_TOLD, fold_facts, fold_failure, raise_peak
from monitor.domain.value import value
from monitor.store.accounts import AccountRow
from monitor.store.facts import finish_facts, open_facts
from monitor.store.ledger import episodes_of
from monitor.store.outbox import mails_of
from monitor.store.subscriptions import (
    StoredSubscription,
    insert_subscriptions,
    live_siblings,
    load_subscriptions,
    update_subscriptions,
    upsert_customers,
)
from monitor.usecases.writing import NEW_COLUMNS, Judged, Pen, write_judged


@value(frozen=True, slots=True)
class Observed:
    """One row as a provider gave it. `asked_at` is the database's time before the request."""

    snapshot: Snapshot
    raw: bytes
    asked_at: datetime
    failure: FailureSeen | None = None
    raw_mark: bytes | None = None
    """The mark of the row's own bytes on a page. None for a row that was read alone: no page will show those bytes."""
    first_sight: bool = False
    """It was not stored a moment ago, so nothing is looked up or locked: its insert finds out if it is by now."""
    state_hash: bytes = field(init=False)
    """Made at once, and so before the transaction: while a database writes, the next page's hashes are made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "state_hash", state_hash(self.snapshot))


@dataclass(slots=True)
class Outcome:
    """What a transaction did; figures for the run's counts."""

    ids: dict[str, int] = field(default_factory=dict)
    new: int = 0
    changed: int = 0
    dropped: int = 0
    events: int = 0
    staged: int = 0
    voided: int = 0
    unknown: int = 0

    def add(self, other: Outcome) -> None:
        """Sum up."""
        self.ids.update(other.ids)
        for name in ("new", "changed", "dropped", "events", "staged", "voided", "unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


async def observe(
    conn: AsyncConnection,
    row: AccountRow,
    policy: Policy,
    seen: Sequence[Observed],
    pen: Pen,
    address_mac: Callable[[str], str],
    *,
    touch: bool = False,
) -> Outcome:
    """Write these observations. Older ones than what is stored are dropped, equal ones change nothing.

    `touch` notes that equal ones were read again: a single refetch proves freshness, a page does so by its sweep.

    Rows are locked in the order of their ids. A row that another transaction inserted meanwhile is observed again.
    """
    newest = {one.snapshot.ext_id: one for one in seen}
    if len(newest) < len(seen):  # a row that stood on two pages
        newest = {one.snapshot.ext_id: one for one in sorted(seen, key=_age)}
    known = [ext_id for ext_id, one in newest.items() if not one.first_sight]
    stored = await load_subscriptions(conn, row.id, ext_ids=known, lock=True) if known else {}
    current = {ext_id: one for ext_id, one in newest.items() if not _outdated(stored.get(ext_id), one)}
    told, facts = await _told(conn, row.id, current, stored)
    outcome = Outcome(ids={ext_id: one.id for ext_id, one in stored.items()}, dropped=len(newest) - len(current))
    same = {
        ext_id: before
        for ext_id, before in stored.items()
        if (one := current.get(ext_id)) and one.state_hash == before.state_hash and told[ext_id] == before.told
    }
    equal = [_touched(before, current[ext_id]) for ext_id, before in same.items()]
    standings = await _standings(conn, row, {ext_id: one for ext_id, one in stored.items() if ext_id not in same})
    decisions: dict[str, Decision] = {}
    for ext_id, one in current.items():
        if ext_id not in same:
            before = standings.get(ext_id)
            standing = Standing(told=told[ext_id]) if before is None else replace(before, told=told[ext_id])
            decisions[ext_id] = decision = decide(standing, one.snapshot, policy, pen.now)
            outcome.unknown += _newly_unknown(standing, decision)
    # the first write comes after all thinking: while a database works, the stages before this one have the processor
    customer_ids = await _write_customers(conn, row.id, current.values(), address_mac)
    judged = [
        Judged(
            before=stored.get(ext_id),
            snapshot=(one := current[ext_id]).snapshot,
            told=told[ext_id],
            decision=decision,
            asked_at=one.asked_at,
            state_hash=one.state_hash,
            raw=one.raw,
            customer_id=customer_ids.get(one.snapshot.customer_ext_id or ""),
            raw_mark=one.raw_mark,
        )
        for ext_id, decision in decisions.items()
    ]
    if touch:
        await update_subscriptions(conn, equal)
    fresh = [one.new_row() for one in judged if one.before is None]
    inserted = await insert_subscriptions(conn, row.id, NEW_COLUMNS, fresh)
    late = {one.snapshot.ext_id for one in judged if one.before is None} - inserted.keys()
    ready = [one for one in judged if one.snapshot.ext_id not in late]
    outcome.ids.update(inserted)
    outcome.new, outcome.changed = len(inserted), len(ready) - len(inserted)
    outcome.events, outcome.staged, outcome.voided = await write_judged(conn, row.id, ready, outcome.ids, pen)
    folded = [fact_id for ext_id, ids in facts.items() if ext_id not in late for fact_id in ids]
    await finish_facts(conn, folded, pen.now)
    if late:
        again = [replace(newest[ext_id], first_sight=False) for ext_id in sorted(late)]
        outcome.add(await observe(conn, row, policy, again, pen, address_mac, touch=touch))
    return outcome


async def rejudge(
    conn: AsyncConnection, row: AccountRow, policy: Policy, subscription_ids: Sequence[int], pen: Pen
) -> Outcome:
    """Judge stored rows again at `pen.now`: a step has come due, or something was told about them."""
    stored = await load_subscriptions(conn, row.id, ids=subscription_ids, lock=True)
    standings = await _standings(conn, row, stored)
    judged = [
        Judged(
            before=before,
            snapshot=before.snapshot,
            told=before.told,
            decision=decide(standings[ext_id], before.snapshot, policy, pen.now),
            asked_at=before.asked_at,
            state_hash=before.state_hash,
            raw=None,
            customer_id=None,
        )
        for ext_id, before in stored.items()
    ]
    ids = {ext_id: one.id for ext_id, one in stored.items()}
    pen = replace(pen, source=Source.TIME)
    events, staged, voided = await write_judged(conn, row.id, judged, ids, pen)
    return Outcome(ids=ids, events=events, staged=staged, voided=voided)


def _age(one: Observed) -> tuple[float, datetime]:
    updated = one.snapshot.provider_updated_at
    return (updated.timestamp() if updated is not None else 0.0, one.asked_at)


def _outdated(before: StoredSubscription | None, one: Observed) -> bool:
    """Older never overwrites newer: the vendor's `updatedAt` first; if equal or unknown, when we asked."""
    if before is None:
        return False
    ours, theirs = before.snapshot.provider_updated_at, one.snapshot.provider_updated_at
    if ours is not None and theirs is not None and ours != theirs:
        return theirs < ours
    return one.asked_at < before.asked_at


def _touched(before: StoredSubscription, one: Observed) -> dict[str, object]:
    """How old the row is by now, though it says what it said: what was read between the two must not overwrite it."""
    updated_at = one.snapshot.provider_updated_at or before.snapshot.provider_updated_at
    return {"row_id": before.id, "asked_at": one.asked_at, "provider_updated_at": updated_at}


def _newly_unknown(standing: Standing, decision: Decision) -> int:
    unknown = decision.after.situation is Situation.UNKNOWN
    return int(unknown and standing.situation is not Situation.UNKNOWN)


async def _told(
    conn: AsyncConnection,
    account_id: int,
    current: Mapping[str, Observed],
    stored: Mapping[str, StoredSubscription],
) -> tuple[dict[str, Told], dict[str, list[int]]]:
    """What is told of each row by now, and the row ids of the facts that this folds in."""
    facts: dict[str, list[Fact]] = {}
    folded: dict[str, list[int]] = {}
    for fact_id, fact in await open_facts(conn, account_id, current):
        ext_id = fact.subscription_ext_id or ""
        facts.setdefault(ext_id, []).append(fact)
        folded.setdefault(ext_id, []).append(fact_id)
    result = {}
    for ext_id, one in current.items():
        before = stored.get(ext_id)
        told = before.told if before is not None else NOTHING_TOLD
        if ext_id in facts:
            told = fold_facts(told, facts[ext_id])
        if one.failure is not None:
            told = fold_failure(told, one.failure)
        result[ext_id] = raise_peak(told, one.snapshot.allowance)
    return result, folded


async def _standings(
    conn: AsyncConnection, row: AccountRow, stored: dict[str, StoredSubscription]
) -> dict[str, Standing]:
    if not stored:
        return {}
    ids = [one.id for one in stored.values()]
    episodes = await episodes_of(conn, ids)
    mails = await mails_of(conn, ids)
    siblings = await live_siblings(conn, row.id, ids)
    result = {}
    for ext_id, one in stored.items():
        spells = episodes.get(one.id, ())
        billing = [spell for spell in spells if spell.track is Track.BILLING]
        result[ext_id] = Standing(
            snapshot=one.snapshot,
            situation=one.situation,
            cause=one.cause,
            told=one.told,
            current=next((spell for spell in billing if spell.closed_at is None), None),
            past=tuple(spell for spell in billing if spell.closed_at is not None),
            usage=tuple(spell for spell in spells if spell.track is Track.USAGE),
            mails=tuple(mails.get(one.id, ())),
            live_sibling=one.id in siblings,
        )
    return result


async def _write_customers(
    conn: AsyncConnection, account_id: int, seen: Iterable[Observed], address_mac: Callable[[str], str]
) -> dict[str, int]:
    values: dict[str, dict[str, object]] = {}
    for one in seen:
        customer = one.snapshot.customer
        if customer is not None:
            values[customer.ext_id] = customer_values(customer, address_mac)
        elif one.snapshot.customer_ext_id:
            values.setdefault(one.snapshot.customer_ext_id, {})
    return await upsert_customers(conn, account_id, values)


def customer_values(customer: CustomerSeen, address_mac: Callable[[str], str]) -> dict[str, object]:
    """The columns of a customer as an API shows them."""
    return {
        "email": customer.email,
        "name": customer.name,
        "last_name": customer.last_name,
        "reference": customer.reference,
        "deleted": customer.deleted,
        "address_mac": address_mac(customer.email) if customer.email else None,
    }
