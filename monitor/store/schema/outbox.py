"""What is to be mailed: batches, notifications, attempts; docs/architecture.md draws the machine. PII is erasable."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from monitor.store.schema.base import account_column, metadata, where
from monitor.store.types import Instant, RowId

batches = Table(
    "batches",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("origin", String(10), nullable=False),
    Column("run_id", RowId, ForeignKey("runs.id")),
    Column("state", String(12), nullable=False),
    Column("reason", Text),
    Column("counts", Text),
    Column("plan_hash", String(64)),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("decided_by", Text),
    Column("decided_at", Instant),
    Column("valid_until", Instant),
    Index("uq_batches_run", "run_id", unique=True, **where("origin = 'run'")),
    Index(
        "uq_batches_collecting",
        "account_id",
        "origin",
        unique=True,
        **where("state = 'collecting' AND origin <> 'run'"),
    ),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String(36), primary_key=True),
    account_column(),
    # a mail of an episode has the first two; a notice has what it tells of, and of a bill the subscription too
    Column("subscription_id", RowId, ForeignKey("subscriptions.id")),
    Column("episode_id", String(36), ForeignKey("episodes.id")),
    Column("payment_id", RowId, ForeignKey("payments.id")),
    Column("step", String(30), nullable=False),
    Column("customer_key", String(100), nullable=False),
    Column("batch_id", RowId, ForeignKey("batches.id"), nullable=False),
    Column("merged_into", String(36)),
    Column("kind", String(30), nullable=False),
    Column("variant", String(30), nullable=False),
    Column("urgency", String(10), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(60)),
    Column("why", Text),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("not_after", Instant),
    Column("next_try_at", Instant, nullable=False),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("poisoned", Integer, nullable=False, server_default=text("0")),
    Column("copies", Integer, nullable=False, server_default=text("0")),
    Column("token", Integer, nullable=False, server_default=text("0")),
    Column("owner", String(120)),
    Column("until_at", Instant),
    Column("in_data_at", Instant),
    Column("sent_at", Instant),
    Column("message_id", Text),
    Column("date_hdr", Text),
    Column("template_hash", String(64)),
    Column("address_mac", String(32)),
    Column("letter", Text),  # PII: the facts as printed, so that a resend is the same mail
    Column("recipient", Text),  # PII
    UniqueConstraint("episode_id", "step", "customer_key"),
    UniqueConstraint("payment_id", "kind"),
    CheckConstraint("subscription_id IS NOT NULL OR payment_id IS NOT NULL", name="ck_notifications_about"),
    CheckConstraint("episode_id IS NULL OR subscription_id IS NOT NULL", name="ck_notifications_episode"),
    Index(
        "ix_notifications_ready",  # in the order in which mails leave: nobody sorts all that wait for the next hundred
        "account_id",
        "rank",
        "due_at",
        "id",
        "next_try_at",
        **where("state IN ('ready', 'ambiguous')"),
    ),
    Index("ix_notifications_leased", "until_at", **where("state IN ('claimed', 'in_data')")),
    Index("ix_notifications_held", "account_id", **where("state = 'held'")),
    Index("ix_notifications_batch", "batch_id"),
    Index("ix_notifications_address", "address_mac", "sent_at"),
    Index("ix_notifications_subscription", "subscription_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("notification_id", String(36), ForeignKey("notifications.id"), nullable=False),
    Column("copy", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("phase", String(10), nullable=False),
    Column("code", Integer),
    Column("enhanced", String(12)),
    Column("outcome", String(20), nullable=False),
    Column("detail", Text),
    Column("at", Instant, nullable=False),
    Index("ix_attempts_notification", "notification_id"),
)

suppressions = Table(
    "suppressions",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("address_mac", String(32), nullable=False),
    Column("scope", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Instant, nullable=False),
    UniqueConstraint("account_id", "address_mac", "scope"),
)

templates = Table(
    "templates",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("files", Text, nullable=False),
)
