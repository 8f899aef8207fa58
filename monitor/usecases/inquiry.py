"""Is each of these mails still due? Asked of the stored facts and, where those are too old, of the API first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from monitor.domain.model import NotificationState, Source
from monitor.domain.still_due import Answer, Case, Do, still_due
from monitor.errors import ProviderError
from monitor.store.accounts import AccountRow
from monitor.store.batches import collecting_batch
from monitor.store.cases import StoredMail, load_mails, recent_mails
from monitor.store.catalog import suppressed
from monitor.store.engine import db_now
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Observed, observe
from monitor.usecases.writing import Pen

_ASK_AT_ONCE = 4
_LAST_HOURS = timedelta(hours=6)  # before not_after: facts up to a day old must do when the API is down
_OLD_FACTS = timedelta(hours=24)


class Inquiry:
    """One delivery pass's questions about one account's mails. `problems` says where the API did not answer."""

    def __init__(self, tools: Tools, account: Account) -> None:
        """Nothing is asked yet."""
        self._tools = tools
        self._account = account
        self._asked: set[str] = set()
        self.problems: list[str] = []

    async def answers(self, row: AccountRow, ids: Sequence[str], now: datetime) -> list[tuple[StoredMail, Answer]]:
        """What to do with each of these mails, in this order; unknown ids are left out. `Do.ASK`: nobody answered."""
        answers = await self._examine(row, ids, now)
        stale = [mail for mail, answer in answers if answer.do is Do.ASK]
        if not stale:
            return answers
        await self._ask_api(row, stale, now)
        return await self._examine(row, ids, now)

    def ended(self, answers: Iterable[tuple[StoredMail, Answer]]) -> list[StoredMail]:
        """The mails among these whose episode ended by what the API told: they are voided by now."""
        return [mail for mail, _ in answers if mail.state is NotificationState.VOIDED and mail.id in self._asked]

    async def _examine(self, row: AccountRow, ids: Sequence[str], now: datetime) -> list[tuple[StoredMail, Answer]]:
        async with self._tools.db.read() as conn:
            wall = await db_now(conn)
            mails = await load_mails(conn, row.id, ids)
            macs = [mail.address_mac for mail in mails if mail.address_mac]
            scopes = await suppressed(conn, row.id, macs)
            recent = await recent_mails(conn, row.id, macs, now)
        result = []
        for mail in mails:
            mac = mail.address_mac or ""
            count, oldest = recent.get(mac, (0, None))
            age = wall - _read_at(row, mail)
            answer = still_due(self._case(mail, age, frozenset(scopes.get(mac, ())), count, oldest), now)
            if answer.do is Do.SEND and mac:
                recent[mac] = (count + 1, oldest)
            result.append((mail, answer))
        return result

    def _case(
        self, mail: StoredMail, age: timedelta, scopes: frozenset[str], count: int, oldest: datetime | None
    ) -> Case:
        account = self._account
        return Case(
            kind=mail.kind,
            step=mail.step,
            urgency=mail.urgency,
            not_after=mail.not_after,
            episode=mail.episode,
            snapshot=mail.subscription.snapshot,
            told=mail.subscription.told,
            situation_open=mail.situation_open,
            address=mail.address,
            deleted=mail.deleted,
            erased=mail.erased,
            test_allowed=account.mail_test_rows,
            facts_age=age,
            suppressed_in=scopes,
            mails_24h=count,
            oldest_24h_at=oldest,
            customer_zone=mail.zone,
            account_zone=account.zone,
            window=account.window,
            limits=account.guard,
            asked=mail.id in self._asked,
            customer_key=mail.customer_key,
            released=mail.released,
        )

    async def _ask_api(self, row: AccountRow, mails: Sequence[StoredMail], now: datetime) -> None:
        """Read these subscriptions again (OBSERVE); without an answer, facts of a day must do near the end."""
        limit = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(mail: StoredMail) -> Observed | None:
            ext_id = mail.subscription.snapshot.ext_id
            async with limit:
                async with self._tools.db.read() as conn:
                    asked_at = await db_now(conn)
                answer = await self._account.provider.subscription(ext_id)
            return None if answer is None else Observed(answer[0], answer[1], asked_at)

        answers = await asyncio.gather(*map(ask, mails), return_exceptions=True)
        async with self._tools.db.read() as conn:
            wall = await db_now(conn)
        seen: list[Observed] = []
        for mail, answer in zip(mails, answers, strict=True):
            if isinstance(answer, ProviderError):
                self.problems.append(f"the API did not answer before a mail: {answer}")
                near = mail.not_after is not None and mail.not_after - now < _LAST_HOURS
                if near and wall - _read_at(row, mail) < _OLD_FACTS:
                    self._asked.add(mail.id)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer is not None:
                self._asked.add(mail.id)
                seen.append(answer)
            # a 404 proves nothing, but nobody is asked to pay for what the API does not know: the mail waits
        if not seen:
            return
        async with self._tools.db.write() as conn:
            batch_id = await collecting_batch(conn, row.id, "live", now)
            pen = Pen(now, Source.PULL, batch_id)
            await observe(conn, row, self._account.policy(row), seen, pen, self._tools.address_mac, touch=True)


def _read_at(row: AccountRow, mail: StoredMail) -> datetime:
    """When this subscription was read last, alone or by a complete sweep (the database's clock)."""
    read_at = mail.subscription.asked_at
    return read_at if row.sweep_started_at is None else max(read_at, row.sweep_started_at)
