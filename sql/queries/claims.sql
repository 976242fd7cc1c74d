-- name: claim_export
-- Claim at most one queued export.
SELECT claim_id, job_id, space_id, attempt, alone, object_name, window_from, window_to, extras,
       export_traceparent(job_id) AS traceparent
  FROM claim_export($1, $2, $3, $4);

-- name: renew_leases
-- Renew all claims of a process. Rows locked by another session are skipped until the next round, so that one of them cannot
-- delay the others. renewed = false and held = true: the row was locked, so ownership is unknown. held = false: the claim is
-- lost.
WITH named AS (
  SELECT * FROM unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
           AS named(claim_id, phase, rows_read, bytes_stored, rows_estimated)
), free AS MATERIALIZED (
  SELECT j.id FROM export_jobs j WHERE j.claim_id = ANY ($2::uuid[]) FOR UPDATE SKIP LOCKED
), renewed AS (
  UPDATE export_jobs j
     SET lease_until = now() + $1::interval,
         phase = named.phase, bytes_stored = named.bytes_stored,
         -- Never backwards within an attempt, in whatever order two renewals arrive. Claiming starts both again.
         rows_read = greatest(j.rows_read, named.rows_read),
         rows_estimated = greatest(j.rows_estimated, named.rows_estimated),
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
-- Store the upload id, so that the upload can be aborted if this process dies. Returns no row if the claim is lost.
UPDATE export_attempts SET upload_id = $2 WHERE claim_id = $1 AND ended_at IS NULL AND cleaned_at IS NULL
RETURNING claim_id;

-- name: complete_export
-- Publish the file of an attempt. status is null if the claim is lost.
SELECT complete_export($1, $2, $3, $4, $5, $6, $7) AS status;

-- name: end_attempt_in_error
-- Requeue an export after an error, or fail it. status is null if the claim is lost.
SELECT end_attempt_in_error($1, $2, $3, $4, $5, $6) AS status;

-- name: hand_back_export
-- Requeue an export that a shutdown interrupts; the attempt is not counted. status is null if the claim is lost.
SELECT hand_back_export($1) AS status;

-- name: attempt_outcome
-- The receipt of an attempt: for a process that got no response to its last write.
SELECT outcome FROM export_attempts WHERE claim_id = $1;

-- name: rescue_exports
-- Requeue or fail exports whose lease has expired.
SELECT *, export_traceparent(export_id) AS traceparent FROM rescue_exports($1, $2, $3);

-- name: attempts_to_clean
-- Attempts that lost or gave up their claim and published no file: whatever they stored is left over. The grace period $1
-- lets storage calls of a dying process that are still in flight arrive first. Random order, so replicas rarely pick the
-- same rows.
SELECT a.claim_id, a.job_id AS export_id, a.object_name, a.upload_id
  FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id
 WHERE a.cleaned_at IS NULL AND j.claim_id IS DISTINCT FROM a.claim_id AND j.object_name IS DISTINCT FROM a.object_name
   AND coalesce(a.ended_at, a.started_at) < now() - $1::interval
 ORDER BY random() LIMIT 20;

-- name: record_cleaned
-- Record that the store contains nothing of this attempt any more.
UPDATE export_attempts SET cleaned_at = now() WHERE claim_id = $1 AND cleaned_at IS NULL;

-- name: objects_being_written
-- Which of these objects a running attempt is writing. Run this after listing the store's uploads, never before.
SELECT a.object_name FROM export_attempts a JOIN export_jobs j ON j.claim_id = a.claim_id
 WHERE a.object_name = ANY ($1::text[]);

-- name: objects_in_use
-- Which of these objects are published or being written. Run this after listing the store, never before. Every object has an
-- attempt, found by the index on its name.
SELECT a.object_name FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id
 WHERE a.object_name = ANY ($1::text[])
   AND (j.claim_id = a.claim_id OR (j.object_name = a.object_name AND j.file_deleted_at IS NULL));
