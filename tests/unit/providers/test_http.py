"""Retries, waits and limits of the one client, with a scripted transport and a clock that only `sleep` moves."""

import asyncio
import gzip
import ssl
import zlib
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from monitor.clock import ManualClock, SystemClock
from monitor.errors import (
    ConfigError,
    ProviderAuthError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from monitor.providers import http
from monitor.providers.http import ApiClient
from monitor.sandbox.seeding import healthy
from monitor.sandbox.server import SandboxServer

KEY = "sk_canary_do_not_print"


class Rig:
    """The script's last reply repeats. `sleeps` are the waits asked for, `starts` when each request came."""

    def __init__(self, *script, **options):
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.sleeps: list[float] = []
        self.starts: list[float] = []
        self.seen: list[tuple] = []
        self.clock = ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC), ticks=50.0)
        self.client = ApiClient(
            options.pop("base_url", "https://api.example/v2/"),
            {"X-API-Key": KEY},
            account="acme",
            clock=self.clock,
            sleep=self.sleep,
            on_request=lambda *what: self.seen.append(what),
            transport=httpx.MockTransport(self.reply),
            **options,
        )

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))

    async def reply(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.starts.append(self.clock.monotonic())
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        if callable(step):
            return await step()
        status, headers, body = (*step, {}, b"{}")[:3] if isinstance(step, tuple) else (step, {}, b"{}")
        return httpx.Response(status, headers=headers, content=body)

    async def get(self, **params):
        return await self.client.get("things", "/things", params or None)


def limited(retry_after: str | None = None, body: bytes = b'{"code":"rate_limit_exceeded"}'):
    return (429, {"Retry-After": retry_after} if retry_after is not None else {}, body)


NO_ANSWER = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("cut"),
    httpx.DecodingError("gzip"),
]


async def test_a_good_answer_is_one_call_and_no_wait():
    rig = Rig((200, {"Date": "Sun, 01 Mar 2026 12:00:00 GMT", "X-Request-Id": "srv-1"}, b"[]"))
    answer = await rig.get()
    assert (answer.status, answer.body, answer.request_id) == (200, b"[]", "srv-1")
    assert answer.date == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert rig.sleeps == []
    assert rig.seen == [("things", 200, 0.0)]


async def test_a_request_is_a_get_with_the_key_an_id_and_escaped_values():
    rig = Rig(200)
    await rig.get(cursor="a+b/ü=", createdAfter="2026-03-01T12:00:00+02:00")
    request = rig.requests[0]
    assert request.method == "GET"
    assert str(request.url).startswith("https://api.example/v2/things?cursor=a%2Bb")
    assert b"+" not in request.url.query
    assert request.url.params["cursor"] == "a+b/ü="
    assert request.headers["x-api-key"] == KEY
    assert request.headers["accept"] == "application/json"
    assert 1 <= len(request.headers["x-request-id"]) <= 128


async def test_each_attempt_has_its_own_request_id_and_one_that_cannot_be_printed_is_not_believed():
    rig = Rig(500, (200, {"X-Request-Id": "evil id <b>"}, b"{}"))
    answer = await rig.get()
    ids = [request.headers["x-request-id"] for request in rig.requests]
    assert len(set(ids)) == 2
    assert answer.request_id == ids[1]


@pytest.mark.parametrize("fault", [*NO_ANSWER, 500, 502, 503, 504], ids=str)
async def test_no_answer_and_5xx_are_tried_four_times_after_1_2_and_4_seconds(fault):
    rig = Rig(fault)
    with pytest.raises(ProviderUnavailableError):
        await rig.get()
    assert rig.sleeps == [1.0, 2.0, 4.0]
    assert len(rig.requests) == 4
    assert [status for _, status, _ in rig.seen] == [None if isinstance(fault, Exception) else fault] * 4


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_call_that_heals_within_three_retries_succeeds(failures):
    rig = Rig(*[503] * failures, 200)
    assert (await rig.get()).status == 200
    assert rig.sleeps == [1.0, 2.0, 4.0][:failures]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ProviderUnavailableError),
        (302, ProviderUnavailableError),
        (307, ProviderUnavailableError),
        (400, ProviderRefusedError),
        (401, ProviderAuthError),
        (403, ProviderAuthError),
        (404, ProviderRefusedError),
        (409, ProviderRefusedError),
        (410, ProviderAuthError),
        (422, ProviderRefusedError),
    ],
)
async def test_other_answers_are_never_tried_again(status, kind):
    rig = Rig((status, {"Location": "https://elsewhere.example/"}, b"{}"))
    with pytest.raises(kind):
        await rig.get()
    assert len(rig.requests) == 1
    assert rig.sleeps == []


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("0", 1.0),
        ("1", 1.0),
        ("30", 30.0),
        ("60", 60.0),
        ("Sun, 01 Mar 2026 12:00:45 GMT", 45.0),
        ("Sun, 01 Mar 2020 12:00:00 GMT", 1.0),
        ("garbage", 1.0),
        (None, 1.0),
    ],
)
async def test_a_429_is_repeated_no_earlier_than_asked(retry_after, wait):
    rig = Rig(limited(retry_after), 200)
    assert (await rig.get()).status == 200
    assert rig.sleeps == [wait]
    assert rig.starts == [50.0, 50.0 + wait]


async def test_a_429_may_ask_in_its_details():
    rig = Rig(limited(body=b'{"details":{"retryAfterSeconds":17}}'), 200)
    await rig.get()
    assert rig.sleeps == [17.0]


@pytest.mark.parametrize(
    ("retry_after", "asked"),
    [
        ("61", timedelta(seconds=61)),
        ("10800", timedelta(hours=3)),
        ("1" + "0" * 400, timedelta(days=365)),
        ("Sun, 01 Mar 2026 12:01:01 GMT", timedelta(seconds=61)),
    ],
)
async def test_a_wait_above_60_seconds_is_not_made(retry_after, asked):
    rig = Rig(limited(retry_after))
    with pytest.raises(RateLimitedError) as caught:
        await rig.get()
    assert caught.value.retry_after == asked
    assert (rig.sleeps, len(rig.requests)) == ([], 1)


async def test_a_429_that_stays_ends_after_three_retries_with_what_it_asked():
    rig = Rig(limited("5"))
    with pytest.raises(RateLimitedError) as caught:
        await rig.get()
    assert caught.value.retry_after == timedelta(seconds=5)
    assert len(rig.requests) == 4
    assert all(later - earlier >= 5 for earlier, later in zip(rig.starts, rig.starts[1:], strict=False))


async def test_a_wait_that_passes_the_runs_deadline_is_not_made():
    rig = Rig(limited("20"))
    rig.client.end_after(timedelta(seconds=19))
    with pytest.raises(RateLimitedError):
        await rig.get()
    assert (rig.sleeps, len(rig.requests)) == ([], 1)
    rig = Rig(503)
    rig.client.end_after(timedelta(seconds=3.0))
    with pytest.raises(ProviderUnavailableError):
        await rig.get()
    assert rig.sleeps == [1.0, 2.0]


async def test_a_wait_that_ends_at_the_deadline_is_made():
    rig = Rig(limited("20"), 200)
    rig.client.end_after(timedelta(seconds=20))
    assert (await rig.get()).status == 200


async def test_another_request_of_the_route_keeps_the_quiet_that_was_asked_for():
    rig = Rig(limited("10800"), 200)
    with pytest.raises(RateLimitedError):
        await rig.get()
    with pytest.raises(RateLimitedError) as caught:
        await rig.get()
    assert caught.value.retry_after == timedelta(hours=3)
    assert len(rig.requests) == 1
    assert (await rig.client.get("others", "/others")).status == 200
    rig.clock.advance(timedelta(hours=2, minutes=59, seconds=30))
    assert (await rig.get()).status == 200
    assert rig.sleeps == [30.0]


async def test_a_quiet_that_passes_the_deadline_is_not_sat_out_by_another_request():
    rig = Rig(limited("40"))
    rig.client.end_after(timedelta(seconds=30))
    for _ in range(2):
        with pytest.raises(RateLimitedError):
            await rig.get()
    assert (rig.sleeps, len(rig.requests)) == ([], 1)


async def test_nothing_is_asked_after_the_deadline_until_the_next_run():
    rig = Rig(200)
    rig.client.end_after(timedelta(seconds=30))
    rig.clock.advance(timedelta(seconds=31))
    with pytest.raises(RateLimitedError, match="accounts.acme.run_minutes"):
        await rig.get()
    assert rig.requests == []
    rig.client.end_after(None)
    assert (await rig.get()).status == 200


async def test_requests_are_spaced_after_a_429_and_free_again_after_enough_good_answers():
    rig = Rig(limited("1"), 200)
    for _ in range(60):
        await rig.get()
    gaps = [later - earlier for earlier, later in zip(rig.starts, rig.starts[1:], strict=False)]
    assert 0.2 < gaps[1] <= 0.25
    assert gaps[-1] == 0.0
    assert gaps[1:] == sorted(gaps[1:], reverse=True)


async def test_calls_stay_within_a_fifth_above_the_pages_when_one_in_ten_is_refused():
    rig = Rig(*[limited("1") if n % 10 == 5 else 200 for n in range(111)], 200)
    for _ in range(100):
        await rig.get()
    assert len(rig.requests) <= 120


async def test_a_body_above_the_limit_is_a_fault_and_not_read_further(monkeypatch):
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    rig = Rig((200, {}, b"x" * 1000), (200, {}, b"x" * 1001))
    assert len((await rig.get()).body) == 1000
    with pytest.raises(ProviderUnavailableError, match="more than 1000 bytes"):
        await rig.get()
    assert len(rig.requests) == 2


async def test_an_attempt_that_never_ends_is_given_up():
    async def never() -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    rig = Rig(never, 200, attempt_seconds=0.01)
    assert (await rig.get()).status == 200
    assert rig.sleeps == [1.0]


@pytest.mark.parametrize("fault", [*NO_ANSWER, 401, 403, 404, 500, 302, limited("90")], ids=str)
async def test_no_error_shows_the_key(fault):
    rig = Rig(fault)
    with pytest.raises(ProviderError) as caught:
        await rig.get()
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


async def test_an_id_that_no_address_can_carry_is_refused():
    rig = Rig(200)
    with pytest.raises(ProviderRefusedError, match="no address can carry"):
        await rig.get(cursor="c" * 70_000)
    assert rig.requests == []


async def test_an_error_keeps_its_cause():
    rig = Rig(httpx.ConnectError("refused"))
    with pytest.raises(ProviderUnavailableError) as caught:
        await rig.get()
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert "accounts.acme.base_url" in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example",
        "ftp://api.example",
        "https://",
        "https://u:p@api.example",
        "https://api.example/?a=1",
        "https://a\x00",
        "https://xn--/v2",
    ],
)
def test_an_address_that_cannot_be_asked_is_a_setting_to_mend(base_url):
    with pytest.raises(ConfigError, match=r"accounts\.acme\.base_url"):
        Rig(200, base_url=base_url)


@pytest.mark.parametrize("value", ["", "sk_a\n", "sk_a\r\nX-Evil: 1", " sk_a", "sk_é", "sk_\x00"])
def test_a_header_value_that_cannot_be_sent_is_refused_without_being_shown(value):
    with pytest.raises(ConfigError) as caught:
        ApiClient(
            "https://api.example",
            {"X-API-Key": value},
            account="acme",
            clock=ManualClock(datetime(2026, 3, 1, tzinfo=UTC)),
            sleep=asyncio.sleep,
        )
    assert "sk_" not in str(caught.value)


async def test_the_machines_proxy_settings_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with SandboxServer(healthy(1)) as served:
        client = ApiClient(
            served.url, {"X-API-Key": KEY}, account="acme", clock=SystemClock(), sleep=asyncio.sleep, attempt_seconds=5
        )
        assert (await client.get("currencies", "/utils/all-available-currencies")).status == 200
        await client.aclose()


async def test_nothing_of_an_answer_goes_back_with_the_next_request():
    """No cookie, no redirect: only what was set for the account leaves this machine."""
    rig = Rig((200, {"Set-Cookie": "session=1; Path=/", "Location": "https://other.example/"}, b"{}"))
    await rig.get()
    await rig.get()
    first, second = (dict(request.headers) for request in rig.requests)
    assert {*first, *second} == {"host", "accept", "accept-encoding", "user-agent", "x-api-key", "x-request-id"}
    assert {name for name in first if first[name] != second[name]} == {"x-request-id"}
    assert first["user-agent"].startswith("subscription-monitor/")


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_body_is_unpacked(encoding, pack):
    rig = Rig((200, {"Content-Encoding": encoding}, pack(b'{"a":1}')))
    assert (await rig.get()).body == b'{"a":1}'


def test_the_trusted_certificates_are_read_once_for_all_accounts(monkeypatch):
    """A thousand accounts would else spend half a minute on it."""
    read = []
    real = httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **how: read.append(how) or real(**how))
    http._trusted.cache_clear()
    for _ in range(3):
        ApiClient("https://api.example", {}, account="acme", clock=SystemClock(), sleep=asyncio.sleep)
    assert read == [{"trust_env": False}]
    assert http._trusted().verify_mode is ssl.CERT_REQUIRED
    assert http._trusted().check_hostname
