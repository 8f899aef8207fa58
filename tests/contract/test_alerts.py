"""What an operator is told: each trouble once in 24 hours, over restarts and machines, and out through Apprise for real."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from monitor.alarm import AppriseAlarm
from monitor.errors import ConfigError
from monitor.usecases.alerts import Alerts
from monitor.usecases.watch import Cause, Finding
from tests.crews import Bell

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
HELD = Finding("acme", Cause.GUARD_HOLD, "1 batch of mails held")
KEY = Finding("acme", Cause.KEY, "refused")


async def test_a_cause_is_told_once_in_24_hours_also_after_a_restart(store):
    bell = Bell()
    assert await Alerts(bell, store).tell([HELD], START) == 1
    assert await Alerts(bell, store).tell([HELD, KEY], START + timedelta(hours=23, minutes=59)) == 1
    assert await Alerts(bell, store).tell([HELD, KEY], START + timedelta(days=1)) == 1
    assert [title.rpartition(": ")[2] for title, _ in bell.rung] == [
        "mails wait for your decision",
        "the API refuses the key",
        "mails wait for your decision",
    ]


@pytest.mark.parametrize("cause", Cause)
async def test_there_is_no_trouble_that_cannot_be_told(cause, store):
    bell = Bell()
    assert await Alerts(bell, store).tell([Finding("acme", cause, "why")], START) == 1
    ((title, body),) = bell.rung
    assert title.startswith("Subscription monitor: acme: ")
    assert body == "why"


async def test_two_accounts_with_one_trouble_are_told_of_both_and_one_account_of_it_once(store):
    both = [HELD, Finding("beta", Cause.GUARD_HOLD, "1 batch of mails held"), HELD]
    assert await Alerts(Bell(), store).tell(both, START) == 2


async def test_trouble_of_no_account_is_told_by_itself(store):
    bell = Bell()
    assert await Alerts(bell, store).tell([Finding(None, Cause.DATABASE, "gone")], START) == 1
    assert bell.rung == [("Subscription monitor: the database is out of reach", "gone")]
    assert await Alerts(bell, store).tell([Finding(None, Cause.DATABASE, "gone")], START) == 0


async def test_what_nobody_heard_is_told_again(store):
    bell = Bell()
    bell.deaf = True
    assert await Alerts(bell, store).tell([HELD], START) == 0
    bell.deaf = False
    assert await Alerts(bell, store).tell([HELD], START) == 1


async def test_a_clock_that_ran_ahead_hushes_nothing_afterwards(store):
    bell = Bell()
    assert await Alerts(bell, store).tell([HELD], START + timedelta(days=400)) == 1
    assert await Alerts(bell, store).tell([HELD], START) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a plugin of Apprise imports an old module of Python
async def test_an_alert_goes_out_through_apprise_for_real():
    bodies: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        alarm = AppriseAlarm([f"json://127.0.0.1:{server.sockets[0].getsockname()[1]}/"])
        assert await alarm.ring("a title", "a sentence") is True
    assert json.loads(bodies[0])["message"] == "a sentence"
    assert await alarm.ring("a title", "nobody listens any more") is False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_address_that_apprise_does_not_know_is_named_by_its_number_once(caplog):
    with pytest.raises(ConfigError, match=r"alerts\.urls\[1\]"):
        AppriseAlarm(["json://127.0.0.1:1/", "nonsense"])
    assert caplog.records == []
    assert not logging.getLogger("apprise").disabled, "why an alert could not be told is worth a line"
