"""Rows of a page as they came: most say what they said the day before, to the byte, and need not be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitor.domain.model import BadRow, Snapshot


@dataclass(frozen=True, slots=True)
class Unread:
    """What a page keeps until somebody asks what its rows say."""

    raws: tuple[bytes, ...]
    id_in: Callable[[bytes], str | None]
    """The subscription that a row seems to be of, without reading it; to look up what is known of it, no more."""
    read: Callable[[bytes], tuple[Snapshot, bytes] | BadRow]
