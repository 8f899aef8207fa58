"""The naive way of the vendor's documentation: a new client a request, a read and a merge a row, a commit a page.

    python -m benchmarks.sync_naive BASE KEY DATABASE_URL

It keeps one table of plain columns, detects no change, decides nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
from sqlalchemy import JSON, Boolean, String, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.measure import tell, timed


class Base(DeclarativeBase):
    pass


class Subscription(Base):
    __tablename__ = "naive_subscriptions"

    uuid: Mapped[str] = mapped_column(String(100), primary_key=True)
    status: Mapped[str] = mapped_column(String(30))
    action_required: Mapped[str | None] = mapped_column(String(30))
    customer_uuid: Mapped[str | None] = mapped_column(String(100))
    email: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    product_uuid: Mapped[str | None] = mapped_column(String(100))
    price_usd: Mapped[str | None] = mapped_column(String(40))
    allowance: Mapped[str | None] = mapped_column(String(80))
    max_amount_per_period: Mapped[str | None] = mapped_column(String(80))
    created_at: Mapped[str | None] = mapped_column(String(40))
    updated_at: Mapped[str | None] = mapped_column(String(40))
    current_period_end: Mapped[str | None] = mapped_column(String(40))
    last_billing_date: Mapped[str | None] = mapped_column(String(40))
    next_billing_date: Mapped[str | None] = mapped_column(String(40))
    test: Mapped[bool] = mapped_column(Boolean)
    raw: Mapped[dict[str, Any]] = mapped_column(JSON)


def of_row(row: dict[str, Any]) -> Subscription:
    """A row of the API as a mapped object."""
    customer = row.get("customer") or {}
    return Subscription(
        uuid=row["uuid"],
        status=row["status"],
        action_required=row.get("actionRequired"),
        customer_uuid=row.get("customerUuid"),
        email=customer.get("email"),
        name=customer.get("name"),
        product_uuid=row.get("productUuid"),
        price_usd=row.get("priceUsd"),
        allowance=row.get("allowance"),
        max_amount_per_period=row.get("maxAmountPerPeriod"),
        created_at=row.get("createdAt"),
        updated_at=row.get("updatedAt"),
        current_period_end=row.get("currentPeriodEnd"),
        last_billing_date=row.get("lastBillingDate"),
        next_billing_date=row.get("nextBillingDate"),
        test=row.get("test", False),
        raw=row,
    )


def sync(base: str, key: str, session: Session) -> int:
    """Every page, row by row. Returns the rows read."""
    cursor, count = None, 0
    while True:
        params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        with httpx.Client() as client:
            response = client.get(f"{base}/v2/transaction/subscriptions", params=params, headers={"X-API-Key": key})
        response.raise_for_status()
        page = response.json()
        for row in page["items"]:
            session.merge(of_row(row))
            count += 1
        session.commit()
        cursor = page["nextCursor"]
        if not cursor:
            return count


def main(base: str, key: str, url: str) -> None:
    """Make the table, then time the walk."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    with Session(engine) as session, timed() as took:
        count = sync(base, key, session)
    tell(count, took)


if __name__ == "__main__":
    main(*sys.argv[1:])
