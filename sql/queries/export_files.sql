-- name: expire_exports
-- Marks exports as expired; no new links are issued from here on. Files are kept for $1 more, until the last issued link has
-- expired.
WITH old AS MATERIALIZED (
  SELECT id FROM export_jobs WHERE status = 'completed' AND file_expires_at < now()
   ORDER BY file_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE export_jobs j SET status = 'expired', expired_at = now(), file_delete_after = now() + $1::interval
  FROM old WHERE j.id = old.id
RETURNING j.id AS export_id;

-- name: files_at_both_ends
-- The files of the completed exports that expire first and last.
(SELECT id AS export_id, object_name FROM export_jobs WHERE status = 'completed' ORDER BY file_expires_at LIMIT 1)
UNION
(SELECT id AS export_id, object_name FROM export_jobs WHERE status = 'completed' ORDER BY file_expires_at DESC LIMIT 1);

-- name: files_to_delete
-- Files of expired exports whose last link has expired. Random order, so replicas rarely pick the same file and one
-- undeletable file cannot block the rest.
SELECT id AS export_id, object_name FROM export_jobs
 WHERE status = 'expired' AND file_deleted_at IS NULL AND coalesce(file_delete_after, expired_at) <= now()
 ORDER BY random() LIMIT $1;

-- name: record_file_deleted
-- Record that the store no longer has the file.
UPDATE export_jobs SET file_deleted_at = now() WHERE id = $1 AND status = 'expired' AND file_deleted_at IS NULL;

-- name: forget_exports
-- Delete rows of exports that ended more than $1 ago, once the store has neither their file nor leftovers of their attempts, and
-- no webhook of theirs waits.
DELETE FROM export_jobs WHERE id IN (
  SELECT j.id FROM export_jobs j
   WHERE j.finished_at < now() - $1::interval AND (j.status IN ('failed', 'cancelled') OR j.file_deleted_at IS NOT NULL)
     AND NOT EXISTS (SELECT FROM export_attempts a WHERE a.job_id = j.id AND a.cleaned_at IS NULL)
     AND NOT EXISTS (SELECT FROM webhook_deliveries w WHERE w.export_id = j.id AND w.outcome IS NULL)
   ORDER BY j.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id;
