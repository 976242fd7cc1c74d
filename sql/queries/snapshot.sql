-- name: source_horizon
-- The instant up to which every transaction on this database is decided, so that no contact created before it can still
-- appear: the start of the oldest open one, less a second between taking that time and showing it. Asked before the snapshot
-- is taken. Null where this role may not see other sessions, on a standby, where the writers are not, and while prepared
-- transactions hide their start. Our own exports only read and do not count.
SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') AND NOT pg_is_in_recovery()
             AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
            THEN least(clock_timestamp(), min(xact_start)) - interval '1 second' END
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> $1
   AND backend_type NOT IN ('autovacuum worker', 'walsender');

-- name: snapshot_time
-- The first statement of the transaction: it takes the snapshot. The transaction began before it, so every contact that
-- was committed at this instant is in it.
SELECT now();

-- name: emails_are_unique
-- Whether contact_emails is a table that itself forbids the same address twice; a view may show it twice.
SELECT EXISTS (
  SELECT FROM pg_index i
   WHERE i.indrelid = to_regclass('contact_emails') AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
     AND i.indexprs IS NULL AND i.indnkeyatts = 2
     AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
           WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:1])) = ARRAY['contact_id', 'email']);

-- name: read_contacts
-- The contacts of an export in the order of the file. The expressions of the extras replace the marker.
SELECT c.id, c.email, c.name, c.phone, c.location /* extras */
  FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL
 ORDER BY c.created_at, c.id;

-- name: extra_comet_tokens
-- The last five comet tokens as JSON text, ready for the file: one correlated lookup in a covering index. It measured faster
-- than lookups by batch, and much faster than arrays decoded in the client.
array_to_json(ARRAY(
  SELECT t.token FROM comet_tokens t WHERE t.contact_id = c.id AND t.token IS NOT NULL
   ORDER BY t.last_seen_at DESC NULLS LAST, t.token COLLATE "C" LIMIT 5));

-- name: extra_emails
-- All addresses of a contact, each once.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   GROUP BY e.email ORDER BY max(e.last_seen_at) DESC NULLS LAST, e.email COLLATE "C"));

-- name: extra_emails_unique
-- The same for a table that forbids duplicates itself: no grouping.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   ORDER BY e.last_seen_at DESC NULLS LAST, e.email COLLATE "C"));

-- name: estimate_contacts
-- The planner's estimate of the rows of an export; costs no read of the table.
EXPLAIN (FORMAT JSON)
SELECT FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL;
