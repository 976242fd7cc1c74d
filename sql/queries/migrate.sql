-- name: create_schema_migrations
-- The ledger of applied migrations; made by whoever holds the migration lock.
CREATE TABLE IF NOT EXISTS schema_migrations (
  set_name   text NOT NULL,
  version    integer NOT NULL,
  name       text NOT NULL,
  checksum   text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (set_name, version)
);

-- name: has_schema_migrations
-- Whether the ledger exists: false on a new database.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: applied_migrations
-- What was applied, of all sets.
SELECT set_name, version, name, checksum FROM schema_migrations ORDER BY set_name, version;

-- name: record_migration
-- Written in the transaction that applies the file.
INSERT INTO schema_migrations (set_name, version, name, checksum) VALUES ($1, $2, $3, $4);

-- name: try_migration_lock
-- Polled, never waited for: a blocking wait deadlocks with CREATE INDEX CONCURRENTLY.
SELECT pg_try_advisory_lock(hashtext('contact-exports'), hashtext('migrate'));

-- name: migration_unlock
-- Given back before the connection closes, so that the next process need not wait for that.
SELECT pg_advisory_unlock(hashtext('contact-exports'), hashtext('migrate'));

-- name: contact_relations
-- Columns of whatever stands under the three contract names: tables, views or foreign tables.
SELECT c.relname AS relation, a.attname AS "column", format_type(a.atttypid, NULL) AS type
  FROM unnest(ARRAY['contacts', 'contact_emails', 'comet_tokens']) wanted(name)
  JOIN pg_class c ON c.oid = to_regclass(wanted.name)
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;
