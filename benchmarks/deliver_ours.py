"""Our own delivery, wired as `monitor deliver` wires it: examine, claim, render, compose, send, record.

    python -m benchmarks.deliver_ours CONFIG [--split]

A run before it (not timed) makes every subscription a mail that is due.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.measure import tell, timed
from monitor.config import load_settings
from monitor.usecases.deliver import deliver_account
from monitor.usecases.operate import Operator
from monitor.usecases.run import Run, RunOptions
from monitor.wiring.process import wired


async def main(config: str) -> None:
    """Make the mails due, then time one pass."""
    settings = load_settings(Path(config), {"PATH": os.environ["PATH"]})
    async with wired(settings) as wiring:
        account = wiring.account("acme")
        report = await Run(wiring.tools, account, RunOptions(state_dir=settings.state_dir)).execute()
        if report.batch_id is None or report.problems:
            raise SystemExit(f"{report.outcome}: {report.problems}")
        if report.held:  # so many mails at once are what the guard is for
            await Operator(wiring.tools, "benchmark", settings.state_dir).approve(report.batch_id)
        mailer = wiring.mailer
        with timed() as took:
            delivery = await deliver_account(wiring.tools, account, wiring.transport("acme"), mailer)
    if not delivery.sent or delivery.failed or delivery.deferred:
        raise SystemExit(f"{delivery}")
    tell(delivery.sent, took)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
