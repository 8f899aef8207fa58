"""Which steps of an episode have come due, and which of them end in silence, with the rule that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitor.domain.amounts import failure_is_current
from monitor.domain.campaign import ALL_CLEAR, FIRST, Step, campaign_for
from monitor.domain.classify import Classified
from monitor.domain.episodes import ENDED, HEALED, NOT_BILLED, REPLACED, USAGE_LOWERED, notification_id, paid_since
from monitor.domain.model import CancelReason, Cause, Kind, NotificationState, Situation, Snapshot, Told, Urgency
from monitor.domain.records import Episode, MailRecord

BASELINE = "baseline"
TEST_ROW = "test_row"
CUSTOMER_DELETED = "customer_deleted"
NO_CUSTOMER = "no_customer"
SKIPPED_LATE = "skipped_late"
ALREADY_TOLD = "already_told"
SUBSCRIBED_AGAIN = "subscribed_again"
ACTION_DONE = "action_done"
SUPERSEDED = "superseded"
NO_ADDRESS = "no_address"
CUSTOMER_CHANGED = "customer_changed"
USAGE_STALE = "usage_stale"
LIMIT_TOLD = "limit_told"

REVIVABLE = frozenset(
    {HEALED, REPLACED, ENDED, ACTION_DONE, SUPERSEDED, NO_ADDRESS, CUSTOMER_CHANGED}
    | {USAGE_LOWERED, NOT_BILLED, USAGE_STALE}
)
"""A step voided for one of these was never sent; if its reason comes back, it is due again. Even an end can be taken
back, when it was the API's hiccup."""

_REASSURE_WITHIN = timedelta(days=7)  # low_on_funds only: an older warning is forgotten (campaigns, recovered)


@dataclass(frozen=True, slots=True)
class Intent:
    """A step that has come due. `void` names the rule of silence; None means: to be sent."""

    id: str
    episode_id: str
    step: str
    kind: Kind
    variant: str
    urgency: Urgency
    customer_key: str
    due_at: datetime
    not_after: datetime
    void: str | None = None
    for_operator: bool = False
    revives: bool = False
    """The row exists, voided when its episode closed; it is staged again instead of inserted."""


@dataclass(frozen=True, slots=True)
class Planned:
    intents: tuple[Intent, ...] = ()
    next_step_at: datetime | None = None


def due_intents(
    episode: Episode,
    after: Classified,
    snapshot: Snapshot,
    told: Told,
    mails: Mapping[str, MailRecord],
    *,
    now: datetime,
    mail_test_rows: bool,
    live_sibling: bool,
    silence: str | None = None,
) -> Planned:
    """The steps of an open episode that are due at `now` and not in the outbox yet, and when the next one comes.

    `silence` is a rule of the episode's own track that keeps its steps from being sent.
    """
    campaign = campaign_for(after.situation, after.variant)
    if campaign is None:
        return Planned()
    intents: list[Intent] = []
    for step in campaign.steps:
        key = snapshot.customer_ext_id or ""
        record = mails.get(notification_id(episode.id, step.name, key))
        if record is not None and not _revivable(record, snapshot):
            continue
        due_at = step.due_at(episode.opened_at, episode.deadline_at, snapshot.failed_attempts)
        if due_at > now:
            return Planned(tuple(intents), due_at)
        not_after = step.not_after(now, episode.evidence_at or episode.opened_at, episode.deadline_at)
        void = (
            episode.muted
            or silence
            or _told_already(after, mails.values(), live_sibling=live_sibling)
            or _silent(snapshot, mail_test_rows=mail_test_rows)
            or (ACTION_DONE if action_done(after, snapshot, told) else None)
            or (SKIPPED_LATE if now > not_after else None)
        )
        if record is not None and void is not None:
            continue  # it is silent already, and stays so
        intents.append(_intent(episode, step, campaign.kind, after.variant, key, due_at, not_after, void, record))
    return Planned(tuple(intents))


def all_clear(
    episode: Episode,
    snapshot: Snapshot,
    mails: Mapping[str, MailRecord],
    *,
    now: datetime,
    mail_test_rows: bool,
) -> Intent | None:
    """The `recovered` mail of an episode that closed with proof; None unless a warning of it was delivered."""
    key = snapshot.customer_ext_id or ""
    warned = [
        mail.sent_at
        for mail in mails.values()
        if mail.episode_id == episode.id
        and mail.customer_key == key
        and mail.state is NotificationState.SENT
        and mail.sent_at is not None
    ]
    if not warned or notification_id(episode.id, ALL_CLEAR.name, key) in mails:
        return None
    if episode.kind is Situation.LOW_ON_FUNDS and max(warned) < now - _REASSURE_WITHIN:
        return None
    not_after = ALL_CLEAR.not_after(now, _proved_at(episode, snapshot, now), None)
    void = _silent(snapshot, mail_test_rows=mail_test_rows) or (SKIPPED_LATE if now > not_after else None)
    return _intent(episode, ALL_CLEAR, Kind.RECOVERED, episode.kind.value, key, now, not_after, void, None)


def _intent(
    episode: Episode,
    step: Step,
    kind: Kind,
    variant: str,
    key: str,
    due_at: datetime,
    not_after: datetime,
    void: str | None,
    record: MailRecord | None,
) -> Intent:
    return Intent(
        id=notification_id(episode.id, step.name, key),
        episode_id=episode.id,
        step=step.name,
        kind=kind,
        variant=variant,
        urgency=step.urgency,
        customer_key=key,
        due_at=due_at,
        not_after=not_after,
        void=void,
        for_operator=step.for_operator,
        revives=record is not None,
    )


def action_done(after: Classified, snapshot: Snapshot, told: Told) -> bool:
    """The limit that failed is above the bill that failed: nothing to ask until the next attempt. Equal fails."""
    units = told.failure_units
    if units is None or told.failure_cause is not after.cause or not failure_is_current(snapshot, told):
        return False
    if after.cause is Cause.ALLOWANCE_EXHAUSTED:
        return snapshot.allowance is not None and snapshot.allowance > units
    if after.cause is Cause.MAX_AMOUNT_EXCEEDED and snapshot.action is None:
        return snapshot.maximum is not None and snapshot.maximum > units
    return False


def _proved_at(episode: Episode, snapshot: Snapshot, now: datetime) -> datetime:
    """When the proof came to be, by the newest of what the vendor dates; never later than `now`."""
    dated = [snapshot.provider_updated_at]
    if paid_since(episode, snapshot):
        dated.append(snapshot.last_billing_at)
    return min(now, max((at for at in dated if at is not None), default=now))


def _revivable(record: MailRecord, snapshot: Snapshot) -> bool:
    if record.state is not NotificationState.VOIDED:
        return False
    if record.reason == NO_ADDRESS:
        return snapshot.customer is not None and bool(snapshot.customer.email)
    return record.reason in REVIVABLE or record.reason == BASELINE


def _silent(snapshot: Snapshot, *, mail_test_rows: bool) -> str | None:
    if snapshot.test and not mail_test_rows:
        return TEST_ROW
    if not snapshot.customer_ext_id:
        return NO_CUSTOMER
    if snapshot.customer is not None and snapshot.customer.deleted:
        return CUSTOMER_DELETED
    return None


def _told_already(after: Classified, mails: Iterable[MailRecord], *, live_sibling: bool) -> str | None:
    if after.situation is not Situation.CANCELLED:
        return None
    if after.variant == CancelReason.CUSTOMER and any(
        mail.kind is Kind.STOPPED and mail.step == FIRST and mail.state is NotificationState.SENT for mail in mails
    ):
        return ALREADY_TOLD
    if live_sibling and after.variant in {CancelReason.BILLING_FAILED, CancelReason.TRIAL_NOT_CONVERTED}:
        return SUBSCRIBED_AGAIN
    return None
