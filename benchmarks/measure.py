"""What every contender's process tells when it is done: rows, seconds, processor time, highest resident memory.

Standard library only, since rivals run in virtual environments of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def peak_mb() -> float:
    """Highest resident memory of this process in MB (VmHWM: `ru_maxrss` would count the parent's before exec)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


class Timed:
    """Wall and processor seconds of a block."""

    wall = 0.0
    cpu = 0.0


@contextmanager
def timed() -> Iterator[Timed]:
    """Imports and connections to a pool come before, reading the result after."""
    result = Timed()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield result
    finally:
        result.wall, result.cpu = time.perf_counter() - wall, time.process_time() - cpu


def tell(count: int, took: Timed, **more: Any) -> None:
    """One line of JSON on stdout."""
    found = {"count": count, "seconds": took.wall, "cpu": took.cpu, "peak_mb": peak_mb(), **more}
    sys.stdout.write(json.dumps(found) + "\n")
