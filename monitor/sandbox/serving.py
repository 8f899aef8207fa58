"""One request of a simulated API: count it, check its key, answer it, bend the answer by `Faults`."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Mapping
from email.utils import format_datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from monitor.clock import Clock, SystemClock
from monitor.sandbox import v2_query
from monitor.sandbox.faults import Answer, Call, Faults
from monitor.sandbox.v2_query import ApiError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
Handler = Callable[[Call], Answer]
ErrorBody = Callable[[ApiError, str], object]


def answer(value: object) -> Answer:
    """200 with this JSON."""
    return Answer(body=dump(value).encode())


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def error_of_v2(error: ApiError, request_id: str) -> object:
    """The body of contract v2, section 6."""
    return {"error": str(error), "code": error.code, "details": error.details, "requestId": request_id}


class Front:
    """Makes endpoints of handlers, which are plain functions of a call that may raise `ApiError`.

    `authorize` raises it for a request that may not be answered; `error_body` is the dialect's JSON of an error.
    """

    def __init__(
        self,
        faults: Faults,
        *,
        authorize: Callable[[Call], None],
        error_body: ErrorBody = error_of_v2,
        clock: Clock | None = None,
    ) -> None:
        self._faults = faults
        self._authorize = authorize
        self._error_body = error_body
        self._clock = clock or SystemClock()
        self._ids = itertools.count(1)

    def endpoint(self, name: str, handle: Handler) -> Callable[[Request], Any]:
        """For a route; `name` is what rules and counters call it."""

        async def endpoint(request: Request) -> Response:
            query = dict(request.query_params)
            call = Call(
                name,
                request.url.path,
                query,
                dict(request.headers),
                asyncio.get_running_loop().time(),
                page=v2_query.page_number(query),
                params=dict(request.path_params),
                body=await request.body(),
            )
            return await self._serve(self._faults.count(call), handle)

        return endpoint

    async def _serve(self, call: Call, handle: Handler) -> Response:
        rules = [rule for rule in self._faults.rules if rule.meets(call)]
        for rule in rules:
            if rule.wait is not None:
                await rule.wait()
        asked = call.headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req-{next(self._ids)}"
        try:
            self._authorize(call)
            result = handle(call)
        except ApiError as error:
            result = Answer(error.status, dump(self._error_body(error, request_id)).encode())
        for rule in rules:
            if rule.act is not None:
                result = rule.act(call, result)
        now = self._clock.now() + self._faults.clock_skew
        headers = {
            "Content-Type": "application/json",
            "Date": format_datetime(now, usegmt=True),
            "X-Request-Id": request_id,
            **result.headers,
        }
        body_bytes = result.bytes()
        if result.cut_after is not None:
            return BrokenResponse(body_bytes, result.status, headers, cut_after=result.cut_after)
        return Response(body_bytes, result.status, headers)


class BrokenResponse(Response):
    """Sends a part of the body, then breaks the connection as a dying server would."""

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str], *, cut_after: int) -> None:
        super().__init__(body, status, headers)
        self._cut_after = cut_after

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if self._cut_after:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            part = bytes(self.body)[: self._cut_after]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        scope["state"]["connection"].break_off()
