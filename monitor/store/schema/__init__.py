"""The tables, the same on SQLite and PostgreSQL, by family."""

from __future__ import annotations

from monitor.store.schema.base import metadata
from monitor.store.schema.ledger import episodes, events, facts, ledger_unlock, run_pages, runs
from monitor.store.schema.outbox import attempts, batches, notifications, suppressions, templates
from monitor.store.schema.payments import payment_events, payment_walks, payments
from monitor.store.schema.state import (
    accounts,
    alerts,
    currencies,
    customers,
    discovered,
    instance,
    locks,
    products,
    quarantine,
    subscriptions,
    usages,
)

__all__ = [
    "accounts",
    "alerts",
    "attempts",
    "batches",
    "currencies",
    "customers",
    "discovered",
    "episodes",
    "events",
    "facts",
    "instance",
    "ledger_unlock",
    "locks",
    "metadata",
    "notifications",
    "payment_events",
    "payment_walks",
    "payments",
    "products",
    "quarantine",
    "run_pages",
    "runs",
    "subscriptions",
    "suppressions",
    "templates",
    "usages",
]
