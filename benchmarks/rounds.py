"""The benchmarks. Every figure is the median of interleaved rounds: one contender after the other, then all again.

So a machine that gets slower in between is slow for everybody. A contender that is not installed is skipped and named.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.stage import contend, control, fresh_database, helper, median, migrate, rival, write_config

Result = dict[str, Any]
DELAY_MS = 50
READ_DELAY_MS, READ_AT_ONCE = 20, 8
MAIL_BYTES = 15_000


@dataclass
class Found:
    """All results by what was measured, in the order of the rounds."""

    results: dict[tuple[str, ...], list[Result]] = field(default_factory=lambda: defaultdict(list))
    skipped: set[str] = field(default_factory=set)

    def add(self, *what: str, result: Result) -> None:
        """One more round; shown on stderr, since a benchmark takes long."""
        self.results[what].append(result)
        rate = result["count"] / result["seconds"]
        sys.stderr.write(f"{' '.join(what):45} {rate:10,.0f}/s {result['peak_mb']:6.0f} MB\n")

    def rate(self, *what: str) -> float | None:
        """Median of things a second; None where nothing was measured."""
        rounds = self.results.get(what)
        return median([one["count"] / one["seconds"] for one in rounds]) if rounds else None

    def of(self, name: str, *what: str) -> float:
        """Median of another figure of the results."""
        return median([one[name] for one in self.results[what]])


@contextmanager
def _ours(socket: str | None, folder: Path, api: Result, **how: Any) -> Iterator[Path]:
    """A migrated database and a configuration for it."""
    with fresh_database(socket, folder) as url:
        migrate(url)
        yield write_config(folder, url, api, **how)


def sync(found: Found, folder: Path, socket: str, *, rows: int, rounds: int) -> None:
    """First sync, and a second with 1 percent changed, beside the naive way, a good way, dlt and the bare bound."""
    dlt = rival("dlt")
    if dlt is None:
        found.skipped.add("dlt")
    with helper("replay", "--rows", str(rows)) as api:
        for _ in range(rounds):
            for name, where in (("postgresql", socket), ("sqlite", None)):
                for way in ("sync_naive", "sync_good"):
                    with fresh_database(where, folder) as url:
                        _twice(found, api, name, way, partial(contend, way, api["base"], api["key"], url))
                if where is not None and dlt is not None:
                    with fresh_database(where, folder) as url:
                        state = str(folder / f"dlt-{url.rpartition('_')[2].partition('?')[0]}")
                        args = ("sync_dlt", api["base"], api["key"], url, state)
                        _twice(found, api, name, "sync_dlt", partial(contend, *args, python=dlt))
                if where is not None:
                    with fresh_database(where, folder) as url:
                        migrate(url)
                        bare = contend("sync_bare", api["base"], api["key"], url)
                        found.add(name, "sync_bare", "first", result=bare)
                with _ours(where, folder, api) as config:
                    _twice(found, api, name, "sync_ours", partial(contend, "sync_ours", str(config)))
        for name, where in (("postgresql", socket), ("sqlite", None)):
            with _ours(where, folder, api) as config:  # sampled, so never timed against others
                _twice(found, api, name, "split", partial(contend, "sync_ours", str(config), "--split"))


def _twice(found: Found, api: Result, database: str, way: str, once: Callable[[], Result]) -> None:
    control(api, "changed/off")
    found.add(database, way, "first", result=once())
    control(api, "changed/on")
    found.add(database, way, "second", result=once())


def windows(found: Found, folder: Path, socket: str, *, rows: int, rounds: int) -> None:
    """A second sync with 50 ms a page: four creation windows beside one walk."""
    with helper("replay", "--rows", str(rows)) as api, _ours(socket, folder, api) as config:
        contend("sync_ours", str(config))
        control(api, f"delay/{DELAY_MS}")
        for _ in range(rounds):
            found.add("windows", "one", result=contend("sync_ours", str(config), "--windows=1"))
            found.add("windows", "four", result=contend("sync_ours", str(config)))


def reads(found: Found, folder: Path, socket: str, *, rows: int, rounds: int) -> None:
    """API v1: every known id read by itself, eight at once, 20 ms each; beside a client that does nothing else."""
    how = ("--rows", str(rows), "--delay", str(READ_DELAY_MS))
    with helper("replay_v1", *how) as api:
        ids = folder / "ids.txt"
        ids.write_text("\n".join(api["ids"]), encoding="utf-8")
        for name, where in (("postgresql", socket), ("sqlite", None)):
            with _ours(where, folder, api, version="v1") as config:
                found.add(name, "read_first", result=contend("read_ours", str(config), str(ids)))
                for _ in range(rounds):
                    bare = contend("read_bare", api["base"], api["key"], str(ids), str(READ_AT_ONCE))
                    found.add(name, "read_bare", result=bare)
                    found.add(name, "read_ours", result=contend("read_ours", str(config), str(ids)))


def delivery(found: Found, folder: Path, socket: str, *, mails: int, rounds: int) -> None:
    """Mails of about 15 kB, from the outbox to the server's reply and back."""
    post_office = rival("post_office")
    if post_office is None:
        found.skipped.add("post_office")
    with helper("sink") as sink, helper("replay", "--rows", str(mails), "--situation", "low_on_funds") as api:
        port, count = str(sink["port"]), str(mails)
        for _ in range(rounds):
            found.add("delivery", "raw", result=contend("deliver_raw", port, count))
            found.add("delivery", "made", result=contend("deliver_raw", port, count, "--making"))
            for name, where in (("postgresql", socket), ("sqlite", None)):
                with fresh_database(where, folder) as url:
                    found.add(name, "deliver_usual", result=contend("deliver_usual", port, url, count))
                with _ours(where, folder, api, smtp_port=sink["port"], first_run="notify") as config:
                    found.add(name, "deliver_ours", result=contend("deliver_ours", str(config)))
            if post_office is not None:
                with fresh_database(socket, folder) as url:
                    args = ("deliver_post_office", port, url, count, str(MAIL_BYTES))
                    found.add("postgresql", "deliver_post_office", result=contend(*args, python=post_office))


def scaling(found: Found, folder: Path, socket: str, *, sizes: list[int], rounds: int) -> None:
    """Time per row and memory by the number of subscriptions; the sizes take turns, as contenders do elsewhere."""
    with ExitStack() as serving:
        apis = {size: serving.enter_context(helper("replay", "--rows", str(size))) for size in sizes}
        for _ in range(rounds):
            for size, api in apis.items():
                with _ours(socket, folder, api) as config:
                    _twice(found, api, "scaling", str(size), partial(contend, "sync_ours", str(config)))
