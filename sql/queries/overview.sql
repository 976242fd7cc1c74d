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

-- name: running_exports
-- Running exports of all processes, the one that has run longest first, at most $1.
SELECT * FROM exports_running ORDER BY running_for DESC, export_id LIMIT $1;

-- name: waiting_spaces
-- Spaces with queued exports and what each waits for, the one that has waited longest first, at most $1.
SELECT * FROM exports_waiting ORDER BY oldest_age DESC, space_id LIMIT $1;

-- name: recent_failures
-- Exports that failed in the last 24 hours, newest first, at most $1.
SELECT * FROM export_overview
 WHERE finished_at > now() - interval '24 hours' AND status = 'failed' ORDER BY finished_at DESC LIMIT $1;

-- name: export_history
-- For each interval of length $1 in the last $2, oldest first: what ended in it, and in seconds the longest that an export
-- which started in it had waited for a slot.
WITH span AS (SELECT date_bin($1, now() - $2::interval, timestamptz 'epoch') AS first),
     jobs AS (SELECT j.status, j.row_count, j.finished_at, j.claimed_at, j.run_after
                FROM export_jobs j WHERE j.finished_at >= (SELECT first FROM span)
              UNION ALL
              SELECT j.status, 0, NULL, j.claimed_at, j.run_after FROM export_jobs j WHERE j.status = 'processing'),
     ended AS (SELECT date_bin($1, finished_at, timestamptz 'epoch') AS start,
                      coalesce(sum(row_count), 0)::bigint AS contacts,
                      count(*) FILTER (WHERE row_count IS NOT NULL) AS completed,
                      count(*) FILTER (WHERE status = 'failed') AS failed
                 FROM jobs WHERE finished_at IS NOT NULL GROUP BY 1),
     started AS (SELECT date_bin($1, claimed_at, timestamptz 'epoch') AS start,
                        extract(epoch FROM max(claimed_at - run_after))::float8 AS waited
                   FROM jobs WHERE claimed_at IS NOT NULL GROUP BY 1)
SELECT i AS start, coalesce(e.contacts, 0) AS contacts, coalesce(e.completed, 0) AS completed,
       coalesce(e.failed, 0) AS failed, greatest(coalesce(s.waited, 0), 0) AS waited
  FROM span, generate_series(span.first, now(), $1) i
  LEFT JOIN ended e ON e.start = i LEFT JOIN started s ON s.start = i
 ORDER BY i;
