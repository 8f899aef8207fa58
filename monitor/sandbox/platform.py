"""The billing platform over HTTP (contract billing-platform): tenant login, payments by offset, its error bodies.

The paths, names and the signature are the contract's assumed ones. Everything else of a request (faults, counters, the
Date header) is as for the other dialects.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from datetime import datetime, timedelta
from typing import Any

from starlette.routing import Route

from monitor.clock import Clock, SystemClock
from monitor.sandbox.faults import Answer, Call, Faults
from monitor.sandbox.serving import Front, Handler, answer, dump
from monitor.sandbox.till import Payment, Till
from monitor.sandbox.v2_query import ApiError, not_found
from monitor.sandbox.v2_shapes import instant

LARGEST_PAGE = 100
WEBHOOK_SECRET = "bp-secret-demo"  # noqa: S105  # the contract's example, good for this simulator only
EVENT_TYPES = {
    "SUCCEEDED": "payment.succeeded",
    "FAILED": "payment.failed",
    "EXPIRED": "payment.expired",
    "CANCELLED": "payment.cancelled",
}


class Platform:
    """The routes of one tenant. What the contract leaves open can be switched."""

    def __init__(self, till: Till, faults: Faults, *, clock: Clock | None = None, prefix: str = "/platform") -> None:
        self.till = till
        self.token_life = timedelta(hours=24)
        self.tells_expiry = True
        """Whether the token names its own `exp`."""
        self.lists_all_users = True
        """Whether a list without `userId` is allowed."""
        self.oldest_first = False
        self.prefix = prefix
        self._faults = faults
        self._clock = clock or SystemClock()
        self._tokens: dict[str, datetime] = {}
        self._numbers = itertools.count(1)
        front = Front(faults, authorize=self._authorize, error_body=_error_body, clock=clock)
        routes: tuple[tuple[str, str, str, Handler], ...] = (
            ("login", "POST", "/auth/login", self._login),
            ("payments", "GET", "/payments", self._payments),
            ("payment", "GET", "/payments/{id}", self._payment),
        )
        self.routes = tuple(
            Route(prefix + path, front.endpoint(name, handle), methods=[method])
            for name, method, path, handle in routes
        )

    def expire_tokens(self) -> None:
        """Every token handed out so far is refused from now on."""
        self._tokens.clear()

    # Routes

    def _authorize(self, call: Call) -> None:
        if call.route == "login":
            return
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        until = self._tokens.get(token)
        if self._faults.revoked or scheme != "Bearer" or until is None or self._clock.now() >= until:
            raise ApiError(401, "unauthorized", "token unknown or expired")

    def _login(self, call: Call) -> Answer:
        try:
            asked = json.loads(call.body)
            who = (asked["tenantId"], asked["tenantSecret"])
        except (ValueError, TypeError, KeyError) as error:
            raise ApiError(400, "bad_request", "tenantId and tenantSecret are needed") from error
        if self._faults.revoked or who != (self.till.tenant_id, self.till.tenant_secret):
            raise ApiError(401, "unauthorized", "unknown tenant or wrong secret")
        until = self._clock.now() + self.token_life
        claims: dict[str, Any] = {"sub": self.till.tenant_id, "n": next(self._numbers)}
        if self.tells_expiry:
            claims["exp"] = int(until.timestamp())
        token = ".".join(_part(part) for part in ({"alg": "HS256", "typ": "JWT"}, claims, "simulated"))
        self._tokens[token] = until
        return answer({"accessToken": token})

    def _payments(self, call: Call) -> Answer:
        user = call.query.get("userId")
        if user is None and not self.lists_all_users:
            raise ApiError(400, "bad_request", "userId is required")
        limit = _number(call, "limit", 20, 1, LARGEST_PAGE)
        offset = _number(call, "offset", 0, 0, 2**31)
        if offset and self._faults.between_pages is not None:
            self._faults.between_pages(1 + -(-offset // limit))
        rows = list(self.till.newest_first(user))
        if self.oldest_first:
            rows.reverse()
        page = rows[offset : offset + limit]
        return Answer(rows=tuple(dump(self._shape(payment)) for payment in page), envelope="data")

    def _payment(self, call: Call) -> Answer:
        payment = self.till.find(call.params["id"])
        if payment is None:
            raise not_found("payment")
        return answer(self._shape(payment))

    def _shape(self, payment: Payment) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "id": self.till.id_of(payment),
            "userId": self.till.user_id(payment.user),
            "amount": payment.amount,
            "currency": payment.currency,
            "status": payment.status,
            "createdAt": instant(payment.created_at),
            "updatedAt": instant(payment.updated_at),
        }
        if payment.order is not None:
            shape["orderId"] = payment.order
        if payment.reason is not None:
            shape["failureReason"] = payment.reason
        return shape


def webhook_of(till: Till, payment: Payment, event_id: str, *, kind: str | None = None) -> bytes:
    """The body that tells of a payment (contract, 2.4); `kind` overrides its event type."""
    data = {"paymentId": till.id_of(payment), "userId": till.user_id(payment.user), "amount": payment.amount}
    event = kind or EVENT_TYPES.get(payment.status, "payment.updated")
    return dump({"eventId": event_id, "eventType": event, "data": data}).encode()


def signature_of(body: bytes, secret: str = WEBHOOK_SECRET) -> str:
    """The value of `X-Webhook-Signature`: lower-case hex of HMAC-SHA256 over the raw body."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _error_body(error: ApiError, _request_id: str) -> object:
    return {"error": str(error)}


def _number(call: Call, name: str, default: int, least: int, most: int) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ApiError(400, "bad_request", f"{name} must be {least} to {most}")
    return int(text)


def _part(value: object) -> str:
    """One part of a JWT. Nobody checks the signature of a token that its holder only hands back."""
    return base64.urlsafe_b64encode(dump(value).encode()).decode().rstrip("=")
