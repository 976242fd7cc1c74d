-- name: queue_figures
-- One row: the queue, what runs, what ended in the last 24 hours by its present state, and what should have been done.
SELECT q.ready, q.waits_for_retry, q.paused, q.oldest_age,
       r.starting, r.reading, r.completing, r.overdue_leases,
       e.completed, e.failed, e.cancelled, e.expired,
       (SELECT count(*) FROM export_jobs f
         WHERE f.status = 'expired' AND f.file_deleted_at IS NULL AND f.file_delete_after < now() - interval '1 hour')
         AS overdue_files
  FROM (SELECT count(*) FILTER (WHERE NOT w.paused AND w.run_after <= now()) AS ready,
               count(*) FILTER (WHERE NOT w.paused AND w.run_after > now()) AS waits_for_retry,
               count(*) FILTER (WHERE w.paused) AS paused,
               coalesce(extract(epoch FROM now() - min(w.run_after) FILTER (WHERE NOT w.paused AND w.run_after <= now())),
                        0)::float8 AS oldest_age
          FROM (SELECT j.run_after, coalesce(s.max_running_exports = 0, false) AS paused
                  FROM export_jobs j JOIN spaces s ON s.id = j.space_id WHERE j.status = 'queued') w) q,
       (SELECT count(*) FILTER (WHERE j.phase = 'starting') AS starting,
               count(*) FILTER (WHERE j.phase = 'reading') AS reading,
               count(*) FILTER (WHERE j.phase = 'completing') AS completing,
               count(*) FILTER (WHERE j.lease_until < now() - interval '1 minute') AS overdue_leases
          FROM export_jobs j WHERE j.status = 'processing') r,
       (SELECT count(*) FILTER (WHERE j.status = 'completed') AS completed,
               count(*) FILTER (WHERE j.status = 'failed') AS failed,
               count(*) FILTER (WHERE j.status = 'cancelled') AS cancelled,
               count(*) FILTER (WHERE j.status = 'expired') AS expired
          FROM export_jobs j WHERE j.finished_at > now() - interval '24 hours') e;
