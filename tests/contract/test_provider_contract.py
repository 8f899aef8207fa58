"""What every provider must do, against a real server that serves a world whose truth is known.

A provider's suite inherits `ProviderContract` and gives it a `stage`. A capability that a provider lacks is a visible
skip, never a silent pass.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from monitor.clock import SystemClock
from monitor.domain.model import Action, BadRow, Cause, Mode, Page, Snapshot, Status, Window
from monitor.domain.payments import PaymentKind, PaymentSeen
from monitor.errors import (
    ProviderAuthError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from monitor.providers.base import Capability, PaymentSource, Provider
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.sandbox import acts, faults, seeding
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Merchant
from monitor.sandbox.faults import Faults
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.transitions import cause
from monitor.sandbox.world import World

ALL = Window(0)
PAST = "Sun, 01 Mar 2020 12:00:00 GMT"


@dataclass
class Stage:
    """A world, its server's switches, and the provider that asks it. `sleeps` are the waits it would have made."""

    world: World
    faults: Faults
    provider: Provider
    sleeps: list[float] = field(default_factory=list)
    secret: str = ""
    """What no error may show; the world's API key where nothing else is said."""

    def need(self, capability: Capability) -> None:
        if capability not in self.provider.capabilities:
            pytest.skip(f"{self.provider.name} cannot {capability}, by contract")

    async def walk(self, window: Window = ALL) -> list[Page]:
        pages, cursor = [], None
        while True:
            page = (await self.provider.subscriptions(window, cursor)).whole()
            pages.append(page)
            if not page.next_cursor or len(pages) > 1000:
                return pages
            cursor = page.next_cursor

    async def snapshots(self, window: Window = ALL) -> dict[str, Snapshot]:
        rows = [snapshot for page in await self.walk(window) for snapshot, _ in page.rows]
        assert len({row.ext_id for row in rows}) == len(rows)
        return {row.ext_id: row for row in rows}

    def buy(self) -> None:
        """Somebody pays for something once."""
        acts.purchase(self.world, self.world.customers[0], self.world.products[0])

    def ids(self) -> set[str]:
        return {self.world.id_of(sub) for sub in self.world.living()}


async def payments_of(source, since=None, customers=()) -> list[PaymentSeen]:
    """Every payment of one walk; none may be there twice."""
    rows = [row async for page in source.payments(since, customers) for row in page.rows]
    assert len({row.ext_id for row in rows}) == len(rows)
    return rows


Stager = Callable[..., AbstractAsyncContextManager[Stage]]


class ProviderContract:
    """Inherit, and give a `stage` fixture: an async context manager from a world to a `Stage`."""

    waits_out_429 = True
    """Whether the API's contract lets a 429 be asked again."""
    read_singly = frozenset({PaymentKind.ONE_OFF, PaymentKind.BILL})
    """Kinds of payments that the API reads by their id too."""

    @pytest.fixture
    def stage(self) -> Stager:
        raise NotImplementedError

    # The key

    async def test_the_key_tells_its_space_its_mode_and_the_apis_time(self, stage: Stager):
        for mode in Mode:
            async with stage(seeding.healthy(1, merchant=Merchant(mode=mode.value))) as on:
                identity = await on.provider.identify()
                again = await on.provider.identify()
            assert identity.mode is mode
            assert identity.space_uuid == again.space_uuid
            assert identity.api_at.tzinfo is UTC
            assert abs(identity.api_at - datetime.now(UTC)) < timedelta(seconds=30)

    async def test_a_clock_that_differs_over_there_is_seen(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.faults.clock_skew = timedelta(minutes=-20)
            identity = await on.provider.identify()
        assert timedelta(minutes=19) < datetime.now(UTC) - identity.api_at < timedelta(minutes=21)

    async def test_a_refused_key_is_an_auth_error_on_every_route(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.faults.revoked = True
            for ask in self._reads(on):
                with pytest.raises(ProviderAuthError) as caught:
                    await ask()
                assert (on.secret or on.world.ids.api_key) not in str(caught.value)
                assert "accounts.acme.api_key" in str(caught.value)

    # The walk

    async def test_a_walk_gives_every_subscription_once(self, stage: Stager):
        async with stage(seeding.healthy(230, trials=7)) as on:
            on.need(Capability.LIST)
            found = await on.snapshots()
            assert set(found) == on.ids()

    async def test_a_walk_tells_the_truth_of_every_row(self, stage: Stager):
        async with stage(seeding.traps(3)) as on:
            on.need(Capability.LIST)
            found = await on.snapshots()
            assert set(found) == on.ids()
            for sub in on.world.living():
                self._same(found[on.world.id_of(sub)], sub, on.world)

    async def test_a_walk_is_newest_first(self, stage: Stager):
        async with stage(seeding.healthy(150)) as on:
            on.need(Capability.LIST)
            created = [row.created_at for row in (await on.snapshots()).values()]
        assert created == sorted(created, reverse=True)

    async def test_the_kept_json_has_no_customer_and_is_the_row(self, stage: Stager):
        async with stage(seeding.traps(2)) as on:
            on.need(Capability.LIST)
            for snapshot, raw in [row for page in await on.walk() for row in page.rows]:
                kept = json.loads(raw)
                assert snapshot.ext_id in kept.values()
                assert "customer" not in kept
                if snapshot.customer and snapshot.customer.email:
                    assert snapshot.customer.email not in raw.decode()

    async def test_both_bounds_of_a_window_are_excluded_and_overlapping_windows_lose_nothing(self, stage: Stager):
        async with stage(seeding.healthy(60)) as on:
            on.need(Capability.WINDOWS)
            edge = sorted(sub.created_at for sub in on.world.living())[30]
            before = await on.snapshots(Window(0, created_before=edge))
            after = await on.snapshots(Window(1, created_after=edge))
            assert len(before) + len(after) == 59
            overlap = await on.snapshots(Window(1, created_after=edge - timedelta(seconds=1)))
            assert set(before) | set(overlap) == on.ids()
            both = Window(2, created_after=edge - timedelta(days=30), created_before=edge)
            assert set(await on.snapshots(both)) < set(before)

    async def test_an_empty_account_is_an_empty_page(self, stage: Stager):
        async with stage(seeding.healthy(0)) as on:
            on.need(Capability.LIST)
            assert await on.walk() == [Page(rows=(), bad=(), next_cursor=None, size=0)]

    async def test_items_that_are_null_or_absent_are_an_empty_page(self, stage: Stager):
        for act in (faults.items(None), faults.without_items, faults.raw(b"null")):
            async with stage(seeding.healthy(2)) as on:
                on.need(Capability.LIST)
                on.faults.add(act, route="subscriptions")
                assert (await on.provider.subscriptions(ALL, None)).whole().rows == ()

    async def test_an_empty_cursor_is_the_end(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            on.need(Capability.LIST)
            on.faults.add(faults.cursor(""), route="subscriptions")
            assert (await on.provider.subscriptions(ALL, None)).next_cursor is None

    async def test_a_refused_cursor_is_told_apart_from_an_api_that_is_down(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            on.need(Capability.LIST)
            with pytest.raises(ProviderRefusedError) as caught:
                await on.provider.subscriptions(ALL, "of another account")
            assert caught.value.status == 400

    async def test_a_bad_row_costs_itself_and_an_unknown_word_costs_nothing(self, stage: Stager):
        async with stage(seeding.healthy(100)) as on:
            on.need(Capability.LIST)
            bad, odd = sorted(on.ids())[10:12]
            on.faults.mangled = {bad: "not_a_number", odd: "unknown_status"}
            (page,) = await on.walk()
        assert (len(page.rows), page.size) == (99, 100)
        assert [(row.ext_id, bool(row.reason)) for row in page.bad] == [(bad, True)]
        (kept,) = [snapshot for snapshot, _ in page.rows if snapshot.ext_id == odd]
        assert (kept.status, kept.status_raw) == (Status.UNKNOWN, "hibernating")

    # One row

    async def test_one_subscription_is_the_same_as_in_the_walk(self, stage: Stager):
        async with stage(seeding.traps(2)) as on:
            on.need(Capability.LIST)
            for ext_id, listed in (await on.snapshots()).items():
                found = await on.provider.subscription(ext_id)
                assert found is not None
                assert found[0] == listed

    async def test_what_the_api_does_not_know_is_none(self, stage: Stager):
        async with stage(seeding.healthy(2)) as on:
            on.need(Capability.SUBSCRIPTIONS)
            sub = next(on.world.living())
            ext_id, customer = on.world.id_of(sub), on.world.ids.customer(9999)
            acts.remove(sub)
            assert await on.provider.subscription(ext_id) is None
            assert await on.provider.customer(customer) is None

    async def test_another_refusal_than_404_is_not_absence(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.need(Capability.SUBSCRIPTIONS)
            (ext_id,) = on.ids()
            on.faults.add(faults.error(400, "bad_request"))
            with pytest.raises(ProviderRefusedError):
                await on.provider.subscription(ext_id)
            with pytest.raises(ProviderRefusedError):
                await on.provider.customer(on.world.ids.customer(0))

    async def test_a_gateways_404_is_not_absence(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.need(Capability.SUBSCRIPTIONS)
            (ext_id,) = on.ids()
            on.faults.add(faults.html(404))
            with pytest.raises(ProviderUnavailableError):
                await on.provider.subscription(ext_id)

    async def test_one_subscription_that_cannot_be_read_raises(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.need(Capability.SUBSCRIPTIONS)
            (ext_id,) = on.ids()
            on.faults.mangled = {ext_id: "number_for_text"}
            with pytest.raises(ProviderUnavailableError):
                await on.provider.subscription(ext_id)

    # What belongs to it

    async def test_a_customer_is_the_one_that_its_row_carries(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            on.need(Capability.SUBSCRIPTIONS)
            for sub in on.world.living():
                assert sub.customer is not None
                found = await on.provider.customer(on.world.ids.customer(sub.customer.n))
                assert found is not None
                assert (found.email, found.name, found.last_name) == (
                    sub.customer.email,
                    sub.customer.name,
                    sub.customer.last_name,
                )

    async def test_products_and_currencies_are_those_of_the_world(self, stage: Stager):
        for mode in Mode:
            async with stage(seeding.healthy(1, merchant=Merchant(mode=mode.value))) as on:
                on.need(Capability.SUBSCRIPTIONS)
                on.world.products[0].active = False
                products = {row.name: row for row in await on.provider.products()}
                currencies = {row.ext_id: row for row in await on.provider.currencies()}
            assert {row.name: row.price_usd for row in products.values()} == {
                product.name: product.price_usd for product in on.world.products
            }
            told = Capability.PLANS in on.provider.capabilities
            assert {name: row.frequency for name, row in products.items()} == {
                product.name: product.frequency if told else None for product in on.world.products
            }
            assert not products[on.world.products[0].name].active
            assert {(row.symbol, row.decimals) for row in currencies.values()} == {
                (token.symbol, token.decimals) for token in on.world.currencies
            }

    async def test_the_causes_of_failed_bills_are_told_newest_first(self, stage: Stager):
        wanted = {
            Cause.INSUFFICIENT_BALANCE: "payment_failed:insufficient_balance",
            Cause.ALLOWANCE_EXHAUSTED: "payment_failed:allowance_exhausted",
            Cause.APPROVAL_REVOKED: "payment_failed:approval_revoked",
            Cause.MAX_AMOUNT_EXCEEDED: "max_amount_reached",
            Cause.OTHER: "payment_failed:other",
        }
        async with stage(seeding.healthy(40)) as on:
            on.need(Capability.FAILURES)
            caused = cause(on.world, dict.fromkeys(wanted.values(), 2))
            on.world.advance(timedelta(days=1, hours=2))
            for ours, situation in wanted.items():
                for ext_id in caused[situation]:
                    told = await on.provider.failures(ext_id)
                    assert {row.cause for row in told} == {ours}
                    assert {row.subscription_ext_id for row in told} == {ext_id}
                    times = [row.at for row in told]
                    assert times == sorted(times, reverse=True)
            healthy = next(iter(on.ids() - {ext_id for ids in caused.values() for ext_id in ids}))
            assert await on.provider.failures(healthy) == ()

    async def test_a_failing_subscription_tells_its_deadline(self, stage: Stager):
        async with stage(seeding.healthy(5)) as on:
            on.need(Capability.DEADLINE)
            caused = cause(on.world, {"payment_failed:insufficient_balance": 1})
            (ext_id,) = caused["payment_failed:insufficient_balance"]
            found = await on.provider.subscription(ext_id)
            assert found is not None
            dunning = on.world.get(ext_id).dunning
            assert dunning is not None
            assert found[0].failing_since_at == dunning.failing_since_at
            assert found[0].next_attempt_at == dunning.next_attempt_at
            assert found[0].remaining_attempts == dunning.remaining_attempts

    async def test_the_log_tells_each_event_once_newest_first(self, stage: Stager):
        async with stage(seeding.healthy(40)) as on:
            on.need(Capability.LOG)
            caused = cause(on.world, {"payment_failed:approval_revoked": 1, "stopped": 1})
            on.world.advance(timedelta(days=60))
            ids, facts, cursor = [], [], None
            while True:
                page = await on.provider.log(cursor)
                assert page.bad == ()
                ids += page.ids
                facts += page.facts
                if page.next_cursor is None:
                    break
                cursor = page.next_cursor
            assert len(ids) == len(set(ids)) == len(on.world.happenings)
            assert ids == [on.world.ids.event(line.n) for line in reversed(on.world.happenings)]
            assert {fact.dedupe_key for fact in facts} <= set(ids)
            assert [fact.at for fact in facts] == sorted((fact.at for fact in facts), reverse=True)
            (failing,) = caused["payment_failed:approval_revoked"]
            told = [fact for fact in facts if fact.subscription_ext_id == failing]
            assert Cause.APPROVAL_REVOKED in {fact.cause for fact in told}
            assert any(fact.manage_link and failing in fact.manage_link for fact in told)

    async def test_payments_are_listed_once_each_and_one_reads_as_it_is_listed(self, stage: Stager):
        async with stage(seeding.healthy(60)) as on:
            on.need(Capability.PAYMENTS)
            cause(on.world, {"payment_failed:insufficient_balance": 2})
            on.world.advance(timedelta(days=31))
            on.buy()
            rows = await payments_of(on.provider)
            single = [row for row in rows if row.kind in self.read_singly][:5]
            assert single
            for row in single:
                assert await on.provider.payment(row.ext_id) == row
            assert await on.provider.payment("pay@01980000-0000-7000-8000-00000000ffff") is None

    # A bad day

    @pytest.mark.parametrize(
        "act",
        [
            faults.html(200),
            faults.html(502),
            faults.truncated(0.7),
            faults.raw(b""),
            faults.raw(b"[" * 100_000),
            faults.dropped(),
            faults.dropped(10),
            faults.error(503, "network_unavailable"),
            faults.redirect("http://127.0.0.1:9/"),
        ],
        ids=["html", "502", "truncated", "empty", "nested", "dropped", "dropped late", "503", "redirect"],
    )
    async def test_no_usable_answer_is_unavailable_on_every_route(self, stage: Stager, act):
        async with stage(seeding.healthy(3)) as on:
            on.faults.add(act)
            for ask in self._reads(on):
                with pytest.raises(ProviderUnavailableError):
                    await ask()

    async def test_an_answer_that_comes_at_the_fourth_try_is_taken(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            on.need(Capability.LIST)
            on.faults.add(faults.error(500, "internal"), times=3, route="subscriptions")
            assert set(await on.snapshots()) == on.ids()
            assert on.sleeps == [1.0, 2.0, 4.0]

    async def test_an_unusable_answer_with_200_is_not_asked_for_again(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            on.need(Capability.LIST)
            on.faults.add(faults.html(200))
            with pytest.raises(ProviderUnavailableError):
                await on.walk()
            assert on.faults.requests["subscriptions"] == 1

    @pytest.mark.parametrize("header", ["1", "30", "60", None, "garbage", PAST, "in 40 s"])
    async def test_a_rate_limit_is_waited_out_and_never_asked_earlier(self, stage: Stager, header):
        async with stage(seeding.healthy(3)) as on:
            if not self.waits_out_429:
                pytest.skip(f"{on.provider.name} never repeats a 4xx, by contract")
            soon = header == "in 40 s"
            said = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True) if soon else header
            on.faults.add(faults.rate_limited(said), times=1)
            await on.provider.identify()
            (waited,) = on.sleeps
            if soon:  # both dates have whole seconds
                assert 38 <= waited <= 41
            else:
                assert waited == max(1.0, float(header) if header and header.isdigit() else 0.0)

    @pytest.mark.parametrize(
        ("act", "asked"),
        [
            (faults.rate_limited("61"), timedelta(seconds=61)),
            (faults.rate_limited("10800"), timedelta(hours=3)),
            (faults.rate_limited(details_seconds=10_800), timedelta(hours=3)),
            (faults.rate_limited("Fri, 01 Jan 2100 00:00:00 GMT"), timedelta(days=365)),
            (faults.rate_limited("1" + "0" * 400), timedelta(days=365)),
        ],
        ids=["61 s", "3 h", "3 h in the details", "a date far off", "10^400"],
    )
    async def test_a_rate_limit_that_asks_too_much_ends_at_once_and_says_until_when(self, stage: Stager, act, asked):
        async with stage(seeding.healthy(3)) as on:
            on.faults.add(act)
            with pytest.raises(RateLimitedError) as caught:
                await on.provider.identify()
            assert caught.value.retry_after == asked
            assert on.sleeps == []
            assert sum(on.faults.requests.values()) == 1

    async def test_a_provider_asks_nothing_beyond_the_time_that_it_is_given(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            on.provider.end_after(timedelta(0))
            with pytest.raises(RateLimitedError, match="run_minutes"):
                await on.provider.identify()
            assert sum(on.faults.requests.values()) == 0
            on.provider.end_after(None)
            await on.provider.identify()

    # Helpers

    def _reads(self, on: Stage) -> list[Callable]:
        (ext_id, *_) = sorted(on.ids())
        reads: list[Callable] = [on.provider.identify]
        if Capability.SUBSCRIPTIONS in on.provider.capabilities:
            reads += [lambda: on.provider.subscription(ext_id), on.provider.products]
        if isinstance(on.provider, PaymentSource):
            reads.append(lambda: payments_of(on.provider))
        if Capability.LIST in on.provider.capabilities:
            reads.append(lambda: on.provider.subscriptions(ALL, None))
        if Capability.FAILURES in on.provider.capabilities:
            reads.append(lambda: on.provider.failures(ext_id))
        if Capability.LOG in on.provider.capabilities:
            reads.append(lambda: on.provider.log(None))
        return reads

    def _same(self, found: Snapshot, sub, world: World) -> None:
        """The fields that every provider tells, against the world's own record."""
        unknown = sub.status_text is not None
        assert found.status is (Status.UNKNOWN if unknown else Status(sub.status.value))
        assert found.status_raw != ""
        assert found.action == (Action(sub.action.value) if sub.action else None)
        assert found.allowance == sub.allowance
        assert found.maximum == sub.maximum
        assert found.price_usd == (sub.price_usd or None)
        assert found.frequency == sub.frequency
        assert found.last_billing_at == sub.last_billing_at
        assert found.next_billing_at == sub.next_billing_at
        assert found.cancelled_at == sub.cancelled_at
        assert found.test is world.test
        assert found.reference == sub.reference
        if sub.customer is not None:
            assert found.customer_ext_id == world.ids.customer(sub.customer.n)
            assert found.customer is not None
            assert found.customer.deleted is sub.customer.deleted
        else:
            assert found.customer is None
        assert found.currency is not None
        assert found.currency.symbol == sub.wallet.currency.symbol
        assert found.currency.decimals == sub.wallet.currency.decimals


class TestQBitFlowV2(ProviderContract):
    """API v2 against the sandbox's server, over real HTTP."""

    async def test_payments_bills_and_failed_tries_are_those_of_the_world(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            world = on.world
            (failing,) = cause(world, {"payment_failed:insufficient_balance": 1})["payment_failed:insufficient_balance"]
            before = await payments_of(on.provider)
            began = world.now
            world.advance(timedelta(days=2))
            customer, product = world.customers[0], world.products[0]
            paid = acts.purchase(world, customer, product, reference="order-1")
            failed = acts.purchase(world, None, product, fails=Category.REVERTED)
            rows = {row.ext_id: row for row in await payments_of(on.provider)}
            fresh = {row.ext_id for row in await payments_of(on.provider, began)}
            bills = {world.ids.bill(bill.n): bill for sub in world.living() for bill in world.bills_of(sub)}
            assert {row.ext_id for row in rows.values() if row.kind is PaymentKind.BILL} == set(bills)
            for ext_id, bill in bills.items():
                row = rows[ext_id]
                assert (row.amount_usd, row.amount_units) == (bill.price_usd, bill.amount)
                assert row.tx_hash and row.explorer_url and row.tx_hash in row.explorer_url
                assert row.created_at == bill.at
            tries = [row for row in rows.values() if row.kind is PaymentKind.ATTEMPT]
            assert {row.subscription_ext_id for row in tries} == {failing, None}
            bought = rows[world.ids.payment(paid.n)]
            assert (bought.kind, bought.reference) == (PaymentKind.ONE_OFF, "order-1")
            assert bought.customer_ext_id == world.ids.customer(customer.n)
            (missed,) = [row for row in tries if row.subscription_ext_id is None]
            assert (missed.of_ext_id, missed.reason) == (world.ids.payment(failed.n), "reverted")
            assert fresh == set(rows) - {row.ext_id for row in before}
            assert await on.provider.payment(bought.ext_id) == bought

    async def test_payment_lists_that_go_round_in_a_circle_end(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            on.faults.add(faults.repeat_cursor, route="payments", page=2)
            with pytest.raises(ProviderUnavailableError, match="circle"):
                await payments_of(on.provider)
            assert on.faults.requests["payments"] == 2

    async def test_another_payment_than_the_one_asked_for_is_a_fault(self, stage: Stager):
        async with stage(seeding.healthy(2)) as on:
            one, two, *_ = await payments_of(on.provider)
            for body in (json.dumps({"uuid": two.ext_id}).encode(), b'{"uuid":5}'):
                on.faults.add(faults.raw(body), route="payment", times=1)
                with pytest.raises(ProviderUnavailableError):
                    await on.provider.payment(one.ext_id)
                on.faults.clear()

    @pytest.fixture
    def stage(self) -> Stager:
        @asynccontextmanager
        async def open_stage(world: World, **options) -> AsyncIterator[Stage]:
            sleeps: list[float] = []

            async def sleep(seconds: float) -> None:
                sleeps.append(seconds)
                await asyncio.sleep(0)

            async with SandboxServer(world) as server:
                provider = QBitFlowV2(
                    base_url=server.url,
                    api_key=world.ids.api_key,
                    account="acme",
                    clock=SystemClock(),
                    sleep=sleep,
                    **options,
                )
                try:
                    yield Stage(world, server.faults, provider, sleeps)
                finally:
                    await provider.aclose()

        return open_stage

    async def test_a_key_of_another_form_is_a_setting_to_mend(self, stage: Stager):
        from monitor.errors import ConfigError

        for key in ("", "pk_1", "sk_", "sk_a b", "sk_a\n"):
            with pytest.raises(ConfigError, match="accounts.acme.api_key"):
                QBitFlowV2(
                    base_url="https://api.example/v2",
                    api_key=key,
                    account="acme",
                    clock=SystemClock(),
                    sleep=asyncio.sleep,
                )

    async def test_a_member_is_asked_on_behalf_of(self, stage: Stager):
        world = seeding.healthy(3, merchant=Merchant(members=2))
        next(world.living()).member = 1
        async with stage(world, on_behalf_of=world.ids.member(1)) as on:
            assert len(await on.snapshots()) == 1
            assert (await on.provider.identify()).space_uuid == world.ids.member(1)

    async def test_a_member_that_the_key_does_not_know_is_a_setting_to_mend(self, stage: Stager):
        world = seeding.healthy(1, merchant=Merchant(members=2))
        async with stage(world, on_behalf_of=world.ids.member(7)) as on:
            with pytest.raises(ProviderAuthError, match="on_behalf_of"):
                await on.provider.identify()

    async def test_a_key_without_a_member_is_not_blamed_for_one(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.faults.add(faults.error(404, "not_found"), route="me")
            with pytest.raises(ProviderRefusedError, match=r"nothing is there, check accounts\.\w+\.base_url"):
                await on.provider.identify()

    @pytest.mark.parametrize("member", ["12", "00000000-0000-0000-0000-000000000000", "x\r\nX-Evil: 1"])
    async def test_a_member_must_be_a_uuid_and_not_nil(self, stage: Stager, member):
        from monitor.errors import ConfigError

        with pytest.raises(ConfigError, match="on_behalf_of"):
            async with stage(seeding.healthy(1), on_behalf_of=member):
                pass

    async def test_requests_ask_a_hundred_rows_in_utc_and_hidden_products_and_test_tokens(self, stage: Stager):
        world = seeding.healthy(1, merchant=Merchant(mode="test"))
        berlin_noon = datetime.fromisoformat("2026-04-01T12:00:00.250000+02:00")
        async with stage(world) as on:
            await on.provider.subscriptions(Window(0, created_before=berlin_noon), None)
            await on.provider.products()
            await on.provider.currencies()
            await on.provider.currencies()
            calls = {call.route: call for call in on.faults.calls}
        assert calls["subscriptions"].query == {"limit": "100", "createdBefore": "2026-04-01T10:00:00.250000Z"}
        assert calls["products"].query == {"includeHidden": "true"}
        assert calls["currencies"].query == {"test": "true"}
        assert on.faults.requests["me"] == 1
        assert "x-request-id" in calls["products"].headers

    async def test_an_id_is_one_path_segment_whatever_it_holds(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            for ext_id in ("../../me", "..", ".", "a/b", "a?b=c", "a#b", "ü", "%2e%2e", " "):
                assert await on.provider.subscription(ext_id) is None
                assert await on.provider.customer(ext_id) is None
            assert on.faults.requests["me"] == 0
            assert on.faults.requests["subscriptions"] == 0

    async def test_dots_are_an_id_and_no_way_up(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            for ext_id in (".", ".."):
                assert await on.provider.subscription(ext_id) is None
                assert await on.provider.customer(ext_id) is None
            assert on.faults.requests == {"subscription": 2, "customer": 2}

    async def test_another_subscription_than_the_one_asked_for_is_a_fault(self, stage: Stager):
        async with stage(seeding.healthy(2)) as on:
            one, two = sorted(on.ids())
            row = (await on.provider.subscription(two) or (None, b""))[1]
            on.faults.add(faults.raw(row), route="subscription")
            with pytest.raises(ProviderUnavailableError, match="another subscription"):
                await on.provider.subscription(one)
            assert await on.provider.subscription(two.removeprefix("sub@"))

    @pytest.mark.parametrize("body", [b'{"uuid":"another"}', b"null", b'{"uuid":5}', b"<html>", b'{"uuid":"x\\u0000"}'])
    async def test_another_customer_than_the_one_asked_for_is_a_fault(self, stage: Stager, body):
        async with stage(seeding.healthy(1)) as on:
            on.faults.add(faults.raw(body), route="customer")
            with pytest.raises(ProviderUnavailableError):
                await on.provider.customer(on.world.ids.customer(0))

    async def test_failures_of_another_subscription_are_left_out(self, stage: Stager):
        async with stage(seeding.healthy(10)) as on:
            situation = "payment_failed:insufficient_balance"
            one, two = cause(on.world, {situation: 2})[situation]
            rows = [json.dumps({"uuid": "f", "subscriptionUuid": two, "createdAt": "2026-04-01T00:00:00Z"})]
            on.faults.add(lambda _call, answer: faults.replace(answer, rows=(*answer.rows, *rows)), route="failures")
            assert {row.subscription_ext_id for row in await on.provider.failures(one)} == {one}

    async def test_bad_rows_of_small_lists_are_reported(self, stage: Stager):
        seen: list[tuple[str, BadRow]] = []
        async with stage(seeding.healthy(1), on_bad_row=lambda *what: seen.append(what)) as on:
            on.faults.add(faults.raw(b'[{"uuid":"p","name":"Pro"},{"uuid":5},null]'), route="products")
            assert [product.name for product in await on.provider.products()] == ["Pro"]
        assert [endpoint for endpoint, _ in seen] == ["products", "products"]
        assert all(row.reason for _, row in seen)

    async def test_each_attempt_is_counted_with_route_and_status(self, stage: Stager):
        seen: list[tuple] = []
        async with stage(seeding.healthy(1), on_request=lambda *what: seen.append(what)) as on:
            on.faults.add(faults.html(502), times=1)
            await on.provider.products()
        assert [(endpoint, status) for endpoint, status, _ in seen] == [("products", 502), ("products", 200)]
        assert all(seconds >= 0 for *_, seconds in seen)

    async def test_an_answer_without_a_date_cannot_check_our_clock(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.faults.add(lambda _call, answer: faults.replace(answer, headers={"Date": "no date"}), route="me")
            with pytest.raises(ProviderUnavailableError, match="Date"):
                await on.provider.identify()
