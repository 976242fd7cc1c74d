-- name: tables_beneath
-- Tables that the relation $1 reads, also through views. `never_analyzed`: one of more than 1 MiB that the planner knows nothing
-- about, as far as the server remembers.
WITH RECURSIVE beneath(oid) AS (
  SELECT to_regclass($1)::oid
  UNION
  SELECT d.refobjid
    FROM beneath JOIN pg_class v ON v.oid = beneath.oid AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass)
SELECT format('%I.%I', n.nspname, c.relname) AS name, n.nspname AS schema, c.relname AS table,
       c.relkind IN ('r', 'm') AND pg_relation_size(c.oid) > 1048576
         AND (c.reltuples < 0 OR (pg_stat_get_last_analyze_time(c.oid) IS NULL
                                  AND pg_stat_get_last_autoanalyze_time(c.oid) IS NULL
                                  AND pg_stat_get_mod_since_analyze(c.oid) > 0)) AS never_analyzed
  FROM beneath JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f') ORDER BY 1;
