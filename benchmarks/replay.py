"""The API of the benchmarks: the sandbox's own rows, made once into bytes and served bare.

The sandbox answers a page in milliseconds, since it builds every row anew; beside it all contenders would look alike.
So its world is asked once, and this process only joins the bytes of a page. It knows both bounds of a window.

    python -m benchmarks.replay --rows 100000

prints one line of JSON once it listens. `/control/changed/on` shows the second state of one row in a hundred (its bill
was paid), `/control/delay/50` answers pages after 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from benchmarks.answering import serve
from monitor.sandbox.entities import Subscription
from monitor.sandbox.seeding import healthy
from monitor.sandbox.serving import dump
from monitor.sandbox.transitions import cause
from monitor.sandbox.v2_shapes import Shapes
from monitor.sandbox.world import World

PAGE = 100
CHANGED_EVERY = 100
EMPTY = b'{"items":[],"nextCursor":null}'
"""Every other list: events, failures, payments. None of the contenders is measured with them."""


class Recording:
    """What every route answers, as bytes. Rows stand newest first; `changed` holds the second state of some."""

    def __init__(self, size: int, situation: str | None = None) -> None:
        world = healthy(size, start=datetime.now(UTC).replace(microsecond=0))
        if situation is not None:
            cause(world, {situation: size})
        shapes = Shapes(world)
        newest_first = list(reversed(world.subscriptions))
        self.key = world.ids.api_key
        self.rows = [dump(shapes.subscription(sub)).encode() for sub in newest_first]
        self.ages = [-sub.created_at.timestamp() for sub in newest_first]
        self.changed: dict[int, bytes] = {}
        for n in range(0, size, CHANGED_EVERY):
            _bill(world, newest_first[n])
            self.changed[n] = dump(shapes.subscription(newest_first[n])).encode()
        self.small = {
            "/v2/me": dump(shapes.me()).encode(),
            "/v2/product": dump([shapes.product(one) for one in world.products]).encode(),
            "/v2/utils/all-available-currencies": dump([shapes.currency(one) for one in world.currencies]).encode(),
        }
        self.bytes_per_row = sum(map(len, self.rows)) // max(1, size)

    def second_state(self, *, on: bool) -> None:
        """Swap the rows that change with their other state; saying the same twice does nothing."""
        if on == getattr(self, "_second", False):
            return
        self._second = on
        for n, other in self.changed.items():
            self.changed[n], self.rows[n] = self.rows[n], other

    def page(self, query: dict[str, list[str]]) -> bytes:
        """One page: rows of the window after the cursor, which is a row's place."""
        first, end = 0, len(self.rows)
        if before := query.get("createdBefore"):
            first = bisect_right(self.ages, -datetime.fromisoformat(before[0]).timestamp())
        if after := query.get("createdAfter"):
            end = bisect_left(self.ages, -datetime.fromisoformat(after[0]).timestamp())
        if cursor := query.get("cursor"):
            first = int(cursor[0])
        last = min(first + PAGE, end)
        cursor_out = b'"%d"' % last if last < end else b"null"
        return b'{"items":[' + b",".join(self.rows[first:last]) + b'],"nextCursor":' + cursor_out + b"}"


def _bill(world: World, sub: Subscription) -> None:
    """A paid bill: the dates move on, the allowance falls."""
    assert sub.period_end_at is not None  # it is healthy
    next_at = sub.period_end_at + sub.frequency
    world.change(
        sub,
        last_billing_at=sub.period_end_at,
        period_end_at=next_at,
        next_billing_at=next_at,
        allowance=sub.allowance - world.amount_of(sub),
    )


class _Replay:
    """The recording, and what `/control/` set."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._delay = 0.0

    def answer(self, target: str) -> tuple[int, bytes, float]:
        asked = urlsplit(target)
        if asked.path == "/v2/transaction/subscriptions":
            return 200, self._recording.page(parse_qs(asked.query)), self._delay
        if asked.path.startswith("/control/"):
            _, _, name, value = asked.path.split("/")
            if name == "delay":
                self._delay = int(value) / 1000
            else:
                self._recording.second_state(on=value == "on")
            return 200, b"{}", 0
        return 200, self._recording.small.get(asked.path, EMPTY), 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--situation")
    given = parser.parse_args()
    recorded = Recording(given.rows, given.situation)
    told = {"key": recorded.key, "bytes_per_row": recorded.bytes_per_row}
    asyncio.run(serve(_Replay(recorded).answer, told))
