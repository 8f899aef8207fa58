"""`POST /hooks/{account}`: verify, store, answer. What follows from a webhook happens later, from what was stored.

| answer | when |
|---|---|
| 200 | it is stored, or was before; a test delivery too, which is not stored |
| 401 | the signature is missing, wrong or too old |
| 404 | no such account, or one without a webhook secret |
| 408 | the body did not come within 15 seconds |
| 413 | the body is larger than a delivery can be |
| 429 | too many wrong signatures from this address |
| 503 | the database did not store it: it must come again |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from monitor.clock import Clock
from monitor.domain.model import Mode
from monitor.errors import StoreError
from monitor.metrics import Meter
from monitor.providers.hooks import MAX_BODY_BYTES, HookDialect, HookSeen, Refusal, Told
from monitor.usecases.inbox import Addressee, Inbox
from monitor.web.limiter import Limiter

BODY_WITHIN_S = 15.0
AGAIN_AFTER_S = 60
LARGE_BYTES = 64 * 1024
LARGE_AT_ONCE = 16
NO_ACCOUNT = "none"
"""The metric's label where no account is named that exists: a sender must not invent labels."""


@dataclass(frozen=True, slots=True)
class Door:
    """One account's way in."""

    to: Addressee
    dialect: HookDialect
    mode: Mode


@dataclass(slots=True)
class Hooks:
    """What the endpoint works with. `on_taken` hears the account of each delivery that asks for a reading."""

    doors: Mapping[str, Door]
    inbox: Inbox
    clock: Clock
    meter: Meter
    on_taken: Callable[[str], None] = lambda _account: None
    limiter: Limiter = field(default_factory=Limiter)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE))


async def hook(request: Request) -> Response:
    """One delivery."""
    hooks: Hooks | None = request.app.state.site.hooks
    door = None if hooks is None else hooks.doors.get(request.path_params["account"])
    if hooks is None or door is None:
        if hooks is not None:
            hooks.meter.hook(NO_ACCOUNT, "unknown_account")
        return _answer(404, {"error": "no such account, or one without a webhook secret"})
    peer = request.client.host if request.client is not None else "unknown"
    wait_s = hooks.limiter.wait_s(peer, hooks.clock.monotonic())
    if wait_s is not None:
        hooks.meter.hook(door.to.name, "blocked")
        return _answer(429, {"error": "too many wrong signatures"}, {"Retry-After": str(wait_s)})
    try:
        return await _read_and_take(hooks, door, request, peer)
    except ClientDisconnect:
        return _answer(400, {"error": "incomplete"})  # nobody hears it
    except TimeoutError:
        return _answer(408, {"error": f"the body did not come within {BODY_WITHIN_S:.0f} s"})


async def _read_and_take(hooks: Hooks, door: Door, request: Request, peer: str) -> Response:
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) > MAX_BODY_BYTES:
        return _too_large(hooks, door)
    if declared is not None and int(declared) <= LARGE_BYTES:
        body = await _body(request)
        refusal = None if body is None else door.dialect.refusal(_headers(request), body, hooks.clock.now())
    else:
        async with hooks.large:  # so that large bodies never fill the memory; the vendor's own are small
            body = await _body(request)
            if body is None:
                return _too_large(hooks, door)
            work = asyncio.to_thread(door.dialect.refusal, _headers(request), body, hooks.clock.now())
            refusal = await work
    if body is None or refusal is Refusal.TOO_LARGE:
        return _too_large(hooks, door)
    if refusal is not None:
        return _refused(hooks, door, refusal, peer)
    return await _take(hooks, door, door.dialect.read(_headers(request), body))


async def _body(request: Request) -> bytes | None:
    """The whole body; None as soon as it is too large."""
    chunks: list[bytes] = []
    size = 0
    async with asyncio.timeout(BODY_WITHIN_S):
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                return None
            chunks.append(chunk)
    return b"".join(chunks)


async def _take(hooks: Hooks, door: Door, seen: HookSeen) -> Response:
    name = door.to.name
    outcome = _outcome(door, seen)
    if outcome == "other_mode":
        hooks.meter.hook(name, outcome)
        return _answer(200, {"received": True})
    try:
        fresh = await hooks.inbox.put(door.to, seen)
    except StoreError as error:
        hooks.meter.hook(name, "not_stored")
        structlog.get_logger().error("hook_not_stored", account=name, error=str(error))
        return _answer(503, {"error": "not stored, send it again"}, {"Retry-After": str(AGAIN_AFTER_S)})
    if outcome in {"unknown", "unreadable"} and fresh:
        why = None if seen.bad is None else seen.bad.reason
        structlog.get_logger().warning("hook_not_understood", account=name, told=outcome, why=why)
    hooks.meter.hook(name, outcome if fresh or outcome == "test" else "repeated")
    if seen.ask and fresh:
        hooks.on_taken(name)
    return _answer(200, {"received": True})


def _outcome(door: Door, seen: HookSeen) -> str:
    if seen.fact is not None and seen.fact.test and door.mode is Mode.LIVE:
        return "other_mode"
    return {Told.FACT: "stored", Told.TEST: "test"}.get(seen.told, seen.told.value)


def _refused(hooks: Hooks, door: Door, refusal: Refusal, peer: str) -> Response:
    """401, told in the log without the body, and not for every one of a flood."""
    hooks.meter.hook(door.to.name, "refused")
    log = structlog.get_logger().bind(account=door.to.name, peer=peer)
    log.warning("hook_refused", why=refusal.value)
    if hooks.limiter.wrong(peer, hooks.clock.monotonic()):
        log.warning("hook_sender_blocked")
    return _answer(401, {"error": "Invalid signature"})


def _too_large(hooks: Hooks, door: Door) -> Response:
    hooks.meter.hook(door.to.name, "too_large")
    # what is left of the body is not waited for
    return _answer(413, {"error": f"more than {MAX_BODY_BYTES} bytes"}, {"Connection": "close"})


def _headers(request: Request) -> dict[str, str]:
    """By lower-case name; one that stands twice is one with a comma (RFC 9110, 5.3), which no signature survives."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _answer(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(dict(body), status_code=status, headers=dict(headers or {}))
