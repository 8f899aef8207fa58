"""Sends what happens in a world as webhooks, as the vendors do: at least once, signed, in no promised order.

The bodies and signatures are made here from the contracts alone, so that they judge the product's verifier.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from monitor.clock import Clock, SystemClock
from monitor.sandbox import v1_shapes, v2_shapes
from monitor.sandbox.entities import Endpoint, Happening, Topic
from monitor.sandbox.v2_payments import Payments
from monitor.sandbox.world import World

DISABLED_AFTER = timedelta(days=3)
"""Contract v2, 5.1."""
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Manner:
    """How a sender behaves. Shares are of 1; what is late comes with a later call of `send`."""

    repeats: float = 0.3
    late: float = 0.2
    shuffled: bool = True
    seed: int = 1


PUNCTUAL = Manner(repeats=0, late=0, shuffled=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One body on its way; it is signed anew at each attempt."""

    kind: str
    hook_id: str
    value: Any
    body: bytes


class HookSender:
    """Sends to one endpoint. `secrets`: all of them sign, as in a rotation; `version`: `v2`, or `v1` for its bodies."""

    def __init__(
        self,
        world: World,
        url: str,
        secrets: Sequence[str],
        *,
        version: str = "v2",
        manner: Manner | None = None,
        clock: Clock | None = None,
    ) -> None:
        """The endpoint is registered in the world. Nothing of what has happened before is sent."""
        self.endpoint = Endpoint(url, len(world.endpoints))
        world.endpoints.append(self.endpoint)
        self._world = world
        self._secrets = tuple(secrets)
        self._version = version
        self._manner = manner or Manner()
        self._clock = clock or SystemClock()
        self._dice = random.Random(self._manner.seed)  # noqa: S311  # a simulation that repeats
        self._next = world.happenings[-1].n + 1 if world.happenings else 0
        self._payments = Payments(world, v2_shapes.Shapes(world))
        self._ended = set(self._payments.ended())
        self._waiting: list[Delivery] = []
        self._client = httpx.AsyncClient(timeout=30)

    @property
    def waiting(self) -> int:
        """Deliveries that are late, or were not answered with 2xx."""
        return len(self._waiting)

    async def send(self, *, all_of_it: bool = False) -> Counter[int]:
        """Send what happened since the last call, and what waits; counts the answers, 0 for none.

        `all_of_it`: nothing is held back as late.
        """
        if self.endpoint.disabled_at is not None:
            return Counter()
        due = [*self._waiting, *(one for line in self._lines() for one in self._deliveries(line)), *self._paid()]
        self._waiting = []
        if not all_of_it:
            late = [one for one in due if self._dice.random() < self._manner.late]
            due = [one for one in due if one not in late]
            self._waiting = late
        due = [one for one in due for _ in range(1 + (self._dice.random() < self._manner.repeats))]
        if self._manner.shuffled:
            self._dice.shuffle(due)
        return await self._post_all(due)

    async def send_test(self) -> int:
        """The dashboard's test delivery; returns the answer's status."""
        if self._version == "v1":
            made = _delivery("test", "test-webhook-id", {"subscriptionUUID": "test", "type": "test", "data": {}})
        else:
            event_id = f"evt_test-{self._dice.randrange(10**9)}"
            envelope = {
                "id": event_id,
                "type": "webhook.test",
                "version": "v2",
                "createdAt": v2_shapes.instant(self._world.now),
                "test": self._world.test,
                "data": {"endpointUuid": str(self.endpoint.n), "message": "ping"},
            }
            made = _delivery("webhook.test", event_id, envelope)
        return await self._post(made)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _lines(self) -> list[Happening]:
        lines = [line for line in self._world.happenings if line.n >= self._next]
        self._next += len(lines)
        return lines

    def _deliveries(self, line: Happening) -> Iterable[Delivery]:
        if self._version == "v2":
            event = v2_shapes.Shapes(self._world).event(line)
            return [_delivery(event["type"], event["id"], event)]
        value = self._v1_value(line)
        return [] if value is None else [_delivery("v1", self._world.id_of(line.subscription), value)]

    def _paid(self) -> list[Delivery]:
        """One-off payments that ended since the last call; v1's own shape of them is not served."""
        fresh = [one for one in self._payments.ended() if one not in self._ended]
        self._ended.update(fresh)
        events = [self._payments.event(n, completed=completed) for n, completed in fresh]
        return [_delivery(event["type"], event["id"], event) for event in events] if self._version == "v2" else []

    def _v1_value(self, line: Happening) -> dict[str, Any] | None:
        """A transaction, or a subscription's delivery in either shape, by turns (contract v1, 7.1 and 7.2)."""
        sub, ext_id = line.subscription, self._world.id_of(line.subscription)
        about = {"subscriptionUUID": ext_id, "subscriptionReference": sub.reference or ""}
        if line.topic is Topic.CREATED:
            link = f"{self._world.merchant.link_base}/manage?uuid={ext_id}"
            shapes = v1_shapes.Shapes(self._world)
            return {
                "uuid": ext_id,
                "status": shapes.settled(sub),
                "session": shapes.checkout(sub),
                "txType": "createSubscription",
                "managementPageLink": link,
            }
        if line.topic is Topic.BILLED and line.bill is not None:
            return {**about, "type": "billing", "data": v1_shapes.Shapes(self._world).bill(sub, line.bill)}
        if line.topic not in (Topic.STATUS_CHANGED, Topic.ACTION_CHANGED):
            return None
        before = (line.previous_status, None) if line.previous_status else (sub.status, line.previous_action)
        change = {
            "previousStatus": v1_shapes.word_of(*before),
            "currentStatus": v1_shapes.status_of(sub),
            "updatedAt": v2_shapes.instant(line.at),
        }
        return {**about, **change} if line.n % 2 else {**about, "type": "status_transition", "data": change}

    async def _post_all(self, due: Sequence[Delivery]) -> Counter[int]:
        answers: Counter[int] = Counter()
        for start in range(0, len(due), _AT_ONCE):
            some = due[start : start + _AT_ONCE]
            codes = await asyncio.gather(*map(self._post, some))
            answers.update(codes)
            failed = [one for one, code in zip(some, codes, strict=True) if not 200 <= code < 300]
            self._waiting += [one for one in failed if one not in self._waiting]
        if answers:
            self._note(well=not self._waiting or any(200 <= code < 300 for code in answers))
        return answers

    async def _post(self, delivery: Delivery) -> int:
        headers = {"Content-Type": "application/json", **self._signed(delivery)}
        try:
            return (await self._client.post(self.endpoint.url, content=delivery.body, headers=headers)).status_code
        except httpx.HTTPError:
            return 0

    def _signed(self, delivery: Delivery) -> dict[str, str]:
        stamp = str(int(self._clock.now().timestamp()))
        if self._version == "v1":
            signature = _mac(self._secrets[0], stamp, canonical(delivery.value).encode())
            return {
                "X-Webhook-Signature-256": f"sha256={signature}",
                "X-Webhook-Timestamp": stamp,
                "X-Webhook-Id": delivery.hook_id,
            }
        signatures = [f"v1={_mac(secret, stamp, delivery.body)}" for secret in self._secrets]
        return {
            "QBitFlow-Signature": ",".join([f"t={stamp}", *signatures]),
            "QBitFlow-Event-Id": delivery.hook_id,
            "QBitFlow-Event-Type": delivery.kind,
            "QBitFlow-Webhook-Version": "v2",
        }

    def _note(self, *, well: bool) -> None:
        """What the vendor keeps about an endpoint: since when it fails, and that it is given up after three days."""
        now, endpoint = self._world.now, self.endpoint
        if well:
            endpoint.failing_since_at, endpoint.delivered_at = None, now
            return
        endpoint.failing_since_at = endpoint.failing_since_at or now
        if now - endpoint.failing_since_at >= DISABLED_AFTER:
            endpoint.disabled_at, endpoint.disabled_reason = now, "failing"


def canonical(value: object) -> str:
    """What API v1 signs, for values whose numbers are short (contract v1, 7.3)."""
    text = json.dumps(_with_whole_numbers(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def endpoint_shape(world: World, endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as `GET /webhooks/endpoints` shows it (contract v2, section 5)."""
    times: Iterable[tuple[str, datetime | None]] = (
        ("disabledAt", endpoint.disabled_at),
        ("failingSince", endpoint.failing_since_at),
        ("lastDeliveredAt", endpoint.delivered_at),
    )
    shape: dict[str, Any] = {
        "uuid": world.ids.endpoint(endpoint.n),
        "test": world.test,
        "url": endpoint.url,
        "events": [],
        "includeMembers": False,
        "payloadVersion": "v2",
        "description": "",
        "createdAt": v2_shapes.instant(world.now),
    }
    shape |= {name: v2_shapes.instant(at) for name, at in times if at is not None}
    return shape if endpoint.disabled_reason is None else {**shape, "disabledReason": endpoint.disabled_reason}


def _delivery(kind: str, hook_id: str, value: Any) -> Delivery:
    return Delivery(kind, hook_id, value, json.dumps(value, ensure_ascii=False).encode())


def _mac(secret: str, stamp: str, message: bytes) -> str:
    return hmac.new(secret.encode(), f"{stamp}.".encode() + message, hashlib.sha256).hexdigest()
