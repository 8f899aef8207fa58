"""Progress on a terminal's stderr, and nowhere else: a log file gets none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from monitor.cli import console
from monitor.usecases.context import no_progress

STAGES = {
    "pull": "Reading subscriptions",
    "log": "Reading the event log",
    "payments": "Reading payments",
    "payment history": "Reading older payments",
    "deliver": "Sending mails",
}


@contextmanager
def shown() -> Iterator[console.Progress]:
    """A callable for `Tools.progress`; the lines vanish at the end of the block."""
    target = console.stderr()
    if not target.is_terminal:
        yield no_progress
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=target, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def step(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(STAGES[stage], total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield step
