"""What happened: runs and their pages, events, facts and episodes. Events hold no personal data and are append-only."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from monitor.store.schema.base import account_column, metadata, where
from monitor.store.types import Instant, RowId, Units

runs = Table(
    "runs",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("slot", String(10)),
    Column("trigger", String(12), nullable=False),
    Column("token", RowId, nullable=False),
    Column("now_at", Instant, nullable=False),
    Column("bound_at", Instant, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("windows", Text, nullable=False),
    Column("baseline", Boolean, nullable=False),
    Column("state", String(12), nullable=False),
    Column("counts", Text, nullable=False),
    Column("problems", Text),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Index("uq_runs_slot", "account_id", "slot", unique=True, **where("state <> 'abandoned'")),
)

run_pages = Table(
    "run_pages",
    metadata,
    Column("run_id", RowId, ForeignKey("runs.id"), primary_key=True),
    Column("win", Integer, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("cursor_in", Text, nullable=False),
    Column("cursor_out", Text),
    Column("rows", Integer, nullable=False),
    Column("bad", Integer, nullable=False),
    Column("seen", LargeBinary, nullable=False),
    UniqueConstraint("run_id", "win", "cursor_in"),
)

events = Table(
    "events",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("subscription_id", RowId, ForeignKey("subscriptions.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("old", Text),
    Column("new", Text),
    Column("cause", String(30)),
    Column("source", String(10), nullable=False),
    Column("run_id", RowId, ForeignKey("runs.id")),
    Column("at", Instant, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("evidence_at", Instant),
    UniqueConstraint("subscription_id", "seq"),
    Index("ix_events_class", "account_id", "kind", "at"),
)

ledger_unlock = Table(
    "ledger_unlock",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("why", Text, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("dedupe_key", String(120), nullable=False),
    Column("kind", String(60), nullable=False),
    Column("ext_sub_id", String(100)),
    Column("payment", Boolean, nullable=False, server_default=text("false")),  # it is a payment's id
    Column("source", String(10), nullable=False),
    Column("body", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("done_at", Instant),  # folded into its subscription
    Column("ask_at", Instant),  # when its subscription is to be read again; a lease while somebody does
    Column("tries", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("account_id", "dedupe_key"),
    Index("ix_facts_ask", "account_id", "ask_at", **where("ask_at IS NOT NULL")),
    Index("ix_facts_open", "account_id", "ext_sub_id", **where("done_at IS NULL")),
)

episodes = Table(
    "episodes",
    metadata,
    Column("id", String(36), primary_key=True),
    account_column(),
    Column("subscription_id", RowId, ForeignKey("subscriptions.id"), nullable=False),
    Column("track", String(10), nullable=False),
    Column("kind", String(30), nullable=False),
    Column("variant", String(20), nullable=False, server_default=""),
    Column("anchor", Text, nullable=False),
    Column("opened_seq", Integer, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("evidence_at", Instant),
    Column("opened_bill_at", Instant),
    Column("opened_allowance", Units),
    Column("deadline_at", Instant),
    Column("campaign_hash", String(64), nullable=False),
    Column("muted", String(20)),
    Column("next_step_at", Instant),
    Column("closed_at", Instant),
    Column("close_reason", String(30)),
    UniqueConstraint("subscription_id", "kind", "anchor"),
    Index(
        "uq_episodes_open_track",
        "subscription_id",
        "track",
        unique=True,
        **where("closed_at IS NULL"),
    ),
    Index("ix_episodes_step", "account_id", "next_step_at", **where("closed_at IS NULL")),
)
