-- Three roles that may do only what they do. Once, as an administrator, connected to the monitor's own database:
--   psql -d monitor -f deploy/postgres/roles.sql
-- Then: monitor db upgrade (as monitor_owner), and grants.sql. Passwords or other ways to log in are yours to set
-- (\password monitor_worker); the roles have none.
--   monitor_owner   makes and changes tables; used by "monitor db upgrade" and nothing else
--   monitor_worker  reads and writes rows; used by run, deliver, daemon; the ledger it can only extend
--   monitor_reader  reads, but no address, name, wallet, link or payload; for reports
\set ON_ERROR_STOP on
BEGIN;
DO $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['monitor_owner', 'monitor_worker', 'monitor_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO monitor_owner, monitor_worker, monitor_reader', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO monitor_owner;
GRANT USAGE ON SCHEMA public TO monitor_worker, monitor_reader;
-- Whoever waits inside a transaction holds rows that others need; no transaction of the monitor spans a network call.
ALTER ROLE monitor_worker SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE monitor_reader SET default_transaction_read_only = on;
COMMIT;
