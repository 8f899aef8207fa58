"""What is asked every minute goes by an index, however many mails were ever sent (SQLite tells its plan; PostgreSQL plans by size)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import md5

import pytest
from sqlalchemy import event, text

from monitor.domain.model import NotificationState as S
from monitor.store.bulk import by_keys
from monitor.store.cases import shared_addresses, waiting
from monitor.store.engine import Database
from monitor.store.outbox import ready_ids
from monitor.store.revision import upgrade
from monitor.store.schema import customers
from monitor.store.transit import Outcome, Wanted, claim, leased, mark_in_data, settle
from monitor.store.watching import most_pressing, unreachable, waiting_now
from tests.store_rows import an_account

NOW = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
ASKED = {
    "ready_ids": lambda conn: ready_ids(conn, 1, NOW, 50),
    "leased": lambda conn: leased(conn, 1),
    "waiting": lambda conn: waiting(conn, 1, NOW),
    "waiting_now": lambda conn: waiting_now(conn, 1, NOW),
    "most_pressing": lambda conn: most_pressing(conn, NOW),
    "claim": lambda conn: claim(conn, [Wanted("a"), Wanted("b")], owner="me", lease=timedelta(hours=1)),
    "mark": lambda conn: mark_in_data(conn, [("a", 1, {})], owner="me", at=NOW, lease=timedelta(hours=1)),
    "settle": lambda conn: settle(conn, [Outcome("a", S.IN_DATA, S.SENT, 1)]),
    "unreachable": lambda conn: unreachable(conn, 1, NOW, NOW),
}


GROUPS = ("claim", "mark", "settle")


async def plans_of(asked, sqlite_url) -> list[str]:
    db = Database(sqlite_url)
    await upgrade(db)
    statements: list[tuple[str, object]] = []

    def note(_conn, _cursor, statement, parameters, _context, _many) -> None:
        statements.append((statement, parameters))

    async with db.read() as conn:
        event.listen(db.engine.sync_engine, "before_cursor_execute", note)
        await ASKED[asked](conn)
        event.remove(db.engine.sync_engine, "before_cursor_execute", note)
        plans = []
        for statement, parameters in statements:
            plan = await conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans += [row[3] for row in plan]
    await db.aclose()
    return plans


@pytest.mark.parametrize("asked", list(ASKED))
async def test_no_question_of_every_minute_reads_the_whole_outbox(asked, sqlite_url):
    plans = await plans_of(asked, sqlite_url)
    assert plans
    assert [step for step in plans if step.startswith("SCAN notifications") and "INDEX" not in step] == []


async def test_the_next_mails_to_leave_are_read_in_their_order_and_not_sorted(sqlite_url):
    plans = await plans_of("ready_ids", sqlite_url)
    assert "ix_notifications_ready" in plans[0]
    assert [step for step in plans if "ORDER BY" in step] == []


@pytest.mark.parametrize("asked", GROUPS)
async def test_the_rows_of_a_group_are_read_once_and_each_is_looked_up(asked, sqlite_url):
    first, second, *_ = await plans_of(asked, sqlite_url)
    assert first.startswith("SCAN each")  # the given rows
    assert second.startswith("SEARCH notifications")


async def uncounted(conn) -> None:
    """As if no autovacuum had come by: the tests' database is kept, with what it counted in the test before."""
    await conn.execute(text("DELETE FROM pg_statistic WHERE starelid = 'customers'::regclass"))
    await conn.execute(text("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'customers'::regclass"))


async def test_who_shares_an_address_is_looked_up_by_it_before_postgresql_has_counted_the_table(postgres_url):
    """With the mails of a claim, and as many customers as an account may have."""
    db = Database(postgres_url)
    many = (
        "INSERT INTO customers (account_id, ext_id, deleted, address_mac) "
        "SELECT :account, 'c' || n, n % 5 = 0, md5((n / 2)::text) FROM generate_series(1, 20000) n"
    )
    statements: list[tuple[str, object]] = []

    def note(_conn, _cursor, statement, parameters, _context, _many) -> None:
        statements.append((statement, parameters))

    async with db.write() as conn:
        account = await an_account(conn)
        await uncounted(conn)
        await conn.execute(text(many), {"account": account})
        event.listen(db.engine.sync_engine, "before_cursor_execute", note)
        found = await shared_addresses(conn, account, {md5(str(n).encode()).hexdigest() for n in range(1, 101)})
        event.remove(db.engine.sync_engine, "before_cursor_execute", note)
        ((statement, parameters),) = statements
        plan = list((await conn.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
    await db.aclose()
    assert len(found) == 60, "of each five pairs two have an owner who is deleted"
    assert [step for step in plan if "ix_customers_account_id_address_mac" in step]
    assert [step for step in plan if "Bitmap" in step or "Seq Scan" in step] == []


async def test_a_pages_rows_are_looked_up_each_before_postgresql_has_counted_the_table(postgres_url):
    """A first sync is over sooner than its tables are counted, and until then an account is taken for a few rows."""
    db = Database(postgres_url)
    many = "INSERT INTO customers (account_id, ext_id, deleted) SELECT :account, 'c' || n, false FROM generate_series(1, 20000) n"
    async with db.write() as conn:
        account = await an_account(conn)
        await uncounted(conn)
        await conn.execute(text(many), {"account": account})
        asked = by_keys(conn, customers, account, [f"c{n}" for n in range(1000)], customers.c.id)
        told = asked.compile(dialect=conn.dialect, compile_kwargs={"literal_binds": True})
        plan = list((await conn.exec_driver_sql(f"EXPLAIN {told}")).scalars())
    await db.aclose()
    assert [step for step in plan if "uq_customers_account_id_ext_id" in step]
    assert [step for step in plan if "Bitmap" in step or "Seq Scan" in step or "Filter" in step] == []
