"""One line of `monitor check`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How one check ended."""

    OK = "ok"
    HINT = "hint"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. `text` of a failure begins with the setting."""

    what: str
    mark: Mark
    text: str


def ok(what: str, text: str) -> Finding:
    """As it should be."""
    return Finding(what, Mark.OK, text)


def hint(what: str, text: str) -> Finding:
    """Works, and a careful operator would look at it."""
    return Finding(what, Mark.HINT, text)


def fail(what: str, text: object) -> Finding:
    """To be mended before a run makes sense."""
    return Finding(what, Mark.FAIL, str(text))
