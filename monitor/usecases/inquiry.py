"""Is each of these mails still due? Asked of the stored facts and, where those are too old, of the API first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from monitor.domain.model import NotificationState, Source
from monitor.domain.notice_due import NoticeCase, notice_still_due
from monitor.domain.still_due import Answer, Case, Do, still_due
from monitor.errors import ProviderError
from monitor.store.accounts import AccountRow
from monitor.store.batches import collecting_batch
from monitor.store.cases import OfPayment, OfSubscription, StoredMail, load_mails, recent_mails
from monitor.store.catalog import suppressed
from monitor.store.engine import db_now
from monitor.store.payments import StoredPayment
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Observed, observe
from monitor.usecases.payments import reread_payer, reread_payment
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
        self._payers: set[str] = set()
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
            answer = self._judge(mail, age, frozenset(scopes.get(mac, ())), count, oldest, now)
            if answer.do is Do.SEND and mac:
                recent[mac] = (count + 1, oldest)
            result.append((mail, answer))
        return result

    def _judge(
        self,
        mail: StoredMail,
        age: timedelta,
        scopes: frozenset[str],
        count: int,
        oldest: datetime | None,
        now: datetime,
    ) -> Answer:
        account, about = self._account, mail.about
        post: dict[str, Any] = {
            "kind": mail.kind,
            "step": mail.step,
            "urgency": mail.urgency,
            "not_after": mail.not_after,
            "address": mail.address,
            "deleted": mail.deleted,
            "erased": mail.erased,
            "test_allowed": account.mail_test_rows,
            "facts_age": age,
            "suppressed_in": scopes,
            "mails_24h": count,
            "oldest_24h_at": oldest,
            "customer_zone": mail.zone,
            "account_zone": account.zone,
            "window": account.window,
            "limits": account.guard,
            "asked": mail.id in self._asked,
            "customer_key": mail.customer_key,
            "released": mail.released,
        }
        if isinstance(about, OfPayment):
            seen, again, clear = about.payment.seen, about.tried_again, about.in_all_clear
            return notice_still_due(NoticeCase(about=seen, tried_again=again, in_all_clear=clear, **post), now)
        snapshot, told = about.subscription.snapshot, about.subscription.told
        if isinstance(about, OfSubscription):
            return notice_still_due(NoticeCase(about=snapshot, **post), now)
        opened = about.situation_open
        return still_due(Case(episode=about.episode, snapshot=snapshot, told=told, situation_open=opened, **post), now)

    async def _ask_api(self, row: AccountRow, mails: Sequence[StoredMail], now: datetime) -> None:
        """Read again what these mails are about."""
        subscriptions: list[tuple[StoredMail, str]] = []
        for mail in mails:
            if isinstance(mail.about, OfPayment):
                await self._ask_payment(row, mail, mail.about.payment, now)
            else:
                subscriptions.append((mail, mail.about.subscription.snapshot.ext_id))
        if subscriptions:
            await self._ask_subscriptions(row, subscriptions, now)

    async def _ask_payment(self, row: AccountRow, mail: StoredMail, payment: StoredPayment, now: datetime) -> None:
        """Read again what this customer has paid since; where the API cannot be asked so, the payment itself."""
        seen, payer = payment.seen, payment.seen.customer_ext_id or ""
        tried, since = seen.of_ext_id or seen.ext_id, seen.created_at or now - _OLD_FACTS
        tools, account = self._tools, self._account
        try:
            if payer in self._payers or await reread_payer(tools, account, row, payer, since, now):
                self._payers.add(payer)
            else:
                found = await reread_payment(tools, account, row, tried, now, source=Source.PULL)
                if found is None and seen.of_ext_id is None:
                    return  # a 404 proves nothing; of a try that failed it says that nothing came of it yet
            self._asked.add(mail.id)
        except ProviderError as error:
            self._not_answered(mail, error, payment.asked_at, now, await self._wall())

    async def _wall(self) -> datetime:
        async with self._tools.db.read() as conn:
            return await db_now(conn)

    def _not_answered(
        self, mail: StoredMail, error: ProviderError, read_at: datetime, now: datetime, wall: datetime
    ) -> None:
        """Facts of a day must do near the end."""
        self.problems.append(f"the API did not answer before a mail: {error}")
        near = mail.not_after is not None and mail.not_after - now < _LAST_HOURS
        if near and wall - read_at < _OLD_FACTS:
            self._asked.add(mail.id)

    async def _ask_subscriptions(self, row: AccountRow, mails: Sequence[tuple[StoredMail, str]], now: datetime) -> None:
        """Read these subscriptions again (OBSERVE)."""
        limit = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(ext_id: str) -> Observed | None:
            async with limit:
                async with self._tools.db.read() as conn:
                    asked_at = await db_now(conn)
                answer = await self._account.provider.subscription(ext_id)
            return None if answer is None else Observed(answer[0], answer[1], asked_at)

        answers = await asyncio.gather(*(ask(ext_id) for _, ext_id in mails), return_exceptions=True)
        wall = await self._wall()
        seen: list[Observed] = []
        for (mail, _), answer in zip(mails, answers, strict=True):
            if isinstance(answer, ProviderError):
                self._not_answered(mail, answer, _read_at(row, mail), now, wall)
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
    """When what this mail is about was read last, a subscription alone or by a sweep (the database's clock)."""
    if isinstance(mail.about, OfPayment):
        return mail.about.payment.asked_at
    read_at = mail.about.subscription.asked_at
    return read_at if row.sweep_started_at is None else max(read_at, row.sweep_started_at)
