"""Row ids in little memory."""

from __future__ import annotations

import random

from monitor.store.seen import RowIds, packed, unpacked


def test_what_was_added_is_in_and_nothing_else():
    rng = random.Random(1)
    some = {rng.randrange(1, 300_000) for _ in range(5_000)} | {0, 65_535, 65_536, 2**31, 2**62}
    ids = RowIds()
    for part in (list(some)[::2], list(some)[1::2], list(some)[:10]):
        ids.add(part)
    assert set(ids) == some
    assert list(ids) == sorted(some)
    assert [n for n in range(131_072) if n in ids] == sorted(n for n in some if n < 131_072)
    assert 2**62 - 1 not in ids
    asked = [*range(131_072), 2**31, 2**62 - 1]
    assert ids.others_of(asked) == [n for n in asked if n not in some]
    assert None not in ids


def test_a_page_packs_its_ids_sorted_and_once():
    assert list(unpacked(packed([7, 2**40, 1, 7]))) == [1, 7, 2**40]
    assert packed([]) == b""
