"""What is known: accounts, customers, subscriptions and payments as last seen.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from monitor.store.types import Instant, RowId, Seconds, Units, Usd

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", RowId, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("space_uuid", sa.String(length=100), nullable=True),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("baselined_at", Instant(), nullable=True),
        sa.Column("sweep_started_at", Instant(), nullable=True),
        sa.Column("read_by", sa.LargeBinary(length=16), nullable=True),
        sa.Column("log_watermark", sa.String(length=100), nullable=True),
        sa.Column("hook_at", Instant(), nullable=True),
        sa.Column("hook_missed_at", Instant(), nullable=True),
        sa.Column("hook_problem", sa.Text(), nullable=True),
        sa.Column("prices_unread_since", Instant(), nullable=True),
        sa.Column("prices_problem", sa.Text(), nullable=True),
        sa.Column("payments_watermark", Instant(), nullable=True),
        sa.Column("requests_day", sa.String(length=10), nullable=True),
        sa.Column("requests_used", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("time_travel", Seconds(), nullable=True),
        sa.Column("paused_at", Instant(), nullable=True),
        sa.Column("sender_paused_until", Instant(), nullable=True),
        sa.Column("sender_pause_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("witness", sa.Text(), nullable=False),
        sa.Column("counter", RowId, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )
    op.create_table(
        "alerts",
        sa.Column("account", sa.String(length=100), nullable=False),
        sa.Column("cause", sa.String(length=30), nullable=False),
        sa.Column("told_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("account", "cause", name=op.f("pk_alerts")),
    )
    op.create_table(
        "locks",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("token", RowId, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("beat_at", Instant(), nullable=False),
        sa.Column("until_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_locks")),
    )
    op.create_table(
        "currencies",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("symbol", sa.String(length=40), nullable=False),
        sa.Column("decimals", sa.Integer(), nullable=False),
        sa.Column("chain", sa.String(length=40), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_currencies_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_currencies")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_currencies_account_id_ext_id")),
    )
    op.create_table(
        "customers",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("address_mac", sa.String(length=32), nullable=True),
        sa.Column("locale", sa.String(length=20), nullable=True),
        sa.Column("zone", sa.String(length=60), nullable=True),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("erased_at", Instant(), nullable=True),
        sa.Column("read_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_customers_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_customers_account_id_ext_id")),
    )
    op.create_index(
        op.f("ix_customers_account_id_address_mac"), "customers", ["account_id", "address_mac"], unique=False
    )
    op.create_table(
        "products",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price_usd", Usd(), nullable=True),
        sa.Column("frequency", Seconds(), nullable=True),
        sa.Column("payment_link", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_products_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_products_account_id_ext_id")),
    )
    op.create_table(
        "discovered",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=12), nullable=False),
        sa.Column("found_at", Instant(), nullable=False),
        sa.Column("tried_at", Instant(), nullable=True),
        sa.Column("misses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_discovered_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_discovered")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_discovered_account_id_ext_id")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=200), nullable=True),
        sa.Column("raw_hash", sa.String(length=64), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("first_at", Instant(), nullable=False),
        sa.Column("last_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_quarantine_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("account_id", "raw_hash", name=op.f("uq_quarantine_account_id_raw_hash")),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("customer_id", RowId, nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("status_raw", sa.Text(), nullable=False),
        sa.Column("provider", sa.String(length=40), server_default="", nullable=False),
        sa.Column("action", sa.String(length=30), nullable=True),
        sa.Column("action_raw", sa.Text(), nullable=True),
        sa.Column("product_ext_id", sa.String(length=100), nullable=True),
        sa.Column("currency_ext_id", sa.String(length=100), nullable=True),
        sa.Column("price_usd", Usd(), nullable=True),
        sa.Column("frequency", Seconds(), nullable=True),
        sa.Column("allowance", Units(), nullable=True),
        sa.Column("allowance_usd", Usd(), nullable=True),
        sa.Column("maximum", Units(), nullable=True),
        sa.Column("current_period_end_at", Instant(), nullable=True),
        sa.Column("last_billing_at", Instant(), nullable=True),
        sa.Column("next_billing_at", Instant(), nullable=True),
        sa.Column("cancelled_at", Instant(), nullable=True),
        sa.Column("cancel_reason", sa.String(length=30), nullable=True),
        sa.Column("failed_attempts", sa.Integer(), nullable=True),
        sa.Column("remaining_attempts", sa.Integer(), nullable=True),
        sa.Column("failing_since_at", Instant(), nullable=True),
        sa.Column("next_attempt_at", Instant(), nullable=True),
        sa.Column("awaiting_maximum_since_at", Instant(), nullable=True),
        sa.Column("max_spending_usd", Usd(), nullable=True),
        sa.Column("wallet", sa.Text(), nullable=True),
        sa.Column("subscription_hash", sa.Text(), nullable=True),
        sa.Column("test", sa.Boolean(), nullable=False),
        sa.Column("situation", sa.String(length=30), nullable=False),
        sa.Column("cause", sa.String(length=30), nullable=True),
        sa.Column("provider_updated_at", Instant(), nullable=True),
        sa.Column("first_asked_at", Instant(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("state_hash", sa.LargeBinary(length=16), nullable=False),
        sa.Column("raw_mark", sa.LargeBinary(length=16), nullable=True),
        sa.Column("next_look_at", Instant(), nullable=True),
        sa.Column("gone_seen", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("manage_link", sa.Text(), nullable=True),
        sa.Column("manage_link_at", Instant(), nullable=True),
        sa.Column("bill_tx", sa.Text(), nullable=True),
        sa.Column("bill_at", Instant(), nullable=True),
        sa.Column("bill_usd", Usd(), nullable=True),
        sa.Column("bill_units", Units(), nullable=True),
        sa.Column("failure_cause", sa.String(length=30), nullable=True),
        sa.Column("failure_at", Instant(), nullable=True),
        sa.Column("failure_attempt", sa.Integer(), nullable=True),
        sa.Column("failure_usd", Usd(), nullable=True),
        sa.Column("failure_units", Units(), nullable=True),
        sa.Column("balance_short_for_at", Instant(), nullable=True),
        sa.Column("balance_checked_at", Instant(), nullable=True),
        sa.Column("allowance_peak", Units(), nullable=True),
        sa.Column("raw", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_subscriptions_account_id")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_subscriptions_customer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_subscriptions_account_id_ext_id")),
    )
    op.create_index("ix_subscriptions_customer", "subscriptions", ["customer_id"], unique=False)
    op.create_index(
        "ix_subscriptions_look",
        "subscriptions",
        ["account_id", "next_look_at"],
        unique=False,
        postgresql_where=sa.text("next_look_at IS NOT NULL"),
        sqlite_where=sa.text("next_look_at IS NOT NULL"),
    )
    op.create_index("ix_subscriptions_status", "subscriptions", ["account_id", "status"], unique=False)
    op.create_table(
        "usages",
        sa.Column("subscription_id", RowId, autoincrement=False, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("used_usd", Usd(), nullable=False),
        sa.Column("limit_usd", Usd(), nullable=True),
        sa.Column("period", Instant(), nullable=False),
        sa.Column("period_start_at", Instant(), nullable=True),
        sa.Column("period_end_at", Instant(), nullable=False),
        sa.Column("as_of", Instant(), nullable=False),
        sa.Column("imported_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_usages_account_id")),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscriptions.id"], name=op.f("fk_usages_subscription_id")),
        sa.PrimaryKeyConstraint("subscription_id", name=op.f("pk_usages")),
    )
    op.create_index("ix_usages_end", "usages", ["period_end_at"], unique=False)
    _payments()


def _payments() -> None:
    op.create_table(
        "payments",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("ext_id", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("status_raw", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=True),
        sa.Column("provider_updated_at", Instant(), nullable=True),
        sa.Column("customer_ext_id", sa.String(length=100), nullable=True),
        sa.Column("subscription_ext_id", sa.String(length=100), nullable=True),
        sa.Column("product_ext_id", sa.String(length=100), nullable=True),
        sa.Column("amount_usd", Usd(), nullable=True),
        sa.Column("amount_units", Units(), nullable=True),
        sa.Column("currency", sa.String(length=100), nullable=True),
        sa.Column("tx_hash", sa.Text(), nullable=True),
        sa.Column("explorer_url", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("of_ext_id", sa.String(length=100), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("cause", sa.String(length=30), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("test", sa.Boolean(), nullable=False),
        sa.Column("first_asked_at", Instant(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("next_look_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_payments_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("account_id", "ext_id", name=op.f("uq_payments_account_id_ext_id")),
    )
    op.create_index(
        "ix_payments_look",
        "payments",
        ["account_id", "next_look_at"],
        unique=False,
        postgresql_where=sa.text("next_look_at IS NOT NULL"),
        sqlite_where=sa.text("next_look_at IS NOT NULL"),
    )
    op.create_index("ix_payments_created", "payments", ["account_id", "created_at"], unique=False)
    op.create_index("ix_payments_customer", "payments", ["account_id", "customer_ext_id"], unique=False)
    op.create_index(
        "ix_payments_reference",
        "payments",
        ["account_id", "reference"],
        unique=False,
        postgresql_where=sa.text("reference IS NOT NULL"),
        sqlite_where=sa.text("reference IS NOT NULL"),
    )
