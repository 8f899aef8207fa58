"""Kills a worker over and over, until one runs to its end untouched.

The worker is any command that prints a line beginning with `ready` when its imports are done: the delay is counted from
there, or every early kill would hit an interpreter that is still starting. Failpoints are a matter of the command: it
kills itself at the n-th pass, and n grows until it ends clean (`until_clean` with `restart=lambda n: [...]`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST_RUN = 120.0
"""Seconds after which a worker hangs rather than works."""


@dataclass
class Story:
    """What became of the starts: how often killed, and how the last one ended."""

    starts: int = 0
    kills: int = 0
    exits: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return bool(self.exits) and self.exits[-1] == 0


class HungError(AssertionError):
    """A worker neither ended nor got ready in time."""


def run_once(command: Sequence[str], *, kill_after: float | None, env: Mapping[str, str] | None = None) -> int:
    """Starts the worker; SIGKILL `kill_after` seconds after it is ready (None: never). Its exit code; -9: killed."""
    # A file, not a pipe: a pipe that nobody reads would stop a talkative worker.
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(env or {})}
        )
        hung = _watch(worker, kill_after)
        errors.seek(0)
        said = errors.read()[-2000:].decode(errors="replace")
    if hung:
        raise HungError(f"the worker did not end in {LONGEST_RUN} s: {said}")
    if worker.returncode not in {0, 1, 3, -signal.SIGKILL}:
        raise AssertionError(f"the worker ended with {worker.returncode}: {said}")
    return worker.returncode


def _watch(worker: subprocess.Popen[str], kill_after: float | None) -> bool:
    """Until the worker has ended; True when it had to be ended for taking too long."""
    watchdog = threading.Timer(LONGEST_RUN, worker.kill)
    watchdog.start()
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("ready"):
                break
        try:
            worker.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
        return not watchdog.is_alive()
    finally:
        watchdog.cancel()
        watchdog.join()
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def kill_at_random(
    command: Sequence[str],
    *,
    kills: int,
    longest: float,
    seed: int,
    env: Mapping[str, str] | None = None,
) -> Story:
    """Up to `kills` kills, each within `longest` seconds after readiness; then one start that may end by itself.

    It ends early when a start was faster than its kill and had nothing left to do (exit 0).
    """
    chance = random.Random(seed)
    story = Story()
    while story.kills < kills:
        _note(story, run_once(command, kill_after=chance.uniform(0.0, longest), env=env))
        if story.clean:
            return story
    _note(story, run_once(command, kill_after=None, env=env))
    return story


def until_clean(restart: Callable[[int], Sequence[str]], *, most: int, env: Mapping[str, str] | None = None) -> Story:
    """Starts `restart(n)`, whose command kills itself at its n-th pass of a failpoint, for n = 1, 2, ... until it ends.

    Raises:
        AssertionError: it did not end after `most` starts.
    """
    story = Story()
    for number in range(1, most + 1):
        _note(story, run_once(restart(number), kill_after=None, env=env))
        if story.clean:
            return story
    raise AssertionError(f"still killed at the {most}th start")


def _note(story: Story, code: int) -> None:
    story.starts += 1
    story.kills += code == -signal.SIGKILL
    story.exits.append(code)
