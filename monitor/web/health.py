"""`/healthz`, `/readyz`, `/metrics`: for supervisors and Prometheus. No login, and nothing that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

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
        async with asyncio.timeout(ANSWER_WITHIN_S):
            failing = await readiness(site.db, site.watched, now)
    except TimeoutError:
        why = f"the database did not answer within {ANSWER_WITHIN_S:.0f} s"
        failing = [Finding(None, Cause.DATABASE, why)]
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
        async with asyncio.timeout(ANSWER_WITHIN_S):
            site.meter.show(await levels(site.db, site.watched, now), now)
    except (ConfigError, StoreError, TimeoutError) as error:
        structlog.get_logger().warning("metrics_without_database", error=f"{type(error).__name__}: {error}")
        site.meter.database(up=False)
    else:
        site.meter.database(up=True)
    return Response(site.meter.text(), media_type=CONTENT_TYPE)
