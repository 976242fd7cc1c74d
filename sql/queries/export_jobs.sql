-- name: insert_export
-- Queue an export. Returns one row: the columns of the new export, and `free`, false if the Space has $12 queued exports
-- already. With an idempotency key ($10) the columns are null if the Space used this key within $11. A single statement, so
-- concurrent requests with one key insert exactly once: the others wait for the commit of the first.
WITH room AS MATERIALIZED (
  SELECT CASE WHEN $12::integer IS NULL THEN true ELSE space_has_queue_room($1, $12) END AS free
), named AS (
  INSERT INTO idempotency_keys AS k (space_id, key, export_id)
  SELECT $1, $10, nextval(pg_get_serial_sequence('export_jobs', 'id')) FROM room WHERE room.free AND $10::text IS NOT NULL
  ON CONFLICT (space_id, key) DO UPDATE SET export_id = excluded.export_id, created_at = excluded.created_at
   WHERE k.created_at < now() - $11::interval
  RETURNING export_id
), new AS (
  SELECT export_id FROM named
  UNION ALL
  SELECT nextval(pg_get_serial_sequence('export_jobs', 'id')) FROM room WHERE room.free AND $10::text IS NULL
), inserted AS (
  INSERT INTO export_jobs (id, space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id,
                           traceparent)
         OVERRIDING SYSTEM VALUE
  SELECT new.export_id, $1, $2, $3, $4, $5, $6, $7, $8, $9, $13 FROM new
  RETURNING *
)
SELECT inserted.*, room.free FROM room LEFT JOIN inserted ON true;

-- name: seconds_until_queue_room
-- Estimate when a Space's next running export ends and a queued one takes its place: the mean duration of the latest ten
-- completed exports, divided by the number of running ones. Null if none of the latest thousand exports is completed.
SELECT (extract(epoch FROM avg(latest.duration))
        / greatest(1, (SELECT count(*) FROM export_jobs WHERE space_id = $1 AND status = 'processing')))::float8 AS seconds
  FROM (SELECT recent.finished_at - recent.claimed_at AS duration
          FROM (SELECT status, claimed_at, finished_at, id FROM export_jobs WHERE space_id = $1 ORDER BY id DESC LIMIT 1000) recent
         WHERE recent.status IN ('completed', 'expired') ORDER BY recent.id DESC LIMIT 10) latest;

-- name: export_of_key
-- The export that an idempotency key created, and whether it has the same parameters.
SELECT j.*, (j.start_date, j.end_date, j.extras) = ($3, $4, $5::text[]) AS same_request
  FROM idempotency_keys k JOIN export_jobs j ON j.id = k.export_id
 WHERE k.space_id = $1 AND k.key = $2;

-- name: prune_idempotency_keys
-- Delete idempotency keys older than $1, one batch per call. Skips locked rows, so concurrent replicas divide the work.
DELETE FROM idempotency_keys WHERE (space_id, key) IN (
  SELECT space_id, key FROM idempotency_keys WHERE created_at < now() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING key;

-- name: export_of_space
-- One export of a Space; no row for an id of another Space.
SELECT * FROM export_jobs WHERE id = $1 AND space_id = $2;

-- name: ended_exports
-- The subset of these exports that has ended, for requests that wait for the end.
SELECT id FROM export_jobs WHERE id = ANY ($1::bigint[]) AND status NOT IN ('queued', 'processing');

-- name: exports_before
-- One page of a Space's exports with ids below $3, newest first, optionally only those with status $2. Pages are large, so
-- only the columns that are shown are selected.
SELECT id, status, created_at, window_from, window_to, timezone, rows_read, rows_estimated, finished_at, snapshot_at,
       complete_until, object_name, row_count, file_size, sha256, file_expires_at, error_code, error_message
  FROM export_jobs
 WHERE space_id = $1 AND (status = $2 OR $2::text IS NULL) AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: exports_after
-- One page of a Space's exports with ids above $3, oldest first, optionally only those with status $2.
SELECT id, status, created_at, window_from, window_to, timezone, rows_read, rows_estimated, finished_at, snapshot_at,
       complete_until, object_name, row_count, file_size, sha256, file_expires_at, error_code, error_message
  FROM export_jobs
 WHERE space_id = $1 AND (status = $2 OR $2::text IS NULL) AND id > $3 ORDER BY id LIMIT $4;

-- name: cancel_export
-- Cancel an export, or expire a completed one. $2: only if it belongs to this Space; null: of any Space.
SELECT * FROM cancel_export($1, $2);
