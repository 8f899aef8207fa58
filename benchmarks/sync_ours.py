"""Our own pull, wired as `monitor sync` wires it, timed from the first request to the gate.

    python -m benchmarks.sync_ours CONFIG [--split] [--windows=1]

`--split` samples the processor time (SIGPROF, each millisecond) and tells what share fetching, decoding, comparing and
writing have; a run that is sampled is not timed against others.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.measure import tell, timed
from benchmarks.split import Split
from monitor.config import load_settings
from monitor.usecases import run as run_module
from monitor.usecases.run import Run, RunOptions
from monitor.wiring.process import wired

FINISHED = ("complete", "held")


async def main(config: str, *flags: str) -> None:
    """One run up to the gate. Raises when it is not complete: half a pull is no figure."""
    if "--windows=1" in flags:
        run_module.MOST_WINDOWS = 1
    settings = load_settings(Path(config), {"PATH": os.environ["PATH"]})
    async with wired(settings) as wiring:
        run = Run(wiring.tools, wiring.account("acme"), RunOptions(state_dir=settings.state_dir))
        split = Split() if "--split" in flags else None
        with timed() as took:
            if split is not None:
                with split.sampling():
                    report = await run.execute()
            else:
                report = await run.execute()
    if report.outcome not in FINISHED:
        raise SystemExit(f"{report.outcome}: {report.problems} {report.held}")
    more = {} if split is None else {"split": split.shares()}
    tell(report.counts["rows"], took, new=report.counts["new"], changed=report.counts["changed"], **more)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
