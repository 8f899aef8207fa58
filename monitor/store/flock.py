"""Locks that die with their process: `flock` on files in the state folder.

They decide on one machine, where a killed run must free its lock at once; the lock row in the database gives the
token and decides between machines.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

REMEMBERED = timedelta(hours=1)
"""How long a dead name is known as dead: longer than any lease, which ends what it held in any case."""


class FileLocks:
    """The locks of one process. Its own name is held for life, so that others can see whether it still lives."""

    def __init__(self, state_dir: Path) -> None:
        """Take a fresh name in `state_dir`, which must be writable."""
        self._folder = state_dir / "locks"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}"
        path = self._owner_file(self.owner)
        self._own = self._lock(path.with_suffix(".new"))  # named only once it is locked: never found as if dead
        path.with_suffix(".new").rename(path)
        self._runs: dict[str, int] = {}

    def hold_run(self, account: str) -> bool:
        """Try to be the one run of this account on this machine; True when we are."""
        handle = self._lock(self._folder / f"run.{account}.lock")
        if handle is None:
            return False
        self._runs[account] = handle
        return True

    def release_run(self, account: str) -> None:
        """Let the next run in."""
        handle = self._runs.pop(account, None)
        if handle is not None:
            os.close(handle)

    def is_dead(self, owner: str) -> bool:
        """True when the process that took this name is certainly gone.

        A name of another machine has no file here: its lease must run out.
        """
        if owner == self.owner:
            return False
        path = self._owner_file(owner)
        if path.with_suffix(".dead").exists():
            return True
        if not path.exists():
            return False
        handle = self._lock(path, fcntl.LOCK_SH)  # shared: two who ask at once must not take each other for the owner
        if handle is None:
            return False
        os.close(handle)
        return True

    def close(self) -> None:
        """Give everything back. The name stays known as dead for an hour, so that what it held is taken back at once.

        A pass that ends by an error or a stop signal leaves rows behind just as a killed one does.
        """
        for account in list(self._runs):
            self.release_run(account)
        if self._own is not None:
            died_at = self._bury(self._owner_file(self.owner))
            os.close(self._own)
            self._own = None
            self._tidy(died_at - REMEMBERED.total_seconds())

    def _bury(self, path: Path) -> float:
        """Mark a name as dead from now on; returns when, by the folder's own time."""
        os.utime(path)
        grave = path.rename(path.with_suffix(".dead"))
        return grave.stat().st_mtime

    def _tidy(self, long_ago: float) -> None:
        """Mark the names of killed processes as dead; forget those that have been dead for long. Best effort."""
        for path in self._folder.glob("owner.*.dead"):
            with suppress(OSError):
                if path.stat().st_mtime < long_ago:
                    path.unlink()
        for path in self._folder.glob("owner.*.lock"):
            with suppress(OSError):
                handle = self._lock(path)
                if handle is not None:
                    self._bury(path)
                    os.close(handle)

    def _owner_file(self, owner: str) -> Path:
        return self._folder / f"owner.{owner.replace(':', '.').replace('/', '_')}.lock"

    @staticmethod
    def _lock(path: Path, how: int = fcntl.LOCK_EX) -> int | None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle
