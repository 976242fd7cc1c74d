-- name: space_to_delete
-- What a Space has, for the question whether to delete it; no row if the Space does not exist.
SELECT s.name,
       (SELECT count(*) FROM api_keys k WHERE k.space_id = s.id) AS keys,
       (SELECT count(*) FROM export_jobs j WHERE j.space_id = s.id) AS exports,
       (SELECT count(*) FROM export_jobs j WHERE j.space_id = s.id AND j.status = 'processing') AS running
  FROM spaces s WHERE s.id = $1;

-- name: close_space
-- End the access to a Space and claim none of its exports from now on; returns a row for each key that was valid.
WITH closed AS (
  UPDATE spaces SET subscription_active = false, max_running_exports = 0 WHERE id = $1 RETURNING id
)
UPDATE api_keys k SET revoked_at = now() FROM closed WHERE k.space_id = closed.id AND k.revoked_at IS NULL
RETURNING k.key_id;

-- name: end_exports_of_space
-- Cancel up to $2 queued or running exports of a Space, or expire completed ones, so that their files may be deleted at once.
SELECT ended.export_id, ended.was, ended.status
  FROM (SELECT id FROM export_jobs WHERE space_id = $1 AND status IN ('queued', 'processing', 'completed')
         ORDER BY id LIMIT $2) due, LATERAL cancel_export(due.id, $1) ended;

-- name: files_of_space
-- Up to $2 files of ended exports of a Space that are not deleted yet.
SELECT id AS export_id, object_name FROM export_jobs
 WHERE space_id = $1 AND status = 'expired' AND file_deleted_at IS NULL ORDER BY id LIMIT $2;

-- name: leftovers_of_space
-- Up to $3 ended attempts of a Space that may have left something in the store. ready: the grace period $2 is over, in which
-- storage calls of the attempt may still be in flight.
SELECT a.claim_id, a.job_id AS export_id, a.object_name, a.upload_id,
       coalesce(a.ended_at, a.started_at) < now() - $2::interval AS ready
  FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id
 WHERE j.space_id = $1 AND a.cleaned_at IS NULL AND j.claim_id IS DISTINCT FROM a.claim_id
 ORDER BY coalesce(a.ended_at, a.started_at) LIMIT $3;

-- name: forget_exports_of_space
-- Delete up to $2 rows of exports of a Space that ended and left nothing in the store.
DELETE FROM export_jobs WHERE id IN (
  SELECT j.id FROM export_jobs j
   WHERE j.space_id = $1 AND (j.status IN ('failed', 'cancelled') OR j.file_deleted_at IS NOT NULL)
     AND NOT EXISTS (SELECT FROM export_attempts a WHERE a.job_id = j.id AND a.cleaned_at IS NULL)
   ORDER BY j.id LIMIT $2)
RETURNING id;

-- name: delete_space
-- Delete a Space that has no exports, with its keys; returns no row if it has exports.
DELETE FROM spaces WHERE id = $1 AND NOT EXISTS (SELECT FROM export_jobs WHERE space_id = $1) RETURNING id;
