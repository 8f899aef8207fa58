"""The words: values that stand in databases, logs and JSON, and never change by accident."""

from enum import StrEnum

import pytest

from monitor.domain import model
from monitor.domain.model import Kind, Mode, NotificationState, Situation, Snapshot, Status, Track, Urgency
from monitor.domain.notices import NOTICES

WORDS = [
    one for one in vars(model).values() if isinstance(one, type) and issubclass(one, StrEnum) and one is not StrEnum
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_a_word_is_written_as_its_name_in_lower_case(words):
    assert [word.value for word in words] == [word.name.lower() for word in words]


def test_the_more_urgent_is_claimed_first():
    assert sorted(Urgency, key=lambda one: one.rank) == [
        Urgency.CRITICAL,
        Urgency.URGENT,
        Urgency.NORMAL,
        Urgency.LOW,
    ]
    assert [one.rank for one in Urgency] == [3, 2, 1, 0]


def test_every_kind_but_the_all_clear_is_a_situation_or_a_notice():
    others = {kind.value for kind in Kind} - {situation.value for situation in Situation}
    assert others - {kind.value for kind in NOTICES} == {"recovered"}


def test_the_statuses_are_the_seven_of_the_contract_and_our_unknown():
    assert len(Status) == 8
    assert len(NotificationState) == 11
    assert [*Mode] == ["live", "test"]
    assert [*Track] == ["billing", "forecast", "usage"]


def test_what_is_not_told_is_none():
    bare = Snapshot("sub@1", Status.ACTIVE, "active")
    told = [
        getattr(bare, name)
        for name in Snapshot.__dataclass_fields__
        if name not in {"ext_id", "status", "status_raw", "provider", "test"}
    ]
    assert told == [None] * len(told)
    assert (bare.test, bare.provider) == (False, "")
