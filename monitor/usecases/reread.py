"""Read again what webhooks and the event log told something about, one by one, and let the diff decide.

It happens after the webhook was answered, from the stored facts alone: a kill loses nothing, and who reads does not
matter. Any number of readers may work at once; two of them only read twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Source, Status, Told
from monitor.errors import ProviderError, RateLimitedError
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow, find_account
from monitor.store.asks import Ask, Asked, answer_asks, postpone_asks, take_asks
from monitor.store.batches import collecting_batch
from monitor.store.engine import db_now
from monitor.store.locks import fence
from monitor.store.subscriptions import load_subscriptions
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.intake import fold_open_facts
from monitor.usecases.observe import Observed, Outcome, observe
from monitor.usecases.observe_payments import PaymentWalk
from monitor.usecases.payments import reread_payment
from monitor.usecases.pull import newest_failure
from monitor.usecases.writing import Pen

AT_ONCE = 10
"""Subscriptions of one transaction: short, since on SQLite the answers to webhooks wait for it."""
QUESTIONS_AT_ONCE = 8
LEASE = timedelta(minutes=2)
MOST_TRIES = 20
"""About three days with the waits below: as long as the vendor repeats a delivery (contract v2, 5.1)."""
_FIRST_WAIT, _LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=6)


@dataclass(slots=True)
class Reread:
    """What one turn did. `gone`: the API answered 404; `problems`: it did not answer. `more`: others wait."""

    read: int = 0
    gone: int = 0
    more: bool = False
    problems: list[str] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True, slots=True)
class Joins:
    """The run that a reading belongs to: its batch, and the lock that fences its writes."""

    batch_id: int
    run_id: int
    lock: str
    token: int


async def reread_account(tools: Tools, account: Account) -> Reread:
    """One turn for this account, now; mails join the live batch.

    Nothing before the first complete run, which reads everything, nor while the account speaks another API than the one
    that wrote what is stored: both are the run's to judge as a whole.
    """
    async with tools.db.read() as conn:
        row = await find_account(conn, account.name)
    if row is None or row.baselined_at is None or row.provider != account.provider_name:
        return Reread()
    return await reread(tools, account, row, travelled_now(tools.clock, row, None))


async def reread(
    tools: Tools, account: Account, row: AccountRow, now: datetime, *, joins: Joins | None = None
) -> Reread:
    """Take the oldest questions, ask the API, write what it says (OBSERVE). Provider errors only postpone."""
    async with tools.db.write() as conn:
        asked = await take_asks(conn, row.id, now, now + LEASE, AT_ONCE)
    done = Reread(more=asked.more)
    tools.failpoint("after_take_asks")
    paid = [ask for ask in asked.asks if ask.payment]
    told = [await _ask_payment(tools, account, row, ask, asked.upto, now) for ask in paid]
    done.read += sum(isinstance(one, PaymentWalk) for one in told)
    asks = [ask for ask in asked.asks if not ask.payment]
    answers = await _ask_all(tools, account, row, asks)
    for source in (Source.WEBHOOK, Source.LOG):
        found = {
            ask.ext_id: one
            for ask, one in zip(asks, answers, strict=True)
            if ask.source is source and isinstance(one, Observed)
        }
        if found:
            await _write(tools, account, row, found, asked, now, source, joins, done)
    pairs = [*zip(asks, answers, strict=True), *zip(paid, told, strict=True)]
    await _postpone(tools, row, pairs, asked.upto, now, done)
    return done


async def reread_all(tools: Tools, account: Account, row: AccountRow, now: datetime, *, joins: Joins) -> Reread:
    """Turn after turn until no question is left, as a part of a run."""
    total = Reread(more=True)
    while total.more and not tools.stopping():
        done = await reread(tools, account, row, now, joins=joins)
        total.read, total.gone, total.more = total.read + done.read, total.gone + done.gone, done.more
        total.problems += done.problems
        total.outcome.add(replace(done.outcome, ids={}))
    return total


async def _ask_all(
    tools: Tools, account: Account, row: AccountRow, asks: Sequence[Ask]
) -> list[Observed | ProviderError | None]:
    """What the API says of each; None for a 404."""
    limit = asyncio.Semaphore(QUESTIONS_AT_ONCE)
    async with tools.db.read() as conn:
        stored = await load_subscriptions(conn, row.id, ext_ids=[ask.ext_id for ask in asks])

    async def ask_one(ask: Ask) -> Observed | ProviderError | None:
        async with limit:
            async with tools.db.read() as conn:
                asked_at = await db_now(conn)
            try:
                answer = await account.provider.subscription(ask.ext_id)
            except ProviderError as error:
                return error
            if answer is None:
                return None
            failure = None
            if answer[0].status is Status.PAST_DUE and Capability.FAILURES in account.provider.capabilities:
                before = stored.get(ask.ext_id)
                failure = await newest_failure(account, answer[0], Told() if before is None else before.told)
            return Observed(answer[0], answer[1], asked_at, failure)

    return await asyncio.gather(*map(ask_one, asks))


async def _ask_payment(
    tools: Tools, account: Account, row: AccountRow, ask: Ask, upto: int, now: datetime
) -> PaymentWalk | ProviderError | None:
    """Read one payment again and store what it shows, if the account wants any; None for a 404."""
    if not account.payments:
        async with tools.db.write() as conn:
            await answer_asks(conn, row.id, [ask.ext_id], upto)
        return PaymentWalk()
    try:
        read = await reread_payment(tools, account, row, ask.ext_id, now, source=ask.source)
    except ProviderError as error:
        return error
    if read is not None:
        async with tools.db.write() as conn:
            await answer_asks(conn, row.id, [ask.ext_id], upto)
    return read


async def _write(
    tools: Tools,
    account: Account,
    row: AccountRow,
    found: Mapping[str, Observed],
    asked: Asked,
    now: datetime,
    source: Source,
    joins: Joins | None,
    done: Reread,
) -> None:
    """OBSERVE: state, events, mails, and that the questions are answered, in one transaction."""
    async with tools.db.write() as conn:
        pen = Pen(now, source, *await _place(conn, row, now, joins))
        outcome = await observe(
            conn, row, account.policy(row), list(found.values()), pen, tools.address_mac, touch=True
        )
        await answer_asks(conn, row.id, found, asked.upto)
        tools.failpoint("before_reread_commit")
    tools.failpoint("after_reread_commit")
    done.read += len(found)
    done.outcome.add(outcome)
    if outcome.dropped:  # somebody read it later than we did; what was told counts all the same
        await fold_open_facts(tools, row, now)


async def _place(conn: AsyncConnection, row: AccountRow, now: datetime, joins: Joins | None) -> tuple[int, int | None]:
    """The batch that mails join, and the run, if it is one's."""
    if joins is None:
        return await collecting_batch(conn, row.id, "live", now), None
    await fence(conn, joins.lock, joins.token)
    return joins.batch_id, joins.run_id


async def _postpone(
    tools: Tools,
    row: AccountRow,
    pairs: Sequence[tuple[Ask, Observed | PaymentWalk | ProviderError | None]],
    upto: int,
    now: datetime,
    done: Reread,
) -> None:
    """A 404 proves nothing: a checkout may not be complete yet. An error says nothing about the subscription."""
    again: dict[str, datetime | None] = {}
    for ask, answer in pairs:
        if isinstance(answer, Observed | PaymentWalk):
            continue
        again[ask.ext_id] = _again_at(ask.tries + 1, answer, now)
        if answer is None:
            done.gone += 1
        else:
            done.problems.append(f"{ask.ext_id}: {answer}")
    if again:
        async with tools.db.write() as conn:
            await postpone_asks(conn, row.id, again, upto, now)


def _again_at(tries: int, error: ProviderError | None, now: datetime) -> datetime | None:
    if tries >= MOST_TRIES:
        return None
    wait = min(_FIRST_WAIT * (1 << (tries - 1)), _LONGEST_WAIT)
    if isinstance(error, RateLimitedError) and error.retry_after is not None:
        wait = max(wait, error.retry_after)
    return now + wait
