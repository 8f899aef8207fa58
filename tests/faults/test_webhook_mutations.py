"""Deliveries bent in every way: none is believed, none makes the endpoint fail.

200,000 with `MONITOR_TEST_SCALE` above 1 (nightly), 3,000 by default, against the verifiers; a sample of them over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from monitor.clock import SystemClock
from monitor.config import BillingSettings
from monitor.domain.model import Mode
from monitor.metrics import Meter
from monitor.providers.billing_platform_hooks import BillingPlatformHooks
from monitor.providers.hooks import MAX_BODY_BYTES, HookDialect
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.store.engine import Database
from monitor.usecases.inbox import Addressee, Inbox
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.web.hooks import Door, Hooks
from monitor.web.limiter import Limiter
from tests.hooks import SUB, event, sign_v1, sign_v2
from tests.scale import sized

pytestmark = pytest.mark.faults
MUTATIONS = sized(200_000, 3_000)
OVER_HTTP = sized(5_000, 150)
SECRET = "whsec_acme_0198"
PLATFORM = BillingSettings(tenant_id="t-1")
V1 = {
    "subscriptionUUID": SUB,
    "subscriptionReference": "cust-7 → <gold> & co",
    "previousStatus": "active",
    "currentStatus": "low_on_funds",
    "updatedAt": "2026-04-02T09:00:07Z",
    "price": 12.5,
}
V2 = event("evt_1", "subscription.statusChanged", {"uuid": SUB, "previousStatus": "active", "reference": "Café €"})
BILLING = b'{"eventId":"bpe-900","eventType":"payment.succeeded","data":{"paymentId":"bp-7001","userId":"u-31","amount":4990}}'
Headers = dict[str, str]


def hmac_of(body: bytes) -> str:
    import hashlib
    import hmac

    return hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


class Bender:
    """Bends one genuine delivery; every way of bending is named."""

    def __init__(self, chance: random.Random, headers: Headers, body: bytes, same: Callable[[bytes], bool]) -> None:
        self.chance, self.headers, self.body, self.same = chance, headers, body, same
        self.signed = next(name for name in headers if "signature" in name)
        self.stamped = "x-webhook-timestamp" if "x-webhook-timestamp" in headers else self.signed

    def bend(self) -> tuple[str, Headers, bytes]:
        ways = [name for name in dir(self) if name.startswith(("head_", "body_"))]
        while True:
            way = self.chance.choice(ways)
            headers, body = getattr(self, way)(dict(self.headers), self.body)
            if (headers == self.headers and self.same(body)) or (way.endswith("stamp") and self.stamped not in headers):
                continue
            return way, headers, body

    def place(self, text) -> int:
        return self.chance.randrange(len(text))

    def sign(self, headers: Headers, value: str) -> Headers:
        return {**headers, self.signed: value}

    def head_gone(self, headers, body):
        return {name: value for name, value in headers.items() if name != self.signed}, body

    def head_empty(self, headers, body):
        return self.sign(headers, self.chance.choice(["", " ", ",", "=", "t=,v1=", "sha256="])), body

    def head_one_character(self, headers, body):
        value = headers[self.signed]
        at = len(value) - 1 - self.chance.randrange(64)
        other = self.chance.choice([one for one in "0123456789abcdefABCDEF é" if one != value[at]])
        return self.sign(headers, value[:at] + other + value[at + 1 :]), body

    def head_upper(self, headers, body):
        return self.sign(headers, headers[self.signed][:-64] + headers[self.signed][-64:].upper()), body

    def head_shorter(self, headers, body):
        return self.sign(headers, headers[self.signed][: -self.chance.randint(1, 64)]), body

    def head_other_secret(self, headers, body):
        made = "".join(self.chance.choice("0123456789abcdef") for _ in range(64))
        return self.sign(headers, headers[self.signed][:-64] + made), body

    def head_twice(self, headers, body):
        return self.sign(headers, f"{headers[self.signed]},{headers[self.signed]}"), body

    def head_non_ascii(self, headers, body):
        return self.sign(headers, headers[self.signed][:-64] + "é" * 64), body

    def head_stamp(self, headers, body):
        wrong = [
            "9" * 5000, "-1", "+5", "1e9", "0x10", "١٧٧", "NaN", "", " ", "1.0", str(2**63), str(2**63 - 1),
            str(int(datetime.now(UTC).timestamp()) - 301 - self.chance.randrange(10**6)),
            str(int(datetime.now(UTC).timestamp()) + 310 + self.chance.randrange(10**6)),
        ]  # fmt: skip
        stamp = self.chance.choice(wrong)
        if self.stamped == self.signed:
            return self.sign(headers, f"t={stamp},{headers[self.signed].partition(',')[2]}"), body
        return {**headers, self.stamped: stamp}, body

    def head_two_stamps(self, headers, body):
        value = headers[self.stamped]
        first = value.partition(",")[0]
        return {**headers, self.stamped: f"{first},{value}"}, body

    def body_flip(self, headers, body):
        at = self.place(body)
        return headers, body[:at] + bytes([body[at] ^ (1 << self.chance.randrange(8))]) + body[at + 1 :]

    def body_cut(self, headers, body):
        return headers, body[: self.place(body)]

    def body_longer(self, headers, body):
        at = self.place(body)
        return headers, body[:at] + self.chance.choice([b"1", b"x", b"\0", b"\xff", b",", b"\xed\xa0\x80"]) + body[at:]

    def body_surrogate(self, headers, body):
        return headers, body.replace(b'"active"', b'"\\ud800"').replace(b"4990", b'"\\udfff"')

    def body_number(self, headers, body):
        number = self.chance.choice([b"1e999", b"-0.0", b"NaN", b"9" * 5000, b"1E400", b"12.500000001"])
        return headers, body.replace(b"12.5", number).replace(b'"active"', number).replace(b"4990", number)

    def body_nested(self, headers, body):
        depth = self.chance.choice([500, 5_000, 100_000])
        return headers, b"[" * depth + body + b"]" * self.chance.choice([0, depth])

    def body_large(self, headers, body):
        return headers, body + b" x" * self.chance.choice([50_000, MAX_BODY_BYTES // 2])

    def body_other(self, headers, body):
        return headers, self.chance.choice([b"", b"{}", b"null", b"[]", b"\xef\xbb\xbf" + body, body + body])


def same_json(body: bytes) -> bool:
    """What API v1 signs does not change with spaces or the order of keys."""
    try:
        return json.loads(body) == V1
    except (ValueError, RecursionError):
        return False


def benders(chance: random.Random, now: datetime) -> list[tuple[HookDialect, Bender]]:
    v1, flow, platform = json.dumps(V1).encode(), QBitFlowHooks([SECRET]), BillingPlatformHooks([SECRET], PLATFORM)
    made = [
        (flow, Bender(chance, sign_v2(V2, now, SECRET), V2, V2.__eq__)),
        (flow, Bender(chance, sign_v1(V1, now, SECRET), v1, same_json)),
        (platform, Bender(chance, {"x-webhook-signature": hmac_of(BILLING)}, BILLING, BILLING.__eq__)),
    ]
    for dialect, bender in made:
        assert dialect.refusal(bender.headers, bender.body, now) is None
    return made


def test_no_bent_delivery_is_believed_and_none_is_a_crash():
    chance, now = random.Random(20260402), datetime.now(UTC)
    made, ways = benders(chance, now), Counter()
    for _ in range(MUTATIONS):
        dialect, bender = chance.choice(made)
        way, headers, body = bender.bend()
        ways[way] += 1
        assert dialect.refusal(headers, body, now) is not None, (way, headers, body[:300])
    assert len(ways) == len([name for name in dir(Bender) if name.startswith(("head_", "body_"))])


async def test_over_http_each_is_refused_and_the_endpoint_lives_on(sqlite_url: str):
    chance, clock, db = random.Random(7), SystemClock(), Database(sqlite_url)
    doors = {
        name: Door(Addressee(name, name, "live"), dialect, Mode.LIVE)
        for name, dialect in (("acme", QBitFlowHooks([SECRET])), ("shop", BillingPlatformHooks([SECRET], PLATFORM)))
    }
    hooks = Hooks(doors, Inbox(db, clock), clock, Meter(), limiter=Limiter(most=10**9))
    made = benders(chance, clock.now())
    codes: Counter[int] = Counter()
    async with (
        served(build_app(Site(db, (), clock, Meter(), hooks)), "127.0.0.1:0") as at,
        httpx.AsyncClient() as client,
    ):

        async def send(bender: Bender) -> None:
            _, headers, body = bender.bend()
            raw = [(name, value.strip().encode("utf-8", "surrogatepass")) for name, value in headers.items()]
            name = "shop" if bender is made[2][1] else "acme"
            codes[(await client.post(f"{at}/hooks/{name}", content=body, headers=raw)).status_code] += 1

        for _ in range(OVER_HTTP // 10):
            await asyncio.gather(*(send(chance.choice(made)[1]) for _ in range(10)))
        genuine = made[0][1]
        fine = await client.post(f"{at}/hooks/acme", content=genuine.body, headers=genuine.headers)
    assert set(codes) <= {401, 413}
    assert codes[401] > codes[413] > 0
    assert fine.status_code == 200
    await db.aclose()
