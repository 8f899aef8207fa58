"""What is known of a subscription, in words: how often it is billed, where that is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from monitor.domain.diff import state_hash
from monitor.domain.model import Situation, Told
from monitor.store.subscriptions import StoredSubscription
from monitor.usecases.told_events import Terms, facts_of
from tests.unit.domain.scenes import ACTIVE, NOW

TERMS = Terms(ZoneInfo("UTC"), "USDC", 6)


@pytest.mark.parametrize(
    ("frequency", "said"),
    [
        (None, "24 USD"),
        (timedelta(days=1), "24 USD every 1 days"),
        (timedelta(days=30), "24 USD every 30 days"),
        (timedelta(hours=12), "24 USD every 12:00:00"),
    ],
)
def test_the_price_says_how_often_it_is_asked_for_where_that_is_known(frequency, said):
    snapshot = replace(ACTIVE, price_usd=Decimal(24), frequency=frequency)
    stored = StoredSubscription(1, snapshot, Told(), Situation.HEALTHY, None, NOW, 1, state_hash(snapshot), 0)
    assert facts_of(stored, TERMS)["price"] == said
