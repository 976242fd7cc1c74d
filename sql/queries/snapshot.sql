-- name: source_horizon
-- The time up to which all transactions on this database have ended, so that no contact created before it can still appear:
-- the start of the oldest open transaction, minus one second because a transaction takes its start time before it shows it,
-- minus the slack $2 for clocks of applications that set created_at. Run this before taking the snapshot. Our own exports
-- only read and are ignored.
-- Null if this role cannot see other sessions, if a session's activity is not tracked, on a standby (writers connect
-- elsewhere), while prepared transactions exist (their start time is not visible), in a database with a subscription (rows
-- arrive long after their creation), and if contacts reads from a foreign table, a materialized view or a function that
-- returns rows.
WITH RECURSIVE beneath(oid) AS (
  SELECT to_regclass('contacts')::oid
  UNION
  SELECT next.oid
    FROM beneath
   CROSS JOIN LATERAL (
         SELECT d.refobjid AS oid
           FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
          WHERE r.ev_class = beneath.oid AND d.refclassid = 'pg_class'::regclass
         UNION
         SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = beneath.oid) AS next),
activity AS MATERIALIZED (
  SELECT state, xact_start
    FROM pg_stat_activity
   WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> $1
     AND backend_type NOT IN ('autovacuum worker', 'walsender')),
doubt(reason) AS (
  SELECT CASE c.relkind WHEN 'f' THEN 'foreign_table' ELSE 'materialized_view' END
    FROM pg_class c JOIN beneath USING (oid) WHERE c.relkind IN ('f', 'm')
   UNION
  SELECT 'function' FROM pg_rewrite r JOIN beneath ON beneath.oid = r.ev_class
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc p ON p.oid = d.refobjid AND p.proretset
   UNION
  SELECT 'subscription' FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
   UNION
  SELECT 'prepared_transaction' FROM pg_prepared_xacts WHERE database = current_database()
   UNION
  SELECT 'not_tracked' FROM activity WHERE state = 'disabled'
   UNION
  SELECT 'standby' WHERE pg_is_in_recovery()
   UNION
  SELECT 'no_right' WHERE NOT pg_has_role('pg_read_all_stats', 'USAGE'))
SELECT CASE WHEN NOT EXISTS (SELECT FROM doubt)
            THEN least(clock_timestamp(), min(xact_start)) - interval '1 second' - $2::interval END AS horizon,
       ARRAY(SELECT reason FROM doubt ORDER BY reason) AS unknown_because
  FROM activity;

-- name: snapshot_time
-- First statement of the transaction: it takes the snapshot. The transaction started before it, so every contact committed
-- at the returned time is included.
SELECT now();

-- name: estimate_contacts
-- The planner's row estimate of an export; does not read the table.
EXPLAIN (FORMAT JSON)
SELECT FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL;
