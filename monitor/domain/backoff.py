"""When a mail is tried again. The jitter comes from the notification's own id, so that a plan repeats."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256

FIRST_RETRY = timedelta(minutes=5)
"""Greylisting refuses anything earlier and expects the retry within 30 minutes."""
LONGEST_RETRY = timedelta(hours=4)
JITTER_SHARE = 2
"""A wait grows by up to one half (1 / 2) of itself."""
POISON_RETRY = timedelta(hours=1)
POISON_TRIES = 3
TRANSIENT_TRIES = 40
"""About five days (RFC 5321 4.5.4.1); a mail's own `not_after` nearly always comes first."""
UNREADABLE_TRIES = 10
"""For replies that mean nothing: about half a day, then a person should look."""


def next_try(notification_id: str, tries: int, now: datetime, *, max_tries: int = TRANSIENT_TRIES) -> datetime | None:
    """When to try again after `tries` tries, the last of which was answered 4xx; None: give up.

    The waits are 5, 10, 20, ... minutes, each plus up to a half, none above 4 hours.

    Raises:
        ValueError: `tries` is below 1: a wait follows a try.
    """
    _check(tries)
    if tries >= max_tries:
        return None
    longest = LONGEST_RETRY * JITTER_SHARE / (JITTER_SHARE + 1)
    wait = min(FIRST_RETRY * (1 << min(tries - 1, 16)), longest)
    return now + wait + _jitter(notification_id, tries, wait / JITTER_SHARE)


def next_poison_try(notification_id: str, tries: int, now: datetime) -> datetime | None:
    """When to try a mail again that could not be made; None after the third try: it has failed.

    Raises:
        ValueError: `tries` is below 1.
    """
    _check(tries)
    if tries >= POISON_TRIES:
        return None
    wait = POISON_RETRY * tries
    return now + wait + _jitter(notification_id, tries, wait / JITTER_SHARE)


def _check(tries: int) -> None:
    if tries < 1:
        raise ValueError(f"a wait follows a try, so tries is at least 1, not {tries}")


def _jitter(notification_id: str, tries: int, span: timedelta) -> timedelta:
    """Whole seconds in [0, span), always the same for one id and try."""
    digest = sha256(f"{notification_id}:{tries}".encode()).digest()
    return timedelta(seconds=int.from_bytes(digest[:8], "big") % (span // timedelta(seconds=1)))
