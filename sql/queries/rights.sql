-- name: missing_rights
-- The rights on existing tables of the service that `serve` needs and that this role lacks. docs/operating.md has the same list.
WITH needed(relation, privileges) AS (VALUES
  ('spaces', 'SELECT, INSERT, UPDATE'),
  ('api_keys', 'SELECT, INSERT, UPDATE'),
  ('export_attempts', 'SELECT, INSERT, UPDATE'),
  ('export_jobs', 'SELECT, INSERT, UPDATE, DELETE'),
  ('idempotency_keys', 'SELECT, INSERT, UPDATE, DELETE'),
  ('rate_limit_windows', 'SELECT, INSERT, UPDATE, DELETE'),
  ('processes', 'SELECT, INSERT, UPDATE, DELETE'),
  ('webhook_endpoints', 'SELECT, INSERT, UPDATE'),
  ('webhook_deliveries', 'SELECT, UPDATE'),
  ('export_jobs_id_seq', 'USAGE'),
  ('service_secrets', 'SELECT'),
  ('schema_migrations', 'SELECT'))
SELECT current_user AS role, privilege || ' ON ' || relation AS missing
  FROM needed, string_to_table(privileges, ', ') privilege, to_regclass(relation) found
 WHERE found IS NOT NULL
   AND NOT CASE privilege WHEN 'USAGE' THEN has_sequence_privilege(found, privilege)
                          ELSE has_table_privilege(found, privilege) END
 ORDER BY relation, privilege;
