-- The trace of the request that created an export, for the log lines and the spans of its attempts.

ALTER TABLE export_jobs ADD COLUMN traceparent text;
COMMENT ON COLUMN export_jobs.traceparent IS 'W3C trace context of the request that created the export: 00-<trace id>-<span id>-<flags>; null if it had none.';
-- Not validated, because that would read the table while every other session waits: in the rows of before it is null.
ALTER TABLE export_jobs ADD CONSTRAINT traceparent_is_well_formed CHECK (
  traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
  AND traceparent !~ '^00-0{32}' AND traceparent !~ '-0{16}-') NOT VALID;

-- Volatile, so that its snapshot is younger than that of the statement that calls it: a claim waits for the lock of other
-- claims, and may return an export that was created meanwhile.
CREATE FUNCTION export_traceparent(_export_id bigint) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT j.traceparent FROM export_jobs j WHERE j.id = _export_id
$$;
COMMENT ON FUNCTION export_traceparent IS 'Internal: the trace context of an export that the calling statement has just changed.';

-- As in migration 0001; the new export also has the trace.
CREATE OR REPLACE FUNCTION retry_export(_export_id bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id,
                           traceparent)
  SELECT space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id, traceparent
    FROM export_jobs WHERE id = _export_id AND status NOT IN ('queued', 'processing')
  RETURNING id
$$;

-- As in migration 0003, with one more column.
CREATE OR REPLACE VIEW export_overview AS
SELECT j.id AS export_id, j.space_id, s.name AS space, j.status,
       CASE j.status
         WHEN 'queued' THEN CASE
           WHEN s.max_running_exports = 0 THEN 'waiting: the Space is paused'
           WHEN j.run_after > now() THEN format('waiting for a retry, %s of %s attempts used', j.attempts, j.max_attempts)
           WHEN (SELECT count(*) FROM export_jobs r WHERE r.status = 'processing' AND r.space_id = j.space_id)
                >= coalesce(s.max_running_exports,
                            (SELECT max(p.space_slots) FROM processes p WHERE p.seen_at > now() - interval '1 minute'))
             THEN 'waiting: concurrency limit of the Space reached'
           WHEN NOT EXISTS (SELECT FROM processes p WHERE p.seen_at > now() - interval '1 minute' AND p.export_slots > 0)
                AND NOT EXISTS (SELECT FROM export_jobs r WHERE r.status = 'processing' AND r.lease_until > now())
             THEN 'waiting: no process runs exports'
           ELSE 'waiting for a free slot' END
         WHEN 'processing' THEN CASE
           WHEN j.lease_until < now() THEN 'lease expired; another worker will take over'
           ELSE format('%s, attempt %s of %s', j.phase, j.attempts, j.max_attempts) END
         WHEN 'completed' THEN format('%s contacts in %s', j.row_count, pg_size_pretty(j.file_size))
         WHEN 'failed' THEN format('%s: %s', j.error_code, j.error_message)
         WHEN 'cancelled' THEN 'cancelled on request'
         WHEN 'expired' THEN CASE WHEN j.file_deleted_at IS NULL THEN 'the file will be deleted' ELSE 'the file was deleted' END
       END AS summary,
       j.start_date, j.end_date, j.timezone, j.window_from, j.window_to, j.extras,
       j.created_at,
       date_trunc('second', now() - j.created_at) AS age,
       date_trunc('millisecond', coalesce(j.finished_at, now()) - j.claimed_at) AS duration,
       coalesce(j.row_count, j.rows_read) AS rows,
       j.rows_estimated,
       round(coalesce(j.row_count, j.rows_read)
             / nullif(extract(epoch FROM coalesce(j.finished_at, CASE j.status WHEN 'processing' THEN now() END) - j.claimed_at), 0))
         AS rows_per_second,
       j.attempts, j.max_attempts, j.lost_leases, j.handed_back, j.worker,
       date_trunc('second', j.lease_until - now()) AS lease_remaining,
       CASE j.status WHEN 'processing' THEN date_trunc('second', now() - j.progress_at) END AS since_progress,
       CASE j.status WHEN 'queued' THEN j.run_after END AS run_after,
       j.finished_at, j.row_count, j.file_size, j.sha256, j.object_name, j.snapshot_at, j.complete_until,
       j.file_expires_at, j.file_deleted_at, j.error_code, j.error_message, j.error_detail, j.request_id,
       substr(j.traceparent, 4, 32) AS trace_id
  FROM export_jobs j JOIN spaces s ON s.id = j.space_id;
