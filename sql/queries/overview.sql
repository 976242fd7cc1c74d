-- name: latest_exports
-- The newest exports, optionally of Space $1 and with status $2.
SELECT * FROM export_overview
 WHERE (space_id = $1 OR $1::bigint IS NULL) AND (status = $2 OR $2::text IS NULL)
 ORDER BY export_id DESC LIMIT $3;

-- name: one_export
-- One export, by its id.
SELECT * FROM export_overview WHERE export_id = $1;

-- name: attempts_of_export
-- Attempts of an export, oldest first.
SELECT * FROM export_attempts WHERE job_id = $1 ORDER BY started_at;
