"""The sandbox over real HTTP and SMTP: what it serves, and that each fault switch does what it says."""

import asyncio
import json
import smtplib
import socket
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime
from itertools import pairwise

import httpx
import pytest

from monitor.clock import ManualClock
from monitor.sandbox import acts, faults
from monitor.sandbox.chain import Category
from monitor.sandbox.control import routes as control_routes
from monitor.sandbox.entities import Action, Merchant, Status
from monitor.sandbox.mailbox import MailCatcher
from monitor.sandbox.mangle import MANGLES
from monitor.sandbox.seeding import DEFAULT_START, healthy, traps
from monitor.sandbox.serve import serve
from monitor.sandbox.server import SandboxServer, in_thread
from monitor.sandbox.transitions import cause
from monitor.sandbox.v2_shapes import camel, instant

LIST = "/transaction/subscriptions"


class Api:
    """A served world and a client that has its key."""

    def __init__(self, server, client):
        self.server, self.client = server, client
        self.world, self.faults = server.world, server.faults

    async def get(self, path, **params):
        headers = params.pop("headers", {})
        return await self.client.get(self.server.url + path, params=params, headers=headers)

    async def walk(self, path=LIST, **params):
        """All rows, page by page, and how many pages there were."""
        rows, pages = [], 0
        while True:
            body = (await self.get(path, **params)).raise_for_status().json()
            rows += body["items"]
            pages += 1
            if not body["nextCursor"]:
                return rows, pages
            params["cursor"] = body["nextCursor"]

    async def ids(self, **params):
        rows, _ = await self.walk(**params)
        return [row["uuid"] for row in rows]


class Serving:
    """`async with Serving(world) as api`."""

    def __init__(self, world, **how):
        self.server = SandboxServer(world, **how)

    async def __aenter__(self):
        await self.server.start()
        key = {"X-API-Key": self.server.world.ids.api_key}
        self.client = httpx.AsyncClient(headers=key, timeout=10, trust_env=False)
        return Api(self.server, self.client)

    async def __aexit__(self, *_):
        await self.client.aclose()
        await self.server.close()


@pytest.fixture
async def api():
    async with Serving(healthy(120, trials=5)) as serving:
        yield serving


# The key, the clock, ids of requests


async def test_me_tells_space_and_mode():
    async with Serving(healthy(1, merchant=Merchant(name="Nord & Co", mode="test"))) as api:
        me = (await api.get("/me")).json()
        assert me["role"] == "admin"
        assert me["space"]["uuid"] == api.world.ids.space
        assert (me["space"]["test"], me["space"]["organizationName"]) == (True, "Nord & Co")


async def test_a_wrong_or_missing_key_is_401_on_every_route_but_the_public_ones(api):
    for path in ("/me", LIST, "/product", "/customer/all", "/transaction/failures", "/webhooks/events"):
        answer = await api.get(path, headers={"X-API-Key": "sk_wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    async with httpx.AsyncClient(trust_env=False) as stranger:
        assert (await stranger.get(api.server.url + "/me")).status_code == 401
        assert (
            await stranger.get(api.server.url + "/utils/all-available-currencies", params={"test": "false"})
        ).status_code == 200


async def test_a_revoked_key_is_401(api):
    api.faults.revoked = True
    assert (await api.get("/me")).status_code == 401
    api.faults.clear()
    assert (await api.get("/me")).status_code == 200


async def test_another_space_or_mode_can_be_shown(api):
    api.faults.me = {"uuid": "another", "test": True}
    space = (await api.get("/me")).json()["space"]
    assert (space["uuid"], space["test"], space["organizationName"]) == ("another", True, "Acme")


async def test_the_date_header_is_the_clock_and_its_skew():
    clock = ManualClock(datetime(2026, 5, 1, 12, tzinfo=UTC))
    async with Serving(healthy(1), clock=clock) as api:
        assert (await api.get("/me")).headers["Date"] == "Fri, 01 May 2026 12:00:00 GMT"
        api.faults.clock_skew = timedelta(minutes=-6)
        assert (await api.get("/me")).headers["Date"] == "Fri, 01 May 2026 11:54:00 GMT"


async def test_the_date_header_is_wall_time_when_nothing_is_said(api):
    told = parsedate_to_datetime((await api.get("/me")).headers["Date"])
    assert abs(told - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_request_id_is_echoed_in_header_and_error(api):
    answer = await api.get("/nowhere", headers={"X-Request-Id": "run-7.a"})
    assert answer.status_code == 404
    assert answer.headers["X-Request-Id"] == answer.json()["requestId"] == "run-7.a"
    assert answer.json()["code"] == "not_found"


async def test_a_malformed_request_id_is_replaced(api):
    answer = await api.get("/me", headers={"X-Request-Id": "a b"})
    assert answer.headers["X-Request-Id"].startswith("req-")


async def test_paths_have_no_trailing_slash(api):
    assert (await api.get("/product/")).status_code == 404


# Paging and filters


async def test_a_walk_meets_every_row_once_newest_first(api):
    rows, pages = await api.walk(limit=30)
    assert pages == 5
    assert len({row["uuid"] for row in rows}) == len(rows) == 125
    assert [row["uuid"] for row in rows] == [api.world.id_of(s) for s in reversed(api.world.subscriptions)]


async def test_twenty_rows_a_page_when_no_limit_is_said(api):
    assert len((await api.get(LIST)).json()["items"]) == 20


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1e1", "٣"])
async def test_a_limit_outside_1_to_100_is_400(api, limit):
    answer = await api.get(LIST, limit=limit)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed")
    assert answer.json()["details"]["max"] == 100
    assert answer.json()["details"]["errors"][0]["field"] == "limit"


async def test_a_last_page_that_is_full_names_no_cursor():
    async with Serving(healthy(40)) as api:
        _, pages = await api.walk(limit=20)
        assert pages == 2


async def test_an_empty_space_gives_one_empty_page():
    async with Serving(healthy(0)) as api:
        assert (await api.get(LIST)).json() == {"items": [], "nextCursor": None}


async def test_rows_that_appear_during_a_walk_shift_nothing(api):
    def insert(_page):
        wallet = acts.add_wallet(api.world, "USDC", 10**12)
        acts.subscribe(api.world, api.world.products[0], wallet, None)

    before = [api.world.id_of(sub) for sub in reversed(api.world.subscriptions)]
    api.faults.between_pages = insert
    assert await api.ids(limit=20) == before
    assert len(api.world.subscriptions) == 125 + 6


async def test_rows_that_vanish_during_a_walk_shift_nothing(api):
    api.faults.between_pages = lambda page: acts.remove(api.world.subscriptions[-page])
    assert len(await api.ids(limit=20)) == 125


async def test_offset_paging_doubles_a_row_when_one_is_inserted(api):
    def insert(page):
        if page == 2:
            wallet = acts.add_wallet(api.world, "USDC", 10**12)
            acts.subscribe(api.world, api.world.products[0], wallet, None)

    api.faults.paging = "offset"
    api.faults.between_pages = insert
    ids = await api.ids(limit=20)
    assert (len(ids), len(set(ids))) == (126, 125)


async def test_offset_paging_misses_a_row_when_one_vanishes(api):
    api.faults.paging = "offset"
    api.faults.between_pages = lambda page: page == 2 and acts.remove(api.world.subscriptions[-1])
    ids = await api.ids(limit=20)
    assert (len(ids), len(set(ids))) == (124, 124)
    assert api.world.id_of(api.world.subscriptions[-21]) not in ids


async def test_ordered_by_change_a_row_that_moves_is_missed(api):
    oldest = min(api.world.subscriptions, key=lambda sub: (sub.updated_at, sub.n))
    api.faults.order = "updated"
    everything = await api.ids(limit=30)
    assert len(everything) == len(set(everything)) == 125
    assert everything[-1] == api.world.id_of(oldest)
    api.faults.between_pages = lambda page: page == 2 and acts.pause(api.world, oldest)
    ids = await api.ids(limit=30)
    assert set(everything) - set(ids) == {api.world.id_of(oldest)}


async def test_a_cursor_that_we_did_not_make_is_400(api):
    for cursor in ("nonsense", "evt_1", "W10", "é"):
        answer = await api.get(LIST, cursor=cursor)
        assert (answer.status_code, answer.json()["details"]["errors"][0]["field"]) == (400, "cursor")


async def test_each_status_filter_gives_exactly_its_rows():
    async with Serving(traps(30)) as api:
        total = 0
        for status in Status:
            rows, _ = await api.walk(status=camel(status), limit=7)
            expected = [s for s in api.world.living() if s.status is status and s.status_text is None]
            assert {row["status"] for row in rows} == {camel(status)}
            assert len(rows) == len(expected)
            total += len(rows)
        assert total == len(api.world.subscriptions) - 1  # the unknown status is in no filter


@pytest.mark.parametrize(
    "query",
    [
        {"status": "past_due"},
        {"status": "active,paused"},
        {"customerUuid": "17"},
        {"productUuid": "plan"},
        {"createdAfter": "yesterday"},
        {"createdBefore": "2026-03-01T10:00:00"},
        {"createdAfter": "2026-02-30T10:00:00Z"},
        {"includeMembers": "yes"},
    ],
)
async def test_a_bad_filter_is_400_with_its_field(api, query):
    answer = await api.get(LIST, **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed")
    assert answer.json()["details"]["errors"][0]["field"] == next(iter(query))


async def test_both_bounds_of_creation_are_excluded(api):
    subs = api.world.subscriptions
    low, high = subs[10], subs[20]
    between = [api.world.id_of(sub) for sub in reversed(subs[11:20])]
    found = await api.ids(createdAfter=instant(low.created_at), createdBefore=instant(high.created_at))
    assert found == between


async def test_bounds_may_have_any_offset(api):
    low = api.world.subscriptions[10].created_at
    elsewhere = low.astimezone(timezone(timedelta(hours=2))).isoformat()
    assert len(await api.ids(createdAfter=elsewhere)) == 125 - 11


async def test_windows_that_touch_lose_the_row_on_the_edge(api):
    edge = instant(api.world.subscriptions[60].created_at)
    both = await api.ids(createdBefore=edge) + await api.ids(createdAfter=edge)
    assert len(both) == 124


async def test_filters_by_customer_product_and_reference(api):
    sub = next(sub for sub in api.world.subscriptions if sub.reference)
    ids = api.world.ids
    assert await api.ids(customerUuid=ids.customer(sub.customer.n)) == [api.world.id_of(sub)]
    assert await api.ids(reference=sub.reference) == [api.world.id_of(sub)]
    plan = await api.ids(productUuid=ids.product(sub.product.n))
    assert len(plan) == sum(other.product is sub.product for other in api.world.subscriptions)
    assert await api.ids(productUuid=ids.space) == []


async def test_members_rows_are_shown_only_when_asked_for():
    world = healthy(10, merchant=Merchant(members=2))
    for sub in world.subscriptions[:3]:
        sub.member = 0
    world.subscriptions[3].member = 1
    async with Serving(world) as api:
        first = world.ids.member(0)
        assert len(await api.ids()) == 6
        assert len(await api.ids(includeMembers="true")) == 10
        assert len(await api.ids(userUuid=first)) == 3
        both = await api.get(LIST, includeMembers="true", userUuid=first)
        assert (both.status_code, both.json()["code"]) == (400, "validation_failed")
        own = await api.get(LIST, headers={"On-Behalf-Of": first})
        assert len(own.json()["items"]) == 3
        me = (await api.get("/me", headers={"On-Behalf-Of": first})).json()
        assert (me["role"], me["onBehalfOf"]) == ("user", first)
        strange = await api.get("/me", headers={"On-Behalf-Of": world.ids.member(2)})
        assert strange.status_code == 404
        path = f"/transaction/subscription/{world.id_of(world.subscriptions[0])}"
        assert (await api.get(path)).status_code == 404
        assert (await api.get(path, includeMembers="true")).status_code == 200


# Single objects and the other lists


async def test_one_subscription_is_read_by_both_forms_of_its_id_in_any_status():
    async with Serving(traps()) as api:
        for sub in api.world.subscriptions[:28]:
            ext_id = api.world.id_of(sub)
            for form in (ext_id, ext_id.removeprefix("sub@"), ext_id.replace("@", "%40")):
                answer = await api.client.get(f"{api.server.url}/transaction/subscription/{form}")
                assert (answer.status_code, answer.json()["uuid"]) == (200, ext_id)


async def test_unknown_foreign_and_vanished_subscriptions_are_404(api):
    sub = api.world.subscriptions[0]
    acts.remove(sub)
    other_space = healthy(3, seed=2)
    for ext_id in (api.world.id_of(sub), other_space.id_of(other_space.subscriptions[1]), "sub@x"):
        answer = await api.get(f"/transaction/subscription/{ext_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_paid_bills_are_listed_newest_first_and_paged(api):
    sub = next(sub for sub in api.world.subscriptions if sub.frequency == timedelta(days=7))
    sub.allowance = sub.wallet.balance = 10**20
    api.world.advance(timedelta(days=30))
    path = f"/transaction/subscription/{api.world.id_of(sub)}/bills"
    bills, pages = await api.walk(path, limit=2)
    assert len(bills) == 5
    assert pages == 3
    assert [bill["uuid"] for bill in bills] == [
        api.world.ids.bill(bill.n) for bill in reversed(api.world.bills_of(sub))
    ]
    assert all(newer["periodStart"] == older["periodEnd"] for newer, older in pairwise(bills))


async def test_failures_are_filtered_by_subscription_category_kind_and_time(api):
    truth = cause(api.world, {"payment_failed:insufficient_balance": 2, "payment_failed:approval_revoked": 1})
    (revoked,) = truth["payment_failed:approval_revoked"]
    path = "/transaction/failures"
    assert len((await api.walk(path))[0]) == 3
    (row,), _ = await api.walk(path, subscriptionUuid=revoked)
    assert (row["category"], row["attempt"], row["kind"]) == ("approvalRevoked", 1, "bill")
    assert row["txUuid"].startswith("sub-hist@")
    assert len((await api.walk(path, category="insufficientBalance"))[0]) == 2
    assert (await api.walk(path, kind="payment"))[0] == []
    assert (await api.get(path, kind="else")).status_code == 400
    at = instant(api.world.now)
    assert (await api.walk(path, createdAfter=at))[0] == []
    assert (await api.walk(path, createdBefore=at))[0] == []
    assert (await api.get(path, limit="51")).status_code == 400
    assert (await api.walk(path, subscriptionUuid="sub@x"))[0] == []


async def test_failures_are_newest_first(api):
    (ext_id,) = cause(api.world, {"payment_failed:other": 1})["payment_failed:other"]
    api.world.advance(timedelta(days=2))
    rows, _ = await api.walk("/transaction/failures", subscriptionUuid=ext_id, limit=2)
    assert [row["attempt"] for row in rows] == [3, 2, 1]


async def test_products_hide_the_hidden_unless_asked(api):
    api.world.products[2].active = False
    assert len((await api.get("/product")).json()) == 4
    everything = (await api.get("/product", includeHidden="true")).json()
    assert [product["isActive"] for product in everything].count(False) == 1
    uuid = everything[1]["uuid"]
    one = (await api.get(f"/product/uuid/{uuid}")).json()
    assert one["subscription"] == {
        "frequency": {"value": 1, "unit": "months"},
        "trialPeriod": {"value": 2, "unit": "weeks"},
    }
    assert (await api.get("/product/uuid/nothing")).status_code == 404


async def test_customers_are_listed_found_and_404_once_deleted(api):
    customer = api.world.customers[3]
    uuid = api.world.ids.customer(customer.n)
    assert (await api.get(f"/customer/uuid/{uuid}")).json()["email"] == customer.email
    found, _ = await api.walk("/customer/all", email=customer.email.upper())
    assert [row["uuid"] for row in found] == [uuid]
    acts.delete_customer(customer)
    assert (await api.get(f"/customer/uuid/{uuid}")).status_code == 404
    assert len((await api.walk("/customer/all", limit=100))[0]) == 124


async def test_currencies_nest_their_main_currency_and_follow_the_mode(api):
    rows = (await api.get("/utils/all-available-currencies")).json()
    usdc = next(row for row in rows if row["symbol"] == "USDC")
    assert (usdc["decimals"], usdc["mainCurrency"]["symbol"], usdc["mainCurrency"]["mainCurrency"]) == (
        6,
        "BASE",
        None,
    )
    assert (await api.get("/utils/all-available-currencies", test="true")).json() == []
    assert (await api.get(f"/utils/currency/id/{usdc['id']}")).json() == usdc
    assert (await api.get("/utils/currency/id/999")).status_code == 404


async def test_the_event_log_is_newest_first_with_event_ids_as_cursors(api):
    cause(api.world, {"paused": 30, "low_on_funds": 3})
    rows, pages = await api.walk("/webhooks/events", limit=10)
    assert (len(rows), pages) == (33, 4)
    assert all(row["id"].startswith("evt_") for row in rows)
    again = (await api.get("/webhooks/events", limit=10, cursor=rows[9]["id"])).json()
    assert again["items"] == rows[10:20]
    only, _ = await api.walk("/webhooks/events", type="subscription.actionRequiredChanged", limit=2)
    assert len(only) == 3
    one = (await api.get(f"/webhooks/events/{rows[5]['id']}")).json()
    assert (one["id"], one["deliveries"]) == (rows[5]["id"], [])
    assert (await api.get("/webhooks/events", cursor="evt_unknown")).status_code == 400
    assert (await api.get("/webhooks/events/evt_unknown")).status_code == 404


async def test_events_that_come_during_a_walk_of_the_log_shift_nothing(api):
    cause(api.world, {"paused": 20})
    first = (await api.get("/webhooks/events", limit=10)).json()
    cause(api.world, {"stopped": 5})
    second = (await api.get("/webhooks/events", limit=10, cursor=first["nextCursor"])).json()
    assert len({row["id"] for row in first["items"] + second["items"]}) == 20
    assert second["nextCursor"] is None


# Faults


async def first_page(api, **params):
    return await api.get(LIST, limit=20, **params)


@pytest.mark.parametrize(
    "fault",
    [
        (faults.error(500, "internal"), 500, b'"code": "internal"'),
        (faults.html(), 502, b"<html>"),
        (faults.html(200), 200, b"<html>"),
        (faults.raw(b""), 200, b""),
        (faults.raw(b"\xff\xfe{}"), 200, b"\xff\xfe{}"),
        (faults.items(None), 200, b'"items": null'),
        (faults.items({}), 200, b'"items": {}'),
        (faults.without_items, 200, b'{"nextCursor": "'),
        (faults.cursor(""), 200, b'"nextCursor":""'),
        (faults.cursor_refused(410), 410, b'"cursor"'),
        (faults.redirect("http://elsewhere.example/"), 302, b""),
        (faults.no_rows, 200, b'{"items":[],"nextCursor":"'),
    ],
    ids=lambda fault: str(fault[1]) + fault[2][:12].decode("latin-1"),
)
async def test_a_fault_is_served_as_it_says_and_ends_with_its_rule(api, fault):
    act, status, part = fault
    api.faults.add(act, route="subscriptions", times=1)
    answer = await first_page(api)
    assert (answer.status_code, part in answer.content) == (status, True)
    assert len(answer.content) > 0 or part == b""
    healed = await first_page(api)
    assert len(healed.json()["items"]) == 20


@pytest.mark.parametrize("wait", ["1", "61", "10800", "1" + "0" * 400, "soon", format_datetime(DEFAULT_START)])
async def test_a_429_says_any_wait_in_its_header(api, wait):
    api.faults.add(faults.rate_limited(wait))
    answer = await api.get("/me")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, wait)


async def test_a_429_may_say_its_wait_in_the_details_only_or_nowhere(api):
    api.faults.add(faults.rate_limited(details_seconds=7), times=1)
    api.faults.add(faults.rate_limited(), skip=1)
    told = await api.get("/me")
    assert "Retry-After" not in told.headers
    assert told.json()["details"]["retryAfterSeconds"] == 7
    untold = await api.get("/me")
    assert untold.status_code == 429
    assert "retryAfterSeconds" not in untold.json()["details"]


async def test_a_truncated_page_is_no_json(api):
    api.faults.add(faults.truncated(0.5))
    answer = await first_page(api)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize("after", [0, 1, 1000])
async def test_a_dropped_connection_gives_no_answer(api, after):
    api.faults.add(faults.dropped(after), times=1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await first_page(api)
    assert (await first_page(api)).status_code == 200


async def test_a_rule_meets_its_route_and_page_only_also_when_retried(api):
    api.faults.add(faults.error(503, "network_unavailable"), route="subscriptions", page=3, times=2)
    first = (await first_page(api)).json()
    second = (await first_page(api, cursor=first["nextCursor"])).json()
    answers = [await first_page(api, cursor=second["nextCursor"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert (await api.get("/me")).status_code == 200


async def test_a_repeated_cursor_leads_to_itself(api):
    api.faults.add(faults.repeat_cursor, route="subscriptions", page=3)
    seen, cursor = [], None
    for _ in range(5):
        cursor = (await first_page(api, **({"cursor": cursor} if cursor else {}))).json()["nextCursor"]
        seen.append(cursor)
    assert seen[1] == seen[2] == seen[3] == seen[4]
    assert seen[0] != seen[1]


async def test_a_cycle_of_three_cursors_never_ends(api):
    api.faults.add(faults.back_to(api.faults, 2), route="subscriptions", page=4)
    seen, cursor = [], None
    for _ in range(9):
        cursor = (await first_page(api, **({"cursor": cursor} if cursor else {}))).json()["nextCursor"]
        seen.append(cursor)
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:6] == seen[6:9]


async def test_an_answer_can_be_held_until_it_is_let_go(api):
    gate = asyncio.Event()
    api.faults.add(route="me", wait=gate.wait)
    waiting = asyncio.create_task(api.get("/me"))
    assert (await first_page(api)).status_code == 200
    assert not waiting.done()
    gate.set()
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("name", MANGLES)
async def test_a_mangled_row_is_served_in_lists_and_alone_between_whole_neighbours(api, name):
    sub = api.world.subscriptions[-3]
    whole = (await api.get(LIST, limit=5)).content
    api.faults.mangled[api.world.id_of(sub)] = name
    page = (await api.get(LIST, limit=5)).content
    alone = (await api.get(f"/transaction/subscription/{api.world.id_of(sub)}")).content
    assert alone in page
    assert page != whole
    parts = whole.split(b'{"uuid":"sub@')
    assert page.count(parts[1]) == page.count(parts[5]) == 1


async def test_every_row_can_be_bent(api):
    api.faults.bend = lambda row: {**row, "status": row["status"].upper()}
    rows, _ = await api.walk(limit=100)
    assert {row["status"] for row in rows} == {"ACTIVE", "TRIAL"}
    alone = await api.get(f"/transaction/subscription/{rows[0]['uuid']}")
    assert alone.json()["status"] == rows[0]["status"]


async def test_a_row_can_stand_on_two_pages(api):
    first = (await api.get(LIST, limit=1)).json()["items"][0]
    api.faults.add(faults.rows_besides(json.dumps(first)), page=2)
    ids = await api.ids(limit=50)
    assert (len(ids), len(set(ids)), ids.count(first["uuid"])) == (126, 125, 2)


async def test_clearing_ends_every_fault_and_keeps_the_counts(api):
    api.faults.add(faults.html())
    api.faults.bend = dict
    api.faults.mangled["x"] = "null_id"
    api.faults.order, api.faults.paging = "updated", "offset"
    api.faults.clock_skew = timedelta(days=1)
    api.faults.between_pages = print
    await api.get("/me")
    api.faults.clear()
    assert api.faults == faults.Faults(requests=api.faults.requests, calls=api.faults.calls, cursors=api.faults.cursors)
    assert api.faults.requests["me"] == 1


async def test_requests_are_counted_and_written_down_by_route(api):
    await api.walk(limit=50)
    await api.get("/me")
    assert api.faults.requests == {"subscriptions": 3, "me": 1}
    assert [call.page for call in api.faults.calls] == [1, 2, 3, 1]
    assert api.faults.calls[1].query["limit"] == "50"
    distances = [later.at - earlier.at for earlier, later in pairwise(api.faults.calls)]
    assert min(distances) >= 0


# The servers


async def test_closing_breaks_what_is_open_and_frees_the_port():
    world = healthy(1)
    server = SandboxServer(world)
    await server.start()
    gate = asyncio.Event()
    server.faults.add(wait=gate.wait)
    async with httpx.AsyncClient(trust_env=False) as client:
        waiting = asyncio.create_task(client.get(server.url + "/me"))
        await asyncio.wait({waiting}, timeout=0.05)
        await server.close()
        with pytest.raises(httpx.TransportError):
            await waiting
    port = int(server.base.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        pass
    await server.close()


async def test_a_taken_port_is_an_error():
    async with SandboxServer(healthy(1)) as first:
        port = int(first.base.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await SandboxServer(healthy(1), port=port).start()


def test_code_with_its_own_loop_is_served_from_a_thread():
    with in_thread(healthy(3)) as sandbox:
        key = {"X-API-Key": sandbox.server.world.ids.api_key}
        assert len(httpx.get(sandbox.url + LIST, headers=key, trust_env=False).json()["items"]) == 3
        sandbox.call(lambda world: cause(world, {"paused": 1}))
        rows = httpx.get(sandbox.url + LIST, headers=key, trust_env=False).json()["items"]
        assert [row["status"] for row in rows].count("paused") == 1
        send(sandbox.mailbox.port, b"Subject: x\r\n\r\n")
        assert len(sandbox.mailbox.messages) == 1


def send(port, body, to=("ines@customer.example",), sender="billing@acme.example"):
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        client.sendmail(sender, list(to), body)


async def test_a_caught_mail_is_a_file_with_exactly_its_bytes_and_its_envelope(tmp_path):
    body = b"Subject: Hi\r\nTo: <ines@customer.example>\r\n\r\nfirst\r\n.dot\r\nlast\r\n"
    async with MailCatcher(tmp_path / "mails") as mailbox:
        await asyncio.to_thread(send, mailbox.port, body)
        await asyncio.to_thread(send, mailbox.port, body, ("a@b.example", "c@d.example"))
        first, second = mailbox.messages
    assert first.message["Subject"] == "Hi"
    assert second.recipients == ("a@b.example", "c@d.example")
    assert first.sender == "billing@acme.example"
    folder = tmp_path / "mails"
    assert sorted(path.name for path in folder.iterdir()) == ["000001.eml", "000002.eml", "envelopes.jsonl"]
    assert (folder / "000001.eml").read_bytes() == body
    lines = [json.loads(line) for line in (folder / "envelopes.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "file": "000002.eml",
        "from": "billing@acme.example",
        "to": ["a@b.example", "c@d.example"],
    }


async def test_a_catcher_that_starts_again_overwrites_nothing(tmp_path):
    for _ in range(2):
        async with MailCatcher(tmp_path) as mailbox:
            await asyncio.to_thread(send, mailbox.port, b"Subject: x\r\n\r\n")
    assert sorted(path.name for path in tmp_path.glob("*.eml")) == ["000001.eml", "000002.eml"]


async def test_a_catcher_closes_with_a_client_in_the_middle_of_a_mail():
    async with MailCatcher() as mailbox:
        reader, writer = await asyncio.open_connection("127.0.0.1", mailbox.port)
        assert (await reader.readline()).startswith(b"220")
        writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
        assert await reader.readline()
    writer.close()
    assert mailbox.messages == []


async def test_everything_is_served_until_it_is_told_to_stop(tmp_path):
    stop, told = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        serve(healthy(4), stop=stop, on_ready=told.set_result, mail_folder=tmp_path, control=True)
    )
    addresses = await told
    async with httpx.AsyncClient(headers={"X-API-Key": addresses.api_key}, trust_env=False) as client:
        assert (await client.get(addresses.api_url + "/me")).status_code == 200
        assert (await client.get(addresses.control_url + "/state")).json()["subscriptions"] == {"active": 4}
        await asyncio.to_thread(send, addresses.smtp_port, b"Subject: x\r\n\r\n")
        stop.set()
        await running
        with pytest.raises(httpx.ConnectError):
            await client.get(addresses.api_url + "/me")
    assert (tmp_path / "000001.eml").exists()


# The control routes


@pytest.fixture
async def controlled():
    world = healthy(50, trials=2)
    async with Serving(world, routes=control_routes(world)) as serving:
        yield serving


async def post(api, name, body):
    return await api.client.post(f"{api.server.base}/_control/{name}", json=body)


async def test_the_control_routes_are_off_unless_asked_for(api):
    answer = await api.client.get(f"{api.server.base}/_control/state")
    assert answer.status_code == 404


async def test_time_is_moved_by_a_duration_or_to_an_instant(controlled):
    assert (await post(controlled, "advance", {"days": 3})).json()["now"] == "2026-04-04T06:00:00Z"
    assert (await post(controlled, "advance", {"to": "2026-04-20T08:00:00+02:00"})).json()["handled"] > 0
    assert controlled.world.now == datetime(2026, 4, 20, 6, tzinfo=UTC)


async def test_an_instant_without_an_offset_is_told_what_it_lacks(controlled):
    answer = await post(controlled, "advance", {"to": "2026-04-20T08:00:00"})
    assert "`to` needs an offset" in answer.json()["error"]


async def test_acts_causes_and_prices_change_the_world(controlled):
    world = controlled.world
    truth = (await post(controlled, "cause", {"max_amount_reached": 1})).json()
    (ext_id,) = truth["max_amount_reached"]
    assert world.get(ext_id).action is Action.RAISE_MAXIMUM
    healed = await post(controlled, "act", {"act": "raise_maximum", "subscription": ext_id})
    assert (healed.json()["status"], healed.json()["action"]) == ("active", None)
    assert (await post(controlled, "price", {"symbol": "WETH", "usd": "900.5"})).status_code == 200
    assert str(world.prices[world.currency("WETH").id]) == "900.5"


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("advance", {}, 'a duration is {"days": 3}'),
        ("advance", {"fortnights": 1}, "units are weeks, days"),
        ("advance", {"days": "x"}, "['days']"),
        ("advance", {"days": True}, "['days']"),
        ("advance", {"days": 1e300}, "no time that can pass"),
        ("advance", {"to": "2026-04-20T08:00:00"}, "`to` needs an offset"),
        ("advance", {"to": "later"}, "'later' is no instant"),
        ("advance", {"to": 5}, '"to" is missing or no text'),
        ("advance", [], "must be a JSON object"),
        ("act", {"act": "dance", "subscription": "sub@x"}, "no act 'dance'; there is: cancel"),
        ("act", {"act": "pause", "subscription": "sub@x"}, "no subscription 'sub@x'"),
        ("act", {"act": "pause"}, '"subscription" is missing'),
        ("cause", {"paused": 5000}, "5000 wanted"),
        ("cause", {"paused": "all"}, "as a whole number"),
        ("cause", {"sleepy": 1}, "no situation 'sleepy'; there is: cancelled"),
        ("price", {"symbol": "WETH", "usd": "NaN"}, "above 0"),
        ("price", {"symbol": "WETH", "usd": "Infinity"}, "above 0"),
        ("price", {"symbol": "WETH", "usd": "-1"}, "above 0"),
        ("price", {"symbol": "WETH", "usd": "much"}, "'much' is none"),
        ("price", {"symbol": "WETH", "usd": 5}, '"usd" is missing or no text'),
        ("price", {"symbol": "NOPE", "usd": "1"}, "pays in 'NOPE'"),
    ],
)
async def test_what_the_world_cannot_do_is_400_and_says_why(controlled, name, body, told):
    answer = await post(controlled, name, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert told in answer.json()["error"]


async def test_a_body_that_the_shell_has_spoilt_is_named(controlled):
    answer = await controlled.client.post(f"{controlled.server.base}/_control/advance", content=b"{days: 3}")
    assert (answer.status_code, "the body is no JSON" in answer.json()["error"]) == (400, True)


async def test_the_combined_list_is_of_bills_and_purchases_newest_first_and_can_be_narrowed():
    world = healthy(12)
    async with Serving(world) as api:
        world.advance(timedelta(days=31))
        bought = acts.purchase(world, world.customers[0], world.products[0], reference="o-1")
        acts.purchase(world, None, world.products[1], fails=Category.REVERTED)
        rows, pages = await api.walk("/transaction/payments/combined", limit=10)
        bills = [bill for sub in world.living() for bill in world.bills_of(sub)]
        assert (len(rows), pages) == (len(bills) + 1, -(-(len(bills) + 1) // 10))
        times = [row["createdAt"] for row in rows]
        assert times == sorted(times, reverse=True)
        once, _ = await api.walk("/transaction/payments/combined", source="payment")
        assert [row["reference"] for row in once] == ["o-1"]
        assert "customer" in once[0]
        sub = world.id_of(next(world.living()))
        one, _ = await api.walk("/transaction/payments/combined", subscriptionUuid=sub)
        assert {row["subscriptionUuid"] for row in one} == {sub}
        late, _ = await api.walk("/transaction/payments/combined", createdAfter=times[3], createdBefore=times[0])
        assert [row["createdAt"] for row in late] == [at for at in times if times[3] < at < times[0]]
        single = (await api.get(f"/transaction/payment/{world.ids.payment(bought.n)}")).json()
        assert single == {key: value for key, value in once[0].items() if key != "source"}
        assert (await api.get("/transaction/payment/pay@no")).status_code == 404
        failed, _ = await api.walk("/transaction/failures", kind="payment")
        assert [(row["kind"], row["category"], "customerUuid" in row) for row in failed] == [
            ("payment", "reverted", False)
        ]
