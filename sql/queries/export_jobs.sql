-- name: insert_export
-- Queue an export. With an idempotency key ($10): returns no row if the Space used this key within $11. A single statement, so
-- that concurrent requests with one key insert exactly once: the others wait for its commit.
WITH named AS (
  INSERT INTO idempotency_keys AS k (space_id, key, export_id)
  SELECT $1, $10, nextval(pg_get_serial_sequence('export_jobs', 'id')) WHERE $10::text IS NOT NULL
  ON CONFLICT (space_id, key) DO UPDATE SET export_id = excluded.export_id, created_at = excluded.created_at
   WHERE k.created_at < now() - $11::interval
  RETURNING export_id
), new AS (
  SELECT export_id FROM named
  UNION ALL
  SELECT nextval(pg_get_serial_sequence('export_jobs', 'id')) WHERE $10::text IS NULL
)
INSERT INTO export_jobs (id, space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id)
       OVERRIDING SYSTEM VALUE
SELECT new.export_id, $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM new
RETURNING *;

-- name: export_of_key
-- The export that an idempotency key created, and whether it has the same parameters.
SELECT j.*, (j.start_date, j.end_date, j.extras) = ($3, $4, $5::text[]) AS same_request
  FROM idempotency_keys k JOIN export_jobs j ON j.id = k.export_id
 WHERE k.space_id = $1 AND k.key = $2;

-- name: prune_idempotency_keys
-- Forget names that are older than the time given. Locked rows are in use; replicas that prune at once share the work.
DELETE FROM idempotency_keys WHERE (space_id, key) IN (
  SELECT space_id, key FROM idempotency_keys WHERE created_at < now() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING key;

-- name: export_of_space
-- One export as its Space may see it: an id of another Space finds nothing.
SELECT * FROM export_jobs WHERE id = $1 AND space_id = $2;

-- name: exports_before
-- A page of a Space's exports, newest first, in one state if it is given: those with an id below $3. Pages are large: only the
-- columns that are shown.
SELECT id, space_id, status, created_at, window_from, window_to, timezone, rows_read, rows_estimated, finished_at, snapshot_at,
       complete_until, object_name, row_count, file_size, sha256, file_expires_at, error_code, error_message
  FROM export_jobs
 WHERE space_id = $1 AND (status = $2 OR $2::text IS NULL) AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: exports_after
-- The page on the other side, nearest first: those with an id above $3.
SELECT id, space_id, status, created_at, window_from, window_to, timezone, rows_read, rows_estimated, finished_at, snapshot_at,
       complete_until, object_name, row_count, file_size, sha256, file_expires_at, error_code, error_message
  FROM export_jobs
 WHERE space_id = $1 AND (status = $2 OR $2::text IS NULL) AND id > $3 ORDER BY id LIMIT $4;

-- name: cancel_export
-- End it, or remove its file; the function is in migration 0002. $2: only one of this Space, null: of any.
SELECT * FROM cancel_export($1, $2);

-- name: expire_exports
-- From this commit on no link is given out for these files. Links given out before it live for up to $1, so long the files
-- stay.
WITH old AS MATERIALIZED (
  SELECT id FROM export_jobs WHERE status = 'completed' AND file_expires_at < now()
   ORDER BY file_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE export_jobs j SET status = 'expired', expired_at = now(), file_delete_after = now() + $1::interval
  FROM old WHERE j.id = old.id
RETURNING j.id AS export_id;

-- name: files_to_delete
-- Files of expired exports whose last link has died. At random, so that replicas rarely meet, and so that one which cannot be
-- deleted does not keep the others.
SELECT id AS export_id, object_name FROM export_jobs
 WHERE status = 'expired' AND file_deleted_at IS NULL AND coalesce(file_delete_after, expired_at) <= now()
 ORDER BY random() LIMIT $1;

-- name: record_file_deleted
-- The file is not in the store any more.
UPDATE export_jobs SET file_deleted_at = now() WHERE id = $1 AND status = 'expired' AND file_deleted_at IS NULL;

-- name: forget_exports
-- Remove rows of exports that ended long ago, once nothing in the store is theirs: neither the file nor what an attempt left.
DELETE FROM export_jobs WHERE id IN (
  SELECT j.id FROM export_jobs j
   WHERE j.finished_at < now() - $1::interval AND (j.status IN ('failed', 'cancelled') OR j.file_deleted_at IS NOT NULL)
     AND NOT EXISTS (SELECT FROM export_attempts a WHERE a.job_id = j.id AND a.cleaned_at IS NULL)
   ORDER BY j.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: claim_export
-- Take one waiting export, or none; the function is in migration 0003.
SELECT * FROM claim_export($1, $2, $3, $4);

-- name: renew_leases
-- All claims of a process at once. A row that another session has locked is left for the next round, so that it cannot hold
-- up the others: renewed = false and held = true says nothing about ownership, held = false says that the claim is lost.
WITH named AS (
  SELECT * FROM unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
           AS named(claim_id, phase, rows_read, bytes_stored, rows_estimated)
), free AS MATERIALIZED (
  SELECT j.id FROM export_jobs j WHERE j.claim_id = ANY ($2::uuid[]) FOR UPDATE SKIP LOCKED
), renewed AS (
  UPDATE export_jobs j
     SET lease_until = now() + $1::interval,
         phase = named.phase, rows_read = named.rows_read, bytes_stored = named.bytes_stored,
         rows_estimated = named.rows_estimated,
         progress_at = CASE WHEN (j.phase, j.rows_read, j.bytes_stored)
                                 IS DISTINCT FROM (named.phase, named.rows_read, named.bytes_stored)
                            THEN now() ELSE j.progress_at END
    FROM named, free WHERE j.claim_id = named.claim_id AND j.id = free.id
  RETURNING j.claim_id
)
SELECT named.claim_id,
       EXISTS (SELECT FROM renewed WHERE renewed.claim_id = named.claim_id) AS renewed,
       EXISTS (SELECT FROM export_jobs j WHERE j.claim_id = named.claim_id) AS held
  FROM named;

-- name: record_upload
-- What the sweep needs to abort the upload if this process dies. No row: the claim is lost.
UPDATE export_attempts SET upload_id = $2 WHERE claim_id = $1 AND ended_at IS NULL AND cleaned_at IS NULL
RETURNING claim_id;

-- name: complete_export
-- Publish the file: from this commit on, and only by it, the object is the export's.
WITH job AS (
  UPDATE export_jobs
     SET status = 'completed', claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL,
         object_name = a.object_name, row_count = $2, file_size = $3, sha256 = $4, snapshot_at = $5, complete_until = $6,
         rows_read = $2, bytes_stored = $3, finished_at = now(), file_expires_at = now() + $7::interval,
         error_code = NULL, error_message = NULL, error_detail = NULL
    FROM export_attempts a
   WHERE a.claim_id = $1 AND export_jobs.id = a.job_id AND export_jobs.claim_id = $1
  RETURNING export_jobs.id
), receipt AS (
  UPDATE export_attempts SET ended_at = now(), outcome = 'completed', rows_read = $2, cleaned_at = now()
    FROM job WHERE claim_id = $1
)
SELECT id FROM job;

-- name: end_attempt_in_error
-- Another attempt after a pause that doubles (from $6 seconds to at most 15 minutes, spread by half), or the end of the export.
WITH job AS (
  UPDATE export_jobs
     SET status = CASE WHEN $5 OR attempts >= max_attempts THEN 'failed' ELSE 'queued' END,
         finished_at = CASE WHEN $5 OR attempts >= max_attempts THEN now() END,
         run_after = now() + make_interval(secs => least($6::float8 * 2 ^ (attempts - 1), 900) * (0.5 + random())),
         error_code = $2, error_message = $3, error_detail = $4,
         claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL
   WHERE claim_id = $1
  RETURNING id, status, rows_read
), receipt AS (
  UPDATE export_attempts
     SET ended_at = now(), outcome = 'error', error_code = $2, error_detail = $4, rows_read = job.rows_read
    FROM job WHERE claim_id = $1
)
SELECT status FROM job;

-- name: hand_back_export
-- A shutdown interrupts an attempt: it is not counted, and another process may claim the export at once.
WITH job AS (
  UPDATE export_jobs
     SET status = 'queued', attempts = attempts - 1, handed_back = handed_back + 1, run_after = now(),
         claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL
   WHERE claim_id = $1
  RETURNING id, rows_read
), receipt AS (
  UPDATE export_attempts SET ended_at = now(), outcome = 'handed_back', rows_read = job.rows_read
    FROM job WHERE claim_id = $1
)
SELECT id FROM job;

-- name: attempt_outcome
-- The receipt: how an attempt ended, for a process that never got the answer to its own last write.
SELECT outcome FROM export_attempts WHERE claim_id = $1;

-- name: rescue_exports
-- Take back what dead or stalled processes hold. The condition is checked under the row's lock, so that two replicas, or a
-- renewal that came in time, cannot be overruled. A first loss is tried again at once, later ones after a pause.
WITH dead AS MATERIALIZED (
  SELECT id, claim_id, phase FROM export_jobs WHERE status = 'processing' AND lease_until < now()
   ORDER BY lease_until LIMIT 50 FOR UPDATE SKIP LOCKED
), job AS (
  UPDATE export_jobs j
     SET status = CASE WHEN j.attempts >= j.max_attempts THEN 'failed' ELSE 'queued' END,
         finished_at = CASE WHEN j.attempts >= j.max_attempts THEN now() END,
         run_after = now() + make_interval(secs => $1::float8 * j.lost_leases), lost_leases = j.lost_leases + 1,
         error_code = $2, error_message = $3, error_detail = 'the lease of worker ' || j.worker || ' ran out',
         claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL
    FROM dead WHERE j.id = dead.id
  RETURNING j.id, j.status, j.rows_read, j.worker, dead.claim_id, dead.phase
), receipt AS (
  UPDATE export_attempts a
     SET ended_at = now(), outcome = 'lost', error_code = $2, error_detail = 'the lease ran out while ' || job.phase,
         rows_read = job.rows_read
    FROM job WHERE a.claim_id = job.claim_id
)
SELECT id AS export_id, claim_id, worker, status FROM job;

-- name: attempts_to_clean
-- Attempts whose claim left its row and whose object is not the export's: whatever they stored is garbage for ever. The grace
-- lets calls of a dying process that are still under way reach the store first. At random, so that replicas rarely meet.
SELECT a.claim_id, a.job_id AS export_id, a.object_name, a.upload_id
  FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id
 WHERE a.cleaned_at IS NULL AND j.claim_id IS DISTINCT FROM a.claim_id AND j.object_name IS DISTINCT FROM a.object_name
   AND coalesce(a.ended_at, a.started_at) < now() - $1::interval
 ORDER BY random() LIMIT 20;

-- name: record_cleaned
-- Nothing of this attempt is left in the store.
UPDATE export_attempts SET cleaned_at = now() WHERE claim_id = $1 AND cleaned_at IS NULL;

-- name: objects_being_written
-- Those of these objects that a running attempt writes; asked after the store's uploads were listed, never before.
SELECT a.object_name FROM export_attempts a JOIN export_jobs j ON j.claim_id = a.claim_id
 WHERE a.object_name = ANY ($1::text[]);

-- name: objects_in_use
-- Which of these objects are published or being written; asked after the store was listed, never before. Each has an attempt,
-- by whose index it is found.
SELECT a.object_name FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id
 WHERE a.object_name = ANY ($1::text[])
   AND (j.claim_id = a.claim_id OR (j.object_name = a.object_name AND j.file_deleted_at IS NULL));
