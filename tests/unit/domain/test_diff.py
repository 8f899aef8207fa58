"""What counts as a change, and what is named in the history."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor.domain.diff import Change, quiet_changes, situation_change, state_hash
from monitor.domain.model import Action, CancelReason, Cause, CurrencySeen, Situation, Snapshot, Status
from tests.unit.domain.scenes import ACTIVE, ANA, CANCELLED, DAY, DUE, NOW, PAID, PAST_DUE

OTHER = {
    str: "other",
    "str": "other",
    "Status": Status.PAUSED,
    "Action": Action.RAISE_MAXIMUM,
    "CancelReason": CancelReason.MERCHANT,
    "datetime": NOW + 7 * DAY,
    "int": 7,
    "Decimal": Decimal(7),
    "timedelta": 7 * DAY,
    "bool": True,
}
PLAIN = [f for f in fields(Snapshot) if f.name not in {"customer", "currency", "provider_updated_at"}]


@pytest.mark.parametrize("field", PLAIN, ids=lambda field: field.name)
def test_every_field_that_moves_is_a_change(field):
    other = replace(ACTIVE, **{field.name: OTHER[field.type.removesuffix(" | None")]})
    assert state_hash(other) != state_hash(ACTIVE)


def test_a_newer_stamp_alone_is_no_change_and_a_token_is_no_state():
    touched = replace(ACTIVE, provider_updated_at=NOW, currency=CurrencySeen("8", "USDC", 6))
    assert state_hash(touched) == state_hash(ACTIVE)
    assert quiet_changes(ACTIVE, touched) == ()


def test_equal_snapshots_have_equal_hashes_whatever_their_objects():
    again = replace(ACTIVE, last_billing_at=datetime.fromisoformat(PAID.isoformat()), price_usd=Decimal(24))
    assert again == ACTIVE
    assert state_hash(again) == state_hash(ACTIVE)
    assert len(state_hash(ACTIVE)) == 16


def test_the_customer_counts_for_the_hash():
    renamed = replace(ACTIVE, customer=replace(ANA, name="Anna"))
    assert state_hash(renamed) != state_hash(ACTIVE)


def test_a_new_situation_is_named_after_what_it_is():
    change = situation_change(Situation.HEALTHY, Situation.PAYMENT_FAILED, Cause.OTHER)
    assert change == Change("payment_failed", "healthy", "payment_failed", Cause.OTHER)
    assert situation_change(None, Situation.PAUSED, None) == Change("paused", None, "paused")


@pytest.mark.parametrize(
    ("changes", "kind", "old", "new"),
    [
        ({"last_billing_at": DUE}, "bill_paid", str(PAID), str(DUE)),
        ({"allowance": 91}, "allowance_raised", "90", "91"),
        ({"maximum": 61}, "maximum_changed", "60", "61"),
        ({"maximum": None}, "maximum_changed", "60", None),
        ({"price_usd": Decimal(25)}, "price_changed", "24", "25"),
        ({"customer_ext_id": "c-2"}, "customer_changed", "c-1", "c-2"),
        ({"status_raw": "strange"}, "status_changed", "active", "strange"),
        ({"action_raw": "danceOnce"}, "action_changed", None, "danceOnce"),
    ],
)
def test_what_is_worth_a_line_gets_one(changes, kind, old, new):
    assert quiet_changes(ACTIVE, replace(ACTIVE, **changes)) == (Change(kind, old, new),)


def test_a_first_bill_is_a_paid_bill():
    never = replace(ACTIVE, last_billing_at=None)
    assert quiet_changes(never, ACTIVE) == (Change("bill_paid", None, str(PAID)),)
    assert quiet_changes(ACTIVE, never) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"allowance": 89},
        {"allowance": None},
        {"last_billing_at": PAID - timedelta(days=1)},
        {"next_billing_at": DUE + DAY},
        {"current_period_end_at": datetime(2027, 1, 1, tzinfo=UTC)},
    ],
)
def test_the_ordinary_course_of_billing_makes_no_event(changes):
    assert quiet_changes(ACTIVE, replace(ACTIVE, **changes)) == ()


def test_an_allowance_that_was_not_told_before_was_not_raised():
    assert quiet_changes(replace(ACTIVE, allowance=None), ACTIVE) == ()


def test_no_event_carries_personal_data():
    stranger = replace(CANCELLED, customer=replace(ANA, email="x@y.example", name="X"), wallet="0xff")
    text = repr(quiet_changes(PAST_DUE, stranger))
    assert "y.example" not in text
    assert "0xff" not in text
