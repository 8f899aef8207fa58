"""What the database remembers of a subscription's spells: the episodes, and the steps of their mails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from monitor.domain.model import Kind, NotificationState, Situation, Track


@dataclass(frozen=True, slots=True)
class Episode:
    """One spell of one situation of one subscription. Its identity holds the last paid bill, never a date of ours."""

    id: str
    kind: Situation
    variant: str
    anchor: str
    opened_at: datetime
    evidence_at: datetime | None = None
    opened_bill_at: datetime | None = None
    opened_allowance: int | None = None
    deadline_at: datetime | None = None
    muted: str | None = None
    next_step_at: datetime | None = None
    closed_at: datetime | None = None
    close_reason: str | None = None
    track: Track = Track.BILLING


@dataclass(frozen=True, slots=True)
class MailRecord:
    """What the outbox holds about one step: enough to decide whether it may be planned (again)."""

    id: str
    episode_id: str
    step: str
    customer_key: str
    kind: Kind
    state: NotificationState
    reason: str | None = None
    sent_at: datetime | None = None
