"""API v1 against the sandbox's server: the common suite, and what only v1 has: ids, single rows, pages of payments."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from monitor.clock import SystemClock
from monitor.domain.classify import classify
from monitor.domain.model import Action, BadRow, Mode, Situation, Status, Told, Window
from monitor.domain.payments import PaymentKind, PaymentStatus
from monitor.errors import ConfigError, ProviderAuthError, ProviderRefusedError, ProviderUnavailableError
from monitor.providers.base import KnownReader, UnsupportedError
from monitor.providers.qbitflow_v1 import QBitFlowV1
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.sandbox import acts, faults, seeding
from monitor.sandbox import entities as sandbox
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Merchant
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.transitions import cause
from monitor.sandbox.world import World
from tests.contract.test_provider_contract import ProviderContract, Stage, Stager, payments_of

NOT_TOLD_BY_V1 = {
    "provider",
    "status_raw",
    "action_raw",
    "product_ext_id",
    "price_usd",
    "allowance",
    "allowance_usd",
    "maximum",
    "current_period_end_at",
    "cancelled_at",
    "cancel_reason",
    "failed_attempts",
    "remaining_attempts",
    "failing_since_at",
    "next_attempt_at",
    "awaiting_maximum_since_at",
    "currency",
}
SITUATIONS = {
    "low_on_funds": 2,
    "max_amount_reached": 2,
    "payment_failed:insufficient_balance": 2,
    "payment_failed:other": 1,
    "trial_ending": 1,
    "trial_expired": 2,
    "cancelled:customer": 1,
    "cancelled:billing_failed": 1,
    "stopped": 2,
}


class TestQBitFlowV1(ProviderContract):
    read_singly = frozenset({PaymentKind.ONE_OFF})

    @pytest.fixture
    def stage(self) -> Stager:
        @asynccontextmanager
        async def open_stage(world: World, **options) -> AsyncIterator[Stage]:
            sleeps: list[float] = []

            async def sleep(seconds: float) -> None:
                sleeps.append(seconds)
                await asyncio.sleep(0)

            async with SandboxServer(world) as server:
                provider = QBitFlowV1(
                    base_url=server.v1_url,
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

    # One world, two dialects

    async def test_a_world_read_through_both_dialects_says_the_same(self, stage: Stager):
        world = seeding.healthy(60, trials=4)
        cause(world, SITUATIONS)
        async with stage(world) as on:
            async with SandboxServer(world) as beside:
                other = QBitFlowV2(
                    base_url=beside.url,
                    api_key=world.ids.api_key,
                    account="acme",
                    clock=SystemClock(),
                    sleep=asyncio.sleep,
                )
                listed = {row.ext_id: row for row, _ in (await other.subscriptions(Window(0), None)).whole().rows}
                await other.aclose()
            assert len(listed) == 64
            for ext_id, theirs in listed.items():
                answer = await on.provider.subscription(ext_id)
                assert answer is not None
                ours = answer[0]
                for name in type(ours).__dataclass_fields__:
                    if name not in NOT_TOLD_BY_V1:
                        assert getattr(ours, name) == getattr(theirs, name), (name, theirs.status_raw)
                assert ours.currency is not None
                assert theirs.currency is not None
                assert (ours.currency.symbol, ours.currency.chain) == (theirs.currency.symbol, theirs.currency.chain)
                assert ours.customer is not None
                situation = classify(ours, Told(), world.now).situation
                if theirs.status is not Status.TRIAL_EXPIRED:
                    assert situation is classify(theirs, Told(), world.now).situation
                # unknown, never a guess
                assert (ours.maximum, ours.price_usd, ours.allowance, ours.failing_since_at) == (None,) * 4
                assert (ours.cancel_reason, ours.remaining_attempts) == (None, None)
                assert ours.allowance_usd is not None

    async def test_each_word_of_v1_is_a_status_and_an_action_and_a_stranger_is_kept(self, stage: Stager):
        words = {
            (sandbox.Status.ACTIVE, None): (Status.ACTIVE, None, "active"),
            (sandbox.Status.ACTIVE, sandbox.Action.TOP_UP_ALLOWANCE): (
                Status.ACTIVE,
                Action.TOP_UP_ALLOWANCE,
                "low_on_funds",
            ),
            (sandbox.Status.ACTIVE, sandbox.Action.RAISE_MAXIMUM): (Status.PAST_DUE, Action.RAISE_MAXIMUM, "pending"),
            (sandbox.Status.PAST_DUE, None): (Status.PAST_DUE, None, "past_due"),
            (sandbox.Status.TRIAL, None): (Status.TRIAL, None, "trial"),
            (sandbox.Status.TRIAL_EXPIRED, None): (Status.TRIAL_EXPIRED, Action.CONFIRM_TRIAL, "trial_expired"),
            (sandbox.Status.STOPPED, None): (Status.STOPPED, None, "active"),
            (sandbox.Status.CANCELLED, None): (Status.CANCELLED, None, "cancelled"),
            (sandbox.Status.PAUSED, None): (Status.UNKNOWN, None, "paused"),
        }
        async with stage(seeding.traps(1)) as on:
            seen = {}
            for sub in on.world.living():
                found = await on.provider.subscription(on.world.id_of(sub))
                assert found is not None
                seen[sub.status, sub.action] = (found[0].status, found[0].action, found[0].status_raw)
                if sub.status is sandbox.Status.STOPPED:
                    assert found[0].current_period_end_at == found[0].next_billing_at == sub.next_billing_at
                if sub.customer is None:
                    assert found[0].customer_ext_id is None
            assert {key: seen[key] for key in words} == words
            odd = next(sub for sub in on.world.living() if sub.status_text)
            found = await on.provider.subscription(on.world.id_of(odd))
            assert found is not None
            assert (found[0].status, found[0].status_raw) == (Status.UNKNOWN, "frozen")
            assert classify(found[0], Told(), on.world.now).situation is Situation.UNKNOWN

    @pytest.mark.parametrize("as_number", [False, True])
    async def test_an_allowance_is_usd_whether_text_or_number(self, stage: Stager, as_number):
        async with stage(seeding.healthy(3)) as on:
            on.faults.v1_number_amounts = as_number
            for sub in on.world.living():
                found = await on.provider.subscription(on.world.id_of(sub))
                assert found is not None
                worth = sub.allowance * on.world.prices[sub.wallet.currency.id] / 10**sub.wallet.currency.decimals
                assert found[0].allowance_usd is not None
                assert abs(found[0].allowance_usd - worth) < 1
                assert found[0].allowance is None

    # Ids

    async def test_payments_name_who_paid_them_and_one_time_payments_name_nobody(self, stage: Stager):
        async with stage(seeding.healthy(60, trials=3)) as on:
            gone = on.world.get(min(on.ids()))
            acts.remove(gone)
            for product in on.world.products:
                acts.purchase(on.world, None, product)
            pages = [page async for page in on.provider.payments(None, ())]
            paid = {on.world.id_of(sub) for sub in on.world.subscriptions if sub.last_billing_at}
            named = [ext_id for page in pages for ext_id in page.named]
            assert set(named) == {row.subscription_ext_id for page in pages for row in page.rows} - {None} == paid
            assert [len(page.rows) for page in pages] == [50, 60 + len(on.world.products) - 50]
            assert on.world.id_of(gone) in named
            assert len(on.ids()) == 62

    async def test_a_walk_ends_behind_what_is_wanted_only_while_rows_come_newest_first(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            newest = on.world.now + timedelta(days=1)
            assert len([page async for page in on.provider.payments(newest, ())]) == 1
            assert len([page async for page in on.provider.payments(None, ())]) == 3
            on.faults.add(
                lambda _call, answer: faults.replace(answer, rows=tuple(reversed(answer.rows))), route="combined"
            )
            assert len([page async for page in on.provider.payments(newest, ())]) == 3

    async def test_payments_that_go_round_in_a_circle_end_and_an_empty_page_is_the_last(self, stage: Stager):
        async with stage(seeding.healthy(120)) as on:
            on.faults.add(faults.no_rows, route="combined", page=2)
            assert len(await payments_of(on.provider)) == 50
            on.faults.clear()
            on.faults.add(faults.repeat_cursor, route="combined", page=2)
            with pytest.raises(ProviderUnavailableError, match="circle"):
                await payments_of(on.provider)

    async def test_a_bad_payment_costs_itself_and_still_names_its_subscription(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            ext_id = "sub@01980000-0000-7000-8000-00000000ffff"
            rows = (
                '{"source":"payment","createdAt":"soon"}',
                '{"uuid":"sub-hist@1","subscriptionUUID":"sub@x"}',
                f'{{"uuid":"sub-hist@2","amount":"many","subscriptionUUID":"{ext_id}"}}',
                "null",
            )
            on.faults.add(faults.rows_besides(*rows), route="combined")
            (page,) = [page async for page in on.provider.payments(None, ())]
        assert (len(page.rows), len(page.bad)) == (3, 4)
        assert [row.ext_id for row in page.bad] == [None, "sub-hist@1", "sub-hist@2", None]
        assert len(page.named) == 4
        assert ext_id in page.named

    async def test_one_world_has_the_same_payments_in_both_dialects(self, stage: Stager):
        """Golden: what v1 tells, it tells as v2 does; a failed try, a link and a product's UUID it does not tell."""
        world = seeding.healthy(30)
        cause(world, {"payment_failed:insufficient_balance": 2})
        world.advance(timedelta(days=40))
        acts.purchase(world, world.customers[0], world.products[0], reference="order-1")
        acts.purchase(world, None, world.products[1])
        acts.purchase(world, None, world.products[1], fails=Category.REVERTED)
        async with stage(world) as on, SandboxServer(world) as beside:
            other = QBitFlowV2(
                base_url=beside.url,
                api_key=world.ids.api_key,
                account="acme",
                clock=SystemClock(),
                sleep=asyncio.sleep,
            )
            told = {row.ext_id: row for row in await payments_of(other)}
            await other.aclose()
            ours = {row.ext_id: row for row in await payments_of(on.provider)}
            single = await on.provider.payment(world.ids.payment(0))
        assert set(ours) == {ext_id for ext_id, row in told.items() if row.kind is not PaymentKind.ATTEMPT}
        assert len(ours) > 32
        for ext_id, row in ours.items():
            left_out = {"product_ext_id": row.product_ext_id, "explorer_url": None, "reference": None}
            assert row == replace(told[ext_id], **left_out)
        assert single == replace(ours[world.ids.payment(0)], reference="order-1")

    async def test_what_became_of_an_unpaid_payment_is_its_transactions_status(self, stage: Stager):
        world = seeding.healthy(1)
        made = acts.purchase(world, world.customers[0], world.products[0], fails=Category.REVERTED)
        ext_id = world.ids.payment(made.n)
        words = {
            "created": PaymentStatus.CREATED,
            "waitingConfirmation": PaymentStatus.PENDING,
            "pending": PaymentStatus.PENDING,
            "expired": PaymentStatus.EXPIRED,
            "cancelled": PaymentStatus.CANCELLED,
            "odd": PaymentStatus.UNKNOWN,
        }
        async with stage(world) as on:
            found = await on.provider.payment(ext_id)
            assert (found.ext_id, found.status, found.reason) == (ext_id, PaymentStatus.FAILED, "reverted")
            for word, status in words.items():
                on.faults.add(faults.raw(json.dumps({"status": word}).encode()), route="status", times=1)
                found = await on.provider.payment(ext_id)
                assert (found.status, found.status_raw) == (status, word)
            on.faults.add(faults.raw(b'{"status":5}'), route="status", times=1)
            with pytest.raises(ProviderUnavailableError, match="status"):
                await on.provider.payment(ext_id)
            for ask in ("sub-hist@1", "bp-1"):
                with pytest.raises(UnsupportedError, match=ask):
                    await on.provider.payment(ask)

    @pytest.mark.parametrize("body", [b'{"uuid":"pay@another"}', b'{"uuid":5}', b"null"])
    async def test_another_payment_than_the_one_asked_for_is_a_fault(self, stage: Stager, body):
        async with stage(seeding.healthy(1)) as on:
            acts.purchase(on.world, None, on.world.products[0])
            on.faults.add(faults.raw(body), route="payment")
            with pytest.raises(ProviderUnavailableError):
                await on.provider.payment(on.world.ids.payment(0))

    async def test_lists_that_are_null_or_absent_are_empty(self, stage: Stager):
        async with stage(seeding.healthy(3)) as on:
            assert isinstance(on.provider, KnownReader)
            for act in (faults.items(None), faults.items([]), faults.without_items):
                for route in ("combined", "customers"):
                    on.faults.add(act, route=route)
                assert await payments_of(on.provider) == []
                page = await on.provider.customers(None)
                assert (page.rows, page.size) == ((), 0)
                on.faults.clear()

    async def test_customers_come_in_pages(self, stage: Stager):
        async with stage(seeding.healthy(130)) as on:
            assert isinstance(on.provider, KnownReader)
            on.world.customers[5].deleted = True
            first = await on.provider.customers(None)
            second = await on.provider.customers(first.next_cursor)
            seen = {row.ext_id: row.email for row in (*first.rows, *second.rows)}
        assert (first.size, second.size, second.next_cursor) == (100, 29, None)
        assert seen == {on.world.ids.customer(one.n): one.email for one in on.world.customers if not one.deleted}

    # One row

    async def test_a_row_that_breaks_rules_is_bad_and_an_answer_that_is_none_raises(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            assert isinstance(on.provider, KnownReader)
            (ext_id,) = on.ids()
            on.faults.mangled = {ext_id: "text_for_object"}
            row = await on.provider.read(ext_id)
            assert isinstance(row, BadRow)
            assert (row.ext_id, bool(row.reason)) == (ext_id, True)
            on.faults.add(faults.html(200))
            with pytest.raises(ProviderUnavailableError):
                await on.provider.read(ext_id)

    async def test_one_asked_for_by_itself_brings_its_customer_as_of_now(self, stage: Stager):
        async with stage(seeding.healthy(4)) as on:
            assert isinstance(on.provider, KnownReader)
            whole, deleted, silent, nobody = on.world.living()
            assert deleted.customer is not None
            assert silent.customer is not None
            deleted.customer.deleted = True
            silent.customer.email = ""
            nobody.customer = None
            found = {}
            for sub in (whole, deleted, silent, nobody):
                answer = await on.provider.subscription(on.world.id_of(sub))
                assert answer is not None
                found[sub.n] = answer[0].customer
                swept = await on.provider.read(on.world.id_of(sub))
                assert isinstance(swept, tuple)
                assert swept[0].customer is None
            assert found[whole.n].email == whole.customer.email
            assert found[deleted.n].deleted
            assert (found[silent.n], found[nobody.n]) == (None, None)

    async def test_a_cancelled_subscription_may_be_a_404(self, stage: Stager):
        world = seeding.healthy(3)
        (ext_id,) = cause(world, {"cancelled:customer": 1})["cancelled:customer"]
        async with stage(world) as on:
            found = await on.provider.subscription(ext_id)
            assert found is not None
            assert found[0].status is Status.CANCELLED
            on.faults.v1_cancelled_gone = True
            assert await on.provider.subscription(ext_id) is None

    async def test_another_subscription_than_the_one_asked_for_is_a_fault(self, stage: Stager):
        async with stage(seeding.healthy(2)) as on:
            one, two = sorted(on.ids())
            row = (await on.provider.subscription(two) or (None, b""))[1]
            on.faults.add(faults.raw(row), route="subscription")
            with pytest.raises(ProviderUnavailableError, match="another subscription"):
                await on.provider.subscription(one)

    @pytest.mark.parametrize("body", [b'{"uuid":"another"}', b"null", b'{"uuid":5}', b"<html>", b'{"name":"x"}'])
    async def test_another_customer_than_the_one_asked_for_is_a_fault(self, stage: Stager, body):
        async with stage(seeding.healthy(1)) as on:
            on.faults.add(faults.raw(body), route="customer")
            with pytest.raises(ProviderUnavailableError):
                await on.provider.customer(on.world.ids.customer(0))

    async def test_reading_asks_nothing_that_has_an_effect(self, stage: Stager):
        async with stage(seeding.healthy(2)) as on:
            (one, two) = on.ids()
            for ext_id in (f"processing/force-cancel/{one}", "../../user/", "", one.upper(), one):
                await on.provider.subscription(ext_id)
            assert on.faults.requests == {"subscription": 1, "customer": 1}
            assert (await on.provider.subscription(two)) is not None
            await on.provider.subscription(two.replace("sub@", "payg@"))  # billed by usage, read like any other
            assert on.faults.requests["subscription"] == 3

    # The key

    async def test_the_mode_comes_from_any_object_and_is_none_without_one(self, stage: Stager):
        world = seeding.healthy(1, merchant=Merchant(mode="test"))
        world.products = []
        async with stage(world) as on:
            on.faults.add(faults.rows_besides('{"test":5}'), route="customers")
            assert (await on.provider.identify()).mode is Mode.TEST
            on.faults.add(faults.items([]), route="customers")
            assert (await on.provider.identify()).mode is None
            on.faults.add(faults.items([{"test": None}, {"test": 5}]), route="customers")
            assert (await on.provider.identify()).mode is None

    async def test_another_organization_is_another_owner(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            mine = (await on.provider.identify()).space_uuid
            on.faults.v1_user = {"organizationId": 77}
            assert (await on.provider.identify()).space_uuid != mine
            on.faults.v1_user = {"id": None}
            with pytest.raises(ProviderUnavailableError):
                await on.provider.identify()

    async def test_an_answer_without_a_date_cannot_check_our_clock(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            on.faults.add(lambda _call, answer: faults.replace(answer, headers={"Date": "no date"}), route="user")
            with pytest.raises(ProviderUnavailableError, match="Date"):
                await on.provider.identify()

    async def test_a_member_is_asked_on_behalf_of_by_number(self, stage: Stager):
        world = seeding.healthy(3, merchant=Merchant(members=2))
        mine, theirs = list(world.living())[:2]
        mine.member = 1
        async with stage(world, on_behalf_of="102") as on:
            assert await on.provider.subscription(world.id_of(mine))
            assert await on.provider.subscription(world.id_of(theirs)) is None
            assert (await on.provider.identify()).space_uuid == "v1:5/102"
        async with stage(world, on_behalf_of="999") as on:
            with pytest.raises(ProviderAuthError, match="on_behalf_of"):
                await on.provider.identify()
        async with stage(world) as on:
            on.faults.add(faults.error(404, ""), route="user")
            with pytest.raises(ProviderRefusedError):
                await on.provider.identify()

    @pytest.mark.parametrize("options", [{"on_behalf_of": "0"}, {"on_behalf_of": "x"}, {"api_key": "pk_1"}])
    async def test_what_could_never_work_is_a_setting_to_mend(self, options):
        with pytest.raises(ConfigError, match="accounts.acme.api_key|on_behalf_of"):
            QBitFlowV1(
                **{
                    "base_url": "https://api.example/v1",
                    "api_key": "sk_1",
                    "account": "acme",
                    "clock": SystemClock(),
                    "sleep": asyncio.sleep,
                    **options,
                }
            )

    async def test_what_v1_cannot_do_is_unsupported(self, stage: Stager):
        async with stage(seeding.healthy(1)) as on:
            for ask in (
                on.provider.subscriptions(Window(0), None),
                on.provider.failures("sub@1"),
                on.provider.log(None),
            ):
                with pytest.raises(UnsupportedError):
                    await ask

    async def test_attempts_are_counted_for_the_budget_and_reported(self, stage: Stager):
        seen = []
        async with stage(seeding.healthy(1), on_request=lambda *what: seen.append(what)) as on:
            assert isinstance(on.provider, KnownReader)
            on.faults.add(faults.html(502), times=1)
            await on.provider.products()
            assert on.provider.requests == 2
        assert [(endpoint, status) for endpoint, status, _ in seen] == [("products", 502), ("products", 200)]

    async def test_test_tokens_are_asked_for_with_a_test_key(self, stage: Stager):
        async with stage(seeding.healthy(1, merchant=Merchant(mode="test"))) as on:
            await on.provider.currencies()
            await on.provider.currencies()
            (call, _) = [call for call in on.faults.calls if call.route == "currencies"]
        assert call.query == {"test": "true"}
        assert on.faults.requests["user"] == 1


async def test_the_served_v1_does_what_its_contract_says():
    """What the provider never asks: by reference, history, the GETs with an effect, error bodies."""
    import httpx

    world = seeding.healthy(5, merchant=Merchant(mode="test"))
    sub = next(world.living())
    sub.reference = "acct-1"
    assert sub.customer is not None
    ext_id = world.id_of(sub)
    async with SandboxServer(world) as server, httpx.AsyncClient(base_url=server.v1_url) as client:

        async def get(path: str, *, key: bool = True, **params):
            headers = {"X-API-Key": world.ids.api_key} if key else {}
            answer = await client.get(path, headers=headers, params=params)
            return answer.status_code, answer.json()

        by_reference = await get(f"/transaction/subscription/reference/subscription/{sub.reference}")
        assert by_reference[1]["uuid"] == ext_id
        assert (await get("/transaction/subscription/reference/subscription/nobody"))[0] == 404
        assert (await get(f"/transaction/subscription/{ext_id}", key=False))[0] == 401
        assert await get("/transaction/subscription/history/sub@nobody", key=False) == (200, [])
        public = (await get(f"/transaction/subscription/history/{ext_id}", key=False))[1]
        own = (await get(f"/transaction/subscription/history/{ext_id}"))[1]
        assert ["customerUUID" in bill for bill in (public[0], own[0])] == [False, True]
        assert (await get(f"/transaction/customer/{ext_id}"))[1]["email"] == sub.customer.email
        assert (await get("/product/id/12"))[1]["name"] == world.products[0].name
        assert [(await get(f"/product/id/{n}"))[0] for n in ("11", "x")] == [404, 404]
        assert (await get("/transaction/status", txUUID=ext_id, txType="createSubscription"))[1][
            "status"
        ] == "completed"
        assert (await get("/transaction/status", txUUID="sub@1"))[0] == 404
        status, body = await get("/customer/all", limit="500")
        assert (status, [one["field"] for one in body["errors"]]) == (400, ["Limit"])
        assert await get("/nothing") == (404, {"error": "resource not found"})
        refused = await client.get("/user/", headers={"X-API-Key": world.ids.api_key, "On-Behalf-Of": "0"})
        assert refused.status_code == 400
        # the two GETs with an effect
        assert (await get(f"/transaction/subscription/processing/execute-billing/{ext_id}"))[0] == 409
        assert (await get(f"/transaction/subscription/processing/force-cancel/{ext_id}"))[0] == 200
        assert (await get(f"/transaction/subscription/processing/force-cancel/{ext_id}"))[0] == 200
        world.advance(timedelta(minutes=2))
        assert (await get(f"/transaction/subscription/{ext_id}"))[1]["subscriptionStatus"] == "cancelled"
        assert server.faults.requests["force_cancel"] == 2
        sub.customer = None
        assert (await get(f"/transaction/customer/{ext_id}"))[0] == 404
    live = seeding.healthy(1)
    async with SandboxServer(live) as server, httpx.AsyncClient(base_url=server.v1_url) as client:
        path = f"/transaction/subscription/processing/execute-billing/{live.id_of(next(live.living()))}"
        assert (await client.get(path, headers={"X-API-Key": live.ids.api_key})).status_code == 400
