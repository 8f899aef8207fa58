"""What is known: accounts, customers and their subscriptions as last seen. Columns marked PII are wiped by an erase."""

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
from monitor.store.types import Instant, RowId, Seconds, Units, Usd

instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("uuid", String(36), nullable=False),
    Column("witness", Text, nullable=False),
    Column("counter", RowId, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("provider", String(40), nullable=False),
    Column("space_uuid", String(100)),
    Column("mode", String(10), nullable=False),
    Column("fingerprint", String(64)),
    Column("baselined_at", Instant),
    Column("sweep_started_at", Instant),
    Column("read_by", LargeBinary(16)),  # who read all rows of the newest complete sweep: the salt of their marks
    Column("log_watermark", String(100)),
    Column("hook_at", Instant),  # the newest genuine webhook, to the minute
    Column("hook_missed_at", Instant),  # the first thing since then that none brought
    Column("hook_problem", Text),
    Column("prices_unread_since", Instant),  # products and tokens could not be read from then on
    Column("prices_problem", Text),
    Column("payments_watermark", Instant),
    Column("requests_day", String(10)),
    Column("requests_used", Integer, nullable=False, server_default=text("0")),
    Column("time_travel", Seconds),
    Column("paused_at", Instant),
    Column("sender_paused_until", Instant),
    Column("sender_pause_reason", Text),
)

alerts = Table(
    "alerts",
    metadata,
    Column("account", String(100), primary_key=True),  # by name: trouble comes before an account's first run, too
    Column("cause", String(30), primary_key=True),
    Column("told_at", Instant, nullable=False),
)

locks = Table(
    "locks",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("token", RowId, nullable=False),
    Column("holder", Text, nullable=False),
    Column("beat_at", Instant, nullable=False),
    Column("until_at", Instant, nullable=False),
)

customers = Table(
    "customers",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    Column("email", Text),  # PII
    Column("name", Text),  # PII
    Column("last_name", Text),  # PII
    Column("reference", Text),
    Column("address_mac", String(32)),
    Column("locale", String(20)),
    Column("zone", String(60)),
    Column("deleted", Boolean, nullable=False, server_default=text("false")),
    Column("erased_at", Instant),
    Column("read_at", Instant),
    UniqueConstraint("account_id", "ext_id"),
    Index(None, "account_id", "address_mac"),
)

products = Table(
    "products",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    Column("name", Text, nullable=False),
    Column("price_usd", Usd),
    Column("frequency", Seconds),
    Column("payment_link", Text),
    Column("active", Boolean, nullable=False),
    UniqueConstraint("account_id", "ext_id"),
)

currencies = Table(
    "currencies",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    Column("symbol", String(40), nullable=False),
    Column("decimals", Integer, nullable=False),
    Column("chain", String(40), nullable=False),
    Column("address", Text, nullable=False),
    UniqueConstraint("account_id", "ext_id"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    Column("customer_id", RowId, ForeignKey("customers.id")),
    Column("reference", Text),
    # the snapshot
    Column("created_at", Instant),
    Column("status", String(20), nullable=False),
    Column("status_raw", Text, nullable=False),
    Column("provider", String(40), nullable=False, server_default=""),
    Column("action", String(30)),
    Column("action_raw", Text),
    Column("product_ext_id", String(100)),
    Column("currency_ext_id", String(100)),
    Column("price_usd", Usd),
    Column("frequency", Seconds),
    Column("allowance", Units),
    Column("allowance_usd", Usd),
    Column("maximum", Units),
    Column("current_period_end_at", Instant),
    Column("last_billing_at", Instant),
    Column("next_billing_at", Instant),
    Column("cancelled_at", Instant),
    Column("cancel_reason", String(30)),
    Column("failed_attempts", Integer),
    Column("remaining_attempts", Integer),
    Column("failing_since_at", Instant),
    Column("next_attempt_at", Instant),
    Column("awaiting_maximum_since_at", Instant),
    Column("max_spending_usd", Usd),
    Column("wallet", Text),
    Column("subscription_hash", Text),
    Column("test", Boolean, nullable=False),
    # what we made of it
    Column("situation", String(30), nullable=False),
    Column("cause", String(30)),
    Column("provider_updated_at", Instant),
    Column("first_asked_at", Instant, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("state_hash", LargeBinary(16), nullable=False),
    Column("raw_mark", LargeBinary(16)),
    Column("next_look_at", Instant),
    Column("gone_seen", Integer, nullable=False, server_default=text("0")),
    # what facts told
    Column("manage_link", Text),
    Column("manage_link_at", Instant),
    Column("bill_tx", Text),
    Column("bill_at", Instant),
    Column("bill_usd", Usd),
    Column("bill_units", Units),
    Column("failure_cause", String(30)),
    Column("failure_at", Instant),
    Column("failure_attempt", Integer),
    Column("failure_usd", Usd),
    Column("failure_units", Units),
    Column("balance_short_for_at", Instant),
    Column("balance_checked_at", Instant),
    Column("allowance_peak", Units),
    Column("raw", Text),
    UniqueConstraint("account_id", "ext_id"),
    Index("ix_subscriptions_look", "account_id", "next_look_at", **where("next_look_at IS NOT NULL")),
    Index("ix_subscriptions_status", "account_id", "status"),
    Index("ix_subscriptions_customer", "customer_id"),
)

usages = Table(
    "usages",
    metadata,
    Column("subscription_id", RowId, ForeignKey("subscriptions.id"), primary_key=True, autoincrement=False),
    account_column(),
    Column("used_usd", Usd, nullable=False),
    Column("limit_usd", Usd),
    Column("period", Instant, nullable=False),
    Column("period_start_at", Instant),
    Column("period_end_at", Instant, nullable=False),
    Column("as_of", Instant, nullable=False),
    Column("imported_at", Instant, nullable=False),
    Index("ix_usages_end", "period_end_at"),
)

discovered = Table(
    "discovered",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(100), nullable=False),
    Column("source", String(12), nullable=False),
    Column("found_at", Instant, nullable=False),
    Column("tried_at", Instant),
    Column("misses", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("account_id", "ext_id"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", RowId, primary_key=True),
    account_column(),
    Column("ext_id", String(200)),
    Column("raw_hash", String(64), nullable=False),
    Column("raw", LargeBinary, nullable=False),  # PII
    Column("reason", Text, nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
    UniqueConstraint("account_id", "raw_hash"),
)
