"""What API v1 tells beside subscriptions: payments, people, keys, checkouts, refunds, the export (contract v1, 3).

The monitor asks for little of it. It is served so that any client of the vendor's finds all of v1 here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import date

from monitor.sandbox import v2_query
from monitor.sandbox.entities import Purchase, Subscription
from monitor.sandbox.faults import Answer, Call
from monitor.sandbox.serving import Handler, answer, dump
from monitor.sandbox.v1_shapes import ORGANIZATION, Json, Shapes
from monitor.sandbox.v2_query import Place, invalid, not_found
from monitor.sandbox.world import World


class Office:
    """Routes of these reads; `member` tells on whose behalf a call is made, None for the organization."""

    def __init__(self, world: World, shapes: Shapes, member: Callable[[Call], int | None]) -> None:
        self._world = world
        self._shapes = shapes
        self._member = member
        self.routes: tuple[tuple[str, str, Handler], ...] = (
            ("payments", "/transaction/payments", self._payments),
            ("payment", "/transaction/payment/{id}", self._payment),
            ("payment", "/transaction/payment/reference/{reference}", self._payment),
            ("checkout", "/transaction/session-checkout/{id}", self._checkout),
            ("customer_by", "/customer/reference/{reference}", self._customer),
            ("customer_by", "/customer/email/{email}", self._customer),
            ("product_by", "/product/reference/{reference}", self._product),
            ("users", "/user/all", self._users),
            ("user_by", "/user/id/{id}", self._user),
            ("user_by", "/user/email/{email}", self._user),
            ("keys", "/api-key/", self._keys),
            ("keys", "/api-key/user/{id}", self._keys),
            ("refunds", "/transaction/refunds/all", lambda _call: answer([])),
            ("refunds", "/transaction/refunds/all/inactive", lambda call: listed(call, [], default=10, maximum=50)),
            ("refund_of", "/transaction/refunds/by-transaction/{id}", _nothing),
            ("export", "/accounting/export", self._export),
        )

    def _paid(self) -> list[Purchase]:
        return [one for one in reversed(self._world.purchases) if one.paid_at is not None]

    def _payments(self, call: Call) -> Answer:
        return listed(call, [dump(self._shapes.payment(one)) for one in self._paid()], default=10, maximum=50)

    def _payment(self, call: Call) -> Answer:
        n = self._world.ids.read("payment", call.params.get("id", ""))
        wanted = call.params.get("reference")
        for purchase in self._paid():
            if purchase.n == n or (wanted is not None and purchase.reference == wanted):
                return answer(self._shapes.payment(purchase))
        return _nothing(call)

    def _checkout(self, call: Call) -> Answer:
        sub = self._world.find(call.params["id"])
        return _nothing(call) if sub is None else answer(self._shapes.checkout(sub))

    def _customer(self, call: Call) -> Answer:
        for customer in self._world.customers:
            named = call.params in ({"reference": customer.reference}, {"email": customer.email})
            if named and not customer.deleted:
                return answer(self._shapes.customer(customer))
        return _nothing(call)

    def _product(self, call: Call) -> Answer:
        for product in self._world.products:
            if product.reference == call.params["reference"]:
                return answer(self._shapes.product(product))
        return _nothing(call)

    def _everybody(self) -> list[Json]:
        return [self._shapes.user(member) for member in (None, *range(self._world.merchant.members))]

    def _users(self, _call: Call) -> Answer:
        return answer(self._everybody())

    def _user(self, call: Call) -> Answer:
        for user in self._everybody():
            if call.params in ({"id": str(user["id"])}, {"email": user["email"]}):
                return answer(user)
        return _nothing(call)

    def _keys(self, call: Call) -> Answer:
        """The one key there is; it belongs to the owner."""
        owner = self._shapes.user(None)
        if call.params.get("id", str(owner["id"])) != str(owner["id"]) or self._member(call) is not None:
            return answer([])
        key = {
            "id": 1,
            "name": "monitor",
            "organizationId": ORGANIZATION,
            "userId": owner["id"],
            "createdAt": owner["createdAt"],
            "role": owner["role"],
            "test": self._world.test,
        }
        return answer([key])

    def _export(self, call: Call) -> Answer:
        """Bills and payments of these days, both included, oldest first; no row names its subscription."""
        first, last = (_day(call, name) for name in ("from", "to"))
        world, shapes = self._world, self._shapes
        rows = [
            (bill.at, self._line("subscriptionHistory", shapes.bill(sub, bill), sub))
            for sub in world.subscriptions
            for bill in world.bills_of(sub)
        ]
        rows += [
            (one.paid_at or one.created_at, self._line("payment", shapes.payment(one), one)) for one in self._paid()
        ]
        shown = [line for at, line in sorted(rows, key=lambda one: one[0]) if first <= at.date() <= last]
        if call.query.get("format") != "csv":
            return answer(shown)
        text = io.StringIO()
        table = csv.DictWriter(text, list(shown[0] if shown else ("paymentId",)))
        table.writeheader()
        table.writerows(shown)
        return Answer(body=text.getvalue().encode(), headers={"Content-Type": "text/csv"})

    def _line(self, kind: str, row: Json, sold: Subscription | Purchase) -> Json:
        product, customer = sold.product, sold.customer
        currency, amount, usd = row["currency"], row["amountMinUnits"], row["amount"]
        return {
            "paymentId": row["uuid"],
            "paymentReference": row.get("reference", ""),
            "type": kind,
            "txTimeUtc": row["createdAt"],
            "receiptUrl": "",
            "relatedPaymentId": "",
            "relatedPaymentReference": "",
            "productId": self._shapes.product(product)["id"],
            "productReference": product.reference,
            "productName": product.name,
            "productDescription": product.description,
            "customerUUID": row.get("customerUUID", ""),
            "customerReference": (customer.reference if customer else None) or "",
            "chain": currency.get("mainCurrency", currency)["name"],
            "blockNumberOrSlot": "1000000",
            "txHash": row["transactionHash"],
            "fromAddress": row["from"],
            "toAddress": row["to"],
            "tokenSymbol": currency["symbol"],
            "currencyDecimals": currency["decimals"],
            "tokenContractOrMint": currency["address"],
            "explorerUrl": "",
            "grossAmount": amount,
            "grossAmountUsd": usd,
            "platformFeePercent": 0,
            "platformFeeUsd": 0,
            "platformFee": "0",
            "organizationFeePercent": 0,
            "organizationFeeUsd": 0,
            "organizationFee": "0",
            "networkFeesUsd": 0,
            "networkFees": "0",
            "netAmountUsd": usd,
            "netAmount": amount,
        }


def listed(call: Call, rows: Sequence[str], *, default: int, maximum: int) -> Answer:
    """A page; its cursor names a place, which the contract does not forbid: what comes meanwhile shifts rows."""
    limit = v2_query.limit_of(call.query, default=default, maximum=maximum)
    after = v2_query.place_of(call.query.get("cursor"))
    begin, page = (after.row, after.page) if after else (0, 1)
    more = begin + limit < len(rows)
    cursor = Place(begin + limit, page + 1).cursor() if more else None
    return Answer(rows=tuple(rows[begin : begin + limit]), next_cursor=cursor)


def _nothing(_call: Call) -> Answer:
    raise not_found("resource")


def _day(call: Call, name: str) -> date:
    try:
        return date.fromisoformat(call.query.get(name, ""))
    except ValueError as error:
        raise invalid(name, "must be a day, as 2026-04-01") from error
