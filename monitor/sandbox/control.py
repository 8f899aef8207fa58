"""Routes that move the world from outside: for people at a shell. Off unless asked for, and without a key.

`GET /_control/state`; `POST /_control/advance` `{"days": 3}` or `{"to": "2026-05-01T00:00:00Z"}`; `POST
/_control/act` `{"act": "top_up", "subscription": "sub@…"}`; `POST /_control/cause` `{"paused": 2}`; `POST
/_control/price` `{"symbol": "WETH", "usd": "1900"}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from monitor.sandbox import acts
from monitor.sandbox.entities import Reason, Subscription
from monitor.sandbox.transitions import cause
from monitor.sandbox.v2_shapes import instant
from monitor.sandbox.world import RefusedError, World

Json = dict[str, Any]
ACTS: dict[str, Callable[[World, Subscription], None]] = {
    "top_up": acts.top_up,
    "raise_maximum": acts.raise_maximum,
    "confirm_trial": acts.confirm_trial,
    "pause": acts.pause,
    "resume": acts.resume,
    "stop": acts.stop,
    "cancel": lambda world, sub: acts.cancel(world, sub, Reason.CUSTOMER),
    "retry": acts.retry,
    "drain_wallet": lambda _world, sub: acts.drain_wallet(sub.wallet),
    "fund_wallet": lambda world, sub: acts.fund_wallet(sub.wallet, 30 * world.amount_of(sub)),
    "revoke_approval": lambda _world, sub: acts.revoke_approval(sub.wallet),
    "restore_approval": lambda _world, sub: acts.restore_approval(sub.wallet),
}


def routes(world: World) -> tuple[Route, ...]:
    """For `SandboxServer(..., routes=...)`."""
    posts: dict[str, Callable[[World, Json], Json]] = {
        "advance": _advance,
        "act": _act,
        "cause": lambda world, body: {name: list(ids) for name, ids in cause(world, body).items()},
        "price": _price,
    }

    async def state(_request: Request) -> JSONResponse:
        return JSONResponse(_state(world))

    return (
        Route("/_control/state", state),
        *(Route(f"/_control/{name}", _post(world, do), methods=["POST"]) for name, do in posts.items()),
    )


def _post(world: World, do: Callable[[World, Json], Json]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            body = json.loads(await request.body() or b"{}")
            return JSONResponse(do(world, body))
        except (RefusedError, LookupError, ValueError, TypeError, AttributeError, InvalidOperation) as error:
            return JSONResponse({"error": str(error), "code": "bad_request"}, 400)

    return endpoint


def _state(world: World) -> Json:
    statuses = Counter(str(sub.status) for sub in world.living())
    return {"now": instant(world.now), "subscriptions": dict(statuses), "events": len(world.happenings)}


def _advance(world: World, body: Json) -> Json:
    if "to" in body:
        target = datetime.fromisoformat(body["to"])
        if target.tzinfo is None:
            raise ValueError("`to` needs an offset, such as Z")
        handled = world.advance(to=target)
    else:
        handled = world.advance(timedelta(**body))
    return {**_state(world), "handled": handled}


def _act(world: World, body: Json) -> Json:
    sub = world.get(body["subscription"])
    ACTS[body["act"]](world, sub)
    return {"subscription": world.id_of(sub), "status": str(sub.status), "action": sub.action}


def _price(world: World, body: Json) -> Json:
    price = Decimal(body["usd"])
    if not price.is_finite() or price <= 0:
        raise ValueError("`usd` must be a number above 0")
    world.set_price(body["symbol"], price)
    return _state(world)
