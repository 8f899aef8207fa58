"""API v2 over HTTP (contract v2): a Starlette app that reads a world and bends its answers by `Faults`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from monitor.clock import Clock
from monitor.sandbox import mangle, v2_query
from monitor.sandbox.entities import Subscription
from monitor.sandbox.faults import Answer, Call, Faults
from monitor.sandbox.sender import endpoint_shape
from monitor.sandbox.serving import Front, Handler, answer, dump
from monitor.sandbox.v2_payments import Payments
from monitor.sandbox.v2_query import ApiError, Place, invalid, not_found
from monitor.sandbox.v2_shapes import Shapes
from monitor.sandbox.world import World

_PUBLIC = ("currencies", "currency")


class V2:
    """The routes. Handlers are plain functions of a call; `Front` adds key, faults, headers."""

    def __init__(self, world: World, faults: Faults, *, clock: Clock | None = None, prefix: str = "/v2") -> None:
        self._world = world
        self._faults = faults
        self.shapes = Shapes(world)
        self._paid = Payments(world, self.shapes)
        front = Front(faults, authorize=self._authorize, clock=clock)
        routes: tuple[tuple[str, str, Handler], ...] = (
            ("me", "/me", self._me),
            ("subscriptions", "/transaction/subscriptions", self._subscriptions),
            ("subscription", "/transaction/subscription/{id}", self._subscription),
            ("bills", "/transaction/subscription/{id}/bills", self._bills),
            ("failures", "/transaction/failures", self._failures),
            ("payments", "/transaction/payments/combined", self._payments),
            ("payment", "/transaction/payment/{id}", self._payment),
            ("payment", "/transaction/subscription/bill/{id}", self._payment),
            ("checkout", "/transaction/session-checkout/{id}/status", self._checkout),
            ("products", "/product", self._products),
            ("product", "/product/uuid/{id}", self._product),
            ("customers", "/customer/all", self._customers),
            ("customer", "/customer/uuid/{id}", self._customer),
            ("currencies", "/utils/all-available-currencies", self._currencies),
            ("currency", "/utils/currency/id/{id}", self._currency),
            ("endpoints", "/webhooks/endpoints", self._endpoints),
            ("events", "/webhooks/events", self._events),
            ("event", "/webhooks/events/{id}", self._event),
        )
        self.routes = [Route(prefix + path, front.endpoint(name, handle)) for name, path, handle in routes]
        self.routes.append(Route("/{rest:path}", front.endpoint("unknown", self._unknown), methods=["GET", "POST"]))

    def app(self, *extra: Route) -> Starlette:
        """The ASGI app, with further routes before its own."""
        return Starlette(routes=[*extra, *self.routes])

    def _authorize(self, call: Call) -> None:
        if call.route in _PUBLIC or call.route == "unknown":
            return
        if self._faults.revoked or call.headers.get("x-api-key") != self._world.ids.api_key:
            raise ApiError(401, "unauthorized", "unknown, expired or revoked key")

    def _member(self, call: Call) -> int | None:
        """The member on whose behalf it is asked; 404 for anybody else (contract v2, section 1)."""
        text = call.headers.get("on-behalf-of")
        if text is None:
            return None
        member = self._world.ids.read("member", text.lower())
        if member is None or member >= self._world.merchant.members:
            raise not_found("member")
        return member

    # Routes

    def _unknown(self, _call: Call) -> Answer:
        raise not_found("route")

    def _me(self, call: Call) -> Answer:
        shape, member = self.shapes.me(), self._member(call)
        if member is not None:
            uuid = self._world.ids.member(member)
            shape |= {"role": "user", "onBehalfOf": uuid}
            shape["space"] |= {"uuid": uuid, "userUuid": uuid}
        shape["space"] |= self._faults.me
        return answer(shape)

    def _row(self, sub: Subscription) -> str:
        shape = self.shapes.subscription(sub)
        if self._faults.bend is not None:
            shape = self._faults.bend(shape)
        name = self._faults.mangled.get(self._world.id_of(sub))
        return dump(shape) if name is None else mangle.MANGLES[name].apply(shape)

    def _subscriptions(self, call: Call) -> Answer:
        limit = v2_query.limit_of(call.query, default=20, maximum=100)
        after = v2_query.place_of(call.query.get("cursor"))
        tests = v2_query.filters(self._world, call.query, member=self._member(call))
        if after is not None and self._faults.between_pages is not None:
            self._faults.between_pages(after.page)
        offset = self._faults.paging == "offset"
        place = None if offset else after
        by_change = self._faults.order == "updated"
        order = v2_query.newest_change_first if by_change else v2_query.newest_first
        rows: Iterator[Subscription] = order(self._world, place)
        if offset and after is not None:
            matching = (sub for sub in rows if all(test(sub) for test in tests))
            rows = itertools.islice(matching, after.row, None)
        page, more = v2_query.page_of(rows, tests, limit)
        cursor = self._next(after, page, offset=offset) if more else None
        return Answer(rows=tuple(self._row(sub) for sub in page), next_cursor=cursor)

    @staticmethod
    def _next(after: Place | None, page: Sequence[Subscription], *, offset: bool) -> str:
        number = (after.page if after else 1) + 1
        if offset:
            return Place((after.row if after else 0) + len(page), number).cursor()
        last = page[-1]
        return Place(last.n, number, last.updated_at.isoformat()).cursor()

    def _found(self, call: Call) -> Subscription:
        sub, member = self._world.find(call.params["id"]), self._member(call)
        everybody = v2_query.flag_of(call.query, "includeMembers") and member is None
        if sub is None or not (everybody or sub.member == member):
            raise not_found("subscription")
        return sub

    def _subscription(self, call: Call) -> Answer:
        return Answer(body=self._row(self._found(call)).encode("utf-8", "surrogatepass"))

    def _bills(self, call: Call) -> Answer:
        sub = self._found(call)
        shapes = [self.shapes.bill(sub, bill) for bill in reversed(self._world.bills_of(sub))]
        return _listed(call.query, shapes, default=20, maximum=100)

    def _failures(self, call: Call) -> Answer:
        query = call.query
        if query.get("kind") not in (None, "", "payment", "subscriptionCheckout", "bill"):
            raise invalid("kind", "is not a kind")
        wanted = query.get("subscriptionUuid")
        failures = self._world.failures_of(self._world.find(wanted)) if wanted else self._world.failures
        after_at = v2_query.instant_of(query, "createdAfter")
        before_at = v2_query.instant_of(query, "createdBefore")
        shapes = [
            self.shapes.failure(failure)
            for failure in reversed(failures)
            if query.get("kind") in (None, "", "bill")
            and query.get("category") in (None, "", str(failure.category))
            and (after_at is None or failure.at > after_at)
            and (before_at is None or failure.at < before_at)
        ]
        if query.get("kind") in (None, "", "payment") and not wanted and not query.get("category"):
            shapes += _within(query, self._paid.failures())
            shapes.sort(key=lambda shape: shape["createdAt"], reverse=True)
        if payer := v2_query.uuid_of(query, "customerUuid"):
            shapes = [shape for shape in shapes if shape.get("customerUuid") == payer]
        return _listed(query, shapes, default=10, maximum=50)

    def _payments(self, call: Call) -> Answer:
        rows = _within(call.query, self._paid.combined())
        source, sub = call.query.get("source"), call.query.get("subscriptionUuid")
        payer = v2_query.uuid_of(call.query, "customerUuid")
        kept = [
            row
            for row in rows
            if source in (None, "", row["source"])
            and sub in (None, "", row.get("subscriptionUuid"))
            and payer in (None, "", row.get("customerUuid"))
        ]
        return _listed(call.query, kept, default=10, maximum=50)

    def _payment(self, call: Call) -> Answer:
        wanted = call.params["id"].rpartition("@")[2]
        for row in self._paid.combined():
            if row["uuid"].rpartition("@")[2] == wanted:
                return answer({key: value for key, value in row.items() if key != "source"})
        raise not_found("payment")

    def _checkout(self, call: Call) -> Answer:
        n = self._world.ids.read("payment", call.params["id"])
        if n is None or not 0 <= n < len(self._world.purchases):
            raise not_found("checkout")
        return answer(self._paid.checkout(self._world.purchases[n]))

    def _products(self, call: Call) -> Answer:
        hidden = v2_query.flag_of(call.query, "includeHidden")
        shown = [product for product in self._world.products if product.active or hidden]
        return answer([self.shapes.product(product) for product in shown])

    def _product(self, call: Call) -> Answer:
        n = self._world.ids.read("product", call.params["id"])
        if n is None or n >= len(self._world.products):
            raise not_found("product")
        return answer(self.shapes.product(self._world.products[n]))

    def _customers(self, call: Call) -> Answer:
        email = call.query.get("email", "").lower()
        shapes = [
            self.shapes.customer(customer)
            for customer in reversed(self._world.customers)
            if not customer.deleted and (not email or customer.email == email)
        ]
        return _listed(call.query, shapes, default=10, maximum=100)

    def _customer(self, call: Call) -> Answer:
        n = self._world.ids.read("customer", call.params["id"])
        if n is None or n >= len(self._world.customers) or self._world.customers[n].deleted:
            raise not_found("customer")
        return answer(self.shapes.customer(self._world.customers[n]))

    def _currencies(self, call: Call) -> Answer:
        test = v2_query.flag_of(call.query, "test") or False
        tokens = self._world.currencies if test == self._world.test else []
        return answer([self.shapes.currency(currency) for currency in tokens])

    def _currency(self, call: Call) -> Answer:
        for currency in self._world.currencies:
            if str(currency.id) == call.params["id"]:
                return answer(self.shapes.currency(currency))
        raise not_found("currency")

    def _endpoints(self, _call: Call) -> Answer:
        return answer([endpoint_shape(self._world, one) for one in self._world.endpoints])

    def _events(self, call: Call) -> Answer:
        limit = v2_query.limit_of(call.query, default=20, maximum=100)
        kind, before = call.query.get("type"), call.query.get("cursor")
        last = None
        if before:
            last = self._world.ids.read("event", before)
            if last is None:
                raise invalid("cursor", "is not an event of this space")
        everybody = v2_query.flag_of(call.query, "includeMembers")
        lines = (
            line
            for line in reversed(self._world.happenings)
            if (last is None or line.n < last) and (everybody or line.subscription.member is None)
        )
        shapes = (self.shapes.event(line) for line in lines)
        page = list(itertools.islice((shape for shape in shapes if kind in (None, "", shape["type"])), limit + 1))
        cursor = page[limit - 1]["id"] if len(page) > limit else None
        return Answer(rows=tuple(dump(shape) for shape in page[:limit]), next_cursor=cursor)

    def _event(self, call: Call) -> Answer:
        n = self._world.ids.read("event", call.params["id"])
        for line in reversed(self._world.happenings):
            if line.n == n:
                return answer({**self.shapes.event(line), "deliveries": []})
        raise not_found("event")


def _within(query: Mapping[str, str], shapes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those created between the bounds, which are excluded."""
    after_at = v2_query.instant_of(query, "createdAfter")
    before_at = v2_query.instant_of(query, "createdBefore")
    if after_at is None and before_at is None:
        return list(shapes)
    return [
        shape
        for shape in shapes
        for at in (datetime.fromisoformat(shape["createdAt"]),)
        if (after_at is None or at > after_at) and (before_at is None or at < before_at)
    ]


def _listed(query: Mapping[str, str], shapes: Sequence[dict[str, Any]], *, default: int, maximum: int) -> Answer:
    """A page of a short list; its cursor names the last row that was shown."""
    limit = v2_query.limit_of(query, default=default, maximum=maximum)
    begin, number = 0, 1
    if after := v2_query.place_of(query.get("cursor")):
        known = [n for n, shape in enumerate(shapes) if shape["uuid"] == after.key]
        if not known:
            raise invalid("cursor", "is not valid")
        begin, number = known[0] + 1, after.page
    page = shapes[begin : begin + limit]
    more = begin + limit < len(shapes)
    cursor = Place(0, number + 1, page[-1]["uuid"]).cursor() if more else None
    return Answer(rows=tuple(dump(shape) for shape in page), next_cursor=cursor)
