"""Pull payments into the database: what was seen, what happened to each, and what is mailed about it.

A run walks back to where the newest complete walk began, and a day further: payments are recorded late. A walk that
ends early keeps what it read and moves no watermark. What was made before the first contact is history and tells
nothing; where the API can be asked for it apart it is read after the gate, a slice a run, so that no first gate waits.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Source
from monitor.domain.payments import PaymentPage
from monitor.errors import ProviderError
from monitor.providers.base import PayerSource, PaymentHistory, PaymentSource, UnsupportedError
from monitor.store.accounts import AccountRow
from monitor.store.engine import db_now
from monitor.store.locks import fence
from monitor.store.payments import (
    PaymentWalkRow,
    find_payment_walk,
    note_history,
    note_payment_walk,
    payer_ids,
    payments_to_look_at,
    postpone_look,
)
from monitor.store.runs import RunRow
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe_payments import PaymentWalk, Till, look_again, store_page

OVERLAP = timedelta(days=1)
LOOKS_AT_ONCE = 500
HISTORY_AT_ONCE = 2_000
"""Payments of the past that one run reads: at 50 a page about half a minute of the API's time."""
ASKS_AT_ONCE = 20
INTERRUPTED = "interrupted"
_NOT_THERE_WAIT = timedelta(hours=1)


class ReadsAlong(Protocol):
    """Somebody else who needs the same pages: one walk serves both."""

    watermark: datetime | None
    """How far back it needs no page any more; None: it needs all of them."""

    def ends(self) -> str | None:
        """Why no further page may be asked; None where one may."""
        ...

    async def read(self, conn: AsyncConnection, page: PaymentPage) -> None:
        """Take from a page what is wanted, in the transaction that stores it."""
        ...


async def pull_payments(
    tools: Tools,
    account: Account,
    row: AccountRow,
    run: RunRow,
    *,
    lock: str,
    batch_id: int,
    along: ReadsAlong | None = None,
) -> PaymentWalk:
    """Walk the provider's payments, where it has any and somebody wants them. Provider errors become `problem`."""
    source, keeps = account.provider, account.payments
    walk = PaymentWalk()
    if not isinstance(source, PaymentSource) or not (keeps or along):
        return walk
    async with tools.db.read() as conn:
        past = await find_payment_walk(conn, row.id) if keeps else None
        # an API that tells its past, or its subscriptions, lists all payments: a million names would be for nobody
        names_nobody = along is not None or isinstance(source, PaymentHistory)
        customers = () if names_nobody else await payer_ids(conn, row.id)
    if past is None and isinstance(source, PaymentHistory):
        async with tools.db.write() as conn:
            await fence(conn, lock, run.token)
            await note_payment_walk(conn, row.id, run.bound_at)
        return walk
    baselined_at = None if past is None else past.baselined_at
    till = Till(
        tools, account, row.id, run.now_at, Source.PULL, run.asked_at, baselined_at, batch_id=batch_id, run_id=run.id
    )
    pages = source.payments(_since(past, along, keeps=keeps), customers)
    try:
        while (end := _end_of(tools, along)) is None:
            async with tools.db.read() as conn:
                asked_at = await db_now(conn)
            page = await anext(pages, None)
            if page is None:
                break
            async with tools.db.write() as conn:
                await fence(conn, lock, run.token)
                if keeps:
                    await store_page(conn, replace(till, asked_at=asked_at), page, walk)
                if along:
                    await along.read(conn, page)
            tools.progress("payments", walk.rows, None)
        walk.problem, walk.interrupted = end, end == INTERRUPTED
    except ProviderError as error:
        walk.problem = str(error)
    if keeps and walk.problem is None:
        await _finish(till, run, walk, lock)
    return walk


def _since(past: PaymentWalkRow | None, along: ReadsAlong | None, *, keeps: bool) -> datetime | None:
    """How far back a walk goes; None: to the beginning, as long as one of those who read has never been there."""
    marks = [None if past is None else past.watermark] if keeps else []
    marks += [along.watermark] if along else []
    known = [mark for mark in marks if mark is not None]
    return min(known) - OVERLAP if len(known) == len(marks) else None


def _end_of(tools: Tools, along: ReadsAlong | None) -> str | None:
    if tools.stopping():
        return INTERRUPTED
    return along.ends() if along else None


async def read_history(tools: Tools, account: Account, row: AccountRow, run: RunRow, *, lock: str) -> PaymentWalk:
    """Read a slice of the payments from before the baseline, and remember where to go on. No event, no mail."""
    source, walk = account.provider, PaymentWalk()
    if not account.payments or not isinstance(source, PaymentHistory):
        return walk
    async with tools.db.read() as conn:
        past = await find_payment_walk(conn, row.id)
    if past is None or past.history_ended_at is not None:
        return walk
    till = Till(tools, account, row.id, run.now_at, Source.PULL, run.asked_at, None, run_id=run.id)
    try:
        async for page, mark in source.payment_history(past.baselined_at, past.history_mark):
            async with tools.db.write() as conn:
                await fence(conn, lock, run.token)
                await store_page(conn, till, page, walk)
                await note_history(conn, row.id, history_mark=mark)
            tools.progress("payment history", walk.rows, None)
            # a slice ends where the next one would not read the same again
            if tools.stopping() or (walk.rows >= HISTORY_AT_ONCE and mark != past.history_mark):
                return walk
    except ProviderError as error:
        walk.problem = str(error)
        return walk
    async with tools.db.write() as conn:
        await fence(conn, lock, run.token)
        await note_history(conn, row.id, history_ended_at=run.now_at)
    return walk


async def reread_payment(
    tools: Tools, account: Account, row: AccountRow, ext_id: str, now: datetime, *, source: Source
) -> PaymentWalk | None:
    """Ask for one payment and store it; None for a 404. Notices join the live batch. Raises `ProviderError`."""
    provider = account.provider
    if not isinstance(provider, PaymentSource):
        raise UnsupportedError(f"{account.provider_name} cannot read payment {ext_id}")
    till = await _single(tools, account, row, now, source)
    seen = await provider.payment(ext_id)
    if seen is None:
        return None
    walk = PaymentWalk()
    async with tools.db.write() as conn:
        await store_page(conn, till, PaymentPage((seen,)), walk)
    return walk


async def reread_payer(
    tools: Tools, account: Account, row: AccountRow, customer: str, since: datetime, now: datetime
) -> bool:
    """Ask for what this customer has paid or tried since then, and store it. False: the API cannot be asked so.

    Raises `ProviderError`.
    """
    provider = account.provider
    if not isinstance(provider, PayerSource):
        return False
    till, walk = await _single(tools, account, row, now, Source.PULL), PaymentWalk()
    async for page in provider.payments_of(customer, since):
        async with tools.db.write() as conn:
            await store_page(conn, till, page, walk)
    return True


async def look_at_payments(tools: Tools, account: Account, row: AccountRow, now: datetime) -> list[str]:
    """Ask again for payments that have been pending for long, a few at a time; returns what went wrong.

    Between two runs nobody else would: what has ended meanwhile must not be called pending.
    """
    if not account.payments or not isinstance(account.provider, PaymentSource):
        return []
    async with tools.db.read() as conn:
        due = await payments_to_look_at(conn, row.id, now, ASKS_AT_ONCE, lock=False)
    for one in due:
        try:
            found = await reread_payment(tools, account, row, one.seen.ext_id, now, source=Source.PULL)
        except ProviderError as error:
            return [f"payments: {error}"]
        if found is None:
            async with tools.db.write() as conn:
                await postpone_look(conn, one.id, now + _NOT_THERE_WAIT)
    return []


async def _single(tools: Tools, account: Account, row: AccountRow, now: datetime, source: Source) -> Till:
    async with tools.db.read() as conn:
        asked_at = await db_now(conn)
        past = await find_payment_walk(conn, row.id)
    baselined_at = None if past is None else past.baselined_at
    return Till(tools, account, row.id, now, source, asked_at, baselined_at, single=True)


async def _finish(till: Till, run: RunRow, walk: PaymentWalk, lock: str) -> None:
    """Tell of what has been pending for long, which no page brings as a change, and move the watermark."""
    while True:
        async with till.tools.db.write() as conn:
            await fence(conn, lock, run.token)
            due = await payments_to_look_at(conn, till.account_id, till.now, LOOKS_AT_ONCE)
            if not due:
                await note_payment_walk(conn, till.account_id, run.bound_at)
                return
            await look_again(conn, till, due, walk)
