"""Why did she get this mail about a payment, or none? As `explain` tells it of subscriptions, whose bills are there."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.payments import PaymentStatus
from monitor.domain.words import NOTHING, PAYMENT_EVENTS, PAYMENT_STATUSES, moment, tokens, why_failed
from monitor.errors import NotFoundError
from monitor.store.payments import find_payments, mails_of_payment, payment_stories
from monitor.store.views import attempts_of, mails_by_prefix
from monitor.usecases.explain import (
    OPEN_OUTCOMES,
    Explanation,
    Line,
    Reader,
    Story,
    attempt_lines,
    decisions,
    mail_line,
    newest_first,
)
from monitor.usecases.telling import Mail, tell


async def explain_all(
    reader: Reader, asked: str, *, account: str | None = None, known_at: datetime | None = None
) -> Explanation:
    """The stories of what this may mean: subscriptions first, then payments that belong to none.

    A payment is named by its id, its order, the id of one of its mails, or its customer's address. Raises what
    `Reader.explain` raises where there is neither.
    """
    try:
        found = await reader.explain(asked, account=account, known_at=known_at)
        missing = None
    except NotFoundError as error:
        found, missing = Explanation(asked.strip(), known_at, ()), error
    async with reader.db.read() as conn:
        macs = [reader.address_mac(found.asked)] if "@" in found.asked else []
        mails = await mails_by_prefix(conn, found.asked)
        rows = await find_payments(conn, found.asked, macs, mails[0] if len(mails) == 1 else None, account)
        stories = [await _story(reader, conn, row, known_at) for row in rows]
    if missing is not None and not stories:
        raise missing
    return replace(found, stories=(*found.stories, *stories))


async def _story(reader: Reader, conn: AsyncConnection, row: Any, known_at: datetime | None) -> Story:
    zone = ZoneInfo(reader.zones.get(row.account, "UTC"))
    now = reader.now + (row.time_travel or timedelta())
    at = known_at or now
    events = [one for one in (await payment_stories(conn, [row.id])).get(row.id, []) if one.at <= at]
    stored = [one for one in await mails_of_payment(conn, row.id) if one.created_at <= at]
    attempts = [one for one in await attempts_of(conn, [one.id for one in stored]) if one.at <= at]
    mails = [
        Mail(one, [each for each in attempts if each.notification_id == one.id], None, reader.shown(one.recipient))
        for one in stored
    ]
    told = [tell(mail, zone, at, known_at) for mail in mails]
    status = events[-1].new if known_at is not None and events else row.status
    since = events[-1].at if events else row.created_at or row.first_asked_at
    waiting = [one for one in told if one.state in OPEN_OUTCOMES]
    return Story(
        account=row.account,
        zone=zone.key,
        subscription=None,
        payment=row.ext_id,
        product=row.product,
        address=reader.shown(row.email),
        now=now,
        situation=status,
        summary=f"Payment {PAYMENT_STATUSES[PaymentStatus(status)]} since {moment(since, zone)}",
        next=". ".join(f"{one.sentence}{f' ({one.because})' if one.because else ''}" for one in waiting)
        or "Nothing is due",
        facts={} if known_at is not None else _facts(row, zone),
        lines=newest_first(
            [
                *(_event_line(one) for one in events),
                *(mail_line(one, ()) for one in told),
                *attempt_lines(mails, attempts),
                *decisions(stored, known_at),
            ]
        ),
    )


def _event_line(row: Any) -> Line:
    return Line(row.at, "event", PAYMENT_EVENTS[row.kind], ref=f"run {row.run_id}" if row.run_id else None)


def _facts(row: Any, zone: ZoneInfo) -> dict[str, str]:
    """What is known of the payment now."""
    why = why_failed(row.cause, row.reason)
    facts = {
        "what": {"one_off": "one-off payment", "bill": "bill", "attempt": "failed try"}[row.kind],
        "status": f'"{row.status_raw}"' if row.status == PaymentStatus.UNKNOWN else row.status,
        "amount": tokens(row.amount_units, row.decimals, row.symbol) if row.amount_units is not None else NOTHING,
        "made": moment(row.created_at, zone),
        "reference": row.reference or NOTHING,
        "try at": row.of_ext_id or NOTHING,
        "reason": why,
        "the API's word": NOTHING if row.reason in {None, why} else row.reason,
        "customer": row.customer_ext_id or NOTHING,
        "transaction": row.tx_hash or NOTHING,
    }
    if row.test:
        facts["test"] = "a test payment"
    return {name: value for name, value in facts.items() if value != NOTHING}
