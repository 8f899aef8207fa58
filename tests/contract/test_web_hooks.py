"""The webhook endpoint over real HTTP: every answer, and what is in the database when it is given."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
import structlog
from sqlalchemy import select, text

from monitor.clock import SystemClock
from monitor.domain.model import Mode
from monitor.errors import StoreError
from monitor.metrics import Meter
from monitor.providers.hooks import MAX_BODY_BYTES
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.store.engine import Database
from monitor.store.schema import accounts, facts, quarantine
from monitor.usecases import inbox as inbox_module
from monitor.usecases.inbox import Addressee, Inbox
from monitor.web import hooks as hooks_module
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.web.hooks import Door, Hooks
from monitor.web.limiter import Limiter
from tests.hooks import SUB, event, sign_v1, sign_v2

SECRET = "whsec_acme"
CLOCK = SystemClock()


class Entrance:
    """A served endpoint with its database, and what it called."""

    def __init__(self, db: Database, client: httpx.AsyncClient, hooks: Hooks, called: list[str]) -> None:
        self.db, self.client, self.hooks, self.called = db, client, hooks, called

    async def send(self, body: bytes, *, account: str = "acme", secret: str = SECRET, **headers: str) -> httpx.Response:
        return await self.client.post(
            f"/hooks/{account}", content=body, headers=sign_v2(body, CLOCK.now(), secret) | headers
        )

    async def rows(self, table=facts) -> list:
        async with self.db.read() as conn:
            return (await conn.execute(select(table).order_by(table.c.id))).all()

    def counted(self) -> dict[str, float]:
        return {
            one.labels["outcome"]: one.value
            for family in self.hooks.meter.registry.collect()
            for one in family.samples
            if one.name == "monitor_hooks_total"
        }


@asynccontextmanager
async def entrance(url: str, *, mode: Mode = Mode.LIVE, limiter: Limiter | None = None, proxies: tuple[str, ...] = ()):
    db, called = Database(url), []
    to = Addressee("acme", "qbitflow-v2", mode.value)
    doors = {"acme": Door(to, QBitFlowHooks([SECRET]), mode)}
    hooks = Hooks(doors, Inbox(db, CLOCK), CLOCK, Meter(), called.append, limiter or Limiter())
    site = Site(db, (), CLOCK, hooks.meter, hooks)
    async with served(build_app(site), "127.0.0.1:0", proxies=proxies) as at, httpx.AsyncClient(base_url=at) as client:
        yield Entrance(db, client, hooks, called)
    await hooks.inbox.aclose()
    await db.aclose()


@pytest.fixture
async def door(database_url):
    async with entrance(database_url) as made:
        yield made


CHANGED = event(
    "evt_1", "subscription.statusChanged", {"uuid": SUB, "managementPageLink": "https://qbitflow.example/m"}
)


async def test_a_genuine_delivery_is_stored_before_it_is_answered_and_calls_a_reader(door):
    answer = await door.send(CHANGED)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    [row] = await door.rows()
    assert (row.dedupe_key, row.source, row.ext_sub_id, row.done_at) == ("evt_1", "webhook", SUB, None)
    assert row.ask_at is not None
    assert door.called == ["acme"]
    [account] = await door.rows(accounts)
    assert (account.name, account.mode, account.hook_at is not None) == ("acme", "live", True)


async def test_repeats_in_a_row_and_at_once_are_answered_and_stored_once(door):
    answers = await asyncio.gather(*(door.send(CHANGED) for _ in range(20)), door.send(CHANGED))
    answers.append(await door.send(CHANGED))
    assert {one.status_code for one in answers} == {200}
    assert len(await door.rows()) == 1
    assert door.counted() == {"stored": 1, "repeated": 21}
    assert door.called == ["acme"]


async def test_v1_is_taken_at_the_same_address(door):
    value = {
        "subscriptionUUID": SUB,
        "previousStatus": "active",
        "currentStatus": "past_due",
        "updatedAt": "2026-04-02T09:00:07Z",
    }
    headers = sign_v1(value, CLOCK.now(), SECRET)
    answer = await door.client.post("/hooks/acme", content=json.dumps(value), headers=headers)
    assert answer.status_code == 200
    assert [row.kind for row in await door.rows()] == ["v1.status_transition"]


async def test_a_test_delivery_is_answered_and_not_processed(door):
    answer = await door.send(event("evt_9", "webhook.test", {"message": "ping"}, test=True))
    assert (answer.status_code, await door.rows(), door.called) == (200, [], [])
    [account] = await door.rows(accounts)
    assert account.hook_at is not None
    assert door.counted() == {"test": 1}


async def test_an_event_of_test_mode_is_nothing_to_a_live_account(door):
    answer = await door.send(event("evt_9", "subscription.statusChanged", {"uuid": SUB}, test=True))
    assert (answer.status_code, await door.rows(), door.counted()) == (200, [], {"other_mode": 1})


async def test_a_test_account_takes_it(sqlite_url):
    async with entrance(sqlite_url, mode=Mode.TEST) as door:
        await door.send(event("evt_9", "subscription.statusChanged", {"uuid": SUB}, test=True))
        assert len(await door.rows()) == 1


async def test_unknown_and_unreadable_ones_are_kept_counted_and_told_once(door):
    unknown = event("evt_5", "subscription.frozen", {"uuid": "?"})
    with structlog.testing.capture_logs() as logs:
        codes = [(await door.send(body)).status_code for body in (unknown, unknown, b'{"id": 5}', b'{"id": 5}')]
    assert codes == [200] * 4
    assert door.counted() == {"unknown": 1, "repeated": 2, "unreadable": 1}
    assert [one["event"] for one in logs] == ["hook_not_understood"] * 2
    assert [(row.kind, row.done_at is not None) for row in await door.rows()] == [("subscription.frozen", True)]
    assert len(await door.rows(quarantine)) == 2
    assert door.called == []


async def test_a_wrong_signature_is_401_logged_without_the_body_and_stored_nowhere(door):
    body = event("evt_1", "subscription.statusChanged", {"uuid": SUB, "note": "ines@customer.example"})
    with structlog.testing.capture_logs() as logs:
        answer = await door.send(body, secret="whsec_wrong")
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})
    assert [(one["event"], one["why"], one["peer"]) for one in logs] == [
        ("hook_refused", "no_matching_signature", "127.0.0.1")
    ]
    assert "ines" not in str(logs)
    assert (await door.rows(), await door.rows(accounts)) == ([], [])


async def test_two_signature_headers_are_one_that_is_malformed(door):
    headers = [*sign_v2(CHANGED, CLOCK.now(), SECRET).items()] * 2
    assert (await door.client.post("/hooks/acme", content=CHANGED, headers=headers)).status_code == 401


async def test_an_unknown_account_is_404_and_gives_the_metrics_no_name(door):
    answer = await door.send(CHANGED, account="nobody")
    assert answer.status_code == 404
    assert 'account="none",outcome="unknown_account"' in door.hooks.meter.text().decode()
    assert "nobody" not in door.hooks.meter.text().decode()


async def test_where_no_webhooks_are_taken_the_path_is_404(sqlite_url):
    db = Database(sqlite_url)
    async with served(build_app(Site(db, (), CLOCK, Meter())), "127.0.0.1:0") as at, httpx.AsyncClient() as client:
        assert (await client.post(f"{at}/hooks/acme")).status_code == 404
        assert (await client.get(f"{at}/hooks/acme")).status_code == 405
    await db.aclose()


async def chunks(size: int):
    for _ in range(size // 2**16):
        yield b"x" * 2**16
    yield b"x" * (size % 2**16)


async def test_a_body_that_is_too_large_is_413_before_it_is_read(sqlite_url):
    async with entrance(sqlite_url) as door:
        said = await door.client.post("/hooks/acme", content=b"x" * (MAX_BODY_BYTES + 1))
        unsaid = await door.client.post("/hooks/acme", content=chunks(MAX_BODY_BYTES + 1))
        whole = await door.client.post("/hooks/acme", content=chunks(MAX_BODY_BYTES))
        assert [said.status_code, unsaid.status_code, whole.status_code] == [413, 413, 401]
        v1 = sign_v1({"a": "b"}, CLOCK.now(), SECRET)
        large = await door.client.post("/hooks/acme", content=b'"' + b"x" * 300_000, headers=v1)
        assert large.status_code == 413
        assert door.counted() == {"too_large": 3, "refused": 1}


async def test_a_body_that_does_not_come_is_408_and_a_sender_that_hangs_up_is_no_error(sqlite_url, monkeypatch):
    monkeypatch.setattr(hooks_module, "BODY_WITHIN_S", 0.05)
    async with entrance(sqlite_url) as door:
        host, port = door.client.base_url.host, door.client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        head = b"POST /hooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
        writer.write(head)
        assert b"408" in await reader.readline()
        writer.close()
        monkeypatch.setattr(hooks_module, "BODY_WITHIN_S", 15)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head)
        await writer.drain()
        writer.close()
        assert (await door.send(CHANGED)).status_code == 200


async def test_a_database_that_does_not_store_is_503_and_the_repeat_is_taken(door):
    async with door.db.write() as conn:
        await conn.execute(text("ALTER TABLE facts RENAME TO gone"))
    answers = await asyncio.gather(*(door.send(CHANGED) for _ in range(3)))
    assert {(one.status_code, one.headers["retry-after"]) for one in answers} == {(503, "60")}
    async with door.db.write() as conn:
        await conn.execute(text("ALTER TABLE gone RENAME TO facts"))
    assert (await door.send(CHANGED)).status_code == 200
    assert len(await door.rows()) == 1


async def test_a_database_that_hangs_is_503_in_time(sqlite_url, monkeypatch):
    monkeypatch.setattr(inbox_module, "STORE_WITHIN_S", 0.05)
    async with entrance(sqlite_url) as door, door.db.write() as conn:
        await conn.execute(text("UPDATE accounts SET name = 'x'"))
        assert (await door.send(CHANGED)).status_code == 503
    assert door.counted() == {"not_stored": 1}


async def test_a_sender_that_hangs_up_while_it_is_stored_costs_nobody_else_anything(sqlite_url):
    db = Database(sqlite_url)
    inbox, to = Inbox(db, CLOCK), Addressee("acme", "qbitflow-v2", "live")
    seen = [
        QBitFlowHooks([SECRET]).read(
            {"qbitflow-signature": "t=1"}, event(f"evt_{n}", "subscription.statusChanged", {"uuid": SUB})
        )
        for n in range(3)
    ]
    gone, other = (asyncio.ensure_future(inbox.put(to, one)) for one in seen[:2])
    await asyncio.sleep(0)
    gone.cancel()
    assert await other is True
    async with db.write() as conn:
        await conn.execute(text("ALTER TABLE facts RENAME TO gone"))
    gone, other = (asyncio.ensure_future(inbox.put(to, one)) for one in (seen[2], seen[0]))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(StoreError):
        await other
    await inbox.aclose()
    await db.aclose()


async def test_a_queue_that_is_full_is_503(sqlite_url, monkeypatch):
    monkeypatch.setattr(inbox_module, "MOST_WAITING", 0)
    async with entrance(sqlite_url) as door:
        assert (await door.send(CHANGED)).status_code == 503


async def test_wrong_signatures_are_limited_by_address_and_only_theirs(sqlite_url):
    async with entrance(sqlite_url, limiter=Limiter(most=3), proxies=("127.0.0.1",)) as door:

        async def code(secret: str, sender: str) -> int:
            return (await door.send(CHANGED, secret=secret, **{"x-forwarded-for": sender})).status_code

        assert [await code("whsec_wrong", "203.0.113.7") for _ in range(4)] == [401, 401, 401, 429]
        blocked = await door.send(CHANGED, **{"x-forwarded-for": "203.0.113.7"})
        assert (blocked.status_code, 1 <= int(blocked.headers["retry-after"]) <= 60) == (429, True)
        assert await code(SECRET, "203.0.113.8") == 200


async def test_who_stands_before_us_is_believed_only_when_named(sqlite_url):
    async with entrance(sqlite_url, limiter=Limiter(most=1)) as door:
        codes = [
            (await door.send(CHANGED, secret="x", **{"x-forwarded-for": f"203.0.113.{n}"})).status_code
            for n in range(2)
        ]
        assert codes == [401, 429]


def test_an_address_goes_on_after_its_minute_and_old_ones_are_forgotten(monkeypatch):
    limiter = Limiter(most=2, window_s=60)
    assert [limiter.wrong("203.0.113.7", 0.0), limiter.wrong("203.0.113.7", 10.0)] == [False, True]
    assert (limiter.wait_s("203.0.113.7", 20.0), limiter.wait_s("203.0.113.7", 59.9)) == (40, 1)
    assert limiter.wait_s("203.0.113.7", 60.0) is None
    assert limiter.wrong("203.0.113.7", 61.0) is False
    limiter.wrong("2001:db8::1", 0.0)
    limiter.wrong("2001:db8::2", 0.0)
    assert limiter.wait_s("2001:db8::ffff", 1.0) == 59
    assert limiter.wait_s("unknown", 1.0) is None
    monkeypatch.setattr("monitor.web.limiter.MOST_ADDRESSES", 2)
    limiter.wrong("203.0.113.9", 62.0)
    assert limiter.wait_s("2001:db8::1", 1.0) == 59
    limiter.wrong("203.0.113.10", 62.0)
    assert limiter.wait_s("2001:db8::1", 1.0) is None


async def test_the_last_webhook_is_noted_to_the_minute(sqlite_url):
    async with entrance(sqlite_url) as door:
        await door.send(CHANGED)
        [first] = await door.rows(accounts)
        await door.send(event("evt_2", "subscription.statusChanged", {"uuid": SUB}))
        [second] = await door.rows(accounts)
        assert first.hook_at == second.hook_at
        assert CLOCK.now() - first.hook_at < timedelta(minutes=1)
