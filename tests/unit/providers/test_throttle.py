from datetime import UTC, datetime, timedelta

import pytest

from monitor.clock import ManualClock
from monitor.providers.throttle import FIRST_GAP, LONGEST_GAP, Throttle


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 1, tzinfo=UTC), ticks=1000.0)


def test_nobody_waits_before_the_first_429(clock):
    throttle = Throttle(clock)
    assert [throttle.reserve() for _ in range(5)] == [0.0] * 5


def test_each_429_halves_the_rate_down_to_a_floor(clock):
    throttle = Throttle(clock)
    gaps = []
    for _ in range(8):
        throttle.refused(None)
        gaps.append(throttle.gap)
    assert gaps == [FIRST_GAP, 0.5, 1.0, 2.0, 4.0, LONGEST_GAP, LONGEST_GAP, LONGEST_GAP]


def test_concurrent_requests_start_one_gap_apart(clock):
    throttle = Throttle(clock)
    throttle.refused(None)
    assert [throttle.reserve() for _ in range(4)] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_nobody_starts_in_the_quiet_that_was_asked_for(clock):
    throttle = Throttle(clock)
    throttle.refused(5.0)
    throttle.refused(2.0)  # a shorter wish of another answer takes nothing back
    assert throttle.reserve() == pytest.approx(5.0)
    clock.advance(timedelta(seconds=20))
    assert throttle.reserve() == 0.0


def test_a_wait_is_never_shorter_than_the_callers_own(clock):
    throttle = Throttle(clock)
    throttle.refused(1.0)
    assert throttle.reserve(3.0) == 3.0


def test_good_answers_bring_the_speed_back_slowly(clock):
    throttle = Throttle(clock)
    throttle.refused(None)
    answers = 0
    while throttle.gap:
        throttle.answered()
        answers += 1
    assert 10 < answers < 50
    assert throttle.reserve() == 0.0
