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
from monitor.sandbox.till import STATUSES, Till
from monitor.sandbox.transitions import SITUATIONS, cause
from monitor.sandbox.v2_shapes import instant
from monitor.sandbox.world import RefusedError, World

Json = dict[str, Any]
UNITS = ("weeks", "days", "hours", "minutes", "seconds")
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


def routes(world: World, till: Till | None = None) -> tuple[Route, ...]:
    """For `SandboxServer(..., routes=...)`; with `till`, payments of the billing platform can be made to happen too."""
    posts: dict[str, Callable[[World, Json], Json]] = {
        "advance": _advance,
        "act": _act,
        "cause": _cause,
        "price": _price,
    }
    if till is not None:
        posts["pay"] = lambda _world, body: _pay(till, body)

    async def state(_request: Request) -> JSONResponse:
        return JSONResponse(_state(world))

    return (
        Route("/_control/state", state),
        *(Route(f"/_control/{name}", _post(world, do), methods=["POST"]) for name, do in posts.items()),
    )


def _pay(till: Till, body: Json) -> Json:
    """A new payment of `user`, or with `payment` another status of one that is there."""
    status = body.get("status", "CREATED")
    if not isinstance(status, str) or not status:
        raise RefusedError(f"status must be a text such as {', '.join(STATUSES)}")
    if "payment" in body:
        payment = till.find(str(body["payment"]))
        if payment is None:
            raise RefusedError("payment: there is none of this id; leave it out to make one")
        till.move(payment, status)
    else:
        user, amount = body.get("user", 0), body.get("amount", 4990)
        if not all(isinstance(number, int) and number >= 0 for number in (user, amount)):
            raise RefusedError('user and amount must be whole numbers, such as {"user": 1, "amount": 4990}')
        payment = till.pay(user, amount, str(body.get("currency", "EUR")), status=status)
    return {"payment": till.id_of(payment), "user": till.user_id(payment.user), "status": payment.status}


def _post(world: World, do: Callable[[World, Json], Json]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(do(world, _object(await request.body())))
        except RefusedError as error:
            return JSONResponse({"error": str(error), "code": "bad_request"}, 400)

    return endpoint


def _object(body: bytes) -> Json:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        raise RefusedError("the body is no JSON; quote it for the shell: -d '{\"days\": 3}'") from None
    if not isinstance(found, dict):
        raise RefusedError('the body must be a JSON object, such as {"days": 3}')
    return found


def _text(body: Json, name: str, example: str) -> str:
    if not isinstance(body.get(name), str):
        raise RefusedError(f'"{name}" is missing or no text; write it like {{"{name}": "{example}"}}')
    return str(body[name])


def _state(world: World) -> Json:
    statuses = Counter(str(sub.status) for sub in world.living())
    return {"now": instant(world.now), "subscriptions": dict(statuses), "events": len(world.happenings)}


def _advance(world: World, body: Json) -> Json:
    if "to" in body:
        handled = world.advance(to=_instant(_text(body, "to", "2026-05-01T00:00:00Z")))
    else:
        handled = world.advance(_duration(body))
    return {**_state(world), "handled": handled}


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(f"`to`: {text!r} is no instant; write it like 2026-05-01T00:00:00Z") from None
    if at.tzinfo is None:
        raise RefusedError("`to` needs an offset, such as Z")
    return at


def _duration(body: Json) -> timedelta:
    wrong = [name for name, number in body.items() if name not in UNITS or type(number) not in {int, float}]
    if wrong or not body:
        raise RefusedError(f'{wrong or "nothing"}: a duration is {{"days": 3}}; units are {", ".join(UNITS)}, or "to"')
    try:
        return timedelta(**body)
    except (OverflowError, ValueError):
        raise RefusedError(f"{body} is no time that can pass") from None


def _cause(world: World, body: Json) -> Json:
    odd = [name for name in body if name not in SITUATIONS]
    if odd:
        raise RefusedError(f"there is no situation {odd[0]!r}; there is: {', '.join(sorted(SITUATIONS))}")
    if not all(type(number) is int and number >= 0 for number in body.values()):
        raise RefusedError('say how many of each as a whole number, such as {"paused": 2}')
    return {name: list(ids) for name, ids in cause(world, body).items()}


def _act(world: World, body: Json) -> Json:
    name, ext_id = _text(body, "act", "top_up"), _text(body, "subscription", "sub@...")
    if name not in ACTS:
        raise RefusedError(f"there is no act {name!r}; there is: {', '.join(sorted(ACTS))}")
    sub = world.find(ext_id)
    if sub is None:
        raise RefusedError(f"there is no subscription {ext_id!r} in this world")
    ACTS[name](world, sub)
    return {"subscription": world.id_of(sub), "status": str(sub.status), "action": sub.action}


def _price(world: World, body: Json) -> Json:
    symbol, usd = _text(body, "symbol", "WETH"), _text(body, "usd", "1900.50")
    try:
        price = Decimal(usd)
    except InvalidOperation:
        price = Decimal(0)
    if not price.is_finite() or price <= 0:
        raise RefusedError(f'"usd" must be a number above 0, as text; {usd!r} is none')
    try:
        world.set_price(symbol, price)
    except KeyError:
        raise RefusedError(f"no customer of this world pays in {symbol!r}") from None
    return _state(world)
