"""The outbox machine while mails are on their way: claim, `in_data`, outcome. A whole group moves by one statement.

Each row still names the state and the token that it expects, and only those that had them are reported as moved: so
two workers never send the same mail. Rows are given in the order of their ids, and a claim passes over rows that
somebody else has locked, so no two groups wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Integer, Row, String, Text, Update, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from monitor.domain.model import BatchState, NotificationState
from monitor.store.engine import db_clock_after
from monitor.store.given import among, as_parameters, given_rows
from monitor.store.outbox import in_states
from monitor.store.schema import accounts, batches, notifications
from monitor.store.types import Instant

S = NotificationState
MAX_COPIES = 2
_FROZEN: dict[str, TypeEngine[Any]] = {
    "recipient": Text(),
    "letter": Text(),
    "date_hdr": Text(),
    "message_id": Text(),
    "template_hash": String(),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mail to be claimed, with what its making has settled."""

    id: str
    address_mac: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a mail goes from the state and token that it is expected to have. None: what the row says stays.

    `copies_back` is 1 when the server said no at the dot, so that no copy was delivered.
    """

    id: str
    expect: NotificationState
    to: NotificationState
    token: int | None
    """None: whoever held it last."""
    copies_back: int = 0
    reason: str | None = None
    """Always written: it tells of this state."""
    why: str | None = None
    tries: int | None = None
    sent_at: datetime | None = None
    next_try_at: datetime | None = None


async def claim(conn: AsyncConnection, wanted: Sequence[Wanted], *, owner: str, lease: timedelta) -> dict[str, int]:
    """Ready | ambiguous -> claimed, each under a new token: tokens by id, of those that no other worker has.

    Only while its batch is open: what the guard holds stays where it is, whoever asks.
    """
    if not wanted:
        return {}
    given = {**as_parameters(conn.dialect.name, map(_row, wanted)), "whose": owner}
    return {row.id: row.token for row in await conn.execute(_claim(conn.dialect.name, lease), given)}


async def mark_in_data(
    conn: AsyncConnection,
    mails: Sequence[tuple[str, int, Mapping[str, Any]]],
    *,
    owner: str,
    at: datetime,
    lease: timedelta,
) -> dict[str, int]:
    """Claimed -> in_data, just before the bodies leave; which copy each is, by id. `mails`: (id, token, frozen values).

    Not in the answer: a mail whose claim is not ours any more, whose copies are spent, or whose account was paused
    meanwhile: the kill switch is read here, before every single mail. Of it nothing may be sent.
    """
    if not mails:
        return {}
    rows = [{"id": mail_id, "token": token, **frozen} for mail_id, token, frozen in mails]
    given = {**as_parameters(conn.dialect.name, rows), "whose": owner, "begun_at": at}
    return {row.id: row.copies for row in await conn.execute(_mark(conn.dialect.name, lease), given)}


async def settle(conn: AsyncConnection, outcomes: Iterable[Outcome]) -> set[str]:
    """Claimed | in_data | ambiguous -> their outcomes; the ids that moved. A row that is not ours any more stays."""
    rows = [_row(one) for one in outcomes]
    if not rows:
        return set()
    dialect = conn.dialect.name
    return set((await conn.execute(_settle(dialect), as_parameters(dialect, rows))).scalars())


async def leased(conn: AsyncConnection, account_id: int) -> list[Row[Any]]:
    """Rows that some worker holds: id, state, owner, until_at, token, copies."""
    n = notifications.c
    statement = select(n.id, n.state, n.owner, n.until_at, n.token, n.copies).where(
        n.account_id == account_id, in_states(S.CLAIMED, S.IN_DATA)
    )
    return list(await conn.execute(statement))


def _row(one: Wanted | Outcome) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}  # `asdict` copies deeply, and costs ten times that


@cache
def _claim(dialect: str, lease: timedelta) -> Update:
    n = notifications.c
    given = given_rows(dialect, {"id": String(), "address_mac": String(), "variant": String()})
    opened = select(batches.c.id).where(batches.c.state == BatchState.OPEN)
    takeable: tuple[ColumnElement[bool], ...] = (n.state.in_((S.READY, S.AMBIGUOUS)), n.batch_id.in_(opened))
    if dialect == "postgresql":
        free = select(n.id).where(*among(dialect, n.id), *takeable).with_for_update(skip_locked=True, of=notifications)
        # as a subquery it would be asked again for every row
        takeable = (n.id.in_(select(free.cte("free").c.id)),)
    return (
        update(notifications)
        .where(n.id == given.c.id, *among(dialect, n.id), *takeable)
        .values(
            state=S.CLAIMED,
            token=n.token + 1,
            owner=bindparam("whose", type_=String()),
            until_at=db_clock_after(dialect, lease),
            address_mac=func.coalesce(given.c.address_mac, n.address_mac),
            variant=func.coalesce(given.c.variant, n.variant),
        )
        .returning(n.id, n.token)
    )


@cache
def _mark(dialect: str, lease: timedelta) -> Update:
    n = notifications.c
    given = given_rows(dialect, {"id": String(), "token": Integer(), **_FROZEN})
    paused = select(accounts.c.id).where(accounts.c.paused_at.is_not(None))
    return (
        update(notifications)
        .where(
            n.id == given.c.id,
            *among(dialect, n.id),
            n.state == S.CLAIMED,
            n.owner == bindparam("whose", type_=String()),
            n.token == given.c.token,
            n.copies < MAX_COPIES,
            n.account_id.not_in(paused),
        )
        .values(
            state=S.IN_DATA,
            copies=n.copies + 1,
            in_data_at=bindparam("begun_at", type_=Instant()),
            until_at=db_clock_after(dialect, lease),
            **{name: func.coalesce(given.c[name], n[name]) for name in _FROZEN},
        )
        .returning(n.id, n.copies)
    )


@cache
def _settle(dialect: str) -> Update:
    n = notifications.c
    kept: dict[str, TypeEngine[Any]] = {
        "why": Text(),
        "tries": Integer(),
        "sent_at": Instant(),
        "next_try_at": Instant(),
    }
    given = given_rows(
        dialect,
        {
            "id": String(),
            "expect": String(),
            "to": String(),
            "token": Integer(),
            "copies_back": Integer(),
            "reason": String(),
            **kept,
        },
    )
    return (
        update(notifications)
        .where(
            n.id == given.c.id,
            *among(dialect, n.id),
            n.state == given.c.expect,
            (n.token == given.c.token) | given.c.token.is_(None),
        )
        .values(
            state=given.c.to,
            owner=None,
            until_at=None,
            copies=n.copies - given.c.copies_back,
            reason=given.c.reason,
            **{name: func.coalesce(given.c[name], n[name]) for name in kept},
        )
        .returning(n.id)
    )
