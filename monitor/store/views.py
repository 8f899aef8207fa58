"""Read models: the ledger as people list it. Only selects; addresses come as stored, who shows them masks them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import BatchState, NotificationState, RunState
from monitor.store.engine import db_now
from monitor.store.locks import RUN_LOCK
from monitor.store.schema import (
    accounts,
    attempts,
    batches,
    currencies,
    customers,
    episodes,
    events,
    locks,
    notifications,
    payments,
    products,
    quarantine,
    run_pages,
    runs,
    subscriptions,
    suppressions,
)

Rows = list[Row[Any]]
_RUNS = runs.join(accounts).outerjoin(locks, locks.c.name == RUN_LOCK + accounts.c.name)
_WAITING = (NotificationState.STAGED, NotificationState.HELD, NotificationState.READY, NotificationState.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing is narrowed to; None is no limit of that sort. `since` is inclusive, `limit` counts rows."""

    account: str | None = None
    kind: str | None = None
    state: str | None = None
    since: datetime | None = None
    subscription: str | None = None
    batch: int | None = None
    limit: int = 50


async def list_events(conn: AsyncConnection, wanted: Filter) -> Rows:
    """Events with the token of their subscription, newest first; one more than the limit tells that there are more."""
    s, c = subscriptions.c, currencies.c
    statement = (
        select(accounts.c.name.label("account"), s.ext_id.label("subscription"), c.symbol, c.decimals, *events.c)
        .select_from(events)
        .join(accounts, accounts.c.id == events.c.account_id)
        .join(subscriptions, s.id == events.c.subscription_id)
        .outerjoin(currencies, (c.account_id == s.account_id) & (c.ext_id == s.currency_ext_id))
    )
    if wanted.kind is not None:
        statement = statement.where(events.c.kind == wanted.kind)
    return await _fetch(conn, _narrowed(statement, wanted, events.c.at).order_by(events.c.id.desc()), wanted)


async def list_episodes(conn: AsyncConnection, wanted: Filter) -> Rows:
    """Episodes, newest first; `state` is open, closed or muted."""
    statement = select(
        accounts.c.name.label("account"), subscriptions.c.ext_id.label("subscription"), *episodes.c
    ).select_from(episodes.join(accounts).join(subscriptions, subscriptions.c.id == episodes.c.subscription_id))
    if wanted.kind is not None:
        statement = statement.where(episodes.c.kind == wanted.kind)
    if wanted.state == "closed":
        statement = statement.where(episodes.c.closed_at.is_not(None))
    elif wanted.state is not None:
        statement = statement.where(episodes.c.closed_at.is_(None))
        if wanted.state == "muted":
            statement = statement.where(episodes.c.muted.is_not(None))
    order = (episodes.c.opened_at.desc(), episodes.c.id)
    return await _fetch(conn, _narrowed(statement, wanted, episodes.c.opened_at).order_by(*order), wanted)


async def list_mails(conn: AsyncConnection, wanted: Filter) -> Rows:
    """Notifications with whom they go to, newest first."""
    n = notifications.c
    statement = _mails().order_by(n.created_at.desc(), n.rank, n.id)
    if wanted.kind is not None:
        statement = statement.where(n.kind == wanted.kind)
    if wanted.state is not None:
        statement = statement.where(n.state == wanted.state)
    if wanted.batch is not None:
        statement = statement.where(n.batch_id == wanted.batch)
    return await _fetch(conn, _narrowed(statement, wanted, n.created_at), wanted)


async def mail_by_id(conn: AsyncConnection, notification_id: str) -> Row[Any]:
    """One notification that is there, with everything that is kept of it, its batch's decision among it."""
    statement = _mails().add_columns(
        *(column.label(f"batch_{column.name}") for column in batches.c if column.name not in {"account_id", "id"}),
    )
    return (await conn.execute(statement.where(notifications.c.id == notification_id))).one()


async def mails_by_prefix(conn: AsyncConnection, prefix: str, limit: int = 2) -> list[str]:
    """Full ids that begin so: an id may be shortened as long as it is one mail's."""
    statement = select(notifications.c.id).where(notifications.c.id.startswith(prefix, autoescape=True)).limit(limit)
    return list((await conn.execute(statement)).scalars())


async def attempts_of(conn: AsyncConnection, notification_ids: Sequence[str]) -> Rows:
    """What happened at the mail server, and what a person decided, oldest first."""
    statement = select(attempts).where(attempts.c.notification_id.in_(list(notification_ids)))
    return list(await conn.execute(statement.order_by(attempts.c.id)))


async def list_batches(conn: AsyncConnection, wanted: Filter) -> Rows:
    """Batches with how many of their mails still wait, newest first."""
    n = notifications.c
    waiting = (
        select(func.count())
        .where(n.batch_id == batches.c.id, n.state.in_(_WAITING))
        .correlate(batches)
        .scalar_subquery()
    )
    statement = select(accounts.c.name.label("account"), *batches.c, waiting.label("waiting")).select_from(
        batches.join(accounts)
    )
    if wanted.state is not None:
        statement = statement.where(batches.c.state == wanted.state)
    elif wanted.batch is None:
        statement = statement.where(or_(batches.c.state != BatchState.OPEN, waiting > 0))
    if wanted.batch is not None:
        statement = statement.where(batches.c.id == wanted.batch)
    if wanted.account is not None:
        statement = statement.where(accounts.c.name == wanted.account)
    return await _fetch(conn, statement.order_by(batches.c.id.desc()), wanted)


async def batch_mails(conn: AsyncConnection, batch_id: int) -> Rows:
    """(kind, state, reason, count) of a batch's notifications."""
    n = notifications.c
    columns = (n.kind, n.state, n.reason)
    statement = select(*columns, func.count().label("count")).where(n.batch_id == batch_id).group_by(*columns)
    return list(await conn.execute(statement.order_by(*columns)))


async def run_holders(conn: AsyncConnection) -> list[str]:
    """Who took the locks of the runs that are not finished."""
    statement = select(locks.c.holder).select_from(_RUNS).where(runs.c.state == RunState.RUNNING)
    return [holder for holder in (await conn.execute(statement.distinct())).scalars() if holder]


async def list_runs(conn: AsyncConnection, wanted: Filter, dead: Collection[str]) -> Rows:
    """Runs, newest first; `dead` as in `run_by_id`."""
    state = await _shown_state(conn, dead)
    statement = _with_state(state)
    if wanted.state is not None:
        statement = statement.where(state == wanted.state)
    if wanted.account is not None:
        statement = statement.where(accounts.c.name == wanted.account)
    if wanted.since is not None:
        statement = statement.where(runs.c.started_at >= wanted.since)
    return await _fetch(conn, statement.order_by(runs.c.id.desc()), wanted)


async def run_by_id(conn: AsyncConnection, run_id: int, dead: Collection[str]) -> Row[Any] | None:
    """One run with its account's name; one that stands as running is `interrupted` where nobody works on it any more.

    `dead` are the holders of which it was certain before this transaction began that they are gone: one that goes only
    now may just have finished its run.
    """
    statement = _with_state(await _shown_state(conn, dead)).where(runs.c.id == run_id)
    found: Row[Any] | None = (await conn.execute(statement)).one_or_none()
    return found


async def run_windows(conn: AsyncConnection, run_id: int) -> Rows:
    """(win, pages, rows, bad) of each window that was read."""
    p = run_pages.c
    statement = select(
        p.win, func.count().label("pages"), func.sum(p.rows).label("rows"), func.sum(p.bad).label("bad")
    ).where(p.run_id == run_id)
    return list(await conn.execute(statement.group_by(p.win).order_by(p.win)))


async def quarantined(conn: AsyncConnection, account_id: int, at: datetime, limit: int) -> Rows:
    """Rows that could not be read in the run of this instant: id, reason, first and last time; never their content."""
    q = quarantine.c
    statement = select(q.id, q.ext_id, q.reason, q.first_at, q.last_at).where(
        q.account_id == account_id, q.first_at <= at, q.last_at >= at
    )
    return list(await conn.execute(statement.order_by(q.id).limit(limit)))


async def list_suppressed(conn: AsyncConnection, wanted: Filter) -> Rows:
    """Suppressions, newest first, each with one address that has this hash, where a customer still has it."""
    s = suppressions.c
    address = (
        select(func.min(customers.c.email))
        .where(customers.c.account_id == s.account_id, customers.c.address_mac == s.address_mac)
        .correlate(suppressions)
        .scalar_subquery()
    )
    statement = select(accounts.c.name.label("account"), *s, address.label("address")).select_from(
        suppressions.join(accounts)
    )
    if wanted.account is not None:
        statement = statement.where(accounts.c.name == wanted.account)
    if wanted.since is not None:
        statement = statement.where(s.at >= wanted.since)
    return await _fetch(conn, statement.order_by(s.id.desc()), wanted)


async def find_subscriptions(
    conn: AsyncConnection, asked: str, macs: Sequence[str] = (), account: str | None = None
) -> Rows:
    """Every subscription that this may mean: its id, the merchant's reference, a mail's id, its owner's address."""
    s = subscriptions.c
    mail = select(notifications.c.subscription_id).where(notifications.c.id == asked)
    statement = (
        select(
            s.id,
            s.account_id,
            s.ext_id,
            s.first_asked_at,
            s.next_look_at,
            accounts.c.name.label("account"),
            accounts.c.baselined_at,
            accounts.c.paused_at,
            accounts.c.sender_paused_until,
            accounts.c.sender_pause_reason,
            accounts.c.time_travel,
            customers.c.email,
            customers.c.deleted,
            customers.c.zone,
            products.c.name.label("product"),
            currencies.c.symbol,
            currencies.c.decimals,
        )
        .select_from(subscriptions)
        .join(accounts, accounts.c.id == s.account_id)
        .outerjoin(customers, customers.c.id == s.customer_id)
        .outerjoin(products, (products.c.account_id == s.account_id) & (products.c.ext_id == s.product_ext_id))
        .outerjoin(currencies, (currencies.c.account_id == s.account_id) & (currencies.c.ext_id == s.currency_ext_id))
        .where(
            or_(
                s.ext_id == asked,
                s.reference == asked,
                s.id.in_(mail),
                func.lower(customers.c.email) == asked.lower(),
                customers.c.address_mac.in_(list(macs)),
            ),
        )
        .order_by(accounts.c.name, s.id)
    )
    if account is not None:
        statement = statement.where(accounts.c.name == account)
    return list(await conn.execute(statement))


async def history_of(conn: AsyncConnection, subscription_id: int) -> tuple[Rows, Rows, Rows]:
    """(events, episodes, notifications with their batch) of one subscription, oldest first."""
    happened = select(events).where(events.c.subscription_id == subscription_id).order_by(events.c.seq)
    spells = select(episodes).where(episodes.c.subscription_id == subscription_id).order_by(episodes.c.opened_seq)
    n = notifications.c
    mails = (
        select(
            *n,
            batches.c.state.label("batch_state"),
            batches.c.reason.label("batch_reason"),
            batches.c.decided_by,
            batches.c.decided_at,
            batches.c.valid_until,
        )
        .join(batches, batches.c.id == n.batch_id)
        .where(n.subscription_id == subscription_id)
        .order_by(n.created_at, n.due_at, n.id)
    )
    return list(await conn.execute(happened)), list(await conn.execute(spells)), list(await conn.execute(mails))


async def run_that_asked(conn: AsyncConnection, account_id: int, asked_at: datetime) -> Row[Any, Any, Any, Any] | None:
    """The run in which a row was read, by when it was asked for: id, now_at, asked_at, baseline."""
    statement = (
        select(runs.c.id, runs.c.now_at, runs.c.asked_at, runs.c.baseline)
        .where(runs.c.account_id == account_id, runs.c.asked_at <= asked_at)
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    return (await conn.execute(statement)).one_or_none()


async def _shown_state(conn: AsyncConnection, dead: Collection[str]) -> ColumnElement[str]:
    beats = and_(locks.c.until_at >= await db_now(conn), locks.c.holder.not_in(list(dead)))
    return case((or_(runs.c.state != RunState.RUNNING, beats), runs.c.state), else_=RunState.INTERRUPTED.value)


def _with_state(state: ColumnElement[str]) -> Select[Any]:
    others = (column for column in runs.c if column is not runs.c.state)
    return select(accounts.c.name.label("account"), *others, state.label("state")).select_from(_RUNS)


def _mails() -> Select[Any]:
    n = notifications.c
    return (
        select(
            accounts.c.name.label("account"),
            subscriptions.c.ext_id.label("subscription"),
            payments.c.ext_id.label("payment"),
            customers.c.email.label("address"),
            *n,
        )
        .select_from(notifications)
        .join(accounts, accounts.c.id == n.account_id)
        .outerjoin(subscriptions, subscriptions.c.id == n.subscription_id)
        .outerjoin(payments, payments.c.id == n.payment_id)
        .join(batches, batches.c.id == n.batch_id)
        .outerjoin(customers, (customers.c.account_id == n.account_id) & (customers.c.ext_id == n.customer_key))
    )


def _narrowed(statement: Select[Any], wanted: Filter, at: Column[Any]) -> Select[Any]:
    if wanted.account is not None:
        statement = statement.where(accounts.c.name == wanted.account)
    if wanted.subscription is not None:
        statement = statement.where(subscriptions.c.ext_id == wanted.subscription)
    if wanted.since is not None:
        statement = statement.where(at >= wanted.since)
    return statement


async def _fetch(conn: AsyncConnection, statement: Select[Any], wanted: Filter) -> Rows:
    return list(await conn.execute(statement.limit(wanted.limit + 1)))
