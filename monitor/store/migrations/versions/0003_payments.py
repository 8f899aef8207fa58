"""Payments and what happened to them; their events are append-only as those of subscriptions are.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from monitor.store.types import Instant, RowId, Units, Usd

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _payments()
    _events()
    op.create_table(
        "payment_walks",
        sa.Column("account_id", RowId, autoincrement=False, nullable=False),
        sa.Column("baselined_at", Instant(), nullable=False),
        sa.Column("watermark", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_payment_walks_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_payment_walks")),
    )


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


def _events() -> None:
    op.create_table(
        "payment_events",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("payment_id", RowId, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("old", sa.String(length=12), nullable=True),
        sa.Column("new", sa.String(length=12), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("run_id", RowId, nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("evidence_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_payment_events_account_id")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_payment_events_payment_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_payment_events_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_events")),
        sa.UniqueConstraint("payment_id", "seq", name=op.f("uq_payment_events_payment_id_seq")),
    )
    op.create_index("ix_payment_events_class", "payment_events", ["account_id", "kind", "at"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER payment_events_append_only BEFORE UPDATE OR DELETE ON payment_events "
            "FOR EACH ROW EXECUTE FUNCTION ledger_guard()"
        )
        return
    message = "SELECT RAISE(ABORT, 'the ledger is append-only')"
    op.execute(f"CREATE TRIGGER payment_events_no_update BEFORE UPDATE ON payment_events BEGIN {message}; END")
    op.execute(
        "CREATE TRIGGER payment_events_no_delete BEFORE DELETE ON payment_events "
        f"WHEN NOT EXISTS (SELECT 1 FROM ledger_unlock) BEGIN {message}; END"
    )
