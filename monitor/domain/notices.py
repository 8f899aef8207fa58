"""Notices: mails that tell of one thing that happened and is over, a payment's end or a new subscription.

A notice belongs to what it tells of and to no episode: nothing has to heal, and no second step follows. Its identity is
(payment, kind), or (subscription, kind), whoever told of it and however often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid5

from monitor.domain.campaign import FIRST, Step
from monitor.domain.episodes import NAMESPACE
from monitor.domain.intents import CUSTOMER_DELETED, NO_CUSTOMER, SKIPPED_LATE, TEST_ROW
from monitor.domain.model import Kind, Snapshot, Status, Urgency
from monitor.domain.payments import PaymentEvent, PaymentKind, PaymentSeen, PaymentStatus

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

NOTICES: Mapping[Kind, Step] = {
    Kind.SUBSCRIPTION_CREATED: Step(FIRST, Urgency.LOW, too_old=_DAY, until_deadline=None),
    Kind.PAYMENT_SUCCEEDED: Step(FIRST, Urgency.LOW, too_old=3 * _DAY, until_deadline=None),
    Kind.PAYMENT_PENDING_LONG: Step(FIRST, Urgency.NORMAL, until_deadline=None),
    # People try again within minutes: what is paid by then needs no mail.
    Kind.ONE_OFF_FAILED: Step(FIRST, Urgency.NORMAL, after=_HOUR, too_old=2 * _DAY, until_deadline=None),
    Kind.PAYMENT_EXPIRED: Step(FIRST, Urgency.LOW, refusable=True, after=_HOUR, too_old=2 * _DAY, until_deadline=None),
}
"""When each is due after what it tells of, and until when it is worth sending (campaigns, section 1)."""

OPTIONAL = frozenset({Kind.SUBSCRIPTION_CREATED, Kind.PAYMENT_SUCCEEDED})
"""Off until the account asks for them: the platform or the shop may send its own, and two receipts look like two
charges."""

TELLS: Mapping[Kind, PaymentStatus] = {
    Kind.PAYMENT_SUCCEEDED: PaymentStatus.SUCCEEDED,
    Kind.PAYMENT_PENDING_LONG: PaymentStatus.PENDING,
    Kind.ONE_OFF_FAILED: PaymentStatus.FAILED,
    Kind.PAYMENT_EXPIRED: PaymentStatus.EXPIRED,
}
"""The status that a notice of a payment tells of: with another one it is not true any more."""

# A payment that its customer cancelled is no news to them, so there is none of that.
_KINDS: Mapping[PaymentEvent, Kind] = {
    PaymentEvent.SUCCEEDED: Kind.PAYMENT_SUCCEEDED,
    PaymentEvent.PENDING_LONG: Kind.PAYMENT_PENDING_LONG,
    PaymentEvent.FAILED: Kind.ONE_OFF_FAILED,
    PaymentEvent.EXPIRED: Kind.PAYMENT_EXPIRED,
}
_WELCOMED = frozenset({Status.TRIAL, Status.ACTIVE})


@dataclass(frozen=True, slots=True)
class NoticePolicy:
    """The account's choices: its name, which of the optional kinds it wants, and whether test rows are mailed."""

    account: str
    wanted: frozenset[Kind] = frozenset()
    mail_test_rows: bool = False

    def sends(self, kind: Kind) -> bool:
        """Whether mails of this kind are sent at all; of one that is not, no row is kept."""
        return kind not in OPTIONAL or kind in self.wanted


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice to be written into the outbox. `void` names the rule of silence; None: to be sent."""

    id: str
    kind: Kind
    urgency: Urgency
    customer_key: str
    due_at: datetime
    not_after: datetime
    void: str | None = None


def news_of(
    before: PaymentStatus | None, seen: PaymentSeen, event: PaymentEvent | None, baselined_at: datetime | None
) -> Kind | None:
    """The kind of mail that this observation of a payment is worth; None for none.

    `before` is the stored status (None: never seen), `event` what became of the payment, if anything. A paid bill has
    no event of its own (its subscription's tells it) and is worth a receipt all the same. What is older than the
    baseline is history; so is a payment that was pending even then.
    """
    old = baselined_at is None or (seen.created_at is not None and seen.created_at <= baselined_at)
    if before is None and old:
        return None
    if event is PaymentEvent.PENDING_LONG and old:
        return None
    if seen.kind is PaymentKind.BILL:
        paid = seen.status is PaymentStatus.SUCCEEDED and before is not PaymentStatus.SUCCEEDED
        return Kind.PAYMENT_SUCCEEDED if paid else None
    return None if event is None else _KINDS.get(event)


def payment_notice(
    policy: NoticePolicy, kind: Kind, seen: PaymentSeen, now: datetime, *, deleted: bool = False
) -> Notice:
    """The notice of this kind about a payment. `deleted`: the merchant deleted its customer.

    A failed try is told of as the payment it was a try at: the second one is the same news.
    """
    of, happened_at = f"payment|{seen.of_ext_id or seen.ext_id}", _happened_at(kind, seen, now)
    return _notice(policy, kind, of, happened_at, now, test=seen.test, customer=seen.customer_ext_id, deleted=deleted)


def welcome(policy: NoticePolicy, snapshot: Snapshot, now: datetime) -> Notice | None:
    """The notice about a subscription that was seen for the first time and is no history; None where there is none."""
    kind = Kind.SUBSCRIPTION_CREATED
    if not policy.sends(kind) or snapshot.status not in _WELCOMED:
        return None
    of, created_at = f"subscription|{snapshot.ext_id}", min(snapshot.created_at or now, now)
    deleted = snapshot.customer is not None and snapshot.customer.deleted
    return _notice(
        policy, kind, of, created_at, now, test=snapshot.test, customer=snapshot.customer_ext_id, deleted=deleted
    )


def is_welcomed(status: Status) -> bool:
    """Whether somebody with such a subscription has just come: a trial runs, or bills do."""
    return status in _WELCOMED


def _happened_at(kind: Kind, seen: PaymentSeen, now: datetime) -> datetime:
    """When the news came to be, by the vendor's account; that it takes long is news of now."""
    told = seen.provider_updated_at or seen.created_at
    return now if told is None or kind is Kind.PAYMENT_PENDING_LONG else min(told, now)


def _notice(
    policy: NoticePolicy,
    kind: Kind,
    of: str,
    happened_at: datetime,
    now: datetime,
    *,
    test: bool,
    customer: str | None,
    deleted: bool,
) -> Notice:
    step = NOTICES[kind]
    not_after = step.not_after(now, happened_at, None)
    return Notice(
        id=_notice_id(policy.account, of, kind),
        kind=kind,
        urgency=step.urgency,
        customer_key=customer or "",
        due_at=step.due_at(happened_at, None, None),
        not_after=not_after,
        void=_silence(
            test=test and not policy.mail_test_rows, customer=customer, deleted=deleted, late=now > not_after
        ),
    )


def _silence(*, test: bool, customer: str | None, deleted: bool, late: bool) -> str | None:
    if test:
        return TEST_ROW
    if not customer:
        return NO_CUSTOMER
    if deleted:
        return CUSTOMER_DELETED
    return SKIPPED_LATE if late else None


def _notice_id(account: str, of: str, kind: Kind) -> str:
    """Stable for life, as an episode's mails have it: the same in a dry run and in the real run."""
    return str(uuid5(NAMESPACE, f"notice|{account}|{of}|{kind.value}"))
