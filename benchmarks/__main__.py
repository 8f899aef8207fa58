"""`python -m benchmarks`: run the benchmarks and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import rounds
from benchmarks.report import write
from benchmarks.stage import ROOT, postgres

PARTS = ("sync", "windows", "reads", "delivery", "scaling")


def main() -> None:
    """Everything, or what `--only` names. The document is written at the end, from what was measured."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="subscriptions of the sync (default 100,000)")
    parser.add_argument("--mails", type=int, default=10_000, help="mails of the delivery (default 10,000)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="for the scaling")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, may be repeated (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the document to write")
    given = parser.parse_args()
    parts = given.only or PARTS
    found = rounds.Found()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with postgres(folder) as socket:
            if "sync" in parts:
                rounds.sync(found, folder, socket, rows=given.rows, rounds=given.rounds)
            if "windows" in parts:
                rounds.windows(found, folder, socket, rows=min(given.rows, 20_000), rounds=given.rounds)
            if "reads" in parts:
                rounds.reads(found, folder, socket, rows=min(given.rows, 20_000), rounds=given.rounds)
            if "delivery" in parts:
                rounds.delivery(found, folder, socket, mails=given.mails, rounds=given.rounds)
            if "scaling" in parts:
                rounds.scaling(found, folder, socket, sizes=given.sizes, rounds=given.rounds)
    write(found, given.out, rows=given.rows, mails=given.mails, rounds=given.rounds)
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
