-- name: latest_exports
-- The newest exports, of one Space and in one state if these are given.
SELECT * FROM export_overview
 WHERE (space_id = $1 OR $1::bigint IS NULL) AND (status = $2 OR $2::text IS NULL)
 ORDER BY export_id DESC LIMIT $3;

-- name: one_export
-- All that is known of an export.
SELECT * FROM export_overview WHERE export_id = $1;

-- name: attempts_of_export
-- Its attempts, oldest first.
SELECT * FROM export_attempts WHERE job_id = $1 ORDER BY started_at;
