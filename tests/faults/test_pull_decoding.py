"""Pages that broken servers send, over real HTTP: a bad row costs that row, a broken page costs the page, nothing else."""

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.clock import ManualClock
from monitor.domain.model import BadRow, Page, Window
from monitor.errors import ProviderUnavailableError
from monitor.providers.envelope import PageFaultError, read_page
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.providers.qbitflow_v2_wire import subscription_row
from monitor.sandbox import faults, seeding
from monitor.sandbox.faults import Answer, Faults
from monitor.sandbox.mangle import MANGLES
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.v2_shapes import Shapes

pytestmark = pytest.mark.faults
ALL = Window(0)
PAGE_KILLERS = {"nested_100000"}  # engine: deep nesting is a fault of the page
ROW_KILLERS = sorted(name for name, mangle in MANGLES.items() if mangle.verdict == "bad" and name not in PAGE_KILLERS)


class Served:
    """A server of 100 rows a page and a provider whose waits move a clock and take no time."""

    def __init__(self, server: SandboxServer, provider: QBitFlowV2, clock: ManualClock, ids: list[str]) -> None:
        self.faults: Faults = server.faults
        self.provider = provider
        self.clock = clock
        self.ids = ids

    async def page(self) -> Page:
        return (await self.provider.subscriptions(ALL, None)).whole()


@pytest.fixture
def served() -> Callable[..., AbstractAsyncContextManager[Served]]:
    @asynccontextmanager
    async def serve(size: int = 100) -> AsyncIterator[Served]:
        clock = ManualClock(datetime(2026, 4, 1, tzinfo=UTC), ticks=100.0)

        async def sleep(seconds: float) -> None:
            clock.advance(timedelta(seconds=seconds))
            await asyncio.sleep(0)

        world = seeding.healthy(size)
        async with SandboxServer(world) as server:
            provider = QBitFlowV2(
                base_url=server.url, api_key=world.ids.api_key, account="acme", clock=clock, sleep=sleep
            )
            try:
                yield Served(server, provider, clock, sorted(world.id_of(sub) for sub in world.living()))
            finally:
                await provider.aclose()

    return serve


def test_the_sandbox_knows_at_least_twenty_kinds_of_bad_rows():
    assert len(ROW_KILLERS) >= 20


@pytest.mark.parametrize("kind", ROW_KILLERS)
async def test_one_bad_row_in_a_hundred_leaves_99_and_says_why(served, kind):
    async with served() as on:
        bad = on.ids[41]
        on.faults.mangled = {bad: kind}
        page = await on.page()
        assert (len(page.rows), len(page.bad), page.size) == (99, 1, 100)
        assert bad not in {row.ext_id for row, _ in page.rows}
        (row,) = page.bad
        assert row.reason
        assert row.raw
        assert row.ext_id in (bad, None)
        assert row.ext_id == bad or bad.encode() not in row.raw


@pytest.mark.parametrize("kind", sorted(name for name, mangle in MANGLES.items() if mangle.verdict == "fine"))
async def test_an_odd_row_that_the_contract_allows_is_handled(served, kind):
    async with served() as on:
        on.faults.mangled = {on.ids[41]: kind}
        page = await on.page()
        assert {row.ext_id for row, _ in page.rows} == set(on.ids)
        assert page.bad == ()


@pytest.mark.parametrize("kind", sorted(name for name, mangle in MANGLES.items() if mangle.verdict == "open"))
async def test_an_odd_row_of_which_the_contract_says_nothing_costs_at_most_itself(served, kind):
    async with served() as on:
        on.faults.mangled = {on.ids[41]: kind}
        page = await on.page()
        assert len(page.rows) >= 99
        assert len(page.rows) + len(page.bad) == page.size == 100


async def test_every_kind_at_once_costs_each_its_row(served):
    async with served() as on:
        on.faults.mangled = dict(zip(on.ids, ROW_KILLERS, strict=False))
        page = await on.page()
        assert {row.ext_id for row, _ in page.rows} == set(on.ids[len(ROW_KILLERS) :])
        assert len(page.bad) == len(ROW_KILLERS)


async def test_a_row_nested_too_deep_is_a_fault_of_the_page(served):
    async with served() as on:
        on.faults.mangled = {on.ids[41]: "nested_100000"}
        with pytest.raises(ProviderUnavailableError, match="nested too deep"):
            await on.page()


@pytest.mark.parametrize("kind", ["not_a_number", None], ids=["with a bad row", "all good"])
async def test_a_page_cut_anywhere_never_passes_for_a_shorter_one(served, kind):
    async with served(20) as on:
        on.faults.mangled = {on.ids[7]: kind} if kind else {}
        whole = bytearray()

        def cut(_call, answer: Answer) -> Answer:
            body = answer.bytes()
            whole[:] = body
            return replace(answer, rows=None, body=body[:at])

        on.faults.add(cut)
        at = 0
        while at < (len(whole) or 1):
            with pytest.raises(ProviderUnavailableError):
                await on.page()
            at += 997
        at = len(whole)
        assert len((await on.page()).rows) == (19 if kind else 20)


async def test_a_connection_cut_in_the_body_is_asked_again_and_heals(served):
    async with served() as on:
        on.faults.add(faults.dropped(5000), times=3)
        assert len((await on.page()).rows) == 100
        assert on.faults.requests["subscriptions"] == 4


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(bytes(range(256)) * 9)[:-99]], ids=["garbage", "cut"])
async def test_a_body_that_cannot_be_unpacked_is_unavailable(served, body):
    async with served() as on:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        on.faults.add(lambda _call, _answer: Answer(200, body, headers))
        with pytest.raises(ProviderUnavailableError):
            await on.page()


async def test_a_body_that_unpacks_without_end_is_given_up(served):
    bomb = gzip.compress(b" " * (80 * 1024 * 1024), compresslevel=1)
    async with served(1) as on:
        on.faults.add(lambda _call, _answer: Answer(200, bomb, {"Content-Encoding": "gzip"}))
        with pytest.raises(ProviderUnavailableError, match="more than"):
            await on.page()
        assert on.faults.requests["subscriptions"] == 1


async def test_eight_walks_at_once_wait_as_asked_and_call_little_more_than_the_pages(served):
    async with served(800) as on:
        refused = faults.rate_limited("3")
        told: list[float] = []
        asked: list[float] = []

        def sometimes(call, answer: Answer) -> Answer:
            asked.append(on.clock.monotonic())
            if told and on.clock.monotonic() < told[-1] + 3:
                told.append(on.clock.monotonic())
                return refused(call, answer)
            if call.number in (9, 31):
                told.append(on.clock.monotonic())
                return refused(call, answer)
            return answer

        on.faults.add(sometimes, route="subscriptions")

        async def walk() -> set[str]:
            seen, cursor = set(), None
            while True:
                page = (await on.provider.subscriptions(ALL, cursor)).whole()
                seen |= {row.ext_id for row, _ in page.rows}
                cursor = page.next_cursor
                if cursor is None:
                    return seen

        walks = await asyncio.gather(*(walk() for _ in range(8)))
        assert all(seen == set(on.ids) for seen in walks)
        # requests that were on their way already when the 429 came may be refused too, once each
        assert len(asked) <= 64 + 2 * 8


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """The bytes with a few changes that a broken encoder, cable or attacker could make."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(out) + 1)
        out[start : start + rng.choice((0, 1, 1, 4))] = rng.choice(
            (
                b"",
                b'"',
                b"\\",
                b"\\ud800",
                b"\x00",
                b"\xff",
                b"NaN",
                b"1e400",
                b"null",
                b"[",
                b"}",
                b",",
                b"-",
                b"9" * 30,
            )
        )
    return bytes(out)


def test_ten_thousand_damaged_rows_raise_nothing():
    rng = random.Random(29)
    world = seeding.traps(20)
    shapes = Shapes(world)
    rows = [json.dumps(shapes.subscription(sub), ensure_ascii=False).encode() for sub in world.living()]
    bad = 0
    for n in range(10_000):
        found = subscription_row(damaged(rng, rows[n % len(rows)]))
        if isinstance(found, BadRow):
            bad += 1
            assert found.reason
        else:
            json.loads(found[1])
    assert 1000 < bad < 10_000


def test_two_thousand_damaged_pages_give_rows_or_a_page_fault():
    rng = random.Random(27)
    world = seeding.traps(0)
    shapes = Shapes(world)
    rows = [json.dumps(shapes.subscription(sub)) for sub in list(world.living())[:4]]
    body = f'{{"items":[{",".join(rows)},{{"x":NaN}}],"nextCursor":"c"}}'.encode()
    whole = 0
    for _ in range(2000):
        try:
            found, _ = read_page(damaged(rng, body))
        except PageFaultError:
            continue
        whole += 1
        assert all(subscription_row(raw) for raw in found)
    assert whole > 100
