"""Turns: fair, a few at once, and nobody's trouble is another's."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from monitor.errors import StoreError
from monitor.schedule.turns import Turns


async def test_who_has_more_to_do_goes_to_the_end_of_the_line():
    left = {"big": 3, "small": 1, "middle": 2}
    order: list[str] = []

    async def take(name: str) -> bool:
        order.append(name)
        left[name] -= 1
        return left[name] > 0

    turns = Turns("mail", take, lanes=1)
    turns.offer(["big", "small", "middle"])
    await turns.idle()
    assert order == ["big", "small", "middle", "big", "middle", "big"]


async def test_an_account_has_one_turn_at_a_time_however_often_it_is_offered():
    running: list[str] = []
    gate = asyncio.Event()

    async def take(name: str) -> bool:
        running.append(name)
        await gate.wait()
        return False

    turns = Turns("mail", take, lanes=4)
    turns.offer(["acme", "acme"])
    turns.offer(["acme"])
    await asyncio.sleep(0)
    gate.set()
    await turns.idle()
    assert running == ["acme"]
    turns.offer(["acme"])
    await turns.idle()
    assert running == ["acme", "acme"]


async def test_an_account_that_hangs_holds_one_lane_only():
    served: list[str] = []
    for_ever = asyncio.Event()

    async def take(name: str) -> bool:
        if name == "stuck":
            await for_ever.wait()
        served.append(name)
        return False

    turns = Turns("mail", take, lanes=2)
    turns.offer(["stuck", "a", "b", "c"])
    while len(served) < 3:
        await asyncio.sleep(0)
    assert served == ["a", "b", "c"]
    assert await turns.close(0) is False


@pytest.mark.parametrize(("error", "traced"), [(RuntimeError("boom"), True), (StoreError("away"), False)])
async def test_an_error_costs_one_turn_and_stops_nobody_and_one_with_a_name_is_one_line(error, traced):
    served: list[str] = []

    async def take(name: str) -> bool:
        served.append(name)
        if name == "broken":
            raise error
        return False

    turns = Turns("run", take, lanes=1)
    with capture_logs() as said:
        turns.offer(["broken", "fine"])
        await turns.idle()
        turns.offer(["broken"])
        await turns.idle()
    assert served == ["broken", "fine", "broken"]
    assert [(one["event"], "exc_info" in one) for one in said] == [("turn_failed", traced)] * 2


async def test_closing_lets_the_running_turn_end_and_begins_no_other():
    served: list[str] = []
    gate = asyncio.Event()

    async def take(name: str) -> bool:
        await gate.wait()
        served.append(name)
        return True

    turns = Turns("mail", take, lanes=1)
    turns.offer(["first", "second"])
    await asyncio.sleep(0)
    closing = asyncio.create_task(turns.close(30))
    await asyncio.sleep(0)
    gate.set()
    assert await closing is True
    turns.offer(["third"])
    await turns.idle()
    assert served == ["first"]
