"""Exit codes, and which one wins when several are true."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from monitor.errors import ConfigError, MonitorError, ProviderAuthError, StoreClosedError


class Exit(IntEnum):
    """What a script reads (design, section 6). Interrupted: 128 and the signal's number, after a clean stop."""

    DONE = 0
    FAILURES = 1
    CONFIG = 2
    HELD = 3


_PRECEDENCE = (Exit.CONFIG, Exit.HELD, Exit.FAILURES)


def worst(codes: Iterable[int]) -> Exit:
    """2 before 3 before 1 before 0."""
    seen = set(codes)
    return next((code for code in _PRECEDENCE if code in seen), Exit.DONE)


def code_of(error: MonitorError) -> Exit:
    """What the operator must mend is 2, a refused key or a database without rights too; anything else a failure, 1."""
    return Exit.CONFIG if isinstance(error, ConfigError | ProviderAuthError | StoreClosedError) else Exit.FAILURES
