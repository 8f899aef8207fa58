"""The API that `memory_sync` reads, in a process of its own: `python -m benchmarks.memory_world ROWS`.

Prints its address and key as JSON; each line on standard input is a number of changes to cause, an empty one ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime

from monitor.sandbox.seeding import healthy
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.transitions import cause

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


async def serve(rows: int) -> None:
    world = healthy(rows, start=START)
    async with SandboxServer(world, clock=world.clock) as server:
        print(json.dumps([server.url, world.ids.api_key]), flush=True)
        while changes := (await asyncio.to_thread(sys.stdin.readline)).strip():
            cause(world, {"payment_failed:insufficient_balance": int(changes)})
            print("changed", flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
