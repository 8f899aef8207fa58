from __future__ import annotations

import asyncio
import os
import signal

import pytest

from monitor.cli.stop import Stop


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_first_signal_asks_and_decides_the_exit_code(signum, code):
    heard = []
    stop = Stop(lambda: heard.append(1))
    with stop.listening():
        assert (stop(), stop.exit_code) == (False, None)
        os.kill(os.getpid(), signum)
        await stop.asked.wait()
    assert (stop(), stop.exit_code, heard) == (True, code, [1])


async def test_the_second_signal_cancels_whoever_waits():
    stop = Stop()

    async def body() -> None:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.asked.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await body()
    assert stop.exit_code == 143


async def test_a_wait_ends_with_the_stop_and_not_an_hour_later():
    stop = Stop()
    with stop.listening():
        waiting = asyncio.create_task(stop.sleep(3_600))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(waiting, 5)


async def test_a_wait_that_nobody_stops_takes_its_time_and_raises_nothing():
    await Stop().sleep(0.001)


async def test_a_limit_asks_for_a_stop_without_an_exit_code_of_its_own():
    stop = Stop()
    stop.limit(0.001)
    await stop.asked.wait()
    assert (stop(), stop.exit_code) == (True, None)
