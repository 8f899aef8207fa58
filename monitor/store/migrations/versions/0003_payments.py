"""What happened to payments, and how far they were read; their events are append-only as those of subscriptions are.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from monitor.store.types import Instant, RowId

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _events()
    op.create_table(
        "payment_walks",
        sa.Column("account_id", RowId, autoincrement=False, nullable=False),
        sa.Column("baselined_at", Instant(), nullable=False),
        sa.Column("watermark", Instant(), nullable=False),
        sa.Column("history_mark", sa.Text(), nullable=True),
        sa.Column("history_ended_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_payment_walks_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_payment_walks")),
    )


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
