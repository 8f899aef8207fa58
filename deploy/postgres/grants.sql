-- Who may do what with the tables. As monitor_owner, after every "monitor db upgrade":
--   psql -U monitor_owner -d monitor -f deploy/postgres/grants.sql
-- A table that is not named here belongs to nobody but its owner, so a new one is closed until it is thought about.
\set ON_ERROR_STOP on
BEGIN;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, monitor_worker, monitor_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM PUBLIC, monitor_worker, monitor_reader;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO monitor_worker;

-- The worker: rows that it changes.
GRANT SELECT, INSERT, UPDATE ON
    accounts, alerts, batches, currencies, customers, discovered, episodes, instance, locks, notifications, payment_walks, payments,
    products, run_pages, runs, subscriptions
    TO monitor_worker;
-- Rows that expire or are taken back.
GRANT SELECT, INSERT, UPDATE, DELETE ON facts, quarantine, suppressions, usages TO monitor_worker;
-- Written once: the ledger, and the texts that were mailed.
GRANT SELECT, INSERT ON attempts, events, payment_events, templates TO monitor_worker;
-- The key to the ledger is the owner's: the trigger only looks whether it is there.
GRANT SELECT ON alembic_version, ledger_unlock TO monitor_worker;

-- The reader: tables without personal data,
GRANT SELECT ON
    accounts, alembic_version, alerts, batches, currencies, discovered, episodes, events, instance, locks, payment_events,
    payment_walks, products, run_pages, runs, suppressions, templates, usages
    TO monitor_reader;
-- and of the others what tells nothing about a person.
GRANT SELECT (id, account_id, ext_id, locale, zone, deleted, erased_at, read_at) ON customers TO monitor_reader;
GRANT SELECT (
    id, account_id, ext_id, customer_id, created_at, status, status_raw, provider, action, action_raw, product_ext_id,
    currency_ext_id, price_usd, frequency, allowance, allowance_usd, maximum, current_period_end_at, last_billing_at, next_billing_at,
    cancelled_at, cancel_reason, failed_attempts, remaining_attempts, failing_since_at, next_attempt_at,
    awaiting_maximum_since_at, max_spending_usd, test, situation, cause, provider_updated_at, first_asked_at, asked_at, seq, state_hash,
    next_look_at, gone_seen, bill_at, bill_usd, bill_units, failure_cause, failure_at, failure_attempt, failure_usd,
    failure_units, balance_short_for_at, balance_checked_at, allowance_peak, manage_link_at
) ON subscriptions TO monitor_reader;
GRANT SELECT (
    id, account_id, subscription_id, episode_id, payment_id, step, customer_key, batch_id, merged_into, kind, variant, urgency, rank,
    state, reason, created_at, due_at, not_after, next_try_at, tries, poisoned, copies, token, owner, until_at,
    in_data_at, sent_at, date_hdr, template_hash
) ON notifications TO monitor_reader;
GRANT SELECT (
    id, account_id, ext_id, kind, status, status_raw, created_at, provider_updated_at, customer_ext_id,
    subscription_ext_id, product_ext_id, amount_usd, amount_units, currency, of_ext_id, attempt, cause, test, first_asked_at, asked_at,
    seq, next_look_at
) ON payments TO monitor_reader;
GRANT SELECT (id, notification_id, copy, token, phase, code, enhanced, outcome, at) ON attempts TO monitor_reader;
GRANT SELECT (id, account_id, dedupe_key, kind, ext_sub_id, payment, source, received_at, done_at, ask_at, tries) ON facts TO monitor_reader;
GRANT SELECT (id, account_id, ext_id, raw_hash, reason, first_at, last_at) ON quarantine TO monitor_reader;
COMMIT;
