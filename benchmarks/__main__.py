"""`python -m benchmarks`: run the benchmarks and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import rounds
from benchmarks.report import write
from benchmarks.stage import ROOT, postgres

PARTS = ("sync", "windows", "reads", "delivery", "scaling")


def main() -> None:
    """Everything, or what `--only` names. The document is written after each part: a long one may be stopped."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="subscriptions of the sync (default 100,000)")
    parser.add_argument("--mails", type=int, default=10_000, help="mails of the delivery (default 10,000)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="for the scaling")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, may be repeated (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the document to write")
    given = parser.parse_args()
    some = min(given.rows, 20_000)
    measures: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
        "sync": (rounds.sync, {"rows": given.rows}),
        "windows": (rounds.windows, {"rows": some}),
        "reads": (rounds.reads, {"rows": some}),
        "delivery": (rounds.delivery, {"mails": given.mails}),
        "scaling": (rounds.scaling, {"sizes": given.sizes}),
    }
    for part in given.only or PARTS:
        measure, how = measures[part]
        found = rounds.Found()
        sys.stderr.write(f"{part}: {given.rounds} rounds, {how}\n")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, postgres(Path(folder)) as socket:
            measure(found, Path(folder), socket, **how, rounds=given.rounds)
        write(found, given.out, rows=given.rows, mails=given.mails, rounds=given.rounds)
        sys.stderr.write(f"{given.out} has what was measured\n")


if __name__ == "__main__":
    main()
