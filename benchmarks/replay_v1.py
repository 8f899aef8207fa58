"""API v1 for the benchmarks: rows that the sandbox's world made once, each read by its id, answered after a delay.

    python -m benchmarks.replay_v1 --rows 20000 --delay 20

prints one line of JSON once it listens, and ends when its stdin does. It lists no payments: the ids are imported.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.answering import serve
from monitor.sandbox.seeding import healthy
from monitor.sandbox.serving import dump
from monitor.sandbox.v1_shapes import Shapes

CUSTOMERS = 100
SINGLE = "/v1/transaction/subscription/"


class Recording:
    """What every route answers, as bytes."""

    def __init__(self, size: int) -> None:
        world = healthy(size, start=datetime.now(UTC).replace(microsecond=0))
        shapes = Shapes(world)
        self.key = world.ids.api_key
        self.rows = {world.id_of(sub): dump(shapes.subscription(sub)).encode() for sub in world.subscriptions}
        self._customers = [dump(shapes.customer(one)).encode() for one in world.customers]
        self._small = {
            "/v1/user/": dump(shapes.user()).encode(),
            "/v1/product/": dump([shapes.product(one) for one in world.products]).encode(),
            "/v1/utils/all-available-currencies": dump([shapes.currency(one) for one in world.currencies]).encode(),
            "/v1/transaction/payments/combined": b'{"items":[],"nextCursor":null}',
        }

    def answer(self, target: str) -> tuple[int, bytes]:
        """Status and body."""
        asked = urlsplit(target)
        path = unquote(asked.path)
        if path.startswith(SINGLE):
            row = self.rows.get(path.removeprefix(SINGLE))
            return (404, b'{"error":"resource not found"}') if row is None else (200, row)
        if path == "/v1/customer/all":
            return 200, self._page(int(parse_qs(asked.query).get("cursor", ["0"])[0]))
        return 200, self._small[path]

    def _page(self, first: int) -> bytes:
        last = first + CUSTOMERS
        cursor = b'"%d"' % last if last < len(self._customers) else b"null"
        return b'{"items":[' + b",".join(self._customers[first:last]) + b'],"nextCursor":' + cursor + b"}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--delay", type=int, required=True, help="milliseconds")
    given = parser.parse_args()
    recorded = Recording(given.rows)
    delay = given.delay / 1000
    told = {"key": recorded.key, "ids": list(recorded.rows)}
    asyncio.run(serve(lambda target: (*recorded.answer(target), delay), told))
