"""How big the suite's big figures are: quick ones every day, the full ones with `MONITOR_TEST_SCALE=5` (`make nightly`)."""

from __future__ import annotations

import os
from typing import TypeVar

SCALE = float(os.environ.get("MONITOR_TEST_SCALE", "1"))
"""What kills and rounds are multiplied by."""
_Size = TypeVar("_Size")


def sized(full: _Size, everyday: _Size) -> _Size:
    """The full figure of a promise, or one that proves the same in a second or two."""
    return full if SCALE > 1 else everyday
