-- How many exports of a Space may be queued, which processes run exports, and what a queued export waits for.

CREATE UNLOGGED TABLE processes (
  worker       text PRIMARY KEY,
  version      text NOT NULL,
  export_slots integer NOT NULL,
  space_slots  integer NOT NULL,
  started_at   timestamptz NOT NULL DEFAULT now(),
  seen_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE processes IS 'Processes of the service. Each writes its row every ten seconds; one that was not seen for a minute has ended or cannot reach the database. Unlogged: a crash of Postgres empties it, and the processes write it again.';
COMMENT ON COLUMN processes.worker IS 'Name of the process, as in export_attempts.worker.';
COMMENT ON COLUMN processes.version IS 'Version of the service.';
COMMENT ON COLUMN processes.export_slots IS 'Its setting EXPORT_SLOTS.';
COMMENT ON COLUMN processes.space_slots IS 'Its setting SPACE_SLOTS.';
COMMENT ON COLUMN processes.started_at IS 'When the process wrote its row for the first time.';
COMMENT ON COLUMN processes.seen_at IS 'When the process wrote its row last.';

-- Creations of one Space are serialized until their commit. The count is a separate statement, so its snapshot is taken
-- after the lock and contains every creation before; that makes the limit exact.
CREATE FUNCTION space_has_queue_room(_space_id bigint, _limit integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('contact-exports queue %s', _space_id), 0));
  RETURN (SELECT count(*) FROM (SELECT FROM export_jobs q WHERE q.space_id = _space_id AND q.status = 'queued' LIMIT _limit) q)
         < _limit;
END $$;
COMMENT ON FUNCTION space_has_queue_room IS 'Internal: whether a Space has fewer queued exports than the limit. Other creations of the Space wait until the transaction ends.';

-- The two views below are those of migration 0001 with further reasons.

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
       j.file_expires_at, j.file_deleted_at, j.error_code, j.error_message, j.error_detail, j.request_id
  FROM export_jobs j JOIN spaces s ON s.id = j.space_id;

CREATE OR REPLACE VIEW exports_waiting AS
SELECT s.id AS space_id, s.name AS space,
       CASE WHEN s.max_running_exports = 0 THEN 'the Space is paused'
            WHEN w.ready = 0 THEN 'all exports are waiting for a retry'
            WHEN r.running >= coalesce(s.max_running_exports, live.space_slots) THEN 'concurrency limit of the Space reached'
            WHEN live.export_slots IS NULL
                 AND NOT EXISTS (SELECT FROM export_jobs l WHERE l.status = 'processing' AND l.lease_until > now())
              THEN 'a process: none that runs exports was seen in the last minute'
            ELSE 'a free slot' END AS waits_for,
       w.queued, w.ready, w.queued - w.ready AS waiting_for_retry, w.runs_alone, r.running, s.max_running_exports,
       w.oldest_export_id, date_trunc('second', now() - w.oldest) AS oldest_age, w.next_run_after
  FROM (SELECT q.space_id, count(*) AS queued, count(*) FILTER (WHERE q.run_after <= now()) AS ready,
               count(*) FILTER (WHERE q.runs_alone) AS runs_alone,
               min(q.id) AS oldest_export_id, min(q.created_at) AS oldest, min(q.run_after) AS next_run_after
          FROM export_jobs q WHERE q.status = 'queued' GROUP BY q.space_id) w
  JOIN spaces s ON s.id = w.space_id,
       LATERAL (SELECT count(*) AS running FROM export_jobs r WHERE r.status = 'processing' AND r.space_id = w.space_id) r,
       (SELECT max(p.space_slots) AS space_slots, sum(p.export_slots) FILTER (WHERE p.export_slots > 0) AS export_slots
          FROM processes p WHERE p.seen_at > now() - interval '1 minute') live;
