"""Rows for store tests: the least that each table asks for, with the fields a test cares about laid over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from sqlalchemy import insert

from monitor.domain.diff import state_hash
from monitor.domain.model import Situation, Snapshot, Status
from monitor.store.accounts import ensure_account
from monitor.store.bulk import insert_new
from monitor.store.schema import batches, customers, episodes, events, notifications, subscriptions
from monitor.store.subscriptions import snapshot_values

NOW = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
_numbers = count(1)


def a_snapshot(ext_id: str = "sub@1", status: Status = Status.ACTIVE, **fields: object) -> Snapshot:
    return Snapshot(ext_id=ext_id, status=status, status_raw=status.value, **fields)


async def an_account(conn, name: str = "acme") -> int:
    return (await ensure_account(conn, name, "qbitflow-v2", "live")).id


async def a_customer(conn, account_id: int, ext_id: str = "cust-1", **values: object) -> int:
    row = {"email": f"{ext_id}@customer.example", "name": "Ines", "address_mac": f"mac-{ext_id}", **values}
    made = await conn.execute(
        insert(customers).values(account_id=account_id, ext_id=ext_id, **row).returning(customers.c.id)
    )
    return made.scalar_one()


async def a_subscription(conn, account_id: int, snapshot: Snapshot | None = None, **values: object) -> int:
    snapshot = snapshot or a_snapshot(f"sub@{next(_numbers)}")
    row = {
        **snapshot_values(snapshot),
        "account_id": account_id,
        "situation": Situation.HEALTHY,
        "cause": None,
        "first_asked_at": NOW,
        "asked_at": NOW,
        "seq": 0,
        "gone_seen": 0,
        "state_hash": state_hash(snapshot),
        **values,
    }
    made = await insert_new(conn, subscriptions, account_id, tuple(row), [tuple(row.values())])
    return made[snapshot.ext_id]


async def an_event(conn, account_id: int, subscription_id: int, **values: object) -> int:
    row = {"seq": 1, "kind": Situation.PAYMENT_FAILED, "source": "pull", "at": NOW, "asked_at": NOW, **values}
    made = await conn.execute(
        insert(events).values(account_id=account_id, subscription_id=subscription_id, **row).returning(events.c.id)
    )
    return made.scalar_one()


async def an_episode(conn, account_id: int, subscription_id: int, **values: object) -> str:
    row = {
        "id": f"episode-{next(_numbers)}",
        "track": "billing",
        "kind": Situation.PAYMENT_FAILED,
        "variant": "",
        "anchor": f"anchor-{next(_numbers)}",
        "opened_seq": 1,
        "opened_at": NOW,
        "campaign_hash": "0" * 16,
        **values,
    }
    await conn.execute(insert(episodes).values(account_id=account_id, subscription_id=subscription_id, **row))
    return row["id"]


async def a_batch(conn, account_id: int, **values: object) -> int:
    row = {"origin": "live", "state": "open", "opened_at": NOW, **values}
    made = await conn.execute(insert(batches).values(account_id=account_id, **row).returning(batches.c.id))
    return made.scalar_one()


def mail_values(account_id: int, subscription_id: int, episode_id: str, batch_id: int, **values: object) -> dict:
    return {
        "id": f"mail-{next(_numbers)}",
        "account_id": account_id,
        "subscription_id": subscription_id,
        "episode_id": episode_id,
        "step": "first",
        "customer_key": "cust-1",
        "batch_id": batch_id,
        "kind": "payment_failed",
        "variant": "other",
        "urgency": "urgent",
        "rank": 1,
        "state": "ready",
        "created_at": NOW,
        "due_at": NOW,
        "not_after": NOW + timedelta(days=6),
        "next_try_at": NOW,
        **values,
    }


async def a_mail(conn, account_id: int, subscription_id: int, episode_id: str, **values: object) -> str:
    batch_id = values.pop("batch_id", None) or await a_batch(conn, account_id)
    row = mail_values(account_id, subscription_id, episode_id, batch_id, **values)
    await conn.execute(insert(notifications).values(**row))
    return row["id"]
