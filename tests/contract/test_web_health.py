"""The pages for supervisors, over real HTTP: what they say is what the ledger says."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import make_url, text

from monitor.errors import ConfigError
from monitor.metrics import CONTENT_TYPE, Meter
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.usecases.watch import Watched
from monitor.web import health
from monitor.web.app import build_app, served
from monitor.web.health import Site
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
WATCHED = (Watched("acme", "0 7 * * *", ZoneInfo("UTC")),)


@pytest.fixture
async def stage(database_url, tmp_path):
    async with staged(healthy(60, start=START), database_url, tmp_path / "var") as stage:
        yield stage


@asynccontextmanager
async def pages(stage, meter: Meter | None = None):
    site = Site(stage.db, WATCHED, stage.tools.clock, meter or Meter())
    async with served(build_app(site), "127.0.0.1:0") as address, httpx.AsyncClient(base_url=address) as client:
        yield client


async def failing(client) -> list[tuple[str, str | None]]:
    answer = await client.get("/readyz")
    body = answer.json()
    assert answer.status_code == (503 if body["failing"] else 200)
    assert body["ready"] is not bool(body["failing"])
    return [(one["check"], one["account"]) for one in body["failing"]]


async def test_alive_is_alive_whatever_else_is_wrong(stage):
    async with pages(stage) as client:
        async with stage.db.write() as conn:
            await conn.execute(text("DROP TABLE alembic_version"))
        answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "alive\n")


async def test_before_the_first_run_it_is_not_ready_and_says_what_to_start(stage):
    async with pages(stage) as client:
        assert await failing(client) == [("missing_run", "acme")]
        assert "monitor run" in (await client.get("/readyz")).text


async def test_ready_until_26_hours_after_the_last_run(stage):
    async with pages(stage) as client:
        await stage.run()
        assert await failing(client) == []
        stage.world.advance(timedelta(hours=25, minutes=59))
        assert await failing(client) == []
        stage.world.advance(timedelta(minutes=1))
        assert await failing(client) == [("missing_run", "acme")]


async def test_a_sender_that_pauses_is_named_with_its_reason_and_no_address(stage):
    await stage.run()
    row = await stage.row()
    async with stage.db.write() as conn:
        until = START + timedelta(minutes=15)
        why = "the server answered 550 to ines@customer.example"
        await change_account(conn, row.id, sender_paused_until=until, sender_pause_reason=why)
    async with pages(stage) as client:
        assert await failing(client) == [("sender_paused", "acme")]
        assert "customer.example" not in (await client.get("/readyz")).text
        stage.world.advance(timedelta(minutes=15))
        assert await failing(client) == []


async def test_a_pause_by_hand_and_a_held_plan_are_a_persons_choice(stage):
    await stage.run()
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, paused_at=START)
    async with pages(stage) as client:
        assert await failing(client) == []
        assert 'monitor_account_paused{account="acme"} 1.0' in (await client.get("/metrics")).text


async def test_a_database_of_another_revision_is_named_with_the_command(stage):
    await stage.run()
    async with stage.db.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    async with pages(stage) as client:
        assert await failing(client) == [("database", None)]
        assert "monitor db upgrade" in (await client.get("/readyz")).text


async def test_without_its_database_it_is_not_ready_and_still_tells_its_counters(stage):
    meter = Meter()
    meter.ran("acme", "complete", {"pages": 2, "rows": 60})
    async with stage.db.write() as conn:
        await conn.execute(text("DROP TABLE attempts"))
        await conn.execute(text("ALTER TABLE accounts RENAME TO gone"))
    async with pages(stage, meter) as client:
        assert await failing(client) == [("database", None)]
        told = (await client.get("/metrics")).text
    assert "monitor_database_up 0.0" in told
    assert 'monitor_rows_total{account="acme"} 60.0' in told


@asynccontextmanager
async def muffled(url: str):
    """`(url, muffle)`: a way to this PostgreSQL on which, from `muffle.set()` on, no byte comes through any more."""
    folder, muffle, tasks = make_url(url).query["host"], asyncio.Event(), set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (data := await reader.read(65536)) and not muffle.is_set():
                writer.write(data)
            if muffle.is_set():
                await asyncio.Event().wait()
        finally:
            writer.close()

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        within, without = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        tasks.update(map(asyncio.create_task, (carry(reader, without), carry(within, writer))))

    server = await asyncio.start_server(enter, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield make_url(url).set(host="127.0.0.1", port=port, query={}).render_as_string(), muffle
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_database_that_hangs_is_told_in_time_though_its_driver_hangs_too(postgres_url, tmp_path, monkeypatch):
    monkeypatch.setattr(health, "ANSWER_WITHIN_S", 0.2)
    async with muffled(postgres_url) as (url, muffle), staged(healthy(5, start=START), url, tmp_path / "var") as stage:
        await stage.run()
        async with pages(stage) as client:
            assert await failing(client) == []
            muffle.set()
            began = time.monotonic()
            answer = await client.get("/readyz")
            told = (await client.get("/metrics")).text
        assert time.monotonic() - began < 3
        assert [one["why"] for one in answer.json()["failing"]] == ["the database did not answer within 0 s"]
        assert "monitor_database_up 0.0" in told


async def test_metrics_tell_what_waits_and_for_how_long(stage):
    await stage.run()
    cause(stage.world, {"low_on_funds": 4})
    await stage.run()
    stage.world.advance(timedelta(minutes=10))
    async with pages(stage) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert 'monitor_queue_age_seconds{account="acme"} 600.0' in answer.text
    ready = (await stage.states())["ready"]
    assert f'monitor_queue_mails{{account="acme"}} {float(ready)}' in answer.text
    assert "monitor_database_up 1.0" in answer.text


async def test_nothing_else_is_served_and_nothing_is_taken(stage):
    async with pages(stage) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/readyz")).status_code == 405


async def test_an_address_in_use_is_said_with_the_setting(stage):
    app = build_app(Site(stage.db, WATCHED, stage.tools.clock, Meter()))
    async with served(app, "127.0.0.1:0") as address:
        with pytest.raises(ConfigError, match=r"web\.bind"):
            async with served(app, address.removeprefix("http://")):
                pass
