"""Our own sweep of an API without a list, wired as `monitor sync` wires it: the reading of the known ids alone.

    python -m benchmarks.read_ours CONFIG IDS

The first run imports the ids and reads them; a second process with the same configuration reads them all again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Timed, tell, timed
from monitor.config import load_settings
from monitor.usecases.importing import import_ids
from monitor.usecases.pull import Sweep
from monitor.usecases.read_known import ReadKnown
from monitor.usecases.run import Run, RunOptions
from monitor.wiring.process import wired


async def main(config: str, ids: list[str]) -> None:
    """One run. Raises when it is not complete: half a sweep is no figure."""
    took: list[Timed] = []
    walk = ReadKnown.walk

    async def timed_walk(self: Any) -> Sweep:
        with timed() as one:
            sweep = await walk(self)
        took.append(one)
        return sweep

    ReadKnown.walk = timed_walk  # type: ignore[method-assign]  # discovery and customers are not what is measured
    settings = load_settings(Path(config), {"PATH": os.environ["PATH"]})
    async with wired(settings) as wiring:
        account = wiring.account("acme")
        await import_ids(wiring.tools, account, ids)
        report = await Run(wiring.tools, account, RunOptions(state_dir=settings.state_dir)).execute()
    if report.outcome != "complete":
        raise SystemExit(f"{report.outcome}: {report.problems} {report.held}")
    tell(report.counts["rows"], took[0], new=report.counts["new"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()))
