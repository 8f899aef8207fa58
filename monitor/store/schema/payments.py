"""Payments: one-off purchases, paid bills and failed tries, and what happened to each. No address is in any of them."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from monitor.store.schema.base import account_column, metadata, where
from monitor.store.types import Instant, RowId, Units, Usd

payments = Table(
    "payments",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    # as seen
    Column("kind", String(10), nullable=False),
    Column("status", String(12), nullable=False),
    Column("status_raw", Text, nullable=False),
    Column("created_at", Instant),
    Column("provider_updated_at", Instant),
    Column("customer_ext_id", String(100)),
    Column("subscription_ext_id", String(100)),
    Column("product_ext_id", String(100)),
    Column("amount_usd", Usd),
    Column("amount_units", Units),
    Column("currency", String(100)),
    Column("tx_hash", Text),
    Column("explorer_url", Text),
    Column("reference", Text),
    Column("of_ext_id", String(100)),
    Column("attempt", Integer),
    Column("cause", String(30)),
    Column("reason", Text),
    Column("test", Boolean, nullable=False),
    # what we made of it
    Column("first_asked_at", Instant, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("next_look_at", Instant),
    UniqueConstraint("account_id", "ext_id"),
    Index("ix_payments_look", "account_id", "next_look_at", **where("next_look_at IS NOT NULL")),
    Index("ix_payments_created", "account_id", "created_at"),
    Index("ix_payments_customer", "account_id", "customer_ext_id"),
    Index("ix_payments_reference", "account_id", "reference", **where("reference IS NOT NULL")),
)

payment_events = Table(
    "payment_events",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("payment_id", RowId, ForeignKey("payments.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("old", String(12)),
    Column("new", String(12), nullable=False),
    Column("source", String(10), nullable=False),
    Column("run_id", RowId, ForeignKey("runs.id")),
    Column("at", Instant, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("evidence_at", Instant),
    UniqueConstraint("payment_id", "seq"),
    Index("ix_payment_events_class", "account_id", "kind", "at"),
)

payment_walks = Table(
    "payment_walks",
    metadata,
    Column("account_id", RowId, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("baselined_at", Instant, nullable=False),  # what was made by then is history
    Column("watermark", Instant, nullable=False),  # when the newest complete walk began
    Column("history_mark", Text),  # where to read on in what was made before the baseline
    Column("history_ended_at", Instant),  # all of it is read
)
