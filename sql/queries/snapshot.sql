-- name: source_horizon
-- The time up to which all transactions on this database have ended, so that no contact created before it can still appear:
-- the start of the oldest open transaction, minus one second because a transaction takes its start time before it shows it.
-- Run this before taking the snapshot. Null if this role cannot see other sessions, on a standby (writers connect
-- elsewhere), and while prepared transactions exist (their start time is not visible). Our own exports only read and are
-- ignored.
SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') AND NOT pg_is_in_recovery()
             AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
            THEN least(clock_timestamp(), min(xact_start)) - interval '1 second' END
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> $1
   AND backend_type NOT IN ('autovacuum worker', 'walsender');

-- name: snapshot_time
-- First statement of the transaction: it takes the snapshot. The transaction started before it, so every contact committed
-- at the returned time is included.
SELECT now();

-- name: emails_are_unique
-- Whether contact_emails is a table with a unique constraint on contact and address. A view may show an address twice.
SELECT EXISTS (
  SELECT FROM pg_index i
   WHERE i.indrelid = to_regclass('contact_emails') AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
     AND i.indexprs IS NULL AND i.indnkeyatts = 2
     AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
           WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:1])) = ARRAY['contact_id', 'email']);

-- name: custom_fields_exist
-- Whether contacts has the optional column custom_fields.
SELECT EXISTS (
  SELECT FROM pg_attribute
   WHERE attrelid = to_regclass('contacts') AND attname = 'custom_fields' AND attnum > 0 AND NOT attisdropped);

-- name: read_contacts
-- The contacts of an export in file order. The marker is replaced by the fragments of the requested extras.
SELECT c.id, c.email, c.name, c.phone, c.location /* extras */
  FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL
 ORDER BY c.created_at, c.id;

-- fragment: extra_comet_tokens
-- The five most recent comet tokens as JSON text, ready for the file. A correlated lookup in a covering index was faster
-- than batched lookups, and much faster than arrays decoded by the client.
array_to_json(ARRAY(
  SELECT t.token FROM comet_tokens t WHERE t.contact_id = c.id AND t.token IS NOT NULL
   ORDER BY t.last_seen_at DESC NULLS LAST, t.token COLLATE "C" LIMIT 5))

-- fragment: extra_emails
-- All addresses of a contact, each once, the most recent first.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   GROUP BY e.email ORDER BY max(e.last_seen_at) DESC NULLS LAST, e.email COLLATE "C"))

-- fragment: extra_emails_unique
-- Like extra_emails, for a table that cannot contain duplicates: without grouping.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   ORDER BY e.last_seen_at DESC NULLS LAST, e.email COLLATE "C"))

-- fragment: extra_custom_fields
-- The custom fields as JSON text, {} if there are none. A value that is no object ends the statement with an error of class 22
-- (data): the name of its type is cast to a number. The cast to jsonb normalizes a column of type json, which could contain
-- the bytes that separate two lines.
CASE coalesce(jsonb_typeof(c.custom_fields::jsonb), 'null')
     WHEN 'object' THEN (c.custom_fields::jsonb)::text
     WHEN 'null' THEN '{}'
     ELSE (jsonb_typeof(c.custom_fields::jsonb)::integer)::text END

-- fragment: extra_custom_fields_absent
-- Replaces extra_custom_fields if contacts has no such column.
'{}'

-- name: estimate_contacts
-- The planner's row estimate of an export; does not read the table.
EXPLAIN (FORMAT JSON)
SELECT FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL;
