"""What Prometheus may ask of this process. Counters count what this process did; gauges say what the ledger holds.

docs/operating.md lists every metric. No label holds an address, an id or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    write_to_textfile,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter; it has no annotation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ACCOUNT = ("account",)


@dataclass(frozen=True, slots=True)
class Level:
    """What the ledger holds of one account. Ages are taken by who reads; None: there is no such thing."""

    account: str
    waiting: int
    """Mails that may leave now."""
    oldest_at: datetime | None
    """Since when the oldest of them may."""
    held_batches: int
    last_complete_at: datetime | None
    paused: bool
    sender_paused: bool


class Meter:
    """One process's metrics, in a registry of its own."""

    def __init__(self) -> None:
        """Everything at zero."""
        registry = self.registry = CollectorRegistry()
        self._pulls = Counter("monitor_pulls", "Runs that ended.", ("account", "outcome"), registry=registry)
        self._pages = Counter("monitor_pages", "Pages read from the API.", _ACCOUNT, registry=registry)
        self._rows = Counter("monitor_rows", "Subscriptions read.", _ACCOUNT, registry=registry)
        self._bad = Counter("monitor_bad_rows", "Rows put aside as unreadable.", _ACCOUNT, registry=registry)
        self._events = Counter("monitor_events", "Events written by runs.", _ACCOUNT, registry=registry)
        self._mails = Counter("monitor_mails", "Ends of mails.", ("account", "kind", "outcome"), registry=registry)
        self._holds = Counter("monitor_guard_holds", "Runs whose mails the guard held.", _ACCOUNT, registry=registry)
        self._rescues = Counter(
            "monitor_lease_rescues", "Mails taken back from workers that died.", _ACCOUNT, registry=registry
        )
        self._errors = Counter(
            "monitor_api_errors",
            "Answers of the API that were no 2xx; status none: there was no answer.",
            ("account", "endpoint", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "monitor_api_request_seconds", "Duration of API requests.", ("account", "endpoint"), registry=registry
        )
        self._hooks = Counter(
            "monitor_hooks", "Webhooks by what became of them.", ("account", "outcome"), registry=registry
        )
        self._reread = Counter(
            "monitor_hook_reads", "Readings that facts asked for.", ("account", "outcome"), registry=registry
        )
        self._waiting = Gauge("monitor_queue_mails", "Mails that may leave now.", _ACCOUNT, registry=registry)
        self._age = Gauge("monitor_queue_age_seconds", "How long the oldest of them may.", _ACCOUNT, registry=registry)
        self._held = Gauge("monitor_held_batches", "Batches that wait for a person.", _ACCOUNT, registry=registry)
        self._last = Gauge(
            "monitor_last_complete_run_timestamp_seconds", "When a run was last complete.", _ACCOUNT, registry=registry
        )
        self._paused = Gauge("monitor_account_paused", "1 while paused by hand.", _ACCOUNT, registry=registry)
        self._up = Gauge("monitor_database_up", "1 while the database answers.", registry=registry)
        self._sender = Gauge("monitor_sender_paused", "1 while the sender pauses.", _ACCOUNT, registry=registry)

    def request(self, account: str) -> Callable[[str, int | None, float], None]:
        """What an API client reports each attempt to: endpoint, status or None, seconds."""

        def note(endpoint: str, status: int | None, seconds: float) -> None:
            self._seconds.labels(account, endpoint).observe(max(seconds, 0.0))
            if status is None or not 200 <= status < 300:
                self._errors.labels(account, endpoint, "none" if status is None else str(status)).inc()

        return note

    def ran(self, account: str, outcome: str, counts: Mapping[str, int]) -> None:
        """A run ended; `counts` are the run's own."""
        self._pulls.labels(account, outcome).inc()
        for name, counter in (("pages", self._pages), ("rows", self._rows), ("bad", self._bad)):
            counter.labels(account).inc(counts.get(name, 0))
        self._events.labels(account).inc(counts.get("events", 0))
        self._holds.labels(account).inc(outcome == "held")

    def delivered(self, account: str, by_kind: Mapping[tuple[str, str], int], rescued: int) -> None:
        """A delivery pass ended; `by_kind` counts (kind, outcome)."""
        for (kind, outcome), number in by_kind.items():
            self._mails.labels(account, kind, outcome).inc(number)
        self._rescues.labels(account).inc(rescued)

    def hook(self, account: str, outcome: str) -> None:
        """A webhook was answered."""
        self._hooks.labels(account, outcome).inc()

    def reread(self, account: str, *, read: int, gone: int, failed: int) -> None:
        """Subscriptions were read again, because something was told about them."""
        for outcome, number in (("read", read), ("gone", gone), ("failed", failed)):
            self._reread.labels(account, outcome).inc(number)

    def show(self, levels: Iterable[Level], now: datetime) -> None:
        """Set the gauges of these accounts. Any other has none: one that a reload left out would stay as it was."""
        for gauge in (self._waiting, self._age, self._held, self._last, self._paused, self._sender):
            gauge.clear()
        for level in levels:
            name = level.account
            age = 0.0 if level.oldest_at is None else (now - level.oldest_at).total_seconds()
            self._waiting.labels(name).set(level.waiting)
            self._age.labels(name).set(max(age, 0.0))
            self._held.labels(name).set(level.held_batches)
            if level.last_complete_at is not None:
                self._last.labels(name).set(level.last_complete_at.timestamp())
            self._paused.labels(name).set(level.paused)
            self._sender.labels(name).set(level.sender_paused)

    def database(self, *, up: bool) -> None:
        """Whether the ledger could be read for the gauges; where not, they stay as they were."""
        self._up.set(up)

    def text(self) -> bytes:
        """All of it in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def write(self, path: Path) -> None:
        """The same as a file for a collector of text files; replaced in one step. Raises OSError."""
        write_to_textfile(str(path), self.registry)
