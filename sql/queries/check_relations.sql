-- name: relation_facts
-- The relation $1 as the search_path finds it: its kind, owner, columns, and rights of this role. No row if there is none.
SELECT format('%I.%I', n.nspname, c.relname) AS name, n.nspname || '.' || c.relname AS found_as, c.relkind::text AS kind,
       has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT') AS may_read,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS columns,
       ARRAY(SELECT format_type(a.atttypid, NULL) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS types,
       ARRAY(SELECT a.attnotnull FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS not_null
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass($1);

-- name: relation_elsewhere
-- Schemas with a relation $1 that the search_path does not lead to, and whether this role may use the schema.
SELECT quote_ident(n.nspname) AS schema, has_schema_privilege(n.oid, 'USAGE') AS may_use
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = $1 AND c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname NOT LIKE 'pg\_%'
 ORDER BY 2 DESC, 1 LIMIT 1;

-- name: session_facts
-- The server as this session sees it. A pooler gives its clients the process id of no server process, or drops the settings
-- that a session asks for.
SELECT quote_ident(current_user) AS role, quote_ident(current_database()) AS database, pg_backend_pid() AS pid,
       current_setting('server_encoding') AS encoding, current_setting('row_security') AS row_security;

-- name: full_name_beneath
-- The full name of the relation $2, which the relation $1 reads, also through views, or which it is.
WITH RECURSIVE beneath(oid) AS (
  SELECT to_regclass($1)::oid
  UNION
  SELECT d.refobjid
    FROM beneath JOIN pg_class v ON v.oid = beneath.oid AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass)
SELECT format('%I.%I', n.nspname, c.relname)
  FROM beneath JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = $2 LIMIT 1;
