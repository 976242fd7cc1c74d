-- name: cancel_as_seen
-- Cancel an export, or expire a completed one, if it still has one of the states $2; returns no row otherwise.
SELECT c.was, c.status, c.claim_id, seen.space_id
  FROM (SELECT id, space_id FROM export_jobs WHERE id = $1 AND status = ANY ($2::text[]) FOR UPDATE) seen,
       LATERAL cancel_export(seen.id) c;

-- name: kick_as_seen
-- Requeue an export immediately if it still has the state $2; returns no row otherwise.
SELECT k.was, k.claim_id
  FROM (SELECT id FROM export_jobs WHERE id = $1 AND status = $2 FOR UPDATE) seen, LATERAL kick_export(seen.id) k;

-- name: retry_export
-- Queue a new export with the parameters of a finished one, and return its id and Space; no row if that is not finished.
SELECT r.id, j.space_id FROM (SELECT retry_export($1) AS id) r JOIN export_jobs j ON j.id = $1 WHERE r.id IS NOT NULL;
