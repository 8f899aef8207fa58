"""What every use case is handed: the process's tools, and one account's choices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from monitor.clock import Clock
from monitor.domain.calendar import DEFAULT_WINDOW, SendingWindow
from monitor.domain.decide import Policy
from monitor.domain.guard import DEFAULT_LIMITS, GuardLimits
from monitor.domain.letter import Brand
from monitor.domain.model import Kind, Mode
from monitor.domain.notices import NoticePolicy
from monitor.providers.base import Provider
from monitor.store.accounts import AccountRow
from monitor.store.engine import Database


class Locks(Protocol):
    """Locks that die with their holder; wiring makes them of `flock` in the state folder."""

    def hold_run(self, account: str) -> bool:
        """Try to be the one run of this account on this machine; True when we are."""
        ...

    def release_run(self, account: str) -> None:
        """Let the next run in."""
        ...

    def is_dead(self, owner: str) -> bool:
        """True when the process that took this name is certainly gone; False when it lives or cannot be known."""
        ...


def no_failpoint(_name: str) -> None:
    """Tests put a kill here; the product does nothing."""


def no_progress(_stage: str, _done: int, _total: int | None) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a process works with. `owner` is its name in leases, new for every process."""

    db: Database
    clock: Clock
    owner: str
    locks: Locks
    address_mac: Callable[[str], str]
    sleep: Callable[[float], Awaitable[None]]
    failpoint: Callable[[str], None] = no_failpoint
    progress: Callable[[str, int, int | None], None] = no_progress
    stopping: Callable[[], bool] = field(default=lambda: False)


@dataclass(frozen=True, slots=True)
class Account:
    """One merchant's connection and choices (settings, in our words)."""

    name: str
    provider_name: str
    mode: Mode
    provider: Provider
    sender: str
    sender_address: str
    reply_to: str
    brand: Brand
    zone: str
    locale: str = "en"
    window: SendingWindow = DEFAULT_WINDOW
    manage_url: str = ""
    link_hosts: frozenset[str] = frozenset()
    notify_first: bool = False
    mail_test_rows: bool = False
    guard: GuardLimits = DEFAULT_LIMITS
    payments: bool = False
    """Whether the provider's payments are pulled too."""
    optional_mails: frozenset[Kind] = frozenset()
    """Kinds of mail that are sent only where the account asks for them."""
    read_at_once: int = 8
    """How many single reads are under way at once, where an API has no list."""
    daily_requests: int | None = None
    """None: as many as it takes."""
    run_time: timedelta = timedelta(hours=4)
    """How long a run may ask the API, waits included."""
    hooked: bool = False
    """Webhooks are expected: there is a secret to verify them with."""

    @property
    def notice_policy(self) -> NoticePolicy:
        """The choices that planning notices needs."""
        return NoticePolicy(self.name, self.optional_mails, self.mail_test_rows)

    def policy(self, row: AccountRow) -> Policy:
        """The choices that the domain needs, with how far the baseline is."""
        return Policy(
            account=self.name,
            baselined_at=row.baselined_at,
            notify_first=self.notify_first,
            mail_test_rows=self.mail_test_rows,
            wanted=self.optional_mails,
        )


def travelled_now(clock: Clock, row: AccountRow | None, at: datetime | None) -> datetime:
    """The instant of decisions: `at` if the operator named one, else the wall clock plus the account's travel."""
    if at is not None:
        return at
    travel = None if row is None else row.time_travel
    return clock.now() + (travel or timedelta())
