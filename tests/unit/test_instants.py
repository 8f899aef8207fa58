"""A column of instants is written as each of them is alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.store.types import instant_text, instant_texts

ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=2)), timezone(timedelta(0), "Z"), timezone(-timedelta(minutes=5))]
)
SINCE = datetime(1971, 1, 1)  # noqa: DTZ001  # the strategy wants its bounds without a zone


@settings(max_examples=50)
@given(st.lists(st.none() | st.datetimes(SINCE, timezones=ZONES)))
def test_every_instant_of_a_column_has_the_text_that_it_has_alone(values):
    assert instant_texts(values) == [None if value is None else instant_text(value) for value in values]


@pytest.mark.parametrize("microsecond", [0, 1])
def test_a_naive_instant_is_refused_in_a_column_too(microsecond):
    naive = datetime(2026, 4, 1, 9, 0, 0, microsecond)  # noqa: DTZ001  # the very thing that must not pass
    with pytest.raises(ValueError, match="naive"):
        instant_texts([datetime(2026, 4, 1, tzinfo=UTC), naive])
