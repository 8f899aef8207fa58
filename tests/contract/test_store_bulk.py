"""Many rows at once: nothing is lost or bent on the shorter way, and what another transaction wrote first is left alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select

from monitor.domain.model import Situation, Status
from monitor.errors import StoreError
from monitor.store import bulk
from monitor.store.bulk import append, insert_new, one_of
from monitor.store.schema import customers, events, quarantine, subscriptions
from monitor.store.subscriptions import upsert_customers
from tests.store_rows import NOW, a_customer, a_snapshot, a_subscription, an_account

AWKWARD = ["tab\there", "line\nfeed", "back\\slash", "\\N", "", "quote'\"", "Ünïcode ☃ 𝄞", "\x01\x7f"]
NAMES = ("account_id", "ext_id", "email")


@pytest.fixture
async def account(store):
    async with store.write() as conn:
        return await an_account(conn)


async def of_customers(conn, *names):
    return (await conn.execute(select(*(customers.c[name] for name in names)).order_by(customers.c.id))).all()


async def test_texts_that_a_line_of_copy_would_trip_over_come_back_as_they_went_in(store, account):
    rows = [(account, f"c{n}", text) for n, text in enumerate(AWKWARD)]
    async with store.write() as conn:
        made = await insert_new(conn, customers, account, NAMES, rows)
        found = await of_customers(conn, "ext_id", "email", "id")
    assert [row.email for row in found] == AWKWARD
    assert made == {row.ext_id: row.id for row in found}


async def test_a_column_that_is_empty_in_all_rows_is_null_and_one_with_a_default_of_its_own_is_written(store, account):
    async with store.write() as conn:
        names = (*NAMES, "deleted")
        await insert_new(conn, customers, account, names, [(account, f"c{n}", None, n == 1) for n in range(2)])
        assert [tuple(row) for row in await of_customers(conn, "email", "deleted")] == [(None, False), (None, True)]


async def test_a_null_in_a_column_that_has_a_default_is_refused_and_not_filled_in(store, account):
    with pytest.raises(StoreError, match=r"(?i)null"):
        async with store.write() as conn:
            await insert_new(conn, customers, account, ("account_id", "ext_id", "deleted"), [(account, "c", None)])


async def test_a_column_of_several_types_is_written_value_by_value(store, account):
    async with store.write() as conn:
        mixed = [(account, "c0", Status.ACTIVE), (account, "c1", "plain"), (account, "c2", None)]
        await insert_new(conn, customers, account, NAMES, mixed)
        assert [row.email for row in await of_customers(conn, "email")] == ["active", "plain", None]


@pytest.mark.parametrize("many", [1, 5, 300, 1_001])
async def test_any_number_of_rows_has_an_id_each(store, account, many):
    async with store.write() as conn:
        await a_customer(conn, account, "before")
        made = await insert_new(conn, customers, account, NAMES, [(account, f"c{n}", None) for n in range(many)])
        after = await a_customer(conn, account, "after")
        ids = [row.id for row in await of_customers(conn, "id")]
    assert len({*made.values()}) == many
    assert {*made.values()} < {*ids}
    assert after not in made.values()


async def test_rows_are_numbered_and_told_in_the_order_in_which_they_are_given(store, account):
    async with store.write() as conn:
        made = await insert_new(conn, customers, account, NAMES, [(account, name, None) for name in "cab"])
    assert list(made) == ["c", "a", "b"]
    assert list(made.values()) == sorted(made.values())


async def test_numbers_times_and_bytes_keep_their_value_on_the_way(store, account):
    at = datetime(2026, 4, 1, 14, 0, 0, 7, tzinfo=UTC).astimezone(tz=None)
    async with store.write() as conn:
        await a_subscription(
            conn,
            account,
            a_snapshot("sub@1", Status.TRIAL, allowance=2**256 - 1, price_usd=Decimal("1E+2"), frequency=timedelta(1)),
            asked_at=at,
            raw_mark=b"\x00\\\xff" + bytes(13),
            situation=Situation.TRIAL_ENDING,
        )
        row = (await conn.execute(select(subscriptions))).one()
    assert (row.allowance, row.price_usd, row.frequency) == (2**256 - 1, Decimal(100), timedelta(1))
    assert (row.asked_at, row.raw_mark, row.situation) == (at, b"\x00\\\xff" + bytes(13), "trial_ending")


async def test_what_no_column_holds_does_not_reach_the_database(store, account):
    with pytest.raises(TypeError, match="a float has no column"):
        async with store.write() as conn:
            await insert_new(conn, customers, account, NAMES, [(account, "c1", 1.5)])


async def test_rows_that_another_transaction_inserts_first_are_left_to_it(store, account):
    """PostgreSQL finds out at the insert, since a row that is not there yet cannot be locked; SQLite waits for its turn."""
    theirs, ours = {}, {}
    written, go_on = asyncio.Event(), asyncio.Event()

    async def they():
        async with store.write() as conn:
            theirs.update(await insert_new(conn, customers, account, NAMES, [(account, "c1", "theirs")]))
            written.set()
            await go_on.wait()

    async def we():
        await written.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        async with store.write() as conn:
            rows = [(account, name, "ours") for name in ("c0", "c1", "c2")]
            ours.update(await insert_new(conn, customers, account, NAMES, rows))

    await asyncio.gather(they(), we())
    assert (set(theirs), set(ours)) == ({"c1"}, {"c0", "c2"})
    async with store.read() as conn:
        found = {row.ext_id: (row.id, row.email) for row in await of_customers(conn, "id", "ext_id", "email")}
    assert found == {
        "c0": (ours["c0"], "ours"),
        "c1": (theirs["c1"], "theirs"),
        "c2": (ours["c2"], "ours"),
    }


async def test_two_who_insert_the_same_rows_in_another_order_never_wait_in_a_circle(store, account, held_up):
    async def insert(names: str) -> set[str]:
        async with store.write() as conn:
            return {*await insert_new(conn, customers, account, NAMES, [(account, name, None) for name in names])}

    async with held_up(2, f"INSERT INTO customers (account_id, ext_id, deleted) VALUES ({account}, 'b', false)"):
        going = [asyncio.create_task(insert(names)) for names in ("abc", "cba")]
    assert sorted(map(len, await asyncio.gather(*going))) == [0, 3]


async def test_two_who_change_the_same_customers_in_another_order_never_wait_in_a_circle(store, account, held_up):
    async with store.write() as conn:
        for name in "abc":
            await a_customer(conn, account, name)

    async def rename(names: str) -> None:
        async with store.write() as conn:
            await upsert_customers(conn, account, {name: {"name": names} for name in names})

    async with held_up(2, "UPDATE customers SET name = 'Ana' WHERE ext_id = 'b'"):
        going = [asyncio.create_task(rename(names)) for names in ("abc", "cba")]
    await asyncio.gather(*going)
    async with store.read() as conn:
        assert len({row.name for row in await of_customers(conn, "name")}) == 1


async def test_a_conflict_that_no_vendor_id_explains_is_an_error(store, account):
    async with store.write() as conn:
        with pytest.raises(bulk.IntegrityError):
            await insert_new(conn, customers, account + 1_000, NAMES, [(account + 1_000, "c1", None)])


async def test_an_error_of_the_driver_is_ours_like_any_other_and_shows_no_value(store, account):
    row = ("x", account, "secret@customer.example", b"", "x", NOW, NOW)
    names = ("raw_hash", "account_id", "ext_id", "raw", "reason", "first_at", "last_at")
    with pytest.raises(StoreError, match=r"(?i)unique") as caught:
        async with store.write() as conn:
            await append(conn, quarantine, names, [row, row])
    assert "secret" not in str(caught.value)


async def test_nothing_to_append_is_nothing_done(store):
    async with store.write() as conn:
        await append(conn, events, ("account_id",), [])
        assert (await conn.execute(select(func.count()).select_from(events))).scalar_one() == 0


async def test_one_of_takes_any_number_of_texts_and_numbers(store, account):
    async with store.write() as conn:
        ids = [await a_customer(conn, account, name) for name in AWKWARD]
        by_name = select(customers.c.ext_id).where(one_of(conn, customers.c.ext_id, [*AWKWARD[:3], "other"]))
        assert set((await conn.execute(by_name)).scalars()) == set(AWKWARD[:3])
        by_id = select(customers.c.id).where(one_of(conn, customers.c.id, {ids[1], ids[4], 2**40}))
        assert set((await conn.execute(by_id)).scalars()) == {ids[1], ids[4]}
        many = select(func.count()).where(one_of(conn, customers.c.id, range(100_000)))
        assert (await conn.execute(many)).scalar_one() == len(ids)
        assert (await conn.execute(select(func.count()).where(one_of(conn, customers.c.id, [])))).scalar_one() == 0


async def test_one_of_takes_a_text_for_one_whatever_it_holds(store, account):
    names = ["a\x1fb", "a", ""]
    async with store.write() as conn:
        for name in names:
            await a_customer(conn, account, name)
        for asked in (["a\x1fb"], ["a", "b"], [""], ["", "a"], names):
            found = select(customers.c.ext_id).where(one_of(conn, customers.c.ext_id, asked))
            assert set((await conn.execute(found)).scalars()) == set(asked) & set(names)
