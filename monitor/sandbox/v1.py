"""API v1 over HTTP (contract v1), beside v2 on the same world: it cannot list subscriptions."""

from __future__ import annotations

from datetime import timedelta

from starlette.routing import Route

from monitor.clock import Clock
from monitor.sandbox import acts, mangle, v2_query
from monitor.sandbox.entities import Reason, Status, Subscription
from monitor.sandbox.faults import Answer, Call, Faults
from monitor.sandbox.serving import Front, Handler, answer, dump
from monitor.sandbox.v1_office import Office, listed
from monitor.sandbox.v1_shapes import FIRST_MEMBER, FIRST_PRODUCT, Shapes
from monitor.sandbox.v2_query import ApiError, not_found
from monitor.sandbox.world import World

_PUBLIC = ("currencies", "main_currencies", "history", "status", "refund_of", "unknown")
_QUEUE = timedelta(minutes=1)
_RENAMED = {"subscriptionStatus": "status", "customerUUID": "customerUuid"}


def error_of_v1(error: ApiError, _request_id: str) -> object:
    """The body of contract v1, section 5: field errors with names in PascalCase, else one sentence."""
    fields = error.details.get("errors")
    if fields:
        return {"errors": [{"field": one["field"].capitalize(), "message": one["message"]} for one in fields]}
    return {"error": str(error)}


class V1:
    """The routes of API v1."""

    def __init__(self, world: World, faults: Faults, *, clock: Clock | None = None, prefix: str = "/v1") -> None:
        self._world = world
        self._faults = faults
        self.shapes = Shapes(world)
        self._combined_rows: tuple[tuple[int, int, int], list[str]] = ((-1, -1, -1), [])
        front = Front(faults, authorize=self._authorize, error_body=error_of_v1, clock=clock)
        routes: tuple[tuple[str, str, Handler], ...] = (
            ("user", "/user/", self._user),
            ("subscription", "/transaction/subscription/{id}", self._subscription),
            ("subscription", "/transaction/subscription/reference/subscription/{reference}", self._by_reference),
            ("history", "/transaction/subscription/history/{id}", self._history),
            ("force_cancel", "/transaction/subscription/processing/force-cancel/{id}", self._force_cancel),
            ("execute_billing", "/transaction/subscription/processing/execute-billing/{id}", self._execute_billing),
            ("combined", "/transaction/payments/combined", self._combined),
            ("customer_of", "/transaction/customer/{id}", self._customer_of),
            ("customers", "/customer/all", self._customers),
            ("customer", "/customer/uuid/{id}", self._customer),
            ("products", "/product/", self._products),
            ("product", "/product/id/{id}", self._product),
            ("currencies", "/utils/all-available-currencies", self._currencies),
            ("main_currencies", "/utils/all-main-currencies", self._currencies),
            ("status", "/transaction/status", self._status),
            *Office(world, self.shapes, self._member).routes,
        )
        self.routes = [Route(prefix + path, front.endpoint(name, handle)) for name, path, handle in routes]
        self.routes.append(Route(prefix + "/{rest:path}", front.endpoint("unknown", self._unknown)))

    def _authorize(self, call: Call) -> None:
        if call.route in _PUBLIC:
            return
        if self._faults.revoked or call.headers.get("x-api-key") != self._world.ids.api_key:
            raise ApiError(401, "", "invalid API key")

    def _member(self, call: Call) -> int | None:
        """The member on whose behalf it is asked: 400 for 0, 404 for a stranger (contract v1, section 1)."""
        text = call.headers.get("on-behalf-of")
        if text is None:
            return None
        if not text.isdecimal() or int(text) == 0:
            raise ApiError(400, "", "On-Behalf-Of must be a user id")
        member = int(text) - FIRST_MEMBER
        if not 0 <= member < self._world.merchant.members:
            raise not_found("resource")
        return member

    # Routes

    def _unknown(self, _call: Call) -> Answer:
        raise not_found("resource")

    def _user(self, call: Call) -> Answer:
        return answer({**self.shapes.user(self._member(call)), **self._faults.v1_user})

    def _found(self, call: Call) -> Subscription:
        sub = self._world.find(call.params["id"])
        hidden = sub is not None and sub.status is Status.CANCELLED and self._faults.v1_cancelled_gone
        if sub is None or hidden or sub.member != self._member(call):
            raise not_found("resource")
        return sub

    def _row(self, sub: Subscription) -> Answer:
        shape = self.shapes.subscription(sub)
        if self._faults.v1_number_amounts:
            shape["allowance"] = float(shape["allowance"])
        if self._faults.bend is not None:
            shape = self._faults.bend(shape)
        name = self._faults.mangled.get(self._world.id_of(sub))
        if name is None:
            return answer(shape)
        text = mangle.MANGLES[name].apply({_RENAMED.get(key, key): value for key, value in shape.items()})
        for ours, theirs in _RENAMED.items():  # the damages are named after v2's keys
            text = text.replace(f'"{theirs}":', f'"{ours}":')
        return Answer(body=text.encode("utf-8", "surrogatepass"))

    def _subscription(self, call: Call) -> Answer:
        return self._row(self._found(call))

    def _by_reference(self, call: Call) -> Answer:
        wanted, member = call.params["reference"], self._member(call)
        for sub in self._world.living():
            if sub.reference == wanted and sub.member == member:
                return self._row(sub)
        raise not_found("resource")

    def _history(self, call: Call) -> Answer:
        """Public, not paged, and `[]` for an id that nobody knows."""
        sub = self._world.find(call.params["id"])
        bills = [] if sub is None else [self.shapes.bill(sub, bill) for bill in self._world.bills_of(sub)]
        if call.headers.get("x-api-key") != self._world.ids.api_key:
            bills = [{key: value for key, value in bill.items() if key != "customerUUID"} for bill in bills]
        return answer(bills)

    def _force_cancel(self, call: Call) -> Answer:
        """A GET that cancels: the status changes a minute later."""
        sub = self._found(call)

        def end(world: World) -> None:
            if sub.status is not Status.CANCELLED:
                acts.cancel(world, sub, Reason.MERCHANT)

        self._world.at(self._world.now + _QUEUE, end)
        return answer({"message": "cancellation queued"})

    def _execute_billing(self, call: Call) -> Answer:
        """A GET that bills, in test mode, when a bill is due."""
        sub = self._found(call)
        if not self._world.test:
            raise ApiError(400, "", "only in test mode")
        if sub.next_billing_at is None or sub.next_billing_at > self._world.now:
            raise ApiError(409, "", "the subscription is not due")
        return answer({"message": "billing executed"})

    def _combined(self, call: Call) -> Answer:
        """Bills and one-time payments, newest first; also of subscriptions that no read shows any more."""
        world = self._world
        paid = [purchase for purchase in world.purchases if purchase.paid_at is not None]
        state = (world.bills_paid, len(world.subscriptions), len(paid))
        if self._combined_rows[0] != state:
            bills = [(bill, sub) for sub in world.subscriptions for bill in world.bills_of(sub)]
            rows = [(bill.at, bill.n, self.shapes.combined_bill(sub, bill)) for bill, sub in bills]
            rows += [(one.paid_at or one.created_at, one.n, self.shapes.combined_payment(one)) for one in paid]
            rows.sort(key=lambda one: one[:2], reverse=True)
            self._combined_rows = (state, [dump(row) for _, _, row in rows])
        return listed(call, self._combined_rows[1], default=10, maximum=50)

    def _customer_of(self, call: Call) -> Answer:
        n = self._world.ids.read("payment", call.params["id"])
        bought = n is not None and n < len(self._world.purchases)
        customer = (self._world.purchases[n or 0] if bought else self._found(call)).customer
        if customer is None:
            raise not_found("resource")
        return answer(self.shapes.customer(customer))

    def _customers(self, call: Call) -> Answer:
        shown = [one for one in reversed(self._world.customers) if not one.deleted]
        return listed(call, [dump(self.shapes.customer(one)) for one in shown], default=10, maximum=100)

    def _customer(self, call: Call) -> Answer:
        n = self._world.ids.read("customer", call.params["id"])
        if n is None or n >= len(self._world.customers) or self._world.customers[n].deleted:
            raise not_found("resource")
        return answer(self.shapes.customer(self._world.customers[n]))

    def _products(self, _call: Call) -> Answer:
        return answer([self.shapes.product(product) for product in self._world.products])

    def _product(self, call: Call) -> Answer:
        text = call.params["id"]
        n = int(text) - FIRST_PRODUCT if text.isdecimal() else -1
        if not 0 <= n < len(self._world.products):
            raise not_found("resource")
        return answer(self.shapes.product(self._world.products[n]))

    def _currencies(self, call: Call) -> Answer:
        test = v2_query.flag_of(call.query, "test") or False
        tokens = self._world.currencies if test == self._world.test else []
        shown = [token for token in tokens if token.main is None or call.route == "currencies"]
        return answer([self.shapes.currency(currency) for currency in shown])

    def _status(self, call: Call) -> Answer:
        """Of a checkout: a subscription's is done once the subscription exists."""
        ext_id = call.query.get("txUUID", "")
        sub, n = self._world.find(ext_id), self._world.ids.read("payment", ext_id)
        if sub is not None:
            return answer(self.shapes.settled(sub))
        if n is None or n >= len(self._world.purchases):
            raise not_found("resource")
        return answer(self.shapes.stand(self._world.purchases[n]))
