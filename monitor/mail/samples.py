"""Sample letters of every kind, variant and step: for `check`, `preview`, `send-test` and tests; nobody is real.

Two letters of each: one with every fact known, one with none of those that may be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from monitor.domain.letter import Brand, Letter
from monitor.domain.model import CancelReason, Cause, Kind, Urgency

NOW = datetime(2026, 4, 2, 9, 30, tzinfo=UTC)
"""The instant at which the samples are true."""
STEPS = ("first", "reminder", "last_call")

VARIANTS: Mapping[Kind, tuple[str, ...]] = {
    Kind.LOW_ON_FUNDS: ("allowance", "balance"),
    Kind.MAX_AMOUNT_REACHED: ("",),
    Kind.PAYMENT_FAILED: tuple(cause.value for cause in Cause if cause is not Cause.MAX_AMOUNT_EXCEEDED),
    Kind.TRIAL_ENDING: ("",),
    Kind.TRIAL_EXPIRED: ("",),
    Kind.CANCELLED: tuple(reason.value for reason in CancelReason),
    Kind.STOPPED: tuple(reason.value for reason in CancelReason),
    Kind.PAUSED: ("",),
    Kind.RECOVERED: ("billed", "approved"),
    Kind.SUBSCRIPTION_CREATED: ("active", "trial"),
    Kind.PAYMENT_SUCCEEDED: ("bill", "one_off"),
    Kind.PAYMENT_PENDING_LONG: ("",),
    Kind.PAYMENT_EXPIRED: ("",),
    Kind.ONE_OFF_FAILED: ("",),
    Kind.SPENDING_LIMIT_NEAR: ("",),
    Kind.SPENDING_LIMIT_REACHED: ("",),
}
_ASKING = frozenset(
    {Kind.LOW_ON_FUNDS, Kind.MAX_AMOUNT_REACHED, Kind.PAYMENT_FAILED, Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED}
)
_REFUSABLE = frozenset(
    {Kind.LOW_ON_FUNDS, Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED, Kind.RECOVERED, Kind.SPENDING_LIMIT_NEAR}
    | {Kind.PAYMENT_EXPIRED}
)
_TRIALS = frozenset({Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED})
_FAILING = frozenset({Kind.MAX_AMOUNT_REACHED, Kind.PAYMENT_FAILED})

SAMPLE_BRAND = Brand(
    name="Acme",
    url="https://acme.example",
    color="#3456d1",
    postal_address="1 Sample Street, 1011 Budapest",
    phrase="blue heron, quiet river",
)


def steps_of(kind: Kind) -> tuple[str, ...]:
    """The steps a kind can have: confirmations and endings have one."""
    return STEPS if kind in _ASKING else STEPS[:1]


def sample(kind: Kind, variant: str = "", step: str = "first", locale: str = "en") -> Letter:
    """A letter with every fact of its kind known; an empty variant is the kind's first."""
    chosen = variant or VARIANTS[kind][0]
    letter = _with(_base(kind, chosen, step, locale), _TIMES[kind])
    if kind in _ASKING and kind not in _TRIALS:
        letter = _with(letter, _AMOUNTS)
    if kind in _ONE_OFF or kind is Kind.PAYMENT_SUCCEEDED:
        letter = _with(letter, _PAID)
    if kind in _USED:
        letter = replace(letter, used_usd=_USED[kind], limit_usd=Decimal(500))
    if kind in _TRIALS or chosen == CancelReason.TRIAL_NOT_CONVERTED:
        letter = replace(letter, last_bill_at=None, last_bill_tx=None, last_bill_usd=None)
    if chosen == "one_off" or kind in _ONE_OFF:
        letter = _with(letter, _PURCHASE)
    if kind is Kind.SUBSCRIPTION_CREATED:
        letter = _with(letter, _NEVER_BILLED | {"signed_up_at": datetime(2026, 4, 2, 8, 0, tzinfo=UTC)})
    if chosen == "trial":
        letter = replace(letter, trial_end_at=letter.next_bill_at, next_bill_at=None)
    if chosen == "approved":
        letter = replace(letter, approved=Decimal("80.00"))
    return letter


def bare_sample(kind: Kind, variant: str = "", step: str = "first", locale: str = "en") -> Letter:
    """The same letter where nothing is known that may be unknown, as for API v1."""
    full = sample(kind, variant, step, locale)
    unknown = _with(full, dict.fromkeys(_MAY_BE_UNKNOWN))
    return replace(unknown, brand=Brand(name="Acme", url="", color=""), first_in_episode=True)


def all_samples(locale: str = "en") -> Iterator[Letter]:
    """Every kind, variant and step, known and bare, first and repeated."""
    for kind, variants in VARIANTS.items():
        for variant in variants:
            for step in steps_of(kind):
                letter = sample(kind, variant, step, locale)
                yield letter
                yield bare_sample(kind, variant, step, locale)
                if step != STEPS[0]:
                    yield replace(letter, first_in_episode=True)


def _with(letter: Letter, facts: Mapping[str, Any]) -> Letter:
    return replace(letter, **facts)


def _base(kind: Kind, variant: str, step: str, locale: str) -> Letter:
    failing = kind in _FAILING
    return Letter(
        kind=kind,
        variant=variant,
        step=step,
        urgency=Urgency.URGENT if failing else Urgency.NORMAL,
        notification_id="5f0c1a52-77de-5c1e-9b52-3f9a1c277b10",
        first_in_episode=step == STEPS[0],
        locale=locale,
        zone="Europe/Budapest",
        brand=SAMPLE_BRAND,
        sender="Acme Billing <billing@acme.example>",
        reply_to="help@acme.example",
        recipient="anna@customer.example",
        customer_name="Anna",
        product="Studio plan",
        refusable=kind in _REFUSABLE,
        price_usd=Decimal("19.00"),
        period=timedelta(days=30),
        token="USDC",  # noqa: S106  # a token of the chain, no secret
        now=NOW,
        last_bill_at=datetime(2026, 3, 3, 9, 0, tzinfo=UTC),
        last_bill_tx="0x7f3a9c0e5b1d4286a9e3c7f10b2d4586e9a1c3f5072b4d6e8fa0b1c2d3e4c91e",
        last_bill_usd=Decimal("19.00"),
        sub_tail="8d2f1a",
        wallet_tail="3f9a41",
        reference="ORDER-1042",
        signed_up_at=datetime(2025, 11, 3, 12, 0, tzinfo=UTC),
        manage_link="https://pay.qbitflow.app/subscriptions/8d2f1a",
        product_link="https://pay.qbitflow.app/products/studio",
        unsubscribe_url="https://mail.acme.example/unsubscribe/c2FtcGxl" if kind in _REFUSABLE else None,
        message_id="<5f0c1a52.77de@acme.example>",
        date_header="Thu, 02 Apr 2026 09:30:00 +0000",
    )


_ONE_OFF = frozenset({Kind.PAYMENT_PENDING_LONG, Kind.PAYMENT_EXPIRED, Kind.ONE_OFF_FAILED})
_NEVER_BILLED: dict[str, Any] = {"last_bill_at": None, "last_bill_tx": None, "last_bill_usd": None}
_PAID = {
    "payment_amount": Decimal("19.05"),
    "payment_usd": Decimal("19.00"),
    "payment_tx": "0x41d8a6c2f09b7e35d1a4c8e6f2b09d7c5a3e1f8b6d4c2a09e7f5b3d1c8a6e42b",
    "payment_link": "https://explorer.qbitflow.app/tx/0x41d8a6c2f09b7e35d1a4c8e6f2b09d7c5a3e1f8b6d4c2a09e7f5b3d1c8a6e42b",
}
_PURCHASE: dict[str, Any] = {
    "purchase": True,
    **dict.fromkeys(("price_usd", "period", "next_bill_at", "sub_tail", "wallet_tail", "signed_up_at", "manage_link")),
    **_NEVER_BILLED,
}
_PERIOD = {
    "period_ends_at": datetime(2026, 4, 30, 22, 0, tzinfo=UTC),
    "measured_at": datetime(2026, 4, 2, 7, 0, tzinfo=UTC),
}
_TIMES: Mapping[Kind, dict[str, datetime]] = {
    Kind.LOW_ON_FUNDS: {
        "next_bill_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
        "balance_checked_at": datetime(2026, 4, 2, 7, 0, tzinfo=UTC),
    },
    Kind.MAX_AMOUNT_REACHED: {
        "failed_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "next_attempt_at": datetime(2026, 4, 3, 9, 0, tzinfo=UTC),
        "cancellation_at": datetime(2026, 4, 9, 9, 0, tzinfo=UTC),
        "paid_until_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
    },
    Kind.PAYMENT_FAILED: {
        "failed_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "next_attempt_at": datetime(2026, 4, 3, 9, 0, tzinfo=UTC),
        "cancellation_at": datetime(2026, 4, 9, 9, 0, tzinfo=UTC),
        "paid_until_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
    },
    Kind.TRIAL_ENDING: {"trial_end_at": datetime(2026, 4, 9, 9, 0, tzinfo=UTC)},
    Kind.TRIAL_EXPIRED: {
        "trial_end_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "cancellation_at": datetime(2026, 4, 9, 9, 0, tzinfo=UTC),
    },
    Kind.CANCELLED: {
        "ended_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "paid_until_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
    },
    Kind.STOPPED: {
        "ends_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
        "paid_until_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
    },
    Kind.PAUSED: {
        "paused_since_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "paid_until_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
    },
    Kind.SPENDING_LIMIT_NEAR: _PERIOD,
    Kind.SPENDING_LIMIT_REACHED: _PERIOD,
    Kind.RECOVERED: {"next_bill_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC)},
    Kind.SUBSCRIPTION_CREATED: {"next_bill_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC)},
    Kind.PAYMENT_SUCCEEDED: {
        "payment_at": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
        "next_bill_at": datetime(2026, 5, 2, 9, 0, tzinfo=UTC),
    },
    **{kind: {"payment_at": datetime(2026, 4, 2, 8, 15, tzinfo=UTC)} for kind in _ONE_OFF},
}
_AMOUNTS = {
    "amount_due": Decimal("19.05"),
    "amount_due_as_of": datetime(2026, 4, 2, 9, 0, tzinfo=UTC),
    "allowance_left": Decimal("4.20"),
    "approve_more": Decimal("52.96"),
    "approve_total": Decimal("57.16"),
    "maximum_now": Decimal("18.00"),
    "maximum_to_set": Decimal("20.96"),
}
_USED = {Kind.SPENDING_LIMIT_NEAR: Decimal("418.50"), Kind.SPENDING_LIMIT_REACHED: Decimal("503.20")}
_MAY_BE_UNKNOWN = (
    "customer_name", "price_usd", "period", "token", "amount_due", "amount_due_as_of", "allowance_left", "approve_more",
    "approve_total", "maximum_now", "maximum_to_set", "approved", "next_bill_at", "next_attempt_at", "cancellation_at",
    "paid_until_at", "trial_end_at", "ends_at", "ended_at", "paused_since_at", "failed_at", "balance_checked_at",
    "last_bill_at", "last_bill_tx", "last_bill_usd", "sub_tail", "wallet_tail", "reference",
    "signed_up_at", "manage_link", "product_link", "unsubscribe_url", "payment_at", "payment_amount", "payment_usd",
    "payment_tx", "payment_link",
)  # fmt: skip
