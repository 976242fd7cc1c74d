-- name: spaces_in_sample
-- The Spaces of the first $1 contacts, those with most of them first.
SELECT space_id FROM (SELECT space_id FROM contacts LIMIT $1::bigint) first
 WHERE space_id IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 20;

-- name: spaces_in_statistics
-- Values of columns named space_id beneath contacts, as the statistics of the planner know them: frequent ones first.
WITH RECURSIVE beneath(oid) AS (
  SELECT to_regclass('contacts')::oid
  UNION
  SELECT d.refobjid
    FROM beneath JOIN pg_rewrite r ON r.ev_class = beneath.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass)
SELECT value::bigint AS space_id
  FROM beneath JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = 'space_id'
 CROSS JOIN LATERAL unnest(coalesce(s.most_common_vals::text::text[], '{}') || coalesce(s.histogram_bounds::text::text[], '{}'))
            WITH ORDINALITY AS each(value, number)
 WHERE value ~ '^-?[0-9]{1,18}$' ORDER BY number LIMIT 200;

-- name: table_to_index
-- The table that an index is created on: for a partition, the whole partitioned table.
SELECT format('%I.%I', m.nspname, t.relname) AS name, pg_partition_root(c.oid) IS NOT NULL AS is_partitioned,
       c.relkind = 'f' AS is_foreign
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace m ON m.oid = t.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2;

-- name: indexes_of_table
-- The expressions and the WHERE clause of each usable index of a table.
SELECT ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) n ORDER BY n) AS keys,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS predicate
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid
 WHERE n.nspname = $1 AND c.relname = $2;
