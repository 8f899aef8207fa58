"""Tell one mail of the ledger: what became of it, why in words and values, and when that was known.

Sent and not sent carry the same weight. With an instant in the past, only what had happened by then is told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from monitor.domain.episodes import (
    ENDED,
    HEALED,
    NOT_BILLED,
    PERIOD_OVER,
    RECOVERED,
    RENEWED,
    REPLACED,
    USAGE_LOWERED,
)
from monitor.domain.intents import (
    ALREADY_TOLD,
    BASELINE,
    CUSTOMER_DELETED,
    LIMIT_TOLD,
    NO_CUSTOMER,
    SKIPPED_LATE,
    SUBSCRIBED_AGAIN,
    TEST_ROW,
    USAGE_STALE,
)
from monitor.domain.model import NotificationState
from monitor.domain.words import ATTEMPTS, mark_of, moment, name_of, sentence

S = NotificationState
_BORN_SILENT = frozenset(
    {BASELINE, TEST_ROW, CUSTOMER_DELETED, NO_CUSTOMER, SKIPPED_LATE, ALREADY_TOLD, SUBSCRIBED_AGAIN}
    | {USAGE_STALE, LIMIT_TOLD}
)
_BY_THE_END = frozenset({RECOVERED, HEALED, REPLACED, RENEWED, ENDED, USAGE_LOWERED, PERIOD_OVER, NOT_BILLED})
_WAITS = frozenset({S.STAGED, S.READY, S.HELD})
_SETTLED = frozenset({S.SENT, S.VOIDED, S.FAILED, S.UNSETTLED, S.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Told:
    """One mail as of one instant. `at` is when it became so; None: the ledger keeps no instant of that."""

    id: str
    kind: str
    step: str
    state: str
    sentence: str
    because: str
    rule: str | None
    why: str | None
    at: datetime | None
    sort_at: datetime
    command: str | None = None
    message_id: str | None = None
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """A row of the outbox with its batch (`views.history_of`), its attempts, and when its episode closed."""

    row: Any
    attempts: Sequence[Any]
    closed_at: datetime | None
    recipient: str | None = None
    """To whom it went, as it may be shown."""

    def settled_at(self) -> datetime | None:
        """When the row came to its present end, as far as the ledger knows."""
        row = self.row
        if row.state == S.SENT:
            return _instant(row.sent_at)
        if row.state == S.VOIDED:
            if row.reason in _BORN_SILENT and row.why is None:
                return _instant(row.created_at)
            if row.reason in _BY_THE_END and row.why is None:
                return self.closed_at
            return _instant(row.decided_at) if row.reason == "rejected" else None
        return _instant(self.attempts[-1].at) if self.attempts else None

    def earliest(self) -> datetime:
        """The earliest instant at which a row without a dated end can have come to it."""
        row = self.row
        last: datetime = self.attempts[-1].at if self.attempts else row.created_at
        if row.state == S.VOIDED:
            last = max(last, row.due_at)
            if row.reason == "expired" and row.not_after is not None:
                last = max(last, row.not_after)
        created: datetime = row.created_at
        return max(last, created)


def tell(mail: Mail, zone: ZoneInfo, now: datetime, known_at: datetime | None = None) -> Told:
    """The mail as it stands `now`, or as it stood at `known_at`."""
    row = mail.row
    settled_at = mail.settled_at()
    then = known_at is not None and row.state in _SETTLED and (settled_at or mail.earliest()) > known_at
    if then:
        return _waited(mail, zone)
    name = quoted(row.kind, row.step)
    values = _values(mail, zone)
    because = sentence(row.reason, **values)
    reply = _last_reply(mail)
    if row.state == S.READY and row.next_try_at <= now:
        values["until"], because = "the next delivery", ""
    text, command = _sentence(mail, name, values, reply)
    return Told(
        id=row.id,
        kind=row.kind,
        step=row.step,
        state=row.state,
        sentence=text,
        because=because,
        rule=row.reason,
        why=row.why,
        at=settled_at if row.state in _SETTLED else row.created_at,
        sort_at=settled_at or (mail.earliest() if row.state in _SETTLED else row.created_at),
        command=command,
        message_id=row.message_id if row.copies else None,
        reply=reply,
    )


def tell_attempt(attempt: Any) -> str:
    """One reply of the mail server, or one decision about a mail."""
    text = ATTEMPTS.get(attempt.outcome, attempt.outcome)
    code = _reply(attempt)
    if attempt.phase == "operator":
        return f"{text}: {attempt.detail}"
    detail = f": {attempt.detail}" if attempt.detail and not code else ""
    return f"{text}{f' ({code})' if code else ''}{detail}"


def _waited(mail: Mail, zone: ZoneInfo) -> Told:
    row = mail.row
    text = f"Waited then: {quoted(row.kind, row.step)}, due {moment(row.due_at, zone)}"
    return Told(row.id, row.kind, row.step, "waiting", text, "", None, None, row.created_at, row.created_at)


def _sentence(mail: Mail, name: str, values: dict[str, str], reply: str | None) -> tuple[str, str | None]:
    """What became of it, and what may be typed about it."""
    row = mail.row
    answer = f", the server answered {reply}" if reply else ""
    earlier = "; an earlier copy may have arrived too" if row.copies > 1 else ""
    together = row.reason in {"guard", "operator_decides"}
    to = f" to {mail.recipient}" if mail.recipient is not None and row.copies else ""
    texts: dict[str, tuple[str, str | None]] = {
        S.SENT: (f"Sent {name}{to}{answer}{earlier}", None),
        S.VOIDED: (f"Not sent: {name}", None),
        S.FAILED: (f"Not sent, failed: {name}{answer}", f"monitor outbox retry {row.id}"),
        S.AMBIGUOUS: (f"May have arrived: {name}{to}; goes once more as the same mail, if it is still due", None),
        S.UNSETTLED: (f"May have arrived: {name}{to}; no further copy is sent", None),
        S.HELD: (
            f"Held for an operator: {name}",
            f"monitor outbox review {row.batch_id}" if together else f"monitor outbox release {row.id}",
        ),
        S.READY: (f"Waits until {values['until']}: {name}", None),
    }
    return texts.get(row.state, (f"{mark_of(row.state).capitalize()}: {name}", None))


def quoted(kind: str, step: str) -> str:
    """A mail as people call it: `"payment failed", first mail`."""
    return f'"{name_of(kind)}"' if kind == step else f'"{name_of(kind)}", {name_of(step)}'


def _values(mail: Mail, zone: ZoneInfo) -> dict[str, str]:
    row = mail.row
    values = {
        "due_at": moment(row.due_at, zone),
        "not_after": moment(row.not_after, zone),
        "until": moment(row.next_try_at, zone),
    }
    why = row.why
    if row.reason == "guard" and row.batch_reason:
        why = "; ".join(text for _, text in json.loads(row.batch_reason))
    elif row.reason == "rejected":
        why = f"{row.decided_by}, {moment(row.decided_at, zone)}"
    elif row.reason == "superseded" and why:
        why = why.replace("_", " ")  # it quotes a situation
    return {**values, "why": why} if why else values


def _last_reply(mail: Mail) -> str | None:
    return next((code for attempt in reversed(mail.attempts) if (code := _reply(attempt))), None)


def _reply(attempt: Any) -> str | None:
    if attempt.code is None:
        return None
    return f"{attempt.code} {attempt.enhanced}" if attempt.enhanced else str(attempt.code)


def _instant(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
