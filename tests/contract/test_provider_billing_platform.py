"""The billing platform as a provider: the common suite, and what its own contract asks for beside it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitor.clock import SystemClock
from monitor.config import BillingSettings, PaymentFields
from monitor.domain.model import Mode, Window
from monitor.domain.payments import PaymentStatus
from monitor.errors import (
    ConfigError,
    ProviderAuthError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from monitor.providers.base import Capability, UnsupportedError
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.billing_platform_wire import expiry_of, payment_row, token_of
from monitor.providers.wire import RowError
from monitor.sandbox import faults, seeding
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.till import STATUSES, stock
from monitor.sandbox.world import World
from tests.contract.test_provider_contract import ProviderContract, Stage, Stager, payments_of


class Platform(Stage):
    """A `Stage` whose server also has a till."""

    server: SandboxServer

    @property
    def till(self):
        return self.server.platform.till

    def buy(self) -> None:
        self.till.move(self.till.pay(0), "SUCCEEDED")

    def logins(self) -> int:
        return self.faults.requests["login"]


class MovableClock:
    """The machine's date, and a monotonic time that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.at


@asynccontextmanager
async def platform(world: World, *, secret: str | None = None, clock=None, **names) -> AsyncIterator[Platform]:
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        await asyncio.sleep(0)

    async with SandboxServer(world) as server:
        till = server.platform.till
        provider = BillingPlatform(
            base_url=server.platform_url,
            billing=BillingSettings(tenant_id=till.tenant_id, **names),
            tenant_secret=secret or till.tenant_secret,
            mode=Mode(world.merchant.mode),
            account="acme",
            clock=clock or SystemClock(),
            sleep=sleep,
        )
        on = Platform(world, server.faults, provider, sleeps, till.tenant_secret)
        on.server = server
        try:
            yield on
        finally:
            await provider.aclose()


class TestBillingPlatform(ProviderContract):
    waits_out_429 = False

    @pytest.fixture
    def stage(self) -> Stager:
        return platform


# The login


async def test_an_empty_secret_is_a_setting_to_mend():
    with pytest.raises(ConfigError, match="accounts.acme.api_key"):
        async with platform(seeding.healthy(1), secret="  "):
            pass


async def test_wrong_credentials_name_both_settings_and_no_secret():
    async with platform(seeding.healthy(1), secret="canary") as on:
        with pytest.raises(ProviderAuthError, match=r"\.api_key and accounts\.acme\.billing\.tenant_id") as caught:
            await on.provider.identify()
        assert "canary" not in str(caught.value)
        assert on.logins() == 1


async def test_one_login_serves_many_concurrent_callers():
    async with platform(seeding.healthy(1)) as on:
        await asyncio.gather(*(payments_of(on.provider) for _ in range(50)))
        assert (on.logins(), on.faults.requests["payments"]) == (1, 50)
        on.server.platform.expire_tokens()
        await asyncio.gather(*(payments_of(on.provider) for _ in range(50)))
        assert on.logins() == 2


async def test_a_failed_login_is_shared_too_and_tried_again_by_the_next():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.error(401, "unauthorized"), route="login", times=1)
        ended = await asyncio.gather(*(payments_of(on.provider) for _ in range(20)), return_exceptions=True)
        assert {type(end) for end in ended} == {ProviderAuthError}
        assert on.logins() == 1
        assert await payments_of(on.provider) == []


async def test_a_caller_that_gives_up_leaves_the_login_to_the_others():
    async with platform(seeding.healthy(1)) as on:
        gate = asyncio.Event()
        on.faults.add(route="login", wait=gate.wait)
        hasty, patient = (asyncio.create_task(payments_of(on.provider)) for _ in range(2))
        while not on.logins():
            await asyncio.sleep(0.001)
        hasty.cancel()
        gate.set()
        assert await patient == []
        assert on.logins() == 1


async def test_closing_ends_a_login_that_nobody_waits_for():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(route="login", wait=asyncio.Event().wait)
        caller = asyncio.create_task(payments_of(on.provider))
        while not on.logins():
            await asyncio.sleep(0.001)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)


async def test_a_token_lives_23_hours_less_a_margin_or_as_long_as_it_says():
    hour = 3600
    for told, kept in (
        (None, 23 * hour - 300),
        (timedelta(hours=2), 2 * hour - 300),
        (timedelta(days=9), 23 * hour - 300),
    ):
        clock = MovableClock()
        async with platform(seeding.healthy(1), clock=clock) as on:
            on.server.platform.tells_expiry = told is not None
            on.server.platform.token_life = told or timedelta(days=30)
            await payments_of(on.provider)
            clock.at += kept - 5
            await payments_of(on.provider)
            assert on.logins() == 1
            clock.at += 10
            await payments_of(on.provider)
            assert on.logins() == 2


async def test_a_token_shorter_than_its_margin_is_still_used_twice():
    clock = MovableClock()
    async with platform(seeding.healthy(1), clock=clock) as on:
        on.server.platform.token_life = timedelta(minutes=4)
        await payments_of(on.provider)
        clock.at += 100
        await payments_of(on.provider)
        assert on.logins() == 1


async def test_a_refused_token_is_replaced_once_and_no_more():
    async with platform(seeding.healthy(1)) as on:
        await payments_of(on.provider)
        on.server.platform.expire_tokens()
        assert await payments_of(on.provider) == []
        assert on.logins() == 2
        on.faults.add(faults.error(401, "unauthorized"), route="payments")
        with pytest.raises(ProviderAuthError):
            await payments_of(on.provider)
        assert on.logins() == 3


async def test_a_refusal_that_is_no_401_asks_for_no_new_login():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.error(403, "forbidden"), route="payments")
        with pytest.raises(ProviderAuthError):
            await payments_of(on.provider)
        assert on.logins() == 1


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"accessToken":""}', b'{"accessToken":5}', b'{"accessToken":"a b"}', b"<"]
)
async def test_a_login_without_a_token_is_a_fault(body):
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.raw(body), route="login")
        with pytest.raises(ProviderUnavailableError, match=r"billing"):
            await on.provider.identify()


async def test_a_login_without_a_date_cannot_check_our_clock():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(lambda _call, answer: replace(answer, headers={"Date": "no date"}), route="login")
        with pytest.raises(ProviderUnavailableError, match="Date"):
            await on.provider.identify()


def jwt(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{part}.x"


def test_only_a_number_in_a_jwt_is_an_end():
    assert expiry_of(jwt({"exp": 1_800_000_000})) == 1_800_000_000.0
    for token in (
        "opaque",
        "a.eA.c",
        "a.b",
        "a.%%%.c",
        "a.\xe9.c",
        jwt([]),
        jwt({}),
        jwt({"exp": "soon"}),
        jwt({"exp": True}),
        jwt({"exp": 1e300}),
    ):
        assert expiry_of(token) is None
    assert token_of(b'{"t":"abc"}', "t") == "abc"
    with pytest.raises(RowError):
        token_of(b"[]", "t")


# The list


async def test_every_status_is_told_and_an_unknown_one_keeps_its_word():
    async with platform(seeding.healthy(3)) as on:
        for status in (*STATUSES, "HIBERNATING", "succeeded"):
            on.till.pay(1, 4990, "EUR", order="o-1", status=status)
        on.till.payments[3].reason = "card declined " * 50
        rows = {row.ext_id: row for row in await payments_of(on.provider)}
        told = [rows[on.till.id_of(payment)] for payment in on.till.payments]
    assert [row.status for row in told] == [*list(PaymentStatus)[:6], PaymentStatus.UNKNOWN, PaymentStatus.UNKNOWN]
    assert [row.status_raw for row in told] == [*STATUSES, "HIBERNATING", "succeeded"]
    one = told[0]
    assert (one.customer_ext_id, one.amount_units, one.currency, one.reference) == ("u-1", 4990, "EUR", "o-1")
    assert (one.created_at, one.provider_updated_at) == (on.world.now, on.world.now)
    assert (one.amount_usd, one.tx_hash, one.subscription_ext_id, one.test) == (None, None, None, False)
    assert len(told[3].reason) == 200


async def test_payments_of_a_test_tenant_are_test_payments():
    async with platform(seeding.healthy(1, merchant=seeding.Merchant(mode="test"))) as on:
        on.till.pay(0)
        assert [row.test for row in await payments_of(on.provider)] == [True]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 250])
@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_walk_gives_every_payment_once(size, oldest_first):
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, size)
        on.server.platform.oldest_first = oldest_first
        rows = await payments_of(on.provider)
        assert {row.ext_id for row in rows} == {on.till.id_of(payment) for payment in on.till.payments}


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 130])
async def test_rows_inserted_while_paging_shift_nothing_out(oldest_first, rows):
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 350)
        on.server.platform.oldest_first = oldest_first

        def insert(_page):
            for _ in range(rows if len(on.till.payments) < 350 + 3 * rows else 0):
                on.till.pay(1)

        on.faults.between_pages = insert
        found = {row.ext_id for row in await payments_of(on.provider)}
        assert found == {on.till.id_of(payment) for payment in on.till.payments}
        assert len(found) == 350 + 3 * rows


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("rows", [1, 60, 180])
async def test_rows_removed_while_paging_shift_nothing_out(oldest_first, rows):
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 450)
        on.server.platform.oldest_first = oldest_first
        gone = []

        def remove(page):
            if page == 3 and not gone:
                shown_first = on.till.payments[:rows] if oldest_first else on.till.payments[-rows:]
                for payment in list(shown_first):
                    gone.append(payment)
                    on.till.remove(payment)

        on.faults.between_pages = remove
        found = {row.ext_id for row in await payments_of(on.provider)}
        assert len(gone) == rows
        assert found >= {on.till.id_of(payment) for payment in on.till.payments}


async def test_a_page_behind_the_end_shows_that_rows_have_gone():
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 450)
        gone = []

        def remove(page):
            if page == 5 and not gone:
                for payment in on.till.payments[-180:]:
                    gone.append(payment)
                    on.till.remove(payment)

        on.faults.between_pages = remove
        found = {row.ext_id for row in await payments_of(on.provider)}
        assert len(gone) == 180
        assert len(found) == 450


async def test_more_rows_than_a_page_that_came_at_the_very_end_are_read_too():
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 150)

        async def insert():
            stock(on.till, 150)

        on.faults.add(route="payments", skip=2, times=1, wait=insert)
        assert len(await payments_of(on.provider)) == 300


async def test_a_list_that_never_stands_still_ends_the_walk():
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 300)

        def churn(_page):
            for payment in list(on.till.payments):
                on.till.remove(payment)
            stock(on.till, 300)

        on.faults.between_pages = churn
        with pytest.raises(ProviderUnavailableError, match="changes faster"):
            await payments_of(on.provider)


async def test_an_ignored_offset_ends_the_walk():
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 300)
        first = [page async for page in on.provider.payments(None, ())]
        assert len(first) == 5
        calls = []

        def ignore(call, answer):
            calls.append(answer)
            return calls[0]

        on.faults.add(ignore, route="payments")
        with pytest.raises(ProviderUnavailableError, match="circle"):
            await payments_of(on.provider)
        assert len(calls) == 4


async def test_pages_are_asked_with_the_pages_own_limit_and_an_overlap():
    async with platform(seeding.healthy(3)) as on:
        stock(on.till, 150)
        await payments_of(on.provider)
        asked = [call.query for call in on.faults.calls if call.route == "payments"]
    assert asked == [
        {"limit": "100", "offset": "0"},
        {"limit": "100", "offset": "99"},
        {"limit": "100", "offset": "0"},
    ]


async def test_where_the_tenant_may_not_be_listed_each_known_user_is():
    for names in ({}, {"list_all_users": False}):
        async with platform(seeding.healthy(3), **names) as on:
            on.server.platform.lists_all_users = False
            for user in (0, 1, 1, 2):
                on.till.pay(user)
            rows = await payments_of(on.provider, None, ("u-0", "u-1", "u-9"))
            assert sorted(row.customer_ext_id for row in rows) == ["u-0", "u-1", "u-1"]
            asked = [call.query.get("userId") for call in on.faults.calls if call.route == "payments"]
            assert asked == ([] if names else [None]) + ["u-0", "u-1", "u-9"]


async def test_a_tenant_that_may_not_be_listed_and_knows_no_user_says_what_to_do():
    async with platform(seeding.healthy(1)) as on:
        on.server.platform.lists_all_users = False
        with pytest.raises(ProviderRefusedError, match="contacts") as caught:
            await payments_of(on.provider)
        assert caught.value.status == 400


async def test_one_payment_is_the_same_as_in_the_walk_and_none_where_it_is_not_known():
    async with platform(seeding.healthy(2)) as on:
        stock(on.till, 3)
        for row in await payments_of(on.provider):
            assert await on.provider.payment(row.ext_id) == row
        assert await on.provider.payment("bp-1") is None
        assert await on.provider.payment("../auth") is None
        for act, error in (
            (faults.error(400, "bad_request"), ProviderRefusedError),
            (faults.raw(b'{"id":"bp-7001"}'), ProviderUnavailableError),
            (faults.raw(json.dumps(GOOD).encode()), ProviderUnavailableError),
        ):
            on.faults.add(act, route="payment", times=1)
            with pytest.raises(error):
                await on.provider.payment("bp-7001")
            on.faults.clear()


# Bad days


async def test_the_platforms_own_retries_are_two_and_four_seconds_and_never_a_4xx():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.error(500, "down"), route="payments", times=2)
        assert await payments_of(on.provider) == []
        assert on.sleeps == [2.0, 4.0]
        on.faults.add(faults.dropped(), route="payments", times=3)
        with pytest.raises(ProviderUnavailableError):
            await payments_of(on.provider)
        assert on.sleeps == [2.0, 4.0] * 2
        on.faults.add(faults.rate_limited("1"), route="payments", times=1)
        with pytest.raises(RateLimitedError):
            await payments_of(on.provider)
        assert on.sleeps == [2.0, 4.0] * 2


async def test_a_bad_row_costs_itself():
    async with platform(seeding.healthy(1)) as on:
        on.till.pay(0)
        rows = ['{"id":"bp-1","status":"FAILED","amount":NaN}', "5", '{"id":"bp-2","amount":1}']
        on.faults.add(faults.rows_besides(*rows), route="payments")
        (page,) = [page async for page in on.provider.payments(None, ())]
    assert [row.ext_id for row in page.rows] == ["bp-7001"]
    assert [(bad.ext_id, bool(bad.reason)) for bad in page.bad] == [(None, True), (None, True), ("bp-2", True)]


@pytest.mark.parametrize("body", [b"{}", b'{"items":[]}', b'{"data":5}', b"[]", b'{"data":{"x":NaN}}', b'{"x":NaN}'])
async def test_another_body_than_a_list_of_data_is_a_fault_and_no_empty_list(body):
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.raw(body), route="payments")
        with pytest.raises(ProviderUnavailableError):
            await payments_of(on.provider)


async def test_more_rows_than_asked_for_are_a_fault():
    async with platform(seeding.healthy(1)) as on:
        on.faults.add(faults.rows_besides(*[f'{{"id":"x-{n}"}}' for n in range(101)]), route="payments")
        with pytest.raises(ProviderUnavailableError, match="101 rows"):
            await payments_of(on.provider)


GOOD = {"id": "bp-1", "userId": "u-1", "amount": 4990, "currency": "EUR", "status": "CREATED"}


@pytest.mark.parametrize(
    "fields",
    [
        {"id": None},
        {"id": ""},
        {"id": 5},
        {"id": "x" * 101},
        {"status": None},
        {"status": 1},
        {"amount": None},
        {"amount": "4990"},
        {"amount": True},
        {"amount": 49.9},
        {"amount": -1},
        {"amount": 2**53 + 2},
        {"currency": 978},
        {"userId": ["u-1"]},
        {"createdAt": "soon"},
        {"createdAt": 1_775_000_000},
        {"updatedAt": "2026-03-01T10:00:00"},
        {"orderId": 7},
        {"id": "a\u0000b"},
    ],
    ids=str,
)
def test_a_row_that_breaks_the_contract_is_bad(fields):
    row = payment_row(json.dumps({**GOOD, **fields}).encode(), PaymentFields(), test=False)
    assert row.reason


def test_a_row_may_lack_what_the_contract_calls_optional():
    row = payment_row(
        json.dumps({**GOOD, "amount": 4990.0, "userId": None, "failureReason": 5}).encode(), PaymentFields(), test=False
    )
    assert (row.amount_units, row.customer_ext_id, row.reason, row.created_at) == (4990, None, None, None)
    zero = payment_row(json.dumps({**GOOD, "createdAt": "0001-01-01T00:00:00Z"}).encode(), PaymentFields(), test=False)
    assert zero.created_at is None


def test_every_assumed_name_of_a_payment_can_be_another():
    names = PaymentFields(**dict(zip(PaymentFields.model_fields, "abcdefghi", strict=True)))
    at = "2026-04-02T08:15:00Z"
    values = {"a": "p", "b": "u", "c": 1, "d": "HUF", "e": "EXPIRED", "f": at, "g": at, "h": "o", "i": "late"}
    row = payment_row(json.dumps(values).encode(), names, test=False)
    assert (row.ext_id, row.customer_ext_id, row.amount_units, row.currency) == ("p", "u", 1, "HUF")
    assert (row.status, row.reference, row.reason) == (PaymentStatus.EXPIRED, "o", "late")
    assert row.created_at == row.provider_updated_at == datetime(2026, 4, 2, 8, 15, tzinfo=UTC)


async def test_every_assumed_name_of_the_login_can_be_another():
    async with platform(
        seeding.healthy(1),
        payment_path="/one/{id}",
        login_path="/login",
        login_id_field="who",
        login_secret_field="what",
        token_field="jwt",
        payments_path="/pay",
    ) as on:
        seen = []

        def act(call, _answer):
            seen.append((call.path, json.loads(call.body) if call.body else dict(call.headers)["authorization"]))
            if "/one/" in call.path:
                return faults.Answer(404, b"{}")
            return faults.Answer(body=b'{"jwt":"t"}' if call.path.endswith("login") else b'{"data":[]}')

        on.faults.add(act)
        assert await payments_of(on.provider) == []
        assert await on.provider.payment("a/b") is None
        till = on.till
    assert seen == [
        ("/platform/login", {"who": till.tenant_id, "what": till.tenant_secret}),
        ("/platform/pay", "Bearer t"),
        ("/platform/one/a/b", "Bearer t"),
    ]


async def test_currencies_are_those_whose_decimals_the_merchant_knows():
    async with platform(seeding.healthy(1), decimals={"HUF": 0, "EUR": 2}) as on:
        known = await on.provider.currencies()
    assert [(one.ext_id, one.symbol, one.decimals) for one in known] == [("EUR", "EUR", 2), ("HUF", "HUF", 0)]


async def test_one_users_payments_are_asked_for_by_the_user_alone():
    async with platform(seeding.healthy(2)) as on:
        for user in (0, 1, 0):
            on.till.pay(user)
        pages = [page async for page in on.provider.payments_of("u-0", on.till.world.now)]
        assert [row.customer_ext_id for page in pages for row in page.rows] == ["u-0", "u-0"]
        assert [call.query["userId"] for call in on.faults.calls if call.route == "payments"] == ["u-0"]


async def test_what_the_platform_does_not_have_is_refused_or_empty():
    async with platform(seeding.healthy(1)) as on:
        assert on.provider.capabilities == {Capability.PAYMENTS}
        assert (await on.provider.products(), await on.provider.currencies()) == ((), ())
        for ask in (
            on.provider.subscriptions(Window(0), None),
            on.provider.subscription("s"),
            on.provider.failures("s"),
            on.provider.log(None),
            on.provider.customer("c"),
        ):
            with pytest.raises(UnsupportedError, match="billing-platform has no"):
                await ask
