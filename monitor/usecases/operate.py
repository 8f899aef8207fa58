"""An operator's decisions: a held plan as a whole, or one mail. Each is one transaction, signed in the ledger.

Lock order: account < batch < subscriptions by id < notifications. Nothing is decided twice: whoever comes second is
told who was first, and nothing moves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.guard import Rule
from monitor.domain.model import BatchState, NotificationState
from monitor.domain.words import count, mark_of, moment
from monitor.store.accounts import AccountRow, find_account, lock_account
from monitor.store.batches import BatchRow, decide, empty_held, find_batch, held_ids, lock_plan, plan_hash, renew_plan
from monitor.store.by_hand import (
    batches_held_by_hand,
    find_mail,
    hold_mail,
    hold_waiting,
    note_decisions,
    release_by_hand,
    release_mail,
    retry_mail,
)
from monitor.store.catalog import suppress, suppressed, unsuppress
from monitor.store.views import mails_by_prefix
from monitor.store.witness import check_witness, note_witness, seal_witness
from monitor.usecases.context import Tools, travelled_now
from monitor.usecases.missing import no_account, no_batch, no_mail

S = NotificationState
_DONE = frozenset(
    {"approved", "rejected", "reviewed", "already_decided", "held", "released", "retried", "nothing"}
    | {"address_suppressed", "address_lifted"}
)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a decision: an outcome for programs, a sentence for people. `ids` are the mails concerned."""

    outcome: str
    sentence: str
    ids: tuple[str, ...] = ()
    batch_id: int | None = None
    plan_hash: str | None = None
    valid_until: datetime | None = None
    command: str | None = None
    """What to type next, where something is left to do."""

    @property
    def ok(self) -> bool:
        """The wish is fulfilled, by this command or by an earlier one."""
        return self.outcome in _DONE


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who decides. `zones` are the accounts' time zones by name, for the times in sentences."""

    tools: Tools
    by: str
    state_dir: Path
    zones: Mapping[str, str] = field(default_factory=dict)

    async def approve(self, batch_id: int, shown_hash: str | None = None) -> Ruling:
        """Let the held plan go, exactly as it was shown: bound to `shown_hash`, or to the hash that the guard printed.

        Refused when the plan has changed since, or is older than a day. A batch that was held because the database was
        restored or copied makes this database the one to go on with.

        Raises `NotFoundError` for a batch that does not exist.
        """
        seal: tuple[str, int] | None = None
        async with self.tools.db.write() as conn:
            account, batch = await self._locked(conn, batch_id)
            now = travelled_now(self.tools.clock, account, None)
            ids = await lock_plan(conn, batch_id)
            refusal = self._decided(account, batch, ids, "approved") or self._outdated(
                account, batch, ids, shown_hash, now
            )
            if refusal is not None:
                return refusal
            if _restored(batch):
                seal = await seal_witness(conn, self.tools.db)
                await self._answer_the_doubt(conn, batch, now)
            await self._decide(conn, batch, ids, now, approve=True)
        if seal is not None:
            note_witness(self.state_dir, *seal)
        restored = ". This database is accepted as the one to go on with" if seal is not None else ""
        many = count(len(ids), "mail")
        return Ruling(
            "approved",
            f"batch {batch_id}: {many} may leave now; each is checked once more before it does{restored}",
            tuple(ids),
            batch_id,
            plan_hash(ids),
            command="monitor deliver" if ids else None,
        )

    async def reject(self, batch_id: int, shown_hash: str | None = None) -> Ruling:
        """Drop the held plan for good: none of its mails will go. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account, batch = await self._locked(conn, batch_id)
            now = travelled_now(self.tools.clock, account, None)
            ids = await lock_plan(conn, batch_id)
            refusal = self._decided(account, batch, ids, "rejected")
            if refusal is None and shown_hash is not None:
                refusal = self._changed(batch, ids, shown_hash)
            if refusal is not None:
                return refusal
            moved = await self._decide(conn, batch, ids, now, approve=False)
            doubt = await check_witness(conn, self.tools.db, self.state_dir) if _restored(batch) else None
        sentence = f"batch {batch_id}: {count(moved, 'mail')} will not be sent"
        if doubt is None:
            return Ruling("rejected", sentence, tuple(ids), batch_id, plan_hash(ids))
        still = (
            f"This database is still not accepted ({doubt}), and nothing is mailed until it is: the next run is held "
            "as well, mostly with nothing in it. Approve that batch, or bring the right database back"
        )
        return Ruling("rejected", f"{sentence}. {still}", tuple(ids), batch_id, plan_hash(ids), command="monitor run")

    async def review(self, batch_id: int) -> Ruling:
        """Make what is held now the plan to decide about, with a new hash that is valid for a day.

        Raises `NotFoundError`.
        """
        async with self.tools.db.write() as conn:
            account, batch = await self._locked(conn, batch_id)
            now = travelled_now(self.tools.clock, account, None)
            refusal = self._decided(account, batch, await held_ids(conn, batch_id), "reviewed")
            if refusal is not None:
                return refusal
            ids, digest, valid_until = await renew_plan(conn, batch_id, now)
        return Ruling(
            "reviewed",
            f"batch {batch_id}: {count(len(ids), 'mail')} would go; the plan may be approved until "
            f"{moment(valid_until, self._zone(account))}",
            tuple(ids),
            batch_id,
            digest,
            valid_until,
            f"monitor outbox approve {batch_id} --plan-hash {digest}",
        )

    async def hold(self, notification_id: str) -> Ruling:
        """Stop one mail that still waits. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account, mail = await self._mail(conn, notification_id)
            now = travelled_now(self.tools.clock, account, None)
            if not await hold_mail(conn, mail.id, self._signed(account, now)):
                return self._not_possible(mail, "held")
            await note_decisions(conn, [mail.id], "held", self.by, now)
        return Ruling(
            "held",
            "the mail is held until somebody releases it",
            (mail.id,),
            mail.batch_id,
            command=f"monitor outbox release {mail.id}",
        )

    async def hold_account(self, name: str) -> Ruling:
        """Stop every mail of an account that waits now; later ones are not concerned. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account = await self._account(conn, name)
            now = travelled_now(self.tools.clock, account, None)
            ids = await hold_waiting(conn, account.id, self._signed(account, now))
            await note_decisions(conn, ids, "held", self.by, now)
        if not ids:
            return Ruling("nothing", f"no mail of {name} waits")
        return Ruling(
            "held",
            f"{count(len(ids), 'mail')} of {name} {'is' if len(ids) == 1 else 'are'} held until somebody releases "
            f"{'it' if len(ids) == 1 else 'them'}",
            tuple(ids),
            command=f"monitor outbox release --account {name}",
        )

    async def release(self, notification_id: str) -> Ruling:
        """Let one mail go on that is held for itself: by hand, by its address's limit, or as one for an operator.

        Raises `NotFoundError`.
        """
        async with self.tools.db.write() as conn:
            account, mail = await self._mail(conn, notification_id)
            now = travelled_now(self.tools.clock, account, None)
            to = await release_mail(conn, mail.id, BatchState(mail.batch_state), now)
            if to is None:
                return self._not_possible(mail, "released")
            await note_decisions(conn, [mail.id], "released", self.by, now)
        return _released(mail, to)

    async def release_account(self, name: str) -> Ruling:
        """Let everything go on that was held by hand in an account. Raises `NotFoundError`."""
        moved: list[str] = []
        planned: dict[int, int] = {}
        async with self.tools.db.write() as conn:
            account = await self._account(conn, name)
            now = travelled_now(self.tools.clock, account, None)
            for batch_id in await batches_held_by_hand(conn, account.id):
                batch = await find_batch(conn, batch_id, lock=True)
                state = BatchState.REJECTED if batch is None else batch.state
                ids = await release_by_hand(conn, batch_id, state, now)
                moved += ids
                if state is BatchState.HELD and ids:
                    planned[batch_id] = len(ids)
            await note_decisions(conn, moved, "released", self.by, now)
        if not moved:
            return Ruling("nothing", f"no mail of {name} is held by hand")
        back = "".join(f"; {number:,} back in the held plan of batch {batch}" for batch, number in planned.items())
        command = f"monitor outbox review {next(iter(planned))}" if planned else None
        wait = "goes" if len(moved) == 1 else "go"
        return Ruling(
            "released", f"{count(len(moved), 'mail')} of {name} {wait} on{back}", tuple(moved), command=command
        )

    async def retry(self, notification_id: str) -> Ruling:
        """Try a failed mail again, if it may still help. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account, mail = await self._mail(conn, notification_id)
            now = travelled_now(self.tools.clock, account, None)
            if mail.state != S.FAILED:
                return self._not_possible(mail, "tried again")
            if mail.not_after is not None and now > mail.not_after:
                zone = self._zone(account)
                sentence = f"it was worth sending until {moment(mail.not_after, zone)}: a late mail would be wrong"
                return Ruling("expired", sentence, (mail.id,), mail.batch_id)
            if mail.address_mac in await suppressed(conn, account.id, [mail.address_mac or ""]):
                sentence = "the server said that this address does not exist, so it is suppressed"
                command = "monitor suppressions remove ADDRESS"
                return Ruling("suppressed", sentence, (mail.id,), mail.batch_id, command=command)
            await retry_mail(conn, mail.id, now)
            await note_decisions(conn, [mail.id], "retried", self.by, now)
        return Ruling(
            "retried",
            "the mail is tried again with the next delivery",
            (mail.id,),
            mail.batch_id,
            None,
            None,
            "monitor deliver",
        )

    async def suppress(self, name: str, address: str, *, scope: str, reason: str) -> Ruling:
        """Never mail this address again (`all`), or send it no reminders. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account = await self._account(conn, name)
            now = travelled_now(self.tools.clock, account, None)
            mac = self.tools.address_mac(address)
            fresh = await suppress(conn, account.id, mac, scope=scope, reason=reason, by=self.by, at=now)
        what = "gets no mail" if scope == "all" else "gets no reminders"
        already = "" if fresh else " (it was so already)"
        return Ruling("address_suppressed" if fresh else "nothing", f"this address {what} of {name} any more{already}")

    async def unsuppress(self, name: str, address: str) -> Ruling:
        """Lift every suppression of this address. Raises `NotFoundError`."""
        async with self.tools.db.write() as conn:
            account = await self._account(conn, name)
            lifted = await unsuppress(conn, account.id, self.tools.address_mac(address))
        if not lifted:
            return Ruling("nothing", f"this address was not suppressed for {name}")
        return Ruling("address_lifted", f"this address may be mailed by {name} again")

    async def _decide(
        self, conn: AsyncConnection, batch: BatchRow, ids: Sequence[str], now: datetime, *, approve: bool
    ) -> int:
        """The word about a held batch, or about those mails of an open one that always wait for an operator."""
        if batch.state is BatchState.OPEN:
            await note_decisions(conn, ids, "released" if approve else "rejected", self.by, now)
        return await decide(conn, batch.id, approve=approve, by=self.by, now=now)

    async def _answer_the_doubt(self, conn: AsyncConnection, approved: BatchRow, now: datetime) -> None:
        """Empty batches that the same doubt held have nothing left to decide: they must not wait for a person."""
        for one in await empty_held(conn):
            if one.id != approved.id and all(rule == Rule.RESTORED for rule, _ in rules_of(one.reason)):
                await decide(conn, one.id, approve=True, by=self.by, now=now)

    async def _locked(self, conn: AsyncConnection, batch_id: int) -> tuple[AccountRow, BatchRow]:
        batch = await find_batch(conn, batch_id)
        if batch is None:
            raise no_batch(batch_id)
        account = await lock_account(conn, batch.account_id)
        return account, await find_batch(conn, batch_id, lock=True) or batch

    async def _mail(self, conn: AsyncConnection, asked: str) -> tuple[AccountRow, Row[Any]]:
        ids = await mails_by_prefix(conn, asked) if asked else []
        mail = await find_mail(conn, ids[0]) if len(ids) == 1 else None
        if mail is None:
            raise no_mail(asked, ids)
        account = await lock_account(conn, mail.account_id)
        await find_batch(conn, mail.batch_id, lock=True)
        return account, await find_mail(conn, mail.id) or mail

    async def _account(self, conn: AsyncConnection, name: str) -> AccountRow:
        row = await find_account(conn, name)
        if row is None:
            raise no_account(name)
        return await lock_account(conn, row.id)

    def _decided(self, account: AccountRow, batch: BatchRow, ids: Sequence[str], wish: str) -> Ruling | None:
        """Why nothing is left to decide; None: it is."""
        if batch.state is BatchState.COLLECTING:
            sentence = f"batch {batch.id} still collects: the guard has not judged it yet"
            return Ruling("not_held", sentence, batch_id=batch.id)
        if batch.state is BatchState.HELD or (batch.state is BatchState.OPEN and ids):
            return None
        if batch.decided_at is None:
            return Ruling("not_held", f"batch {batch.id} was never held: its mails go by themselves", batch_id=batch.id)
        was = "rejected" if batch.state is BatchState.REJECTED else "approved"
        at = moment(batch.decided_at, self._zone(account))
        sentence = f"batch {batch.id} was already {was} by {batch.decided_by} on {at}; nothing moved"
        return Ruling("already_decided" if was == wish else "decided_otherwise", sentence, batch_id=batch.id)

    def _outdated(
        self, account: AccountRow, batch: BatchRow, ids: Sequence[str], shown_hash: str | None, now: datetime
    ) -> Ruling | None:
        if batch.valid_until is not None and now > batch.valid_until:
            at = moment(batch.valid_until, self._zone(account))
            return Ruling(
                "expired",
                f"the plan of batch {batch.id} could be approved until {at}; look at it again before it goes",
                batch_id=batch.id,
                command=f"monitor outbox review {batch.id}",
            )
        return self._changed(batch, ids, shown_hash or batch.plan_hash)

    def _changed(self, batch: BatchRow, ids: Sequence[str], shown_hash: str | None) -> Ruling | None:
        if plan_hash(ids) == shown_hash:
            return None
        return Ruling(
            "changed",
            f"batch {batch.id} is not the plan that was shown: it holds {count(len(ids), 'mail')} now "
            f"(plan {plan_hash(ids)[:12]}, shown {(shown_hash or 'none')[:12]}); nothing moved",
            tuple(ids),
            batch.id,
            plan_hash(ids),
            command=f"monitor outbox review {batch.id}",
        )

    def _not_possible(self, mail: Row[Any], wish: str) -> Ruling:
        sentence = f"the mail cannot be {wish}: its state is {mark_of(mail.state)!r}"
        command = None
        if mail.state == S.HELD and mail.batch_state == BatchState.HELD:
            sentence = f"the mail cannot be {wish} alone: all of batch {mail.batch_id} is held"
            command = f"monitor outbox review {mail.batch_id}"
        elif mail.state == S.UNSETTLED:
            sentence = f"the mail cannot be {wish}: it may have been delivered, and there is no third copy"
        return Ruling("not_possible", sentence, (mail.id,), mail.batch_id, command=command)

    def _signed(self, account: AccountRow, now: datetime) -> str:
        return f"{self.by}, {moment(now, self._zone(account))}"

    def _zone(self, account: AccountRow) -> ZoneInfo:
        return ZoneInfo(self.zones.get(account.name, "UTC"))


def rules_of(reason: str | None) -> tuple[tuple[str, str], ...]:
    """(rule, sentence) of everything that held a batch; one rule may speak more than once."""
    return () if not reason else tuple((rule, sentence) for rule, sentence in json.loads(reason))


def _restored(batch: BatchRow) -> bool:
    return any(rule == Rule.RESTORED for rule, _ in rules_of(batch.reason))


def _released(mail: Row[Any], to: NotificationState) -> Ruling:
    if to is S.HELD:
        sentence = f"the mail is back in the held plan of batch {mail.batch_id}"
        command = f"monitor outbox review {mail.batch_id}"
        return Ruling("released", sentence, (mail.id,), mail.batch_id, command=command)
    waits = "with the next delivery" if to is S.READY else "when the guard has judged its batch"
    return Ruling("released", f"the mail goes on {waits}, if it is still true", (mail.id,), mail.batch_id)
