"""Read a scratch database for the lines of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import NotificationState
from monitor.store.schema import customers, episodes, notifications, payments, subscriptions


@dataclass(frozen=True, slots=True)
class PlannedMail:
    """One notification as a plan shows it."""

    id: str
    state: NotificationState
    kind: str
    variant: str
    step: str
    urgency: str
    reason: str | None
    why: str | None
    due_at: datetime
    next_try_at: datetime
    not_after: datetime | None
    batch_id: int
    subscription: str | None
    """None for a payment that belongs to none."""
    payment: str | None
    customer: str
    customer_reference: str | None
    address: str | None
    deadline_at: datetime | None
    letter: str | None


async def mail_states(conn: AsyncConnection, account_id: int) -> dict[str, str]:
    """The state of every notification."""
    statement = select(notifications.c.id, notifications.c.state).where(notifications.c.account_id == account_id)
    return {row.id: row.state for row in await conn.execute(statement)}


async def planned_mails(conn: AsyncConnection, account_id: int) -> list[PlannedMail]:
    """Every notification with whom and what it is about, most pressing first."""
    n = notifications.c
    statement = (
        select(
            n.id,
            n.state,
            n.kind,
            n.variant,
            n.step,
            n.urgency,
            n.reason,
            n.why,
            n.due_at,
            n.next_try_at,
            n.not_after,
            n.batch_id,
            subscriptions.c.ext_id.label("subscription"),
            payments.c.ext_id.label("payment"),
            n.customer_key.label("customer"),
            customers.c.reference.label("customer_reference"),
            customers.c.email.label("address"),
            episodes.c.deadline_at,
            n.letter,
        )
        .outerjoin(subscriptions, subscriptions.c.id == n.subscription_id)
        .outerjoin(payments, payments.c.id == n.payment_id)
        .outerjoin(episodes, episodes.c.id == n.episode_id)
        .outerjoin(customers, (customers.c.account_id == n.account_id) & (customers.c.ext_id == n.customer_key))
        .where(n.account_id == account_id)
        .order_by(n.rank, n.due_at, n.id)
    )
    rows = [dict(row._mapping) for row in await conn.execute(statement)]
    return [PlannedMail(**{**row, "state": NotificationState(row["state"])}) for row in rows]
