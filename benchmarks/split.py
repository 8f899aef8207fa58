"""Where a run's processor time goes: samples each millisecond of it, told apart by the step that was at work.

The step is kept in a context variable, which follows a task into the greenlets of the database layer, where a stack
would tell nothing. What runs under no step (the event loop, the client's sockets, waiting threads) is "other".
"""

from __future__ import annotations

import functools
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from monitor.providers import qbitflow_v2
from monitor.providers import reading as pages
from monitor.providers.http import ApiClient
from monitor.usecases.pull import Pull

EVERY_S = 0.001
_step: ContextVar[str] = ContextVar("bench_step", default="other")


class Split:
    """Samples while `sampling` is open."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Mark the steps, and sample."""
        _mark(ApiClient, "get", "fetch")
        _mark(Pull, "_compare", "compare")
        _mark(Pull, "_write", "write")
        _mark_plain(pages, "read_page", "decode")
        _mark_plain(qbitflow_v2, "subscription_row", "decode")
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0, 0)

    def shares(self) -> dict[str, float]:
        """Share of the samples by step."""
        total = sum(self._found.values()) or 1
        return {step: count / total for step, count in self._found.most_common()}

    def _sample(self, _signal: int, _frame: FrameType | None) -> None:
        self._found[_step.get()] += 1


def _mark(owner: Any, name: str, step: str) -> None:
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    async def marked(*args: Any, **kwargs: Any) -> Any:
        token = _step.set(step)
        try:
            return await inner(*args, **kwargs)
        finally:
            _step.reset(token)

    setattr(owner, name, marked)


def _mark_plain(owner: Any, name: str, step: str) -> None:
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    def marked(*args: Any, **kwargs: Any) -> Any:
        token = _step.set(step)
        try:
            return inner(*args, **kwargs)
        finally:
            _step.reset(token)

    setattr(owner, name, marked)
