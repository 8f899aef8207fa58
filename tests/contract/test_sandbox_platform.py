"""The simulated billing platform keeps its contract: what the page states, and what was assumed beside it."""

import base64
import json
from datetime import timedelta

import httpx
import pytest

from monitor.sandbox import faults, seeding
from monitor.sandbox.control import routes as control_routes
from monitor.sandbox.platform import signature_of, webhook_of
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.till import STATUSES, Till, stock


@pytest.fixture
async def server():
    world = seeding.healthy(5)
    async with SandboxServer(world, clock=world.clock) as api:
        yield api


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=server.platform_url, trust_env=False) as http:
        yield http


async def log_in(server, client):
    till = server.platform.till
    who = {"tenantId": till.tenant_id, "tenantSecret": till.tenant_secret}
    answer = await client.post("/auth/login", json=who)
    assert answer.status_code == 200
    token = answer.json()["accessToken"]
    client.headers["Authorization"] = f"Bearer {token}"
    return token


async def test_a_tenant_logs_in_and_the_token_tells_its_end(server, client):
    token = await log_in(server, client)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["exp"] == int((server.world.now + timedelta(hours=24)).timestamp())
    server.platform.tells_expiry = False
    again = await log_in(server, client)
    assert again != token
    assert "exp" not in json.loads(base64.urlsafe_b64decode(again.split(".")[1] + "=="))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tenantId":"x"}', b"<"])
async def test_a_login_without_its_two_fields_is_a_400(client, body):
    assert (await client.post("/auth/login", content=body)).status_code == 400


async def test_wrong_credentials_and_bad_tokens_are_401_with_the_platforms_error_body(server, client):
    till = server.platform.till
    wrong = await client.post("/auth/login", json={"tenantId": till.tenant_id, "tenantSecret": "no"})
    assert (wrong.status_code, wrong.json()) == (401, {"error": "unknown tenant or wrong secret"})
    for header in (None, "Bearer", "Bearer x", "Basic x"):
        client.headers.pop("Authorization", None)
        if header:
            client.headers["Authorization"] = header
        assert (await client.get("/payments")).status_code == 401


async def test_tokens_end_by_time_on_demand_and_by_revocation(server, client):
    await log_in(server, client)
    assert (await client.get("/payments")).status_code == 200
    server.world.advance(timedelta(hours=24))
    assert (await client.get("/payments")).status_code == 401
    await log_in(server, client)
    server.platform.expire_tokens()
    assert (await client.get("/payments")).status_code == 401
    await log_in(server, client)
    server.faults.revoked = True
    assert (await client.get("/payments")).status_code == 401


async def test_pages_go_by_offset_and_shift_when_rows_come_and_go(server, client):
    till = server.platform.till
    stock(till, 25)
    await log_in(server, client)

    async def page(**query):
        return [row["id"] for row in (await client.get("/payments", params=query)).json()["data"]]

    first, second = await page(limit=10), await page(limit=10, offset=10)
    assert first == [f"bp-{7001 + n}" for n in range(24, 14, -1)]
    assert not set(first) & set(second)
    assert len(await page()) == 20
    assert await page(limit=10, offset=30) == []
    till.pay(0)
    assert (await page(limit=10, offset=10))[0] == first[-1]
    till.remove(till.payments[-1])
    till.remove(till.payments[-1])
    assert (await page(limit=10, offset=10))[0] == second[1]
    server.platform.oldest_first = True
    assert (await page(limit=1)) == ["bp-7001"]
    seen = []
    server.faults.between_pages = seen.append
    await page(limit=10)
    await page(limit=10, offset=9)
    await page(limit=10, offset=10)
    assert seen == [2, 2]


@pytest.mark.parametrize("query", [{"limit": 101}, {"limit": 0}, {"limit": "x"}, {"offset": -1}, {"offset": "٣"}])
async def test_a_page_outside_the_limits_is_a_400(server, client, query):
    await log_in(server, client)
    assert (await client.get("/payments", params=query)).status_code == 400


async def test_a_list_is_of_one_user_or_of_all_where_that_is_allowed(server, client):
    till = server.platform.till
    mine, other = till.pay(1), till.pay(2)
    await log_in(server, client)
    rows = (await client.get("/payments", params={"userId": "u-1"})).json()["data"]
    assert [row["id"] for row in rows] == [till.id_of(mine)]
    rows = (await client.get("/payments")).json()["data"]
    assert [row["id"] for row in rows] == [till.id_of(other), till.id_of(mine)]
    server.platform.lists_all_users = False
    assert (await client.get("/payments")).status_code == 400
    assert (await client.get("/payments", params={"userId": "u-1"})).status_code == 200


async def test_one_payment_shows_each_status_and_one_that_nobody_knows(server, client):
    till = server.platform.till
    payment = till.pay(1, 4990, "EUR", order="order-1")
    heard = []
    till.listeners.append(lambda moved: heard.append(moved.status))
    await log_in(server, client)
    for status in (*STATUSES, "HIBERNATING"):
        server.world.advance(timedelta(minutes=1))
        till.move(payment, status, "card declined" if status == "FAILED" else None)
        row = (await client.get("/payments/bp-7001")).json()
        assert (row["status"], row["amount"], row["currency"], row["orderId"]) == (status, 4990, "EUR", "order-1")
        assert row.get("failureReason") == ("card declined" if status == "FAILED" else None)
        assert row["updatedAt"] > row["createdAt"]
    assert heard == [*STATUSES, "HIBERNATING"]
    assert (await client.get("/payments/bp-1")).status_code == 404


async def test_faults_and_counters_work_as_for_the_other_dialects(server, client):
    await log_in(server, client)
    server.faults.add(faults.error(503, "down"), times=1, route="payments")
    assert [(await client.get("/payments")).status_code for _ in range(2)] == [503, 200]
    assert server.faults.requests == {"login": 1, "payments": 2}


async def test_payments_can_be_made_and_moved_by_a_control_route():
    world = seeding.healthy(2)
    till = Till(world)
    async with (
        SandboxServer(world, routes=control_routes(world, till), till=till) as api,
        httpx.AsyncClient(trust_env=False) as http,
    ):

        async def pay(**body):
            answer = await http.post(f"{api.base}/_control/pay", json=body)
            return answer.status_code, answer.json()

        assert await pay() == (200, {"payment": "bp-7001", "user": "u-0", "status": "CREATED"})
        made = {"payment": "bp-7002", "user": "u-1", "status": "FAILED"}
        assert await pay(user=1, amount=100, currency="HUF", status="FAILED") == (200, made)
        assert (await pay(payment="bp-7001", status="EXPIRED"))[1]["status"] == "EXPIRED"
        assert [(one.status, one.currency) for one in till.payments] == [("EXPIRED", "EUR"), ("FAILED", "HUF")]
        for wrong in ({"payment": "bp-1"}, {"status": ""}, {"status": 5}, {"user": "u-1"}, {"amount": -1}):
            code, said = await pay(**wrong)
            assert code == 400
            assert said["error"]
        assert len(till.payments) == 2


def test_a_webhook_is_signed_as_the_contracts_vector():
    body = b'{"eventId":"bpe-900","eventType":"payment.succeeded","data":{"paymentId":"bp-7001","userId":"u-31","amount":4990}}'
    assert len(body) == 114
    assert signature_of(body) == "bde3fe02b0c94e48789831169d81554bffa35b0b7498ad81433c8e831ea18a3c"


def test_a_webhook_names_the_payment_its_user_and_what_happened():
    till = Till(seeding.healthy(1))
    payment = till.pay(31, 4990)
    till.move(payment, "SUCCEEDED")
    assert webhook_of(till, payment, "bpe-900") == (
        b'{"eventId":"bpe-900","eventType":"payment.succeeded","data":{"paymentId":"bp-7001","userId":"u-31","amount":4990}}'
    )
    assert json.loads(webhook_of(till, payment, "e", kind="payment.odd"))["eventType"] == "payment.odd"
    till.move(payment, "HIBERNATING")
    assert json.loads(webhook_of(till, payment, "e"))["eventType"] == "payment.updated"
