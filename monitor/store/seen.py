"""A set of row ids in little memory: a million of them as Python numbers would cost as much as all else in a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

_BITS = 16
_MASK = (1 << _BITS) - 1


class RowIds:
    """Ids as bits, in blocks of 65,536 neighbours: rows of one account stand close together."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._blocks: dict[int, bytearray] = {}
        self.add(ids)

    def add(self, ids: Iterable[int]) -> None:
        """Put these in; one that is in stays in."""
        for row_id in ids:
            block = self._blocks.get(row_id >> _BITS)
            if block is None:
                block = self._blocks[row_id >> _BITS] = bytearray(1 << (_BITS - 3))
            low = row_id & _MASK
            block[low >> 3] |= 1 << (low & 7)

    def others_of(self, ids: Iterable[int]) -> list[int]:
        """Those of these ids that are not in."""
        blocks, nobody = self._blocks, bytes(1 << (_BITS - 3))
        return [
            row_id
            for row_id in ids
            if not blocks.get(row_id >> _BITS, nobody)[(row_id & _MASK) >> 3] & 1 << (row_id & 7)
        ]

    def __contains__(self, row_id: int | None) -> bool:
        if row_id is None:
            return False  # an id that has no row yet
        block = self._blocks.get(row_id >> _BITS)
        low = row_id & _MASK
        return block is not None and bool(block[low >> 3] & 1 << (low & 7))

    def __iter__(self) -> Iterator[int]:
        for high in sorted(self._blocks):
            for low in range(1 << _BITS):
                if (high << _BITS) + low in self:
                    yield (high << _BITS) + low


def packed(ids: Iterable[int]) -> bytes:
    """Row ids as a page of a run keeps them."""
    return array("q", sorted(set(ids))).tobytes()


def unpacked(block: bytes) -> Iterable[int]:
    """The row ids that `packed` packed."""
    ids = array("q")
    ids.frombytes(block)
    return ids
