"""The daemon over days of virtual time: real API, real mail server, real databases; only the clock jumps."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from monitor.clock import ManualClock
from monitor.metrics import Meter
from monitor.sandbox import faults as bad
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.flock import FileLocks
from monitor.store.schema import runs
from monitor.usecases.run import Run, RunOptions
from tests.crews import Bell, charge_of, crew_of, drive
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


async def slots(stage) -> list[tuple[str | None, str, str]]:
    """(slot, trigger, state) of every run, oldest first."""
    async with stage.db.read() as conn:
        found = await conn.execute(select(runs.c.slot, runs.c.trigger, runs.c.state).order_by(runs.c.id))
        return [tuple(row) for row in found]


@asynccontextmanager
async def listening():
    """A watchdog on the web: `(url, pings)`; what it is asked stands in `pings`."""
    pings: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        pings.append(head.split(b" ")[1].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ping/1?rid=2", pings


async def test_a_first_start_runs_at_once_and_then_every_day(play):
    stage = await play(healthy(20, start=START))
    await drive(stage, crew_of(stage), START + timedelta(days=3))
    assert await slots(stage) == [(f"2026-04-0{day}", "daemon", "complete") for day in (1, 2, 3, 4)]


async def test_a_mail_goes_out_on_the_day_of_its_cause_and_once(play):
    stage = await play(healthy(60, start=START))
    crew = crew_of(stage)
    await drive(stage, crew, START + timedelta(hours=1))
    cause(stage.world, {"low_on_funds": 2, "paused": 1})
    await drive(stage, crew, START + timedelta(days=3))
    states = await stage.states()
    assert states["sent"] == len(stage.mailbox.messages) >= 2


async def test_five_days_asleep_are_one_run(play):
    stage = await play(healthy(20, start=START))
    await drive(stage, crew_of(stage), START + timedelta(hours=2))
    stage.world.advance(timedelta(days=5))
    await drive(stage, crew_of(stage), stage.world.now + timedelta(hours=3))
    assert [slot for slot, _, _ in await slots(stage)] == ["2026-04-01", "2026-04-06"]


@pytest.mark.parametrize(
    ("zone", "start", "lived"),
    [
        (
            "Europe/Berlin",
            datetime(2026, 3, 27, 12, tzinfo=UTC),
            ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30"],
        ),
        (
            "Europe/Berlin",
            datetime(2026, 10, 23, 12, tzinfo=UTC),
            ["2026-10-23", "2026-10-24", "2026-10-25", "2026-10-26"],
        ),
        (
            "America/New_York",
            datetime(2026, 3, 6, 12, tzinfo=UTC),
            ["2026-03-06", "2026-03-07", "2026-03-08", "2026-03-09"],
        ),
        (
            "Pacific/Apia",
            datetime(2011, 12, 28, 13, tzinfo=UTC),
            ["2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"],
        ),
    ],
)
async def test_a_night_that_moves_the_clock_has_one_run_like_any_other(zone, start, lived, tmp_path, sqlite_url):
    async with staged(healthy(5, start=start), sqlite_url, tmp_path / "var") as stage:
        stage.change(zone=zone)
        await drive(stage, crew_of(stage, schedule="30 2 * * *"), start + timedelta(days=3, hours=2))
        assert [slot for slot, _, _ in await slots(stage)] == lived


async def test_two_daemons_make_one_run_of_a_day(play, tmp_path):
    """On two machines: nothing but the database is theirs in common."""
    stage = await play(healthy(20, start=START))
    (tmp_path / "elsewhere").mkdir()
    other = FileLocks(tmp_path / "elsewhere")
    tools = replace(stage.tools, locks=other, owner=other.owner)
    first, second = crew_of(stage), crew_of(replace(stage, tools=tools))
    await asyncio.gather(first.see_to_runs(), second.see_to_runs())
    await asyncio.gather(first.idle(), second.idle())
    await second.see_to_runs()
    await second.idle()
    assert [slot for slot, _, state in await slots(stage) if state != "abandoned"] == ["2026-04-01"]
    other.close()


async def test_an_api_that_is_down_is_asked_again_later_and_later(play):
    stage = await play(healthy(20, start=START))
    stage.faults.add(bad.error(503, "unavailable"), route="me")
    crew = crew_of(stage)
    await drive(stage, crew, START + timedelta(hours=4), every=timedelta(minutes=5))
    assert await slots(stage) == []
    asked = stage.faults.requests["me"]
    assert asked == 4 * 7  # four attempts each, after 0, 5, 15, 35, 75, 135, 195 minutes
    stage.faults.clear()
    await drive(stage, crew, START + timedelta(hours=5, minutes=1), every=timedelta(minutes=5))
    assert await slots(stage) == [("2026-04-01", "daemon", "complete")]


async def test_a_clock_that_ran_ahead_keeps_no_account_waiting_once_it_is_right(play):
    stage = await play(healthy(10, start=START))
    ahead = ManualClock(START + timedelta(days=1))
    crew = crew_of(replace(stage, tools=replace(stage.tools, clock=ahead)))
    await crew.see_to_runs()  # refused: the API's clock is another
    await crew.idle()
    assert await slots(stage) == []
    ahead.at = stage.world.now
    await crew.see_to_runs()
    await crew.idle()
    assert await slots(stage) == [("2026-04-01", "daemon", "complete")]


async def test_one_bad_key_stops_one_account_and_is_told(play, tmp_path, database_url):
    stage = await play(healthy(20, start=START))
    async with staged(healthy(10, start=START), database_url, tmp_path / "two", key="sk_wrong") as other:
        other.change(name="beta")
        bell = Bell()
        crew = crew_of(stage, charge_of(other), charge_of(stage), bell=bell)
        await drive(stage, crew, START + timedelta(hours=19))
        assert [slot for slot, _, _ in await slots(stage)] == ["2026-04-01"]
        assert [title for title, _ in bell.rung] == ["Subscription monitor: beta: the API refuses the key"]


async def test_a_run_is_heard_of_when_it_starts_and_ends(play):
    stage = await play(healthy(20, start=START))
    async with listening() as (url, pings):
        crew = crew_of(stage, heartbeat=url)
        await crew.see_to_runs()
        await crew.idle()
        assert await crew.close(5)
    assert pings == ["/ping/1/start?rid=2", "/ping/1?rid=2"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ping", "https://xn--/ping", "https://☃.example/ping"])
async def test_a_watchdog_that_is_away_holds_up_nothing(url, play):
    stage = await play(healthy(20, start=START))
    crew = crew_of(stage, heartbeat=url)
    await crew.see_to_runs()
    await crew.idle()
    assert await crew.close(5)
    assert [state for _, _, state in await slots(stage)] == ["complete"]


async def test_a_run_that_read_only_a_part_is_tried_again_within_the_hour_not_tomorrow(play):
    stage = await play(healthy(250, start=START))
    stage.faults.add(bad.error(500, "internal"), route="subscriptions", page=2)
    async with listening() as (url, pings):
        crew = crew_of(stage, heartbeat=url)
        await drive(stage, crew, START + timedelta(minutes=50), every=timedelta(minutes=10))
        stage.faults.clear()
        await drive(stage, crew, START + timedelta(hours=3), every=timedelta(minutes=10))
        await crew.close(5)
    assert await slots(stage) == [("2026-04-01", "daemon", "partial"), (None, "again", "complete")]
    assert [ping.removeprefix("/ping/1").removesuffix("?rid=2") for ping in pings] == ["/start", "/fail", "/start", ""]


async def test_what_was_killed_in_the_middle_is_resumed_as_the_same_slot(play):
    stage = await play(healthy(250, start=START))

    class KilledError(BaseException):
        """Nothing in the product may catch it."""

    def die(name: str) -> None:
        if name == "before_gate":
            raise KilledError

    dying = replace(stage, tools=replace(stage.tools, failpoint=die))
    with pytest.raises(KilledError):
        await Run(dying.tools, dying.account, RunOptions("daemon", "2026-04-01", state_dir=stage.state_dir)).execute()
    await drive(stage, crew_of(stage), START + timedelta(hours=1))
    assert await slots(stage) == [("2026-04-01", "daemon", "complete")]


async def test_the_account_with_the_most_pressing_mail_goes_first(play, tmp_path, database_url):
    stage = await play(healthy(60, start=START))
    async with staged(healthy(60, start=START, seed=2), database_url, tmp_path / "two") as other:
        other.change(name="beta")
        meter = Meter()
        crew = crew_of(stage, charge_of(stage), charge_of(other), meter=meter)
        await crew.see_to_runs()
        await crew.idle()
        cause(stage.world, {"paused": 2})
        cause(other.world, {"payment_failed:insufficient_balance": 2})
        for one in (stage, other):
            await Run(stage.tools, one.account, RunOptions(state_dir=stage.state_dir)).execute()
        offered: list[list[str]] = []
        offer = crew._mails.offer
        crew._mails.offer = lambda names: (offered.append(list(names)), offer(offered[-1]))
        await crew.see_to_mails()
        await crew.idle()
    assert offered == [["beta", "acme"]]
    assert b'monitor_mails_total{account="beta",kind="payment_failed",outcome="sent"}' in meter.text()
