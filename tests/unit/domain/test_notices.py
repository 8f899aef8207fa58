"""Notices: what is worth one, when it is due, and whether it is still true just before it leaves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.domain.letter import Brand
from monitor.domain.letters import Mailing, StoredFacts
from monitor.domain.model import CurrencySeen, CustomerSeen, Kind, Status, Urgency
from monitor.domain.notice_due import NoticeCase, notice_still_due
from monitor.domain.notices import NOTICES, OPTIONAL, TELLS, NoticePolicy, news_of, payment_notice, welcome
from monitor.domain.payment_letter import PaymentFacts, fill_payment_letter, whole_amount
from monitor.domain.payments import PaymentEvent, PaymentKind, PaymentSeen, PaymentStatus
from monitor.domain.still_due import Do
from tests.unit.domain.scenes import ACTIVE, ALWAYS, CANCELLED, DELIVERABLE, STRANGE, TRIAL

NOW = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MOMENT = timedelta(microseconds=1)
BASELINE = NOW - 9 * DAY
POLICY = NoticePolicy("acme")
SEEN = PaymentSeen(
    "pay@1", PaymentKind.ONE_OFF, PaymentStatus.FAILED, "FAILED", created_at=NOW - MINUTE, customer_ext_id="c-1"
)
BILL = replace(SEEN, kind=PaymentKind.BILL, status=PaymentStatus.SUCCEEDED, subscription_ext_id="sub@1")
EVENTS = {
    PaymentEvent.SUCCEEDED: Kind.PAYMENT_SUCCEEDED,
    PaymentEvent.FAILED: Kind.ONE_OFF_FAILED,
    PaymentEvent.EXPIRED: Kind.PAYMENT_EXPIRED,
    PaymentEvent.PENDING_LONG: Kind.PAYMENT_PENDING_LONG,
    PaymentEvent.CANCELLED: None,
}


@pytest.mark.parametrize(("event", "kind"), EVENTS.items())
def test_each_event_but_a_cancellation_is_worth_a_mail(event, kind):
    assert news_of(PaymentStatus.PENDING, SEEN, event, BASELINE) is kind


def test_nothing_that_happened_is_no_news():
    assert news_of(PaymentStatus.PENDING, SEEN, None, BASELINE) is None


@pytest.mark.parametrize(
    ("before", "seen", "kind"),
    [
        (None, BILL, Kind.PAYMENT_SUCCEEDED),
        (PaymentStatus.UNKNOWN, BILL, Kind.PAYMENT_SUCCEEDED),
        (PaymentStatus.SUCCEEDED, replace(BILL, tx_hash="0x1"), None),
        (None, replace(BILL, status=PaymentStatus.FAILED), None),
    ],
)
def test_a_bill_is_worth_a_receipt_when_it_is_paid_though_it_has_no_event(before, seen, kind):
    assert news_of(before, seen, None, BASELINE) is kind


def test_history_is_worth_none_and_a_change_after_it_is():
    old = replace(SEEN, created_at=BASELINE)
    failed = PaymentEvent.FAILED
    assert news_of(None, old, failed, BASELINE) is None
    assert news_of(None, replace(BILL, created_at=BASELINE), None, BASELINE) is None
    assert news_of(None, SEEN, failed, None) is None
    assert news_of(None, replace(SEEN, created_at=BASELINE + MOMENT), failed, BASELINE) is Kind.ONE_OFF_FAILED
    assert news_of(None, replace(SEEN, created_at=None), failed, BASELINE) is Kind.ONE_OFF_FAILED
    assert news_of(PaymentStatus.CREATED, old, failed, BASELINE) is Kind.ONE_OFF_FAILED
    assert news_of(PaymentStatus.PENDING, old, PaymentEvent.PENDING_LONG, BASELINE) is None


# (kind, due after, worth sending for, urgency, may be refused), as the campaigns say
TABLE = [
    (Kind.SUBSCRIPTION_CREATED, 0 * HOUR, 24 * HOUR, Urgency.LOW, False),
    (Kind.PAYMENT_SUCCEEDED, 0 * HOUR, 72 * HOUR, Urgency.LOW, False),
    (Kind.PAYMENT_PENDING_LONG, 0 * HOUR, 7 * DAY, Urgency.NORMAL, False),
    (Kind.ONE_OFF_FAILED, HOUR, 48 * HOUR, Urgency.NORMAL, False),
    (Kind.PAYMENT_EXPIRED, HOUR, 48 * HOUR, Urgency.LOW, True),
]


@pytest.mark.parametrize(("kind", "after", "worth", "urgency", "refusable"), TABLE)
def test_when_each_is_due_and_for_how_long(kind, after, worth, urgency, refusable):
    step = NOTICES[kind]
    assert (step.urgency, step.refusable) == (urgency, refusable)
    assert step.due_at(NOW, None, None) == NOW + after
    assert step.not_after(NOW, NOW, None) == NOW + worth
    assert {one[0] for one in TABLE} == set(NOTICES)
    assert set(TELLS) == set(NOTICES) - {Kind.SUBSCRIPTION_CREATED}
    assert POLICY.sends(kind) is (kind not in OPTIONAL)
    assert replace(POLICY, wanted=frozenset({kind})).sends(kind)


def test_a_notice_is_known_by_its_payment_and_kind_whoever_pays_and_however_often_it_was_tried():
    def make(seen, kind=Kind.ONE_OFF_FAILED, account="acme"):
        return payment_notice(NoticePolicy(account), kind, seen, NOW).id

    first = make(replace(SEEN, ext_id="failure-1", of_ext_id="pay@1"))
    assert first == make(replace(SEEN, ext_id="failure-2", of_ext_id="pay@1", customer_ext_id="c-2")) == make(SEEN)
    assert (
        len({first, make(replace(SEEN, ext_id="pay@2")), make(SEEN, Kind.PAYMENT_EXPIRED), make(SEEN, account="b")})
        == 4
    )


@pytest.mark.parametrize(
    ("seen", "more", "void"),
    [
        (SEEN, {}, None),
        (replace(SEEN, test=True), {}, "test_row"),
        (replace(SEEN, customer_ext_id=None), {}, "no_customer"),
        (SEEN, {"deleted": True}, "customer_deleted"),
        (replace(SEEN, created_at=NOW - 2 * DAY), {}, None),
        (replace(SEEN, created_at=NOW - 2 * DAY - MOMENT), {}, "skipped_late"),
        (replace(SEEN, created_at=NOW - 9 * DAY, provider_updated_at=NOW), {}, None),
    ],
)
def test_silence_has_its_rule_from_the_beginning(seen, more, void):
    assert payment_notice(POLICY, Kind.ONE_OFF_FAILED, seen, NOW, **more).void == void


def test_its_time_is_counted_from_what_it_tells_of_and_never_from_the_future():
    notice = payment_notice(POLICY, Kind.ONE_OFF_FAILED, replace(SEEN, provider_updated_at=NOW - 5 * HOUR), NOW)
    assert (notice.due_at, notice.not_after) == (NOW - 4 * HOUR, NOW + 43 * HOUR)
    ahead = payment_notice(POLICY, Kind.ONE_OFF_FAILED, replace(SEEN, created_at=NOW + 9 * DAY), NOW)
    assert ahead.due_at == NOW + HOUR
    unknown = payment_notice(POLICY, Kind.ONE_OFF_FAILED, replace(SEEN, created_at=None), NOW)
    assert unknown.due_at == NOW + HOUR
    slow = payment_notice(POLICY, Kind.PAYMENT_PENDING_LONG, replace(SEEN, created_at=NOW - DAY), NOW)
    assert (slow.due_at, slow.not_after) == (NOW, NOW + 7 * DAY)


def test_rows_of_a_test_space_are_mailed_where_the_account_says_so():
    assert (
        payment_notice(replace(POLICY, mail_test_rows=True), Kind.ONE_OFF_FAILED, replace(SEEN, test=True), NOW).void
        is None
    )


WANTED = NoticePolicy("acme", frozenset(OPTIONAL))


@pytest.mark.parametrize(
    ("snapshot", "void"),
    [
        (replace(ACTIVE, created_at=NOW), None),
        (replace(TRIAL, created_at=NOW - DAY), None),
        (replace(ACTIVE, created_at=NOW - DAY - MOMENT), "skipped_late"),
        (replace(ACTIVE, created_at=None), None),
        (replace(ACTIVE, created_at=NOW, test=True), "test_row"),
        (replace(ACTIVE, created_at=NOW, customer_ext_id=None), "no_customer"),
        (replace(ACTIVE, created_at=NOW, customer=CustomerSeen("c-1", deleted=True)), "customer_deleted"),
    ],
)
def test_a_new_subscription_is_welcomed_within_a_day(snapshot, void):
    notice = welcome(WANTED, snapshot, NOW)
    assert (notice.void, notice.kind, notice.customer_key) == (
        void,
        Kind.SUBSCRIPTION_CREATED,
        snapshot.customer_ext_id or "",
    )


def test_nobody_is_welcomed_who_was_not_asked_for_or_has_not_come():
    assert welcome(POLICY, replace(ACTIVE, created_at=NOW), NOW) is None
    for status in set(Status) - {Status.ACTIVE, Status.TRIAL}:
        assert welcome(WANTED, replace(ACTIVE, status=status, created_at=NOW), NOW) is None


# Just before it leaves


def a_case(about=SEEN, **more):
    given = {
        "kind": Kind.ONE_OFF_FAILED,
        "step": "one_off_failed",
        "urgency": Urgency.NORMAL,
        "not_after": NOW,
        "window": ALWAYS,
        "customer_key": "c-1",
    }
    return NoticeCase(about=about, **{**DELIVERABLE, **given, **more})


def verdict(case, now=NOW):
    answer = notice_still_due(case, now)
    return answer.do, answer.rule


GOES = (Do.SEND, "")


def test_a_notice_is_worth_sending_until_its_last_instant():
    assert verdict(a_case()) == GOES
    assert verdict(a_case(), NOW + MOMENT) == (Do.VOID, "expired")
    assert verdict(a_case(not_after=None), NOW + 99 * DAY) == GOES


@pytest.mark.parametrize("kind", TELLS)
@pytest.mark.parametrize("status", PaymentStatus)
def test_it_goes_only_while_the_payment_is_what_it_tells(kind, status):
    told = verdict(a_case(replace(SEEN, status=status), kind=kind))
    if status is TELLS[kind]:
        assert told == GOES
    else:
        assert told == ((Do.SNOOZE, "unknown_state") if status is PaymentStatus.UNKNOWN else (Do.VOID, "superseded"))


def test_who_tried_again_or_had_an_all_clear_is_not_told():
    assert verdict(a_case(tried_again=True)) == (Do.VOID, "tried_again")
    receipt = a_case(replace(SEEN, status=PaymentStatus.SUCCEEDED), kind=Kind.PAYMENT_SUCCEEDED, in_all_clear=True)
    assert verdict(receipt) == (Do.VOID, "in_all_clear")


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"about": replace(SEEN, test=True)}, "test_row"),
        ({"about": replace(SEEN, customer_ext_id=None)}, "no_customer"),
        ({"customer_key": "c-2"}, "customer_changed"),
        ({"deleted": True}, "customer_deleted"),
        ({"erased": True}, "erased"),
        ({"address": None}, "no_address"),
        ({"suppressed_in": frozenset({"all"})}, "suppressed"),
    ],
)
def test_nobody_is_mailed_who_must_not_be(more, rule):
    assert verdict(a_case(**more)) == (Do.VOID, rule)


def test_only_what_may_be_refused_is_refused():
    refused = frozenset({"reminders"})
    assert verdict(a_case(suppressed_in=refused)) == GOES
    expired = a_case(replace(SEEN, status=PaymentStatus.EXPIRED), kind=Kind.PAYMENT_EXPIRED, suppressed_in=refused)
    assert verdict(expired) == (Do.VOID, "unsubscribed")


def test_a_payment_that_may_have_ended_is_asked_for_and_one_that_succeeded_is_not():
    paid = replace(SEEN, status=PaymentStatus.SUCCEEDED)
    assert verdict(a_case(facts_age=5 * MINUTE)) == GOES
    assert verdict(a_case(facts_age=5 * MINUTE + MOMENT)) == (Do.ASK, "stale")
    assert verdict(a_case(facts_age=5 * MINUTE + MOMENT, asked=True)) == GOES
    assert verdict(a_case(paid, kind=Kind.PAYMENT_SUCCEEDED, facts_age=99 * DAY)) == GOES


@pytest.mark.parametrize(
    ("snapshot", "answer"),
    [(ACTIVE, GOES), (TRIAL, GOES), (CANCELLED, (Do.VOID, "superseded")), (STRANGE, (Do.SNOOZE, "unknown_state"))],
)
def test_a_welcome_goes_while_the_subscription_lives(snapshot, answer):
    assert verdict(a_case(snapshot, kind=Kind.SUBSCRIPTION_CREATED)) == answer
    aged = a_case(ACTIVE, kind=Kind.SUBSCRIPTION_CREATED, facts_age=6 * HOUR)
    assert verdict(aged) == GOES
    assert verdict(replace(aged, facts_age=6 * HOUR + MOMENT)) == (Do.ASK, "stale")


# What it prints


MAILING = Mailing(
    kind=Kind.PAYMENT_SUCCEEDED, variant="one_off", step="first", urgency=Urgency.LOW, notification_id="n",
    first_in_episode=True, locale="en", zone="UTC", brand=Brand("Acme", "https://acme.example", ""), sender="a <a@b.c>",
    reply_to="a@b.c", recipient="x@y.z", refusable=False,
)  # fmt: skip
EURO = CurrencySeen("EUR", "EUR", 2)


@pytest.mark.parametrize(
    ("units", "currency", "shown"),
    [
        (4990, EURO, "49.90"),
        (2**200, CurrencySeen("9", "WEI", 18), "1606938044258990275541962092341162602522202.993782792835301376"),
        (0, EURO, "0.00"),
        (5, CurrencySeen("8", "HUF", 0), "5"),
        (4990, None, None),
        (None, EURO, None),
        (-1, EURO, None),
    ],
)
def test_an_amount_is_exact_or_not_told(units, currency, shown):
    assert whole_amount(units, currency) == (None if shown is None else Decimal(shown))


def test_a_payment_by_itself_prints_what_is_known_of_it_and_no_subscription():
    paid = replace(
        SEEN, amount_units=4990, amount_usd=Decimal(54), tx_hash="0xaa", reference="o-1", provider_updated_at=NOW
    )
    facts = PaymentFacts(
        paid, customer_name="Ana", product_name="Poster", product_link="https://x.example", currency=EURO
    )
    letter = fill_payment_letter(MAILING, replace(facts, payment_link="https://e.example/0xaa"), NOW)
    assert (letter.purchase, letter.product, letter.customer_name, letter.reference) == (True, "Poster", "Ana", "o-1")
    assert (letter.payment_amount, letter.token, letter.payment_usd) == (Decimal("49.90"), "EUR", Decimal(54))
    assert (letter.payment_at, letter.payment_tx, letter.payment_link) == (NOW, "0xaa", "https://e.example/0xaa")
    assert (letter.next_bill_at, letter.period, letter.sub_tail) == (None, None, None)
    failed = fill_payment_letter(replace(MAILING, kind=Kind.ONE_OFF_FAILED), facts, NOW)
    assert failed.payment_at == SEEN.created_at
    bare = fill_payment_letter(replace(MAILING, shared_address=True), PaymentFacts(SEEN, customer_name="Ana"), NOW)
    assert (bare.product, bare.token, bare.payment_amount, bare.customer_name) == ("", None, None, None)


def test_a_bill_prints_its_subscription_too():
    behind = StoredFacts(ACTIVE, product_name="Studio plan", manage_link="https://m.example")
    letter = fill_payment_letter(MAILING, PaymentFacts(BILL, bill_of=behind, currency=EURO), NOW)
    assert (letter.purchase, letter.product, letter.period, letter.next_bill_at, letter.manage_link) == (
        False,
        "Studio plan",
        ACTIVE.frequency,
        ACTIVE.next_billing_at,
        "https://m.example",
    )
