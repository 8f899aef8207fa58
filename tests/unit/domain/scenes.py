"""Subscriptions to judge, and the smallest store that can remember what was decided about one."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from monitor.domain.calendar import SendingWindow
from monitor.domain.campaign import FIRST
from monitor.domain.decide import Policy, Standing, decide
from monitor.domain.model import (
    Action,
    CancelReason,
    CustomerSeen,
    Kind,
    NotificationState,
    Snapshot,
    Status,
    Told,
    Track,
)
from monitor.domain.records import MailRecord
from monitor.domain.still_due import Case, Do, still_due

S = NotificationState
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MINUTE, MOMENT = timedelta(minutes=1), timedelta(microseconds=1)
BORN = datetime(2026, 1, 3, 9, tzinfo=UTC)
PAID = datetime(2026, 3, 3, 9, tzinfo=UTC)
DUE = datetime(2026, 4, 2, 9, tzinfo=UTC)
FAILED = DUE + timedelta(seconds=30)
NOW = DUE + 3 * HOUR
ALWAYS = SendingWindow(time(0), time.max)
LIVE = Policy("acme", baselined_at=BORN - DAY)
"""Everything these scenes show was created after the baseline."""

ANA = CustomerSeen("c-1", "ana@customer.example", "Ana")
ACTIVE = Snapshot(
    ext_id="sub@1",
    status=Status.ACTIVE,
    status_raw="active",
    created_at=BORN,
    customer_ext_id="c-1",
    customer=ANA,
    product_ext_id="p-1",
    currency_ext_id="8",
    price_usd=Decimal(24),
    frequency=30 * DAY,
    allowance=90,
    maximum=60,
    current_period_end_at=DUE,
    last_billing_at=PAID,
    next_billing_at=DUE,
)
PAST_DUE = replace(
    ACTIVE,
    status=Status.PAST_DUE,
    status_raw="pastDue",
    failed_attempts=1,
    remaining_attempts=4,
    failing_since_at=FAILED,
    next_attempt_at=FAILED + DAY,
)
OVER_MAXIMUM = replace(
    PAST_DUE, action=Action.RAISE_MAXIMUM, action_raw="raiseMaximum", awaiting_maximum_since_at=FAILED
)
LOW = replace(ACTIVE, action=Action.TOP_UP_ALLOWANCE, action_raw="topUpAllowance", allowance=10)
RAISE = replace(ACTIVE, action=Action.RAISE_MAXIMUM, action_raw="raiseMaximum")
TRIAL = replace(
    ACTIVE,
    status=Status.TRIAL,
    status_raw="trial",
    last_billing_at=None,
    current_period_end_at=BORN + 30 * DAY,
    next_billing_at=BORN + 30 * DAY,
    allowance=0,
    maximum=None,
)
TRIAL_ENDS = BORN + 30 * DAY
TRIAL_EXPIRED = replace(
    TRIAL,
    status=Status.TRIAL_EXPIRED,
    status_raw="trialExpired",
    action=Action.CONFIRM_TRIAL,
    action_raw="confirmTrial",
    next_billing_at=None,
)
PAUSED = replace(ACTIVE, status=Status.PAUSED, status_raw="paused", provider_updated_at=NOW)
STOPPED = replace(
    ACTIVE,
    status=Status.STOPPED,
    status_raw="stopped",
    cancel_reason=CancelReason.CUSTOMER,
    provider_updated_at=NOW,
)
CANCELLED = replace(
    ACTIVE,
    status=Status.CANCELLED,
    status_raw="cancelled",
    cancel_reason=CancelReason.CUSTOMER,
    cancelled_at=NOW,
    next_billing_at=None,
)
STRANGE = replace(ACTIVE, status=Status.UNKNOWN, status_raw="frozen")
NOTHING = Told()


def told_of(cause, at=FAILED, units=50, **more):
    """What the failures list told about the bill that fails now."""
    return Told(failure_cause=cause, failure_at=at, failure_attempt=1, failure_units=units, **more)


def paid(snapshot, at):
    """Healthy again, by a bill."""
    return replace(ACTIVE, last_billing_at=at, next_billing_at=DUE + 30 * DAY, provider_updated_at=at)


DELIVERABLE = {
    "address": "ana@customer.example",
    "deleted": False,
    "erased": False,
    "test_allowed": False,
    "facts_age": timedelta(),
    "suppressed_in": frozenset(),
    "mails_24h": 0,
    "oldest_24h_at": None,
    "customer_zone": None,
    "account_zone": "UTC",
}
"""A customer who may be mailed at once, for a `Post`."""


def a_case(snapshot, episode, **more):
    """A first mail that may go unless `more` says otherwise."""
    given = {
        "kind": Kind.PAYMENT_FAILED,
        "step": FIRST,
        "not_after": None,
        "told": NOTHING,
        "situation_open": True,
    }
    return Case(snapshot=snapshot, episode=episode, **{**DELIVERABLE, **given, **more})


class Ledger:
    """Remembers one subscription as the database does: state, episodes, mails. `sent` is what customers got."""

    def __init__(self, policy=LIVE, *, first=None, at=BORN, live_sibling=False):
        """With `first`, the row was known before; nothing is mailed about it."""
        self.policy = policy
        self.live_sibling = live_sibling
        self.snapshot = None
        self.situation = None
        self.cause = None
        self.told = NOTHING
        self.episodes = {}
        self.mails = {}
        self.waiting = {}
        self.sent = []
        self.events = []
        if first is not None:
            self.see(first, at)

    @property
    def current(self):
        return next((one for one in self.of(Track.BILLING) if one.closed_at is None), None)

    def of(self, track):
        """The episodes of one track."""
        return [one for one in self.episodes.values() if one.track is track]

    def see(self, snapshot, at, told=None):
        """An observation; returns the decision."""
        self.told = self.told if told is None else told
        decision = decide(self.standing(), snapshot, self.policy, at)
        self._write(decision, at)
        self.snapshot, self.situation, self.cause = snapshot, decision.after.situation, decision.after.cause
        self.events += [change.kind for change in decision.happened]
        return decision

    def tick(self, at, told=None):
        """Only time has passed, or something was told."""
        return self.see(self.snapshot, at, told)

    def standing(self):
        return Standing(
            snapshot=self.snapshot,
            situation=self.situation,
            cause=self.cause,
            told=self.told,
            current=self.current,
            past=tuple(one for one in self.of(Track.BILLING) if one.closed_at is not None),
            usage=tuple(self.of(Track.USAGE)),
            mails=tuple(self.mails.values()),
            live_sibling=self.live_sibling,
        )

    def adopt(self, at):
        """An operator lifts the mute of what is open."""
        current = self.current
        self.episodes[current.id] = replace(current, muted=None)
        return self.tick(at)

    def deliver(self, at, **case):
        """Ask of each waiting mail whether it is still due, and send those; returns what went."""
        went = []
        for mail_id, intent in list(self.waiting.items()):
            if self.mails[mail_id].state is not S.STAGED:
                continue
            answer = self.ask(intent, at, **case)
            if answer.do is Do.SEND:
                self._mark(mail_id, S.SENT, None, at)
                went.append(intent)
            elif answer.do is Do.VOID:
                self._mark(mail_id, S.VOIDED, answer.rule)
        self.sent += [(one.kind, one.variant) for one in went]
        return went

    def ask(self, intent, at, **case):
        """What `still_due` says about this mail."""
        episode = self.episodes[intent.episode_id]
        given = {
            "kind": intent.kind,
            "step": intent.step,
            "urgency": intent.urgency,
            "not_after": intent.not_after,
            "told": self.told,
            "situation_open": self.current is not None,
            "window": ALWAYS,
            "customer_key": intent.customer_key,
        }
        return still_due(a_case(self.snapshot, episode, **{**given, **case}), at)

    def states(self):
        """(kind, state, reason) of every mail, in the order they were planned."""
        return [(one.kind, one.state, one.reason) for one in self.mails.values()]

    def _write(self, decision, at):
        for episode, reason in decision.ends:
            self.episodes[episode.id] = replace(episode, closed_at=at, close_reason=reason, next_step_at=None)
            for mail in list(self.mails.values()):
                if mail.episode_id == episode.id and mail.state in {S.STAGED, S.HELD}:
                    self._mark(mail.id, S.VOIDED, reason)
        for episode in (decision.opens, decision.keeps, decision.spending.episode):
            if episode is not None:
                self.episodes[episode.id] = episode
        for track in Track:
            assert sum(one.closed_at is None for one in self.of(track)) <= 1
        for intent in decision.intents:
            before = self.mails.get(intent.id)
            assert (before is not None) == intent.revives
            assert before is None or before.state is S.VOIDED
            state = S.STAGED if intent.void is None else S.VOIDED
            if intent.for_operator and intent.void is None:
                state = S.HELD
            key, kind = intent.customer_key, intent.kind
            self.mails[intent.id] = MailRecord(intent.id, intent.episode_id, intent.step, key, kind, state, intent.void)
            self.waiting[intent.id] = intent

    def _mark(self, mail_id, state, reason, sent_at=None):
        self.mails[mail_id] = replace(self.mails[mail_id], state=state, reason=reason, sent_at=sent_at)
