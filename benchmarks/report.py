"""Writes what was found to docs/benchmarks.md: figures first, then machine and versions, then how it was done."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg

from benchmarks.rounds import DELAY_MS, READ_AT_ONCE, READ_DELAY_MS, Found

_LIBRARIES = ("httpx", "msgspec", "sqlalchemy", "psycopg", "aiosqlite", "aiosmtplib", "jinja2", "pydantic")
_WAYS = {
    "sync_naive": "naive: a client a request, a read and a merge a row, a commit a page",
    "sync_good": "good: one AsyncClient, pydantic, one bulk upsert a page",
    "sync_dlt": "dlt: rest_api source, merge",
    "sync_bare": "bare: HTTP, decoding and COPY into our tables; nothing looked up, judged or recorded",
    "sync_ours": "**ours**: compared, judged, in the ledger",
}
_CHAINS = {
    "deliver_usual": "usual: EmailMessage, CSS inlined a mail, a connection and a commit a mail",
    "deliver_post_office": "django-post_office: prebuilt words, its own queue",
    "deliver_ours": "**ours**: examined, claimed, rendered, sent, recorded",
}


_ORDER = ("Sync", "Where", "Creation", "Reading", "Delivery", "Scaling")


def write(found: Found, path: Path, *, rows: int, mails: int, rounds: int) -> None:
    """Replace the sections of what was measured; the others stay as they were, each with its own day and machine."""
    measured: dict[str, str] = {}
    if found.rate("postgresql", "sync_ours", "first"):
        measured |= {"Sync": _sync(found, rows), "Where": _split(found)}
    if found.rate("windows", "four"):
        measured["Creation"] = _windows(found)
    if found.rate("sqlite", "read_ours"):
        measured["Reading"] = _reads(found)
    if found.rate("delivery", "raw"):
        measured["Delivery"] = _delivery(found, mails)
    if any(what[0] == "scaling" for what in found.results):
        measured["Scaling"] = _scaling(found)
    under = f"\n{_machine(found, rounds)}"
    sections = _sections(path) | {name: text + under for name, text in measured.items()}
    kept = [sections[name].rstrip() + "\n" for name in _ORDER if name in sections]
    path.write_text("\n".join([_HEAD, *kept, _HOW]), encoding="utf-8")


def _sections(path: Path) -> dict[str, str]:
    """The document's sections by the first word of their headings."""
    if not path.exists():
        return {}
    _, *parts = f"\n{path.read_text(encoding='utf-8')}".split("\n## ")
    return {part.split(maxsplit=1)[0]: f"## {part}" for part in parts}


def _machine(found: Found, rounds: int) -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) // 1_000_000 for line in _lines("/proc/meminfo")), 0)
    with_versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    skipped = f" Skipped, because not installed: {', '.join(sorted(found.skipped))}." if found.skipped else ""
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%d %B %Y}, medians of {rounds} rounds, {os.cpu_count()} cores of {model}, {memory} GB, "
        f"{platform.system()} {platform.release()}, load {load:.1f} at the end. Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, psycopg {psycopg.__version__}; {with_versions}.{skipped}\n"
    )


def _sync(found: Found, rows: int) -> str:
    text = (
        f"## Sync of {rows:,} subscriptions\n\nThe second sync finds 1 percent changed. "
        "Only ours knows afterwards what changed, what it means and who must be told.\n"
    )
    for database, title in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite")):
        text += f"\n{title}:\n\n| way | first, rows/s | ours is | second, rows/s | ours is | peak MB |\n"
        text += "|---|---|---|---|---|---|\n"
        for way, label in _WAYS.items():
            if found.rate(database, way, "first") is None:
                continue
            cells = [label]
            for phase in ("first", "second"):
                rate, ours = found.rate(database, way, phase), found.rate(database, "sync_ours", phase)
                cells += [
                    f"{rate:,.0f}" if rate else "",
                    f"{ours / rate:.1f}x" if rate and ours and way != "sync_ours" else "",
                ]
            phases = [phase for phase in ("first", "second") if found.rate(database, way, phase) is not None]
            cells.append(f"{max(found.of('peak_mb', database, way, phase) for phase in phases):.0f}")
            text += f"| {' | '.join(cells)} |\n"
    return text


def _split(found: Found) -> str:
    steps = ("fetch", "decode", "compare", "write", "other")
    text = (
        "## Where ours spends its processor time\n\n"
        f"| run | {' | '.join(steps)} | us of processor time a row |\n|---|{'---|' * (len(steps) + 1)}\n"
    )
    for database in ("postgresql", "sqlite"):
        for phase in ("first", "second"):
            for result in found.results.get((database, "split", phase), ())[:1]:
                shares = " | ".join(f"{result['split'].get(step, 0):.0%}" for step in steps)
                cpu = found.of("cpu", database, "sync_ours", phase) / result["count"] * 1e6
                text += f"| {database}, {phase} | {shares} | {cpu:.0f} |\n"
    return text + "\nFetch is HTTP; other is the event loop and, with SQLite, the thread of its driver.\n"


def _windows(found: Found) -> str:
    one, four = found.rate("windows", "one") or 1, found.rate("windows", "four") or 0
    return (
        f"## Creation windows\n\nWith {DELAY_MS} ms a page, second sync on PostgreSQL: one walk {one:,.0f} rows/s, "
        f"four windows {four:,.0f} rows/s: {four / one:.1f}x.\n"
    )


def _reads(found: Found) -> str:
    ideal = READ_AT_ONCE * 1000 / READ_DELAY_MS
    text = (
        f"## Reading known ids one by one (API v1)\n\n{found.of('count', 'sqlite', 'read_ours'):,.0f} ids, "
        f"`read_at_once = {READ_AT_ONCE}`, each answered after {READ_DELAY_MS} ms: {ideal:.0f} a second at most. The "
        "bare client only asks and throws the answers away.\n\n"
        "| way | database | reads/s | of the most possible | ms of processor time a read | peak MB |\n"
        "|---|---|---|---|---|---|\n"
    )
    for database in ("postgresql", "sqlite"):
        ways = {"read_bare": "bare: httpx, nothing kept", "read_ours": "**ours**: compared, in the ledger"}
        for way, label in ways.items():
            rate = found.rate(database, way) or 0
            cells = [label, database, f"{rate:,.0f}", f"{rate / ideal:.0%}", _cpu_ms(found, database, way)]
            text += f"| {' | '.join(cells)} | {found.of('peak_mb', database, way):.0f} |\n"
    return text + "\nWhere the machine is not idle, the bare client's share tells how much of it was to be had.\n"


def _delivery(found: Found, mails: int) -> str:
    raw, made = found.rate("delivery", "raw") or 1, found.rate("delivery", "made") or 0
    size = found.of("size", "delivery", "raw") / 1000
    text = (
        f"## Delivery of {mails:,} mails of {size:.0f} kB\n\n"
        "| way | database | mails/s | of raw pipelining | ours is | ms of processor time a mail | peak MB |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| raw: prebuilt mails, pipelined, nothing recorded | none | {raw:,.0f} | 100% | | "
        f"{_cpu_ms(found, 'delivery', 'raw')} | |\n"
        f"| the same, each mail made on the way | none | {made:,.0f} | {made / raw:.0%} | | "
        f"{_cpu_ms(found, 'delivery', 'made')} | |\n"
    )
    for database in ("postgresql", "sqlite"):
        for way, label in _CHAINS.items():
            rate, ours = found.rate(database, way), found.rate(database, "deliver_ours")
            if rate is None or ours is None:
                continue
            ratio = "" if way == "deliver_ours" else f"{ours / rate:.1f}x"
            peak, cpu = found.of("peak_mb", database, way), _cpu_ms(found, database, way)
            text += f"| {label} | {database} | {rate:,.0f} | {rate / raw:.0%} | {ratio} | {cpu} | {peak:.0f} |\n"
    return text + (
        "\nEach of our commits serves a group: the outcomes of eight connections and the marks of their next mails. "
        "Processor time is the sender's alone, without the database's. What ours spends it on, by samples of a run on "
        "PostgreSQL: making the mail (facts, words, layout, MIME) 52 percent, marks and outcomes 13, asking whether it "
        "is still due and claiming it 17, SMTP 9, the event loop the rest. Raw pipelining does none of it but SMTP.\n"
    )


def _cpu_ms(found: Found, *what: str) -> str:
    return f"{found.of('cpu', *what) / found.of('count', *what) * 1000:.2f}"


def _scaling(found: Found) -> str:
    text = (
        "## Scaling on PostgreSQL\n\n| subscriptions | first, us/row | second, us/row | peak MB |\n|---|---|---|---|\n"
    )
    for size in sorted({int(what[1]) for what in found.results if what[0] == "scaling"}):
        cells = [1e6 / (found.rate("scaling", str(size), phase) or 1) for phase in ("first", "second")]
        peak = max(found.of("peak_mb", "scaling", str(size), phase) for phase in ("first", "second"))
        text += f"| {size:,} | {cells[0]:.0f} | {cells[1]:.0f} | {peak:.0f} |\n"
    return text


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


_HEAD = """# Benchmarks

Written by `make bench`; not edited by hand. Each figure is the median of interleaved rounds, each contender in a
process of its own, the served API and the mail sink too. A part that is measured alone replaces its own section only.
"""
_HOW = """## How

- `make bench` runs everything; `make bench ARGS="--rows 5000 --rounds 1 --only sync"` a part of it.
- `make rivals` installs `dlt` and `django-post_office` into virtual environments of their own (`var/rivals/`); without
  them they are skipped, and the section says so. They are no dependency of the product.
- The API is served by a process of its own that joins the bytes of rows which the sandbox's world made once, so that
  the server is not what is measured; the mail sink is a bare protocol, in a process of its own too.
- Ours runs as the commands wire it: from a configuration file, with every lock, transaction and ledger row. Imports and
  migrations are not timed, for nobody.
- PostgreSQL runs with its default settings, durable commits included; SQLite as ours opens it (WAL, synchronous=FULL),
  and with the driver's defaults for the others, as they come.
- The bare way fills our own tables, with their constraints and indexes, as fast as the drivers can, and would fail at a
  second run: what is between it and ours is looking up, comparing, judging and recording.
- Memory is the highest resident set of the contender's process. Where the time goes is sampled, in a run of its own.
- The usual chain renders with our templates too, so that the mails say the same; its CSS is inlined a mail.
"""
