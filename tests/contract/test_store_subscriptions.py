"""Subscriptions and customers as stored: nothing is lost between what was seen and what is read back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy import func, insert, select, text, update

from monitor.domain.diff import state_hash
from monitor.domain.model import Action, CancelReason, Cause, CustomerSeen, Situation, Snapshot, Status, Told
from monitor.errors import StoreError
from monitor.store.schema import customers, events, subscriptions
from monitor.store.seen import RowIds
from monitor.store.subscriptions import (
    count_live,
    creation_cuts,
    ext_ids_of,
    insert_subscriptions,
    known_rows,
    live_siblings,
    load_subscriptions,
    note_gone,
    to_look_at,
    told_values,
    unseen_ids,
    update_subscriptions,
    upsert_customers,
)
from tests.store_rows import NOW, a_customer, a_snapshot, a_subscription, an_account

SECOND = timedelta(seconds=1)
TOKENS_24 = 24 * 10**18  # overflows 64 bits
FULL = Snapshot(
    ext_id="sub@full",
    status=Status.PAST_DUE,
    status_raw="pastDue",
    created_at=datetime(2025, 1, 31, 23, 59, 59, 123456, tzinfo=UTC),
    provider_updated_at=NOW,
    reference="Café <gold> & €/№1",
    action=Action.RAISE_MAXIMUM,
    action_raw="raiseMaximum",
    customer_ext_id="cust-1",
    product_ext_id="prod-1",
    currency_ext_id="10",
    price_usd=Decimal("9.990"),
    frequency=timedelta(days=30),
    allowance=TOKENS_24,
    maximum=2**256 - 1,
    current_period_end_at=NOW,
    last_billing_at=NOW - timedelta(days=30),
    next_billing_at=NOW,
    cancelled_at=NOW + timedelta(days=1),
    cancel_reason=CancelReason.BILLING_FAILED,
    failed_attempts=2,
    remaining_attempts=3,
    failing_since_at=NOW - timedelta(days=1),
    next_attempt_at=NOW + timedelta(days=1),
    awaiting_maximum_since_at=NOW - timedelta(hours=1),
    wallet="0xf1",
    subscription_hash="0xaa01",
    test=True,
    customer=CustomerSeen("cust-1", "cust-1@customer.example"),
)
TOLD = Told(
    manage_link="https://qbitflow.example/manage?uuid=1",
    bill_tx="0xbb",
    bill_at=NOW,
    bill_usd=Decimal("24.00"),
    bill_units=TOKENS_24,
    failure_cause=Cause.APPROVAL_REVOKED,
    failure_at=NOW,
    failure_attempt=2,
    failure_usd=Decimal("0.000000000000000001"),
    failure_units=TOKENS_24 + 1,
    balance_short_for_at=NOW,
    balance_checked_at=NOW,
    allowance_peak=10**77,
)


@pytest.fixture
async def account(store):
    async with store.write() as conn:
        return await an_account(conn)


async def test_every_field_of_a_snapshot_and_of_what_was_told_comes_back_as_it_went_in(store, account):
    async with store.write() as conn:
        customer = await a_customer(conn, account)
        await a_subscription(
            conn,
            account,
            FULL,
            customer_id=customer,
            situation=Situation.PAYMENT_FAILED,
            cause=Cause.APPROVAL_REVOKED,
            seq=7,
            gone_seen=1,
            **told_values(TOLD),
        )
    async with store.read() as conn:
        stored = (await load_subscriptions(conn, account))["sub@full"]
    assert stored.snapshot == FULL
    assert stored.told == TOLD
    assert (stored.situation, stored.cause, stored.seq, stored.gone_seen) == (
        Situation.PAYMENT_FAILED,
        Cause.APPROVAL_REVOKED,
        7,
        1,
    )
    assert stored.state_hash == state_hash(FULL)
    assert type(stored.snapshot.allowance) is int
    assert type(stored.snapshot.price_usd) is Decimal
    assert type(stored.snapshot.status) is Status
    assert stored.asked_at.tzinfo is UTC


async def test_a_snapshot_of_which_nothing_is_told_comes_back_as_empty_as_it_went_in(store, account):
    bare = a_snapshot("sub@bare")
    async with store.write() as conn:
        await a_subscription(conn, account, bare)
    async with store.read() as conn:
        stored = (await load_subscriptions(conn, account))["sub@bare"]
    assert stored.snapshot == bare
    assert stored.told == Told()
    assert stored.cause is None


@pytest.mark.parametrize("units", [0, 1, 2**63 - 1, 2**63, TOKENS_24, 10**78 - 1])
async def test_token_amounts_of_any_size_are_exact(store, account, units):
    async with store.write() as conn:
        await a_subscription(conn, account, a_snapshot(allowance=units))
    async with store.read() as conn:
        assert (await load_subscriptions(conn, account))["sub@1"].snapshot.allowance == units


@pytest.mark.parametrize("usd", ["0", "0.1", "0.30000000000000004", "99999999999999999999.99", "1E-18", "9.90"])
async def test_dollars_are_exact_and_never_a_float(store, account, usd):
    async with store.write() as conn:
        await a_subscription(conn, account, a_snapshot(price_usd=Decimal(usd)))
    async with store.read() as conn:
        price = (await load_subscriptions(conn, account))["sub@1"].snapshot.price_usd
        kept = (await conn.execute(text("SELECT CAST(price_usd AS VARCHAR) FROM subscriptions"))).scalar_one()
    assert type(price) is Decimal
    assert price == Decimal(usd)
    assert "e" not in kept.lower()


async def test_an_instant_of_any_zone_is_kept_as_utc_and_sorts_as_time_does(store, account):
    zone = timezone(timedelta(hours=14))
    early = datetime(2026, 4, 1, 13, tzinfo=zone)  # the evening before in UTC
    late = datetime(2026, 4, 1, 0, 0, 0, 1, tzinfo=UTC)
    async with store.write() as conn:
        for name, at in (("late", late), ("early", early)):
            await a_subscription(conn, account, a_snapshot(name, created_at=at))
    async with store.read() as conn:
        statement = select(subscriptions.c.ext_id, subscriptions.c.created_at).order_by(subscriptions.c.created_at)
        rows = (await conn.execute(statement)).all()
    assert [row.ext_id for row in rows] == ["early", "late"]
    assert [row.created_at for row in rows] == [early, late]
    assert {row.created_at.utcoffset() for row in rows} == {timedelta()}


async def test_a_time_without_a_zone_does_not_reach_the_database(store, account):
    with pytest.raises(ValueError, match="naive time"):
        async with store.write() as conn:
            await a_subscription(conn, account, a_snapshot(created_at=datetime(2026, 4, 1)))


def new_rows(*snapshots):
    names = ("situation", "first_asked_at", "asked_at", "seq", "state_hash")
    return names, [(one, Told(), (Situation.HEALTHY, NOW, NOW, 0, state_hash(one))) for one in snapshots]


async def test_the_same_vendor_id_twice_is_one_row_and_tells_the_late_one_so(store, account):
    async with store.write() as conn:
        first = await a_subscription(conn, account, a_snapshot("sub@1"))
        again = await insert_subscriptions(
            conn, account, *new_rows(a_snapshot("sub@1", wallet="late"), a_snapshot("sub@2"))
        )
        assert set(again) == {"sub@2"}
        stored = await load_subscriptions(conn, account)
    assert stored["sub@1"].id == first
    assert stored["sub@1"].snapshot.wallet is None


async def test_the_same_vendor_id_in_two_accounts_is_two_rows(store, account):
    async with store.write() as conn:
        other = await an_account(conn, "other")
        one = await a_subscription(conn, account, a_snapshot("sub@1"))
        two = await a_subscription(conn, other, a_snapshot("sub@1"))
        assert one != two
        assert set(await known_rows(conn, account, ["sub@1"])) == {"sub@1"}
        assert (await known_rows(conn, other, ["sub@1"]))["sub@1"].id == two


async def test_known_rows_tell_the_hash_of_those_asked_for_only(store, account):
    one = a_snapshot("sub@1")
    async with store.write() as conn:
        await a_subscription(conn, account, one)
        await a_subscription(conn, account, a_snapshot("sub@2"))
        known = await known_rows(conn, account, ["sub@1", "sub@3"])
    assert set(known) == {"sub@1"}
    assert known["sub@1"].state_hash == state_hash(one)


async def test_rows_are_loaded_by_id_in_the_order_of_their_row_ids(store, account):
    async with store.write() as conn:
        ids = [await a_subscription(conn, account, a_snapshot(f"sub@{name}")) for name in "zxy"]
        loaded = await load_subscriptions(conn, account, ids=[ids[2], ids[0]], lock=True)
        by_name = await load_subscriptions(conn, account, ext_ids=["sub@x"])
    assert [one.id for one in loaded.values()] == [ids[0], ids[2]]
    assert list(by_name) == ["sub@x"]


async def test_rows_are_updated_together_and_only_in_the_columns_named(store, account):
    async with store.write() as conn:
        ids = [await a_subscription(conn, account, a_snapshot(f"sub@{n}", wallet="w")) for n in range(3)]
        await update_subscriptions(conn, [])
        await update_subscriptions(conn, [{"row_id": ids[n], "reference": f"ref-{n}"} for n in (0, 2)])
        stored = await load_subscriptions(conn, account)
    assert [one.snapshot.reference for one in stored.values()] == ["ref-0", None, "ref-2"]
    assert {one.snapshot.wallet for one in stored.values()} == {"w"}


async def test_nothing_to_insert_is_nothing_done(store, account):
    async with store.write() as conn:
        assert await insert_subscriptions(conn, account, *new_rows()) == {}
        assert await upsert_customers(conn, account, {}) == {}


# Customers


async def customer_row(conn, ext_id: str):
    return (await conn.execute(select(customers).where(customers.c.ext_id == ext_id))).one()


async def test_a_customer_is_written_once_and_brought_up_to_date(store, account):
    async with store.write() as conn:
        first = await upsert_customers(conn, account, {"c1": {"email": "a@x.example", "name": "Ines"}})
        again = await upsert_customers(conn, account, {"c1": {"email": "b@x.example", "name": "Ines"}, "c2": {}})
        row = await customer_row(conn, "c1")
    assert first["c1"] == again["c1"]
    assert set(again) == {"c1", "c2"}
    assert (row.email, row.name) == ("b@x.example", "Ines")


async def test_only_the_id_of_a_customer_changes_nothing_that_is_known(store, account):
    async with store.write() as conn:
        await upsert_customers(conn, account, {"c1": {"email": "a@x.example", "deleted": True}})
        await upsert_customers(conn, account, {"c1": {}})
        row = await customer_row(conn, "c1")
    assert (row.email, row.deleted) == ("a@x.example", True)


async def test_an_erased_person_stays_erased_when_the_api_shows_them_again(store, account):
    async with store.write() as conn:
        await a_customer(conn, account, "c1", email=None, name=None, address_mac=None, erased_at=NOW)
        await upsert_customers(conn, account, {"c1": {"email": "a@x.example", "name": "Ines", "address_mac": "m"}})
        row = await customer_row(conn, "c1")
    assert (row.email, row.name, row.address_mac) == (None, None, None)


async def test_two_rows_of_one_customer_cannot_exist(store, account):
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await a_customer(conn, account, "c1")
            await a_customer(conn, account, "c1")


# Who lives


async def some_lives(conn, account: int) -> dict[str, int]:
    lives = {
        "active": a_snapshot("active", created_at=NOW),
        "odd": a_snapshot("odd", Status.UNKNOWN, created_at=NOW),
        "ageless": a_snapshot("ageless", Status.STOPPED),
        "gone": a_snapshot("gone", Status.CANCELLED, created_at=NOW),
        "edge": a_snapshot("edge", Status.TRIAL, created_at=NOW + timedelta(hours=1)),
        "young": a_snapshot("young", Status.TRIAL, created_at=NOW + timedelta(hours=2)),
    }
    return {name: await a_subscription(conn, account, one) for name, one in lives.items()}


async def test_live_is_what_is_not_cancelled_an_unknown_status_too(store, account):
    async with store.write() as conn:
        await some_lives(conn, account)
        assert await count_live(conn, account) == 5
        assert await count_live(conn, await an_account(conn, "other")) == 0


async def test_only_who_had_begun_and_was_known_before_the_sweep_can_be_missing(store, account):
    async with store.write() as conn:
        ids = await some_lives(conn, account)
        await a_subscription(conn, account, a_snapshot("fresh", created_at=NOW), first_asked_at=NOW + SECOND)
        live, missing = await unseen_ids(
            conn, account, RowIds([ids["odd"]]), NOW + timedelta(hours=1), known_before=NOW + SECOND
        )
        assert (live, missing) == (3, [ids["active"], ids["ageless"]])
        assert await ext_ids_of(conn, missing) == [(ids["active"], "active"), (ids["ageless"], "ageless")]
        assert await ext_ids_of(conn, []) == []


async def test_creation_is_cut_into_slices_of_about_equal_size(store, account):
    async with store.write() as conn:
        for n in range(10):
            await a_subscription(conn, account, a_snapshot(f"s{n}", created_at=NOW + timedelta(days=n)))
        await a_subscription(conn, account, a_snapshot("ageless"))
        assert await creation_cuts(conn, account, 1) == []
        assert await creation_cuts(conn, account, 2) == [NOW + timedelta(days=5)]
        assert await creation_cuts(conn, account, 3) == [NOW + timedelta(days=3), NOW + timedelta(days=6)]


async def test_rows_created_at_one_instant_give_one_cut_and_none_give_none(store, account):
    async with store.write() as conn:
        assert await creation_cuts(conn, account, 4) == []
        for n in range(8):
            await a_subscription(conn, account, a_snapshot(f"s{n}", created_at=NOW))
        assert await creation_cuts(conn, account, 4) == [NOW]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, True),
        ({"status": Status.TRIAL}, True),
        ({"status": Status.PAST_DUE}, False),
        ({"product_ext_id": "prod-2"}, False),
    ],
)
async def test_who_subscribed_again_has_a_live_sibling_of_customer_and_product(store, account, other, expected):
    async with store.write() as conn:
        assert await live_siblings(conn, account, []) == set()
        customer = await a_customer(conn, account)
        ended = a_snapshot("ended", Status.CANCELLED, product_ext_id="prod-1")
        ended_id = await a_subscription(conn, account, ended, customer_id=customer)
        beside = replace(a_snapshot("beside", product_ext_id="prod-1"), **other)
        await a_subscription(conn, account, beside, customer_id=customer)
        stranger = await a_customer(conn, account, "cust-2")
        await a_subscription(conn, account, a_snapshot("s", product_ext_id="prod-1"), customer_id=stranger)
        found = await live_siblings(conn, account, [ended_id])
    assert found == ({ended_id} if expected else set())


async def test_a_subscription_is_no_sibling_of_itself_and_no_product_is_no_kinship(store, account):
    async with store.write() as conn:
        customer = await a_customer(conn, account)
        alone = await a_subscription(conn, account, a_snapshot("alone", product_ext_id="p"), customer_id=customer)
        bare = await a_subscription(conn, account, a_snapshot("bare"), customer_id=customer)
        await a_subscription(conn, account, a_snapshot("bare too"), customer_id=customer)
        assert await live_siblings(conn, account, [alone, bare]) == set()


# Gone, and due


async def test_the_second_404_is_an_event_and_the_first_and_third_are_not(store, account):
    async with store.write() as conn:
        run = await _a_run(conn, account)
        row_id = await a_subscription(conn, account, a_snapshot(), seq=4)
        seen = []
        for hour in range(3):
            at = NOW + timedelta(hours=hour)
            await note_gone(conn, account, row_id, asked_at=at, run_id=run, now=at)
            seen.append((await conn.execute(select(func.count()).select_from(events))).scalar_one())
        event = (await conn.execute(select(events))).one()
        row = (await load_subscriptions(conn, account))["sub@1"]
    assert seen == [0, 1, 1]
    assert (event.kind, event.old, event.new, event.seq) == ("gone", "healthy", "gone", 5)
    assert (event.at, event.asked_at) == (NOW + timedelta(hours=1),) * 2
    assert (row.seq, row.gone_seen, row.snapshot.status) == (5, 3, Status.ACTIVE)


async def _a_run(conn, account: int) -> int:
    from monitor.domain.model import Window
    from monitor.store.runs import insert_run

    run = await insert_run(
        conn,
        account_id=account,
        slot=None,
        trigger="cli",
        token=1,
        now=NOW,
        bound_at=NOW,
        asked_at=NOW,
        windows=[Window(0)],
        baseline=False,
    )
    return run.id


async def test_who_is_due_comes_in_the_order_of_row_ids_a_piece_at_a_time(store, account):
    async with store.write() as conn:
        ids = [await a_subscription(conn, account, next_look_at=NOW) for _ in range(3)]
        await a_subscription(conn, account, next_look_at=NOW + timedelta(microseconds=1))
        await a_subscription(conn, account)
        assert await to_look_at(conn, account, NOW, 2, 0) == ids[:2]
        assert await to_look_at(conn, account, NOW, 2, ids[1]) == ids[2:]
        assert await to_look_at(conn, account, NOW - timedelta(microseconds=1), 9, 0) == []


async def test_a_subscription_of_nobody_we_know_cannot_be_written(store, account):
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        async with store.write() as conn:
            await conn.execute(
                insert(events).values(
                    account_id=account, subscription_id=999, seq=1, kind="x", source="pull", at=NOW, asked_at=NOW
                )
            )
            await conn.execute(update(subscriptions).values(customer_id=999))
