"""Switches that make the served API misbehave, set by tests in the same process.

A `Rule` names the requests it meets and what becomes of their answer. Everything else is a plain field of `Faults`.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any

CALLS_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the server saw it."""

    route: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    at: float
    """Seconds of the event loop's clock, for distances between calls."""
    number: int = 0
    """The how manieth of its route, from 1."""
    page: int = 1
    """The page its cursor asks for, from 1; the same again when it is retried."""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes on the wire. A page keeps its rows apart, so that faults can change one without reading JSON."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[str, ...] | None = None
    next_cursor: str | None = None
    envelope: str = "items"
    """The key under which the rows stand; only `items` has a cursor beside it."""
    cut_after: int | None = None
    """Send so many bytes of the body, then break the connection; 0 breaks it before the answer begins."""

    def bytes(self) -> bytes:
        """The body; a page's is put together from its rows."""
        if self.rows is None:
            return self.body
        cursor = f',"nextCursor":{json.dumps(self.next_cursor)}' if self.envelope == "items" else ""
        text = f'{{"{self.envelope}":[{",".join(self.rows)}]{cursor}}}'
        return text.encode("utf-8", "surrogatepass")


Act = Callable[[Call, Answer], Answer]


@dataclass(slots=True)
class Rule:
    """`act` on the answers of some requests; with `wait`, hold each of them until it returns."""

    act: Act | None = None
    route: str | None = None
    """None meets every route."""
    page: int | None = None
    times: int | None = None
    """At most so often; None is for ever."""
    skip: int = 0
    """Let so many matching requests pass first."""
    wait: Callable[[], Awaitable[object]] | None = None
    met: int = 0

    def meets(self, call: Call) -> bool:
        """Whether this request is one of them. Counts it."""
        if self.route not in (None, call.route) or self.page not in (None, call.page):
            return False
        self.met += 1
        turn = self.met - self.skip
        return turn >= 1 and (self.times is None or turn <= self.times)


@dataclass(slots=True)
class Faults:
    """All switches of one server, and what it has counted."""

    rules: list[Rule] = field(default_factory=list)
    mangled: dict[str, str] = field(default_factory=dict)
    """Subscription id -> name in `mangle.MANGLES`: lists and single reads show that row so."""
    bend: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Changes every subscription that is shown, such as all amounts times 100."""
    clock_skew: timedelta = timedelta(0)
    """How far the Date header is ahead of the clock."""
    me: dict[str, Any] = field(default_factory=dict)
    """Laid over the `space` of `GET /me`: another `uuid`, another mode (`test`)."""
    revoked: bool = False
    """The key is refused with 401."""
    order: str = "created"
    """`created`: newest first, as the contract says. `updated`: rows jump to the front when they change."""
    paging: str = "keyset"
    """`keyset`: a cursor names a row. `offset`: it names a place, so that inserts and deletes shift rows."""
    v1_user: dict[str, Any] = field(default_factory=dict)
    """Laid over the answer of v1's `GET /user/`: another organization."""
    v1_cancelled_gone: bool = False
    """v1 says 404 for what is cancelled, which its contract leaves open."""
    v1_number_amounts: bool = False
    """v1 shows the allowance as a JSON number, as older servers did."""
    between_pages: Callable[[int], None] | None = None
    """Called before page 2, 3, ... of the subscriptions is read, with its number."""
    requests: Counter[str] = field(default_factory=Counter)
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=CALLS_KEPT))
    cursors: dict[int, str] = field(default_factory=dict)
    """The cursor that the newest walk sent for each page."""

    def add(self, act: Act | None = None, **how: Any) -> Rule:
        """Add a rule (fields of `Rule` by name) and return it."""
        rule = Rule(act, **how)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Back to an API that behaves; the counters stay."""
        fresh = Faults()
        for switch in _SWITCHES:
            setattr(self, switch, getattr(fresh, switch))

    def count(self, call: Call) -> Call:
        """Write the request down; returns it with its number."""
        self.requests[call.route] += 1
        call = replace(call, number=self.requests[call.route])
        self.calls.append(call)
        if call.route == "subscriptions" and call.query.get("cursor"):
            self.cursors[call.page] = call.query["cursor"]
        return call


_SWITCHES = tuple(switch.name for switch in fields(Faults) if switch.name not in ("requests", "calls", "cursors"))


# What can become of an answer


def error(
    status: int, code: str, *, details: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> Act:
    """An error with the contract's body (section 6)."""

    def act(_call: Call, _answer: Answer) -> Answer:
        body = {"error": code.replace("_", " "), "code": code, "details": details or {}}
        return Answer(status, json.dumps(body).encode(), dict(headers or {}))

    return act


def rate_limited(retry_after: str | None = None, *, details_seconds: int | None = None) -> Act:
    """429; the wait in the header (any text), in the details, or nowhere."""
    details = {"limit": 60, "periodSeconds": 60}
    if details_seconds is not None:
        details["retryAfterSeconds"] = details_seconds
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return error(429, "rate_limit_exceeded", details=details, headers=headers)


def html(status: int = 502) -> Act:
    """A gateway's page, also with status 200."""
    page = b"<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"
    return raw(page, status=status, content_type="text/html")


def raw(body: bytes, *, status: int = 200, content_type: str = "application/json") -> Act:
    """Exactly these bytes, such as an empty body or invalid UTF-8."""
    return lambda _call, _answer: Answer(status, body, {"Content-Type": content_type})


def redirect(to: str) -> Act:
    """A 302: the contract calls it a fault."""
    return lambda _call, _answer: Answer(302, b"", {"Location": to})


def truncated(keep: float = 0.5) -> Act:
    """A complete answer whose JSON stops early."""
    return lambda _call, answer: Answer(200, answer.bytes()[: int(len(answer.bytes()) * keep)])


def dropped(after: int = 0) -> Act:
    """The connection breaks after so many bytes of the body."""
    return lambda _call, answer: replace(answer, cut_after=after)


def items(value: object) -> Act:
    """`items` is null, an object, a text, ..."""

    def act(_call: Call, answer: Answer) -> Answer:
        body = {"items": value, "nextCursor": answer.next_cursor}
        return Answer(200, json.dumps(body).encode())

    return act


def without_items(_call: Call, answer: Answer) -> Answer:
    """The key `items` is absent."""
    return Answer(200, json.dumps({"nextCursor": answer.next_cursor}).encode())


def no_rows(_call: Call, answer: Answer) -> Answer:
    """An empty page that still names a next cursor."""
    return replace(answer, rows=())


def rows_besides(*rows: str) -> Act:
    """The page and these rows (JSON texts): such as one that an earlier page has shown."""
    return lambda _call, answer: replace(answer, rows=(*(answer.rows or ()), *rows))


def cursor(value: str | None) -> Act:
    """This `nextCursor`, such as `""`, None, or one of another account."""
    return lambda _call, answer: replace(answer, next_cursor=value)


def repeat_cursor(call: Call, answer: Answer) -> Answer:
    """`nextCursor` is the cursor that was sent."""
    return replace(answer, next_cursor=call.query.get("cursor"))


def back_to(faults: Faults, page: int) -> Act:
    """`nextCursor` is the one that led to `page`: with a rule for page 4 and `page` 2, a cycle of 3."""
    return lambda _call, answer: replace(answer, next_cursor=faults.cursors[page])


def cursor_refused(status: int = 400) -> Act:
    """The cursor is not accepted any more: 400, or 410 for a walk that took too long."""
    details = {"errors": [{"field": "cursor", "message": "is not valid"}]}
    return error(status, "validation_failed", details=details)
