"""The one HTTP client: timeouts, retries, rate limit, size limit, and the mapping of errors, for every provider.

It only ever reads, so that a retry repeats nothing: GET, and the POST of a login (contract v2, section 7: 3 retries
after 1, 2 and 4 s on no answer, 5xx and 429; for 429 at least what it asks; a wait above 60 s is not made).
"""

from __future__ import annotations

import asyncio
import re
import ssl
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from monitor import __version__
from monitor.clock import Clock
from monitor.errors import (
    ConfigError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from monitor.providers.answers import Answer, failure, http_date, retry_after
from monitor.providers.throttle import Throttle

ATTEMPT_SECONDS = 30.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0)
LONGEST_WAIT_SECONDS = 60.0
_COMMON_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"subscription-monitor/{__version__}",
}
MAX_BODY_BYTES = 64 * 1024 * 1024

_NEVER_MADE = 1e18
"""Seconds: the answer for a wait that is too long, whether there is a deadline or not."""

OnRequest = Callable[[str, int | None, float], None]
"""endpoint, status (None: no answer), seconds; called once for each attempt."""

_HEADER_VALUE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Retries:
    """What is tried again: no answer and 5xx after `waits` (seconds, one for each retry), and 429 where `limited`."""

    waits: tuple[float, ...] = BACKOFF_SECONDS
    limited: bool = True


@dataclass(frozen=True, slots=True)
class _Request:
    """One call, for all its attempts. `headers` and `content` are never shown."""

    method: str
    endpoint: str
    url: httpx.URL
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = field(default=None, repr=False)


class _AskAgainError(Exception):
    """An attempt failed in a way that another may heal; `asked` is the wait a 429 wants, in seconds."""

    def __init__(self, error: ProviderError, asked: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.asked = asked


class ApiClient:
    """One account's connection to one API.

    `headers` go with every request and are never shown in an error.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        account: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        on_request: OnRequest | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retries: Retries = Retries(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise `ConfigError` for an address or a header value that could never be sent; connects only when asked."""
        self.account = account
        self._deadline: float | None = None
        self._clock = clock
        self._sleep = sleep
        self._on_request = on_request
        self._attempt_seconds = attempt_seconds
        self._retries = retries
        self._base_url = _checked_url(base_url, account)
        for name, value in headers.items():
            # the HTTP library would quote the value, which may be a key, in its error
            if not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(
                    f"accounts.{account}: the value for the header {name} is empty or has characters that no header "
                    "can carry: look for spaces or line breaks around it"
                )
        self._throttles: defaultdict[str, Throttle] = defaultdict(lambda: Throttle(clock))
        self._headers = {**_COMMON_HEADERS, **headers}
        self._limits = httpx.Timeout(attempt_seconds).as_dict()
        # No client around it: cookies, redirects, a proxy or a ~/.netrc of the machine must not decide where a
        # merchant's key goes, and asking whether they do costs a third of a request.
        self._transport = transport or httpx.AsyncHTTPTransport(verify=_trusted(), trust_env=False)

    async def get(
        self,
        endpoint: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The 2xx answer of `path` (escaped, with its leading slash), after retries.

        `endpoint` is the route's name for metrics, messages and the rate limit; `headers` go with this call alone, and
        it is the caller's part that a header can carry them. Raises the errors of the provider protocol.
        """
        return await self._ask(_Request("GET", endpoint, self._url(endpoint, path, params), headers or {}))

    async def log_in(self, endpoint: str, path: str, credentials: bytes) -> Answer:
        """The 2xx answer of a login, whose JSON body is `credentials`; done twice, it only gives a second token."""
        headers = {"Content-Type": "application/json"}
        return await self._ask(_Request("POST", endpoint, self._url(endpoint, path, None), headers, credentials))

    async def _ask(self, request: _Request) -> Answer:
        call_id = uuid.uuid4().hex
        endpoint = request.endpoint
        throttle = self._throttles[endpoint]
        await self._first_turn(endpoint, throttle)
        retrying = AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception_type(_AskAgainError),
            wait=lambda state: _wait(state, throttle, self._retries.waits),
            stop=self._is_last,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    return await self._attempt(request, f"{call_id}.{number}")
        except _AskAgainError as last:
            raise last.error from last.__cause__
        raise AssertionError("tenacity ends with an answer or an error")

    def _url(self, endpoint: str, path: str, params: Mapping[str, str] | None) -> httpx.URL:
        try:
            return httpx.URL(self._base_url + path, params=dict(params) if params else None)
        except httpx.InvalidURL as error:
            raise ProviderRefusedError(
                f"{endpoint}: an id or a cursor that no address can carry", status=414
            ) from error

    def end_after(self, limit: timedelta | None) -> None:
        """From now on nothing is asked, and no wait made, that passes so long; None: no limit."""
        self._deadline = None if limit is None else self._clock.monotonic() + limit.total_seconds()

    async def aclose(self) -> None:
        """Close the connections; afterwards `get` may not be called."""
        await self._transport.aclose()

    async def _attempt(self, request: _Request, request_id: str) -> Answer:
        endpoint = request.endpoint
        throttle = self._throttles[endpoint]
        began = self._clock.monotonic()
        status: int | None = None
        try:
            # httpx limits each read; a peer that drips a byte at a time needs the limit on the whole
            async with asyncio.timeout(self._attempt_seconds):
                answer = await self._read(request, request_id)
            status = answer.status
        except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
            kind = type(error).__name__
            raise _AskAgainError(
                ProviderUnavailableError(
                    f"{endpoint}: no answer from {request.url.host} ({kind}), request id {request_id}: "
                    f"check the network and accounts.{self.account}.base_url"
                )
            ) from error
        finally:
            if self._on_request is not None:
                self._on_request(endpoint, status, self._clock.monotonic() - began)
        if 200 <= answer.status < 300:
            throttle.answered()
            return answer
        refusal = failure(answer, account=self.account, endpoint=endpoint)
        if answer.status == 429:
            asked = retry_after(answer)
            throttle.refused(asked)
            raise _AskAgainError(refusal, asked) if self._retries.limited else refusal
        raise _AskAgainError(refusal) if answer.status >= 500 else refusal

    async def _read(self, request: _Request, request_id: str) -> Answer:
        sent = httpx.Request(
            request.method,
            request.url,
            headers={**self._headers, **request.headers, "X-Request-Id": request_id},
            content=request.content,
            extensions={"timeout": self._limits},
        )
        response = await self._transport.handle_async_request(sent)
        body = bytearray()
        async with aclosing(response):
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ProviderUnavailableError(
                        f"{request.endpoint}: an answer of more than {MAX_BODY_BYTES} bytes, request id {request_id}"
                    )
        echoed = response.headers.get("x-request-id", "")
        return Answer(
            status=response.status_code,
            body=bytes(body),
            headers=response.headers,
            request_id=echoed if _REQUEST_ID.fullmatch(echoed) else request_id,
            received_at=self._clock.now(),
            date=http_date(response.headers.get("date")),
        )

    async def _first_turn(self, endpoint: str, throttle: Throttle) -> None:
        """Wait for what earlier requests of this route were told; raise where that is longer than may be waited."""
        quiet = throttle.quiet
        wait = quiet if quiet > LONGEST_WAIT_SECONDS else throttle.reserve()
        if quiet > LONGEST_WAIT_SECONDS:
            raise RateLimitedError(
                f"{endpoint}: the API wants {wait:.0f} s more of quiet: run it later",
                retry_after=timedelta(seconds=wait),
            )
        if self._passes_deadline(wait):
            raise RateLimitedError(
                f"{endpoint}: the time of this run is over (accounts.{self.account}.run_minutes): the next one goes on",
                retry_after=timedelta(seconds=wait),
            )
        if wait:
            await self._sleep(wait)

    def _is_last(self, state: RetryCallState) -> bool:
        return state.attempt_number > len(self._retries.waits) or self._passes_deadline(state.upcoming_sleep)

    def _passes_deadline(self, wait: float) -> bool:
        if wait >= _NEVER_MADE:
            return True
        return self._deadline is not None and self._clock.monotonic() + wait > self._deadline


def _wait(state: RetryCallState, throttle: Throttle, waits: tuple[float, ...]) -> float:
    """Seconds before the next attempt: the step of the back-off, or longer where the API asked.

    A wait that is not made takes no start time. What other requests of the route add to the wait does not count
    against the 60 s: it is our own order, not the API's wish.
    """
    if state.attempt_number > len(waits):
        return _NEVER_MADE
    error = state.outcome.exception() if state.outcome else None
    asked = error.asked if isinstance(error, _AskAgainError) else None
    wait = max(waits[state.attempt_number - 1], asked or 0.0)
    return _NEVER_MADE if wait > LONGEST_WAIT_SECONDS else throttle.reserve(wait)


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted, read once: each reading takes as long as twenty requests."""
    return httpx.create_ssl_context(trust_env=False)


def _checked_url(base_url: str, account: str) -> str:
    setting = f"accounts.{account}.base_url"
    try:
        url = httpx.URL(base_url.strip())
        host = url.host
    except (httpx.InvalidURL, UnicodeError) as error:  # a name that begins with xn-- may be none
        raise ConfigError(f"{setting} is not an address: {error}") from error
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise ConfigError(f"{setting} must look like https://host/path")
    if url.userinfo:
        raise ConfigError(f"{setting} must carry no user or password")
    return str(url).rstrip("/")
