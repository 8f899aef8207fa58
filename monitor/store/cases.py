"""Read what decides about a waiting mail, and what it will print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Kind, NotificationState, Track, Urgency
from monitor.domain.records import Episode
from monitor.store.bulk import by_keys, one_of, rows_of
from monitor.store.ledger import read_episode
from monitor.store.notices import all_clears, payments_by_row, tried_again
from monitor.store.outbox import in_states
from monitor.store.payments import StoredPayment
from monitor.store.schema import attempts, customers, episodes, notifications, templates
from monitor.store.subscriptions import StoredSubscription, load_subscriptions

S = NotificationState
_DAY = timedelta(hours=24)
_COLUMNS = [
    notifications.c[name]
    for name in (
        *("id", "state", "reason", "kind", "variant", "step", "customer_key", "urgency", "not_after", "due_at"),
        *("tries", "poisoned", "copies", "message_id", "date_hdr", "template_hash", "letter", "batch_id"),
        *("episode_id", "subscription_id", "payment_id"),
    )
]
_OWNER = [
    customers.c[name] for name in ("ext_id", "email", "address_mac", "name", "locale", "zone", "deleted", "erased_at")
]


@dataclass(frozen=True, slots=True)
class OfEpisode:
    """What a mail of an episode is about."""

    episode: Episode
    subscription: StoredSubscription
    situation_open: bool


@dataclass(frozen=True, slots=True)
class OfPayment:
    """What a notice of a payment is about; of a bill, with its subscription if that is known."""

    payment: StoredPayment
    subscription: StoredSubscription | None
    tried_again: bool
    in_all_clear: bool


@dataclass(frozen=True, slots=True)
class OfSubscription:
    """What a notice of a new subscription is about."""

    subscription: StoredSubscription


@dataclass(frozen=True, slots=True)
class StoredMail:
    """A notification with what it is about and its customer."""

    id: str
    state: NotificationState
    reason: str | None
    kind: Kind
    variant: str
    step: str
    customer_key: str
    urgency: Urgency
    not_after: datetime | None
    due_at: datetime
    tries: int
    poisoned: int
    copies: int
    message_id: str | None
    date_hdr: str | None
    template_hash: str | None
    letter: str | None
    batch_id: int
    about: OfEpisode | OfPayment | OfSubscription
    address: str | None
    address_mac: str | None
    name: str | None
    locale: str | None
    zone: str | None
    deleted: bool
    erased: bool
    shared_address: bool
    first_message_id: str | None
    """Message-ID of the first delivered mail of this episode."""
    released: bool = False
    """An operator released this very mail from a hold."""


async def load_mails(conn: AsyncConnection, account_id: int, ids: Sequence[str]) -> list[StoredMail]:
    """The mails with these ids, in that order; unknown ids are left out."""
    if not ids:
        return []
    chosen = select(*_COLUMNS).where(one_of(conn, notifications.c.id, ids))
    rows = {row.id: row for row in await conn.execute(chosen)}
    spells = await _episodes(conn, {row.episode_id for row in rows.values()} - {None})
    about = await _about(conn, account_id, rows, spells)
    owners = await _customers(conn, account_id, {_owner_of(one) for one in about.values()})
    shared = await shared_addresses(conn, account_id, {row.address_mac for row in owners.values()})
    firsts = await _first_message_ids(conn, spells)
    released = await _released(conn, ids)
    return [
        _read(
            rows[mail_id],
            about[mail_id],
            owners.get(_owner_of(about[mail_id]) or ""),
            shared,
            firsts,
            released,
        )
        for mail_id in ids
        if mail_id in rows
    ]


async def recent_mails(
    conn: AsyncConnection, account_id: int, macs: Sequence[str], now: datetime
) -> dict[str, tuple[int, datetime | None]]:
    """By address: (mails of the last 24 h, those on their way counted too, and when the oldest of them went)."""
    n = notifications.c
    statement = (
        select(n.address_mac, func.count(), func.min(n.sent_at))
        .where(
            n.account_id == account_id,
            one_of(conn, n.address_mac, macs),
            (n.sent_at > now - _DAY) | n.state.in_((S.CLAIMED, S.IN_DATA, S.AMBIGUOUS)),
        )
        .group_by(n.address_mac)
    )
    return {row[0]: (int(row[1]), row[2]) for row in await conn.execute(statement)}


async def recent_verdicts(conn: AsyncConnection, account_id: int, since: datetime | None, limit: int) -> list[bool]:
    """Whether each of the newest mails was refused with 5xx, oldest first: the breaker's memory."""
    statement = (
        select(attempts.c.outcome)
        .join(notifications, notifications.c.id == attempts.c.notification_id)
        .where(notifications.c.account_id == account_id, attempts.c.outcome.in_(("sent", "refused", "deferred")))
        .order_by(attempts.c.id.desc())
        .limit(limit)
    )
    if since is not None:
        statement = statement.where(attempts.c.at > since)
    return [row.outcome == "refused" for row in (await conn.execute(statement)).all()][::-1]


async def load_template_files(conn: AsyncConnection, digest: str) -> str | None:
    """The template files of this hash, as stored with the first mail that used them."""
    found: str | None = (
        await conn.execute(select(templates.c.files).where(templates.c.hash == digest))
    ).scalar_one_or_none()
    return found


async def waiting(conn: AsyncConnection, account_id: int, now: datetime) -> tuple[int, datetime | None]:
    """How many mails wait for a later time, and for which the next does."""
    n = notifications.c
    row = (
        await conn.execute(
            select(func.count(), func.min(n.next_try_at)).where(
                n.account_id == account_id, in_states(S.READY, S.AMBIGUOUS), n.next_try_at > now
            ),
        )
    ).one()
    return int(row[0]), row[1]


async def _about(
    conn: AsyncConnection, account_id: int, rows: Mapping[str, Any], spells: Mapping[str, Episode]
) -> dict[str, OfEpisode | OfPayment | OfSubscription]:
    """What each of these mails is about, by its id."""
    subscription_ids = {row.subscription_id for row in rows.values()} - {None}
    subs = await load_subscriptions(conn, account_id, ids=subscription_ids)
    by_id = {one.id: one for one in subs.values()}
    open_spells = await _open_spells(conn, by_id)
    paid = await payments_by_row(conn, {row.payment_id for row in rows.values()} - {None})
    retried = await tried_again(conn, account_id, paid.values())
    receipts = {row.subscription_id for row in rows.values() if row.payment_id is not None} - {None}
    clears = await all_clears(conn, receipts)
    about: dict[str, OfEpisode | OfPayment | OfSubscription] = {}
    for mail_id, row in rows.items():
        if row.payment_id is not None:
            payment, made_at = paid[row.payment_id], paid[row.payment_id].seen.created_at
            told = any(made_at is not None and at >= made_at for at in clears.get(row.subscription_id, ()))
            about[mail_id] = OfPayment(payment, by_id.get(row.subscription_id), payment.id in retried, told)
        elif row.episode_id is not None:
            opened = row.subscription_id in open_spells
            about[mail_id] = OfEpisode(spells[row.episode_id], by_id[row.subscription_id], opened)
        else:
            about[mail_id] = OfSubscription(by_id[row.subscription_id])
    return about


def _owner_of(about: OfEpisode | OfPayment | OfSubscription) -> str | None:
    """The customer, by the vendor's id: of a payment who paid it, of a subscription whose it is now."""
    seen = about.payment.seen if isinstance(about, OfPayment) else about.subscription.snapshot
    return seen.customer_ext_id


async def _episodes(conn: AsyncConnection, ids: set[str]) -> dict[str, Episode]:
    result = await conn.execute(select(episodes).where(one_of(conn, episodes.c.id, ids)))
    return {row.id: read_episode(row._mapping) for row in result}


async def _customers(conn: AsyncConnection, account_id: int, ext_ids: set[str | None]) -> dict[str, Any]:
    known = [one for one in ext_ids if one]
    statement = by_keys(conn, customers, account_id, known, *_OWNER)
    return {row.ext_id: row for row in await conn.execute(statement)}


async def shared_addresses(conn: AsyncConnection, account_id: int, macs: set[str | None]) -> set[str]:
    """Those of these addresses that several living customers have; each is looked up for itself, as by `by_keys`."""
    c, mac = customers.c, rows_of(conn, [mac for mac in macs if mac])
    owners = select(func.count()).where(c.account_id == account_id, c.address_mac == mac, c.deleted.is_(False))
    statement = select(mac).where(owners.scalar_subquery() > 1)
    return set((await conn.execute(statement)).scalars())


async def _open_spells(conn: AsyncConnection, subs: dict[int, StoredSubscription]) -> set[int]:
    statement = select(episodes.c.subscription_id).where(
        one_of(conn, episodes.c.subscription_id, subs),
        episodes.c.track == Track.BILLING,
        episodes.c.closed_at.is_(None),
    )
    return set((await conn.execute(statement)).scalars())


async def _released(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Mails that an operator let go one by one."""
    a = attempts.c
    statement = select(a.notification_id).where(
        one_of(conn, a.notification_id, ids), a.phase == "operator", a.outcome == "released"
    )
    return set((await conn.execute(statement)).scalars())


async def _first_message_ids(conn: AsyncConnection, spells: dict[str, Episode]) -> dict[str, str]:
    n = notifications.c
    statement = (
        select(n.episode_id, n.message_id)
        .where(one_of(conn, n.episode_id, spells), n.state == S.SENT)
        .order_by(n.sent_at.desc())
    )
    return {row.episode_id: row.message_id for row in await conn.execute(statement) if row.message_id}


def _read(
    row: Any,
    about: OfEpisode | OfPayment | OfSubscription,
    owner: Any,
    shared: set[str],
    firsts: dict[str, str],
    released: set[str],
) -> StoredMail:
    return StoredMail(
        id=row.id,
        state=S(row.state),
        reason=row.reason,
        kind=Kind(row.kind),
        variant=row.variant,
        step=row.step,
        customer_key=row.customer_key,
        urgency=Urgency(row.urgency),
        not_after=row.not_after,
        due_at=row.due_at,
        tries=row.tries,
        poisoned=row.poisoned,
        copies=row.copies,
        message_id=row.message_id,
        date_hdr=row.date_hdr,
        template_hash=row.template_hash,
        letter=row.letter,
        batch_id=row.batch_id,
        about=about,
        address=None if owner is None else owner.email,
        address_mac=None if owner is None else owner.address_mac,
        name=None if owner is None else owner.name,
        locale=None if owner is None else owner.locale,
        zone=None if owner is None else owner.zone,
        deleted=owner is not None and owner.deleted,
        erased=owner is not None and owner.erased_at is not None,
        shared_address=owner is not None and owner.address_mac in shared,
        first_message_id=firsts.get(row.episode_id),
        released=row.id in released,
    )
