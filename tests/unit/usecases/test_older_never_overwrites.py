"""Observations of one subscription in every order: the newest wins, and nothing is mailed about what it replaced."""

from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest

from monitor.domain.diff import state_hash
from monitor.domain.model import Cause, Kind, Situation, Told
from monitor.store.subscriptions import StoredSubscription
from monitor.usecases.observe import Observed, _age, _outdated
from tests.unit.domain.scenes import (
    ACTIVE,
    CANCELLED,
    DAY,
    HOUR,
    LOW,
    NOW,
    PAST_DUE,
    PAUSED,
    STOPPED,
    Ledger,
    paid,
    told_of,
)

SECOND = timedelta(seconds=1)


def stored(snapshot, asked_at):
    return StoredSubscription(1, snapshot, Told(), Situation.HEALTHY, None, asked_at, 1, state_hash(snapshot), 0)


def seen(snapshot, asked_at, updated_at=None):
    return Observed(replace(snapshot, provider_updated_at=updated_at), b"{}", asked_at)


# -- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updated", "asked", "outdated"),
    [
        (timedelta(), timedelta(), False),
        (SECOND, timedelta(), False),
        (-SECOND, timedelta(), True),
        (SECOND, -HOUR, False),
        (-SECOND, HOUR, True),
        (timedelta(), SECOND, False),
        (timedelta(), -SECOND, True),
    ],
)
def test_the_vendors_stamp_decides_and_then_when_we_asked(updated, asked, outdated):
    before = stored(replace(ACTIVE, provider_updated_at=NOW), NOW)
    assert _outdated(before, seen(PAST_DUE, NOW + asked, NOW + updated)) == outdated


@pytest.mark.parametrize(("ours", "theirs"), [(None, NOW - DAY), (NOW + DAY, None), (None, None)])
@pytest.mark.parametrize(("asked", "outdated"), [(SECOND, False), (timedelta(), False), (-SECOND, True)])
def test_without_both_stamps_only_when_we_asked_decides(ours, theirs, asked, outdated):
    before = stored(replace(ACTIVE, provider_updated_at=ours), NOW)
    assert _outdated(before, seen(PAST_DUE, NOW + asked, theirs)) == outdated


def test_of_two_of_one_page_the_newer_is_taken():
    older, newer = seen(ACTIVE, NOW, NOW), seen(PAST_DUE, NOW, NOW + SECOND)
    assert sorted([newer, older], key=_age) == [older, newer]
    later = seen(PAST_DUE, NOW + SECOND, NOW)
    assert sorted([later, older], key=_age) == [older, later]
    assert min([older, seen(ACTIVE, NOW)], key=_age).snapshot.provider_updated_at is None


# -- all 720 orders, and one three days late -------------------------------------------------------------------------

STORY = [
    (PAST_DUE, told_of(Cause.INSUFFICIENT_BALANCE)),
    (paid(PAST_DUE, NOW + HOUR), Told()),
    (replace(LOW, last_billing_at=NOW + HOUR, next_billing_at=NOW + 30 * DAY), Told()),
    (PAUSED, Told()),
    (STOPPED, Told()),
    (CANCELLED, Told()),
]
SIX = [
    (replace(snapshot, provider_updated_at=NOW + n * HOUR), told, NOW + n * HOUR)
    for n, (snapshot, told) in enumerate(STORY)
]


def observe_in(order, *, by_stamp=True):
    """What a worker ends with that saw these in this order; mails are delivered only at the end."""
    ledger, before = Ledger(first=ACTIVE), stored(ACTIVE, NOW - DAY)
    at = NOW + DAY
    for snapshot, told, when in order:
        row = snapshot if by_stamp else replace(snapshot, provider_updated_at=None)
        one = Observed(row, b"{}", when)
        at += SECOND
        if not _outdated(before, one):
            ledger.see(row, at, told)
            before = stored(row, when)
    return ledger, at


@pytest.mark.parametrize("by_stamp", [True, False], ids=["dated by the vendor", "dated by when we asked"])
def test_six_observations_end_the_same_in_all_720_orders(by_stamp):
    last = SIX[-1][0] if by_stamp else replace(SIX[-1][0], provider_updated_at=None)
    orders = list(permutations(SIX))
    assert len(orders) == 720
    for order in orders:
        ledger, at = observe_in(order, by_stamp=by_stamp)
        assert ledger.snapshot == last
        assert ledger.situation is Situation.CANCELLED
        ledger.deliver(at)
        assert [kind for kind, _ in ledger.sent] == [Kind.CANCELLED]
        assert sum(spell.closed_at is None for spell in ledger.episodes.values()) == 1


def test_one_that_comes_three_days_late_changes_nothing():
    ledger, at = observe_in(SIX)
    ledger.deliver(at)
    before = (ledger.snapshot, dict(ledger.episodes), list(ledger.sent))
    late = Observed(SIX[0][0], b"{}", NOW + 3 * DAY)
    assert _outdated(stored(ledger.snapshot, NOW + 5 * HOUR), late)
    assert (ledger.snapshot, ledger.episodes, ledger.sent) == before
