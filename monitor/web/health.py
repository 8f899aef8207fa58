"""`/healthz`, `/readyz`, `/metrics`: for supervisors and Prometheus. No login, and nothing that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from monitor.clock import Clock
from monitor.errors import ConfigError, StoreError
from monitor.log import Redaction
from monitor.metrics import CONTENT_TYPE, Meter
from monitor.store.engine import Database
from monitor.usecases.watch import Cause, Finding, Watched, levels, readiness
from monitor.web.hooks import Hooks

ANSWER_WITHIN_S = 10.0
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Site:
    """What the pages speak of; a reload of the settings replaces database and accounts."""

    db: Database
    watched: Sequence[Watched]
    clock: Clock
    meter: Meter
    hooks: Hooks | None = None
    """None: webhooks are not taken here."""


async def healthz(_request: Request) -> Response:
    """200 while the process can answer at all."""
    return PlainTextResponse("alive\n")


async def readyz(request: Request) -> Response:
    """200 while the work is being done; else 503, and the body names what fails."""
    site: Site = request.app.state.site
    now = site.clock.now()
    try:
        failing = await _in_time(readiness(site.db, site.watched, now))
    except TimeoutError as error:
        failing = [Finding(None, Cause.DATABASE, str(error))]
    redaction = Redaction()
    body = {
        "ready": not failing,
        "checked_at": now.isoformat(timespec="seconds"),
        "failing": [
            {"check": one.cause.value, "account": one.account, "why": redaction.text(one.sentence)} for one in failing
        ],
    }
    return JSONResponse(body, status_code=503 if failing else 200, headers={"Cache-Control": "no-store"})


async def metrics(request: Request) -> Response:
    """Prometheus' text format. With the database out of reach the counters are told all the same."""
    site: Site = request.app.state.site
    now = site.clock.now()
    try:
        site.meter.show(await _in_time(levels(site.db, site.watched, now)), now)
    except (ConfigError, StoreError, TimeoutError) as error:
        structlog.get_logger().warning("metrics_without_database", error=f"{type(error).__name__}: {error}")
        site.meter.database(up=False)
    else:
        site.meter.database(up=True)
    return Response(site.meter.text(), media_type=CONTENT_TYPE)


_given_up: set[asyncio.Task[Any]] = set()
"""Questions that nobody waits for any more; the loop alone would not keep them."""


async def _in_time(asked: Coroutine[Any, Any, Answer]) -> Answer:
    """What the database answers. Raises `TimeoutError` after ten seconds, though a driver gives up later."""
    task = asyncio.create_task(asked)
    try:
        await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            _given_up.add(task)
            task.add_done_callback(_forget)
            task.cancel()
    raise TimeoutError(f"the database did not answer within {ANSWER_WITHIN_S:.0f} s")


def _forget(task: asyncio.Task[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # or asyncio would complain that nobody asked
