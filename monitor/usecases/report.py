"""Listings of the ledger, as plain values: stable keys for programs, and addresses masked unless asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitor.domain.words import masked, sentence
from monitor.store import views
from monitor.store.engine import Database
from monitor.store.views import Filter
from monitor.usecases.missing import no_batch, no_mail, no_run
from monitor.usecases.operate import rules_of

MOST_QUARANTINED = 200
_EVENT = (
    "id",
    "account",
    "subscription",
    "seq",
    "at",
    "kind",
    "old",
    "new",
    "cause",
    "source",
    "run_id",
    "symbol",
    "decimals",
)
_EPISODE = ("id", "account", "subscription", "kind", "opened_at", "deadline_at", "next_step_at", "muted")
_ENDED = ("closed_at", "close_reason")
_MAIL = ("id", "account", "subscription", "payment", "kind", "variant", "step", "urgency", "state", "reason", "why")
_TIMES = ("due_at", "not_after", "next_try_at", "sent_at", "created_at", "tries", "copies", "batch_id", "message_id")
_ATTEMPT = ("at", "copy", "phase", "code", "enhanced", "outcome", "detail")
_RUN = ("id", "account", "trigger", "slot", "state", "baseline", "now_at", "started_at", "ended_at")


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows with stable keys; `more`: there are further ones beyond the limit."""

    items: tuple[Mapping[str, Any], ...]
    more: bool

    def as_json(self) -> dict[str, Any]:
        """The document that a script reads."""
        return {"items": list(self.items), "more": self.more}


def _is_unknown(_owner: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reports:
    """Reads the ledger for people and scripts."""

    db: Database
    show_addresses: bool = False
    is_dead: Callable[[str], bool] = _is_unknown
    """Whether the process of this name is certainly gone; where nobody can tell, the leases of locks do alone."""

    async def events(self, wanted: Filter) -> Listing:
        """What happened, newest first."""
        async with self.db.read() as conn:
            rows = await views.list_events(conn, wanted)
        return _listing(rows, wanted, lambda row: _picked(row, _EVENT))

    async def episodes(self, wanted: Filter) -> Listing:
        """Spells, newest first."""
        async with self.db.read() as conn:
            rows = await views.list_episodes(conn, wanted)
        return _listing(rows, wanted, lambda row: _picked(row, _EPISODE + _ENDED))

    async def outbox(self, wanted: Filter) -> Listing:
        """Mails, newest first."""
        async with self.db.read() as conn:
            rows = await views.list_mails(conn, wanted)
        return _listing(rows, wanted, self._mail)

    async def mail(self, asked: str) -> dict[str, Any]:
        """One mail whole: its batch, its attempts, the facts it printed. Raises `NotFoundError`."""
        async with self.db.read() as conn:
            ids = await views.mails_by_prefix(conn, asked) if asked else []
            if len(ids) != 1:
                raise no_mail(asked, ids)
            row = await views.mail_by_id(conn, ids[0])
            attempts = await views.attempts_of(conn, ids)
        batch = {"id": row.batch_id, "state": row.batch_state, "decided_by": row.batch_decided_by}
        return {
            **self._mail(row),
            "batch": {**batch, "decided_at": row.batch_decided_at, "reasons": _reasons(row.batch_reason)},
            "attempts": [_picked(one, _ATTEMPT) for one in attempts],
            "facts": self._facts(row.letter),
        }

    async def batches(self, wanted: Filter) -> Listing:
        """Batches that wait for somebody, or that collect; newest first."""
        async with self.db.read() as conn:
            rows = await views.list_batches(conn, wanted)
        return _listing(rows, wanted, _batch)

    async def batch(self, batch_id: int) -> dict[str, Any]:
        """One batch with its mails counted. Raises `NotFoundError`."""
        async with self.db.read() as conn:
            rows = await views.list_batches(conn, Filter(batch=batch_id, limit=1))
            if not rows:
                raise no_batch(batch_id)
            mails = await views.batch_mails(conn, batch_id)
        return {**_batch(rows[0]), "mails": [_picked(row, ("kind", "state", "reason", "count")) for row in mails]}

    async def runs(self, wanted: Filter) -> Listing:
        """Runs, newest first."""
        dead = await self._dead_holders()
        async with self.db.read() as conn:
            rows = await views.list_runs(conn, wanted, dead)
        return _listing(rows, wanted, _run)

    async def run(self, run_id: int) -> dict[str, Any]:
        """One run whole: counts, problems, windows, and the rows that could not be read. Raises `NotFoundError`."""
        dead = await self._dead_holders()
        async with self.db.read() as conn:
            row = await views.run_by_id(conn, run_id, dead)
            if row is None:
                raise no_run(run_id)
            windows = await views.run_windows(conn, run_id)
            bad = await views.quarantined(conn, row.account_id, row.now_at, MOST_QUARANTINED)
        return {
            **_run(row),
            "windows": [_picked(one, ("win", "pages", "rows", "bad")) for one in windows],
            "quarantine": [_picked(one, ("id", "ext_id", "reason", "first_at", "last_at")) for one in bad],
        }

    async def suppressions(self, wanted: Filter) -> Listing:
        """Addresses that must not be mailed, newest first; known by their hash."""
        async with self.db.read() as conn:
            rows = await views.list_suppressed(conn, wanted)
        return _listing(
            rows,
            wanted,
            lambda row: {
                **_picked(row, ("account", "scope", "reason", "by", "at")),
                "address": self._shown(row.address),
                "address_hash": row.address_mac,
            },
        )

    async def _dead_holders(self) -> frozenset[str]:
        async with self.db.read() as conn:
            holders = await views.run_holders(conn)
        return frozenset(holder for holder in holders if self.is_dead(holder))

    def _mail(self, row: Any) -> dict[str, Any]:
        values = _picked(row, _MAIL + _TIMES)
        values["address"] = self._shown(row.recipient or row.address)
        values["because"] = sentence(row.reason, why=row.why) if row.why else sentence(row.reason)
        return values

    def _facts(self, letter: str | None) -> dict[str, Any] | None:
        if letter is None:
            return None
        facts: dict[str, Any] = {key: value for key, value in json.loads(letter).items() if value is not None}
        if not self.show_addresses:
            facts["recipient"] = masked(facts.get("recipient"))
            facts.pop("customer_name", None)
        return facts

    def _shown(self, address: str | None) -> str | None:
        return address if self.show_addresses or address is None else masked(address)


def _listing(rows: Sequence[Any], wanted: Filter, shaped: Callable[[Any], Mapping[str, Any]]) -> Listing:
    return Listing(tuple(shaped(row) for row in rows[: wanted.limit]), len(rows) > wanted.limit)


def _picked(row: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _batch(row: Any) -> dict[str, Any]:
    names = ("id", "account", "origin", "run_id", "state", "waiting", "opened_at", "closed_at", "plan_hash")
    decided = ("valid_until", "decided_by", "decided_at")
    return {**_picked(row, names + decided), "reasons": _reasons(row.reason)}


def _run(row: Any) -> dict[str, Any]:
    problems = row.problems.splitlines() if row.problems else []
    return {**_picked(row, _RUN), "counts": json.loads(row.counts), "problems": problems}


def _reasons(reason: str | None) -> list[dict[str, str]]:
    return [{"rule": rule, "sentence": text} for rule, text in rules_of(reason)]
