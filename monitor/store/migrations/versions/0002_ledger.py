"""What happened and what is to be mailed, and the triggers that make the ledger append-only.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from monitor.store.types import Instant, RowId, Units

revision = "0002"
down_revision = "0001"

_POSTGRES_GUARD = """
CREATE FUNCTION ledger_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM ledger_unlock) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only: % on %', TG_OP, TG_TABLE_NAME;
END $$
"""


def upgrade() -> None:
    _tables()
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRES_GUARD)
    _guard_ledger("events")
    _guard_ledger("attempts")


def _guard_ledger(table: str) -> None:
    """No row is changed; one is deleted only while `ledger_unlock` holds a row, in the same transaction."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ledger_guard()",
        )
        return
    message = "SELECT RAISE(ABORT, 'the ledger is append-only')"
    op.execute(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN {message}; END")
    op.execute(
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
        f"WHEN NOT EXISTS (SELECT 1 FROM ledger_unlock) BEGIN {message}; END",
    )


def _tables() -> None:
    op.create_table(
        "ledger_unlock",
        sa.Column("id", RowId, nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_unlock")),
    )
    op.create_table(
        "templates",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_templates")),
    )
    op.create_table(
        "facts",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("dedupe_key", sa.String(length=120), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("ext_sub_id", sa.String(length=100), nullable=True),
        sa.Column("payment", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.Column("done_at", Instant(), nullable=True),
        sa.Column("ask_at", Instant(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_facts_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_facts")),
        sa.UniqueConstraint("account_id", "dedupe_key", name=op.f("uq_facts_account_id_dedupe_key")),
    )
    op.create_index(
        "ix_facts_ask",
        "facts",
        ["account_id", "ask_at"],
        unique=False,
        postgresql_where=sa.text("ask_at IS NOT NULL"),
        sqlite_where=sa.text("ask_at IS NOT NULL"),
    )
    op.create_index(
        "ix_facts_open",
        "facts",
        ["account_id", "ext_sub_id"],
        unique=False,
        postgresql_where=sa.text("done_at IS NULL"),
        sqlite_where=sa.text("done_at IS NULL"),
    )
    op.create_table(
        "runs",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("slot", sa.String(length=10), nullable=True),
        sa.Column("trigger", sa.String(length=12), nullable=False),
        sa.Column("token", RowId, nullable=False),
        sa.Column("now_at", Instant(), nullable=False),
        sa.Column("bound_at", Instant(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("windows", sa.Text(), nullable=False),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("problems", sa.Text(), nullable=True),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_runs_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(
        "uq_runs_slot",
        "runs",
        ["account_id", "slot"],
        unique=True,
        postgresql_where=sa.text("state <> 'abandoned'"),
        sqlite_where=sa.text("state <> 'abandoned'"),
    )
    op.create_table(
        "suppressions",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("address_mac", sa.String(length=32), nullable=False),
        sa.Column("scope", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_suppressions_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressions")),
        sa.UniqueConstraint(
            "account_id", "address_mac", "scope", name=op.f("uq_suppressions_account_id_address_mac_scope")
        ),
    )
    op.create_table(
        "batches",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("origin", sa.String(length=10), nullable=False),
        sa.Column("run_id", RowId, nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("counts", sa.Text(), nullable=True),
        sa.Column("plan_hash", sa.String(length=64), nullable=True),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", Instant(), nullable=True),
        sa.Column("valid_until", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_batches_account_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_batches_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(
        "uq_batches_collecting",
        "batches",
        ["account_id", "origin"],
        unique=True,
        postgresql_where=sa.text("state = 'collecting' AND origin <> 'run'"),
        sqlite_where=sa.text("state = 'collecting' AND origin <> 'run'"),
    )
    op.create_index(
        "uq_batches_run",
        "batches",
        ["run_id"],
        unique=True,
        postgresql_where=sa.text("origin = 'run'"),
        sqlite_where=sa.text("origin = 'run'"),
    )
    op.create_table(
        "run_pages",
        sa.Column("run_id", RowId, nullable=False),
        sa.Column("win", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("cursor_in", sa.Text(), nullable=False),
        sa.Column("cursor_out", sa.Text(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("bad", sa.Integer(), nullable=False),
        sa.Column("seen", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_pages_run_id")),
        sa.PrimaryKeyConstraint("run_id", "win", "n", name=op.f("pk_run_pages")),
        sa.UniqueConstraint("run_id", "win", "cursor_in", name=op.f("uq_run_pages_run_id_win_cursor_in")),
    )
    op.create_table(
        "episodes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("subscription_id", RowId, nullable=False),
        sa.Column("track", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("variant", sa.String(length=20), server_default="", nullable=False),
        sa.Column("anchor", sa.Text(), nullable=False),
        sa.Column("opened_seq", sa.Integer(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("evidence_at", Instant(), nullable=True),
        sa.Column("opened_bill_at", Instant(), nullable=True),
        sa.Column("opened_allowance", Units(), nullable=True),
        sa.Column("deadline_at", Instant(), nullable=True),
        sa.Column("campaign_hash", sa.String(length=64), nullable=False),
        sa.Column("muted", sa.String(length=20), nullable=True),
        sa.Column("next_step_at", Instant(), nullable=True),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.Column("close_reason", sa.String(length=30), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_episodes_account_id")),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscriptions.id"], name=op.f("fk_episodes_subscription_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_episodes")),
        sa.UniqueConstraint("subscription_id", "kind", "anchor", name=op.f("uq_episodes_subscription_id_kind_anchor")),
    )
    op.create_index(
        "ix_episodes_step",
        "episodes",
        ["account_id", "next_step_at"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NULL"),
        sqlite_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "uq_episodes_open_track",
        "episodes",
        ["subscription_id", "track"],
        unique=True,
        postgresql_where=sa.text("closed_at IS NULL"),
        sqlite_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "events",
        sa.Column("id", RowId, nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("subscription_id", RowId, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("old", sa.Text(), nullable=True),
        sa.Column("new", sa.Text(), nullable=True),
        sa.Column("cause", sa.String(length=30), nullable=True),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("run_id", RowId, nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("evidence_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_events_account_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_events_run_id")),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscriptions.id"], name=op.f("fk_events_subscription_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("subscription_id", "seq", name=op.f("uq_events_subscription_id_seq")),
    )
    op.create_index("ix_events_class", "events", ["account_id", "kind", "at"], unique=False)
    op.create_table(
        "notifications",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", RowId, nullable=False),
        sa.Column("subscription_id", RowId, nullable=True),
        sa.Column("episode_id", sa.String(length=36), nullable=True),
        sa.Column("payment_id", RowId, nullable=True),
        sa.Column("step", sa.String(length=30), nullable=False),
        sa.Column("customer_key", sa.String(length=100), nullable=False),
        sa.Column("batch_id", RowId, nullable=False),
        sa.Column("merged_into", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("variant", sa.String(length=30), nullable=False),
        sa.Column("urgency", sa.String(length=10), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("not_after", Instant(), nullable=True),
        sa.Column("next_try_at", Instant(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("poisoned", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("copies", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("token", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.String(length=120), nullable=True),
        sa.Column("until_at", Instant(), nullable=True),
        sa.Column("in_data_at", Instant(), nullable=True),
        sa.Column("sent_at", Instant(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("date_hdr", sa.Text(), nullable=True),
        sa.Column("template_hash", sa.String(length=64), nullable=True),
        sa.Column("address_mac", sa.String(length=32), nullable=True),
        sa.Column("letter", sa.Text(), nullable=True),
        sa.Column("recipient", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_notifications_account_id")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_notifications_batch_id")),
        sa.ForeignKeyConstraint(["episode_id"], ["episodes.id"], name=op.f("fk_notifications_episode_id")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_notifications_payment_id")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("fk_notifications_subscription_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint(
            "episode_id", "step", "customer_key", name=op.f("uq_notifications_episode_id_step_customer_key")
        ),
        sa.UniqueConstraint("payment_id", "kind", name=op.f("uq_notifications_payment_id_kind")),
        sa.CheckConstraint("subscription_id IS NOT NULL OR payment_id IS NOT NULL", name="ck_notifications_about"),
        sa.CheckConstraint("episode_id IS NULL OR subscription_id IS NOT NULL", name="ck_notifications_episode"),
    )
    op.create_index("ix_notifications_address", "notifications", ["address_mac", "sent_at"], unique=False)
    op.create_index("ix_notifications_batch", "notifications", ["batch_id"], unique=False)
    op.create_index(
        "ix_notifications_held",
        "notifications",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
        sqlite_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_notifications_leased",
        "notifications",
        ["until_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('claimed', 'in_data')"),
        sqlite_where=sa.text("state IN ('claimed', 'in_data')"),
    )
    op.create_index(
        "ix_notifications_ready",
        "notifications",
        ["account_id", "rank", "due_at", "id", "next_try_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('ready', 'ambiguous')"),
        sqlite_where=sa.text("state IN ('ready', 'ambiguous')"),
    )
    op.create_index("ix_notifications_subscription", "notifications", ["subscription_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", RowId, nullable=False),
        sa.Column("notification_id", sa.String(length=36), nullable=False),
        sa.Column("copy", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(length=10), nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("enhanced", sa.String(length=12), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["notification_id"], ["notifications.id"], name=op.f("fk_attempts_notification_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_notification", "attempts", ["notification_id"], unique=False)
