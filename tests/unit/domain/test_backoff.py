"""Waits between tries: long enough for greylisting, short enough for a deadline, the same for every process."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.domain.backoff import (
    TRANSIENT_TRIES,
    UNREADABLE_TRIES,
    next_poison_try,
    next_try,
)

NOW = datetime(2026, 4, 2, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@given(st.uuids(), st.integers(1, TRANSIENT_TRIES - 1))
def test_a_retry_waits_at_least_five_minutes_and_at_most_four_hours(ident, tries):
    wait = next_try(str(ident), tries, NOW) - NOW
    assert 5 * MINUTE <= wait < 240 * MINUTE


@given(st.uuids())
def test_a_mail_that_is_greylisted_for_ten_minutes_arrives_within_thirty_of_its_release(ident):
    at = NOW
    for tries in (1, 2, 3):
        at = next_try(str(ident), tries, at)
        if at - NOW >= 10 * MINUTE:
            break
    assert at - NOW <= 40 * MINUTE


@given(st.uuids())
def test_waits_double_until_they_are_capped(ident):
    waits = [next_try(str(ident), tries, NOW) - NOW for tries in range(1, 8)]
    for tries, wait in enumerate(waits):
        base = min(5 * MINUTE * 2**tries, 160 * MINUTE)
        assert base <= wait < base * 1.5


def test_a_wait_is_the_same_wherever_it_is_computed():
    assert next_try("a", 3, NOW) == next_try("a", 3, NOW)


def test_mails_and_tries_do_not_come_back_all_at_once():
    waits = {next_try(str(number), 3, NOW) for number in range(200)}
    assert len(waits) > 100
    assert next_try("a", 20, NOW) != next_try("a", 21, NOW)


@given(st.uuids())
def test_forty_tries_take_at_least_the_four_days_of_the_standard(ident):
    at = NOW
    for tries in range(1, TRANSIENT_TRIES):
        at = next_try(str(ident), tries, at)
    assert timedelta(days=4) < at - NOW < timedelta(days=7)


def test_after_enough_tries_it_gives_up():
    assert next_try("a", 39, NOW) is not None
    assert next_try("a", 40, NOW) is None
    assert next_try("a", UNREADABLE_TRIES - 1, NOW, max_tries=UNREADABLE_TRIES) is not None
    assert next_try("a", UNREADABLE_TRIES, NOW, max_tries=UNREADABLE_TRIES) is None


def test_a_poisoned_mail_is_tried_three_times_at_least_an_hour_apart():
    first, second = next_poison_try("a", 1, NOW), next_poison_try("a", 2, NOW)
    assert 60 * MINUTE <= first - NOW < 90 * MINUTE
    assert 120 * MINUTE <= second - NOW < 180 * MINUTE
    assert next_poison_try("a", 3, NOW) is None


@pytest.mark.parametrize("wait", [next_try, next_poison_try])
def test_a_wait_follows_a_try(wait):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        wait("a", 0, NOW)
