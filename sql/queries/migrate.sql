-- name: create_schema_migrations
-- The ledger of applied migrations; created while the migration lock is held.
CREATE TABLE IF NOT EXISTS schema_migrations (
  set_name   text NOT NULL,
  version    integer NOT NULL,
  name       text NOT NULL,
  checksum   text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (set_name, version)
);

-- name: has_schema_migrations
-- Whether the ledger exists; false on a new database.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: creation_schema
-- The schema in which a table without a schema name is created, and whether this role may create one there. The schema is null
-- if the search_path names none that exists and that the role may use.
SELECT current_schema() AS schema, current_user AS role,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create;

-- name: applied_migrations
-- Applied migrations of all sets.
SELECT set_name, version, name, checksum FROM schema_migrations ORDER BY set_name, version;

-- name: record_migration
-- Record a migration, in the transaction that applies it.
INSERT INTO schema_migrations (set_name, version, name, checksum) VALUES ($1, $2, $3, $4);

-- name: try_migration_lock
-- Polled instead of waited for: a blocking wait deadlocks with CREATE INDEX CONCURRENTLY.
SELECT pg_try_advisory_lock(hashtext('contact-exports'), hashtext('migrate'));

-- name: migration_unlock
-- Unlock before the connection closes, so that the next process need not wait for that.
SELECT pg_advisory_unlock(hashtext('contact-exports'), hashtext('migrate'));
