-- The claim, whose cost grows neither with the waiting Spaces nor with the jobs of one of them.
--
-- The rule is that of migration 0001: the Space with the fewest running first, among equals the oldest job. So a job of a
-- Space that runs nothing goes before every other, and of these the one with the lowest id: it is found by reading the
-- waiting jobs in the order of their ids, usually the first of them. Only where there is none do the others matter, and these
-- are the Spaces that run something: few. That reading ends after ten thousand jobs; whoever waits behind so many is
-- found by walking the index from one Space to the next, as before.
--
-- An overdue job that must run alone comes before all others, so then the whole rule is applied to all Spaces.
--
-- A job whose row another session has locked, such as an operator's open transaction, is passed over: what comes next by
-- the rule is claimed, also of the same Space.

-- Few rows are waiting at any time, and few Spaces are paused: these are made in milliseconds, so they may lock out writers.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX export_jobs_oldest ON export_jobs (id) INCLUDE (space_id, run_after, lost_leases) WHERE status = 'queued';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX spaces_paused ON spaces (id) WHERE max_running_exports = 0;

CREATE OR REPLACE FUNCTION claim_export(_worker text, _lease interval, _space_slots integer, _alone boolean)
RETURNS TABLE (claim_id uuid, job_id bigint, space_id bigint, attempt integer, max_attempts integer, alone boolean,
               object_name text, window_from timestamptz, window_to timestamptz, timezone text,
               extras text[]) LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' AS $$
#variable_conflict use_column
DECLARE
  _far constant integer := 10000;
  _overdue boolean;
  _job bigint;
  _slot smallint := 1;
  _poison boolean;
  _claim uuid := gen_random_uuid();
BEGIN
  -- A statement of its own, so that the snapshots of those that count are younger than the lock: the caps are exact.
  PERFORM pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'));

  SELECT EXISTS (
    SELECT FROM export_jobs q JOIN spaces s ON s.id = q.space_id
     WHERE q.status = 'queued' AND q.lost_leases >= 2 AND q.run_after < now() - interval '10 minutes'
       AND (SELECT count(*) FROM export_jobs r WHERE r.status = 'processing' AND r.space_id = q.space_id)
           < coalesce(s.max_running_exports, _space_slots)
  ) INTO _overdue;

  IF NOT _overdue THEN
    SELECT j.id, oldest.lost_leases >= 2 INTO _job, _poison
      FROM (SELECT q.id, q.space_id, q.run_after, q.lost_leases FROM export_jobs q
             WHERE q.status = 'queued' ORDER BY q.id LIMIT _far) oldest,
           LATERAL (SELECT q.id FROM export_jobs q WHERE q.id = oldest.id AND q.status = 'queued' FOR UPDATE SKIP LOCKED) j
     WHERE oldest.run_after <= now() AND (_alone OR oldest.lost_leases < 2)
       AND oldest.space_id NOT IN (SELECT r.space_id FROM export_jobs r WHERE r.status = 'processing')
       AND oldest.space_id NOT IN (SELECT s.id FROM spaces s WHERE s.max_running_exports = 0)
     ORDER BY oldest.id LIMIT 1;
  END IF;

  IF _job IS NULL THEN
    WITH RECURSIVE walk AS (
      (SELECT space_id FROM export_jobs
        WHERE status = 'queued' AND (_overdue OR EXISTS (SELECT FROM export_jobs q WHERE q.status = 'queued' OFFSET _far))
        ORDER BY space_id LIMIT 1)
      UNION ALL
      SELECT (SELECT j.space_id FROM export_jobs j WHERE j.status = 'queued' AND j.space_id > w.space_id
               ORDER BY j.space_id LIMIT 1)
        FROM walk w WHERE w.space_id IS NOT NULL
    ), waiting AS (
      SELECT space_id FROM walk
      UNION
      SELECT space_id FROM export_jobs WHERE status = 'processing'
    ), room AS MATERIALIZED (
      SELECT w.space_id, coalesce(s.max_running_exports, _space_slots) AS slots, taken.slots AS taken, taken.running
        FROM waiting w JOIN spaces s ON s.id = w.space_id,
             LATERAL (SELECT array_agg(r.slot) AS slots, count(*) AS running
                        FROM export_jobs r WHERE r.status = 'processing' AND r.space_id = w.space_id) taken
       WHERE taken.running < coalesce(s.max_running_exports, _space_slots)
    ), heads AS (
      SELECT h.id, h.poison, room.space_id, room.running, room.slots, room.taken,
             h.poison AND h.run_after < now() - interval '10 minutes' AS overdue
        FROM room, LATERAL (
          (SELECT q.id, q.run_after, false AS poison FROM export_jobs q
            WHERE q.status = 'queued' AND q.space_id = room.space_id AND q.run_after <= now() AND q.lost_leases < 2
            ORDER BY q.id LIMIT 1)
          UNION ALL
          (SELECT q.id, q.run_after, true FROM export_jobs q
            WHERE q.status = 'queued' AND q.space_id = room.space_id AND q.run_after <= now() AND q.lost_leases >= 2
            ORDER BY q.id LIMIT 1)) h
    ), pick AS MATERIALIZED (
      SELECT j.id, fair.slots, fair.taken, fair.poison
        FROM (SELECT * FROM heads
               WHERE _alone OR NOT (heads.poison OR EXISTS (SELECT FROM heads other WHERE other.overdue))
               ORDER BY heads.overdue DESC, heads.running, heads.id) fair,
             LATERAL (SELECT q.id FROM export_jobs q
                       WHERE q.status = 'queued' AND q.space_id = fair.space_id AND q.run_after <= now()
                         AND (q.lost_leases >= 2) = fair.poison AND q.id >= fair.id
                       ORDER BY q.id LIMIT 1 FOR UPDATE SKIP LOCKED) j
       LIMIT 1
    )
    SELECT pick.id, free.slot, pick.poison INTO _job, _slot, _poison
      FROM pick, LATERAL (SELECT min(s)::smallint AS slot FROM generate_series(1, pick.slots) s
                           WHERE s <> ALL (coalesce(pick.taken, '{}'))) free;
  END IF;

  IF _job IS NULL THEN
    RETURN;
  END IF;
  UPDATE export_jobs j
     SET status = 'processing', attempts = j.attempts + 1, claim_id = _claim, worker = _worker, claimed_at = now(),
         lease_until = clock_timestamp() + _lease, slot = _slot, phase = 'starting', rows_read = 0, bytes_stored = 0,
         progress_at = now(), rows_estimated = NULL
   WHERE j.id = _job;
  INSERT INTO export_attempts (claim_id, job_id, attempt, worker, object_name)
  SELECT _claim, j.id, j.attempts, _worker, format('%s/%s/%s.ndjson.gz', j.space_id, j.id, _claim)
    FROM export_jobs j WHERE j.id = _job;
  RETURN QUERY
  SELECT _claim, j.id, j.space_id, j.attempts, j.max_attempts, _poison, a.object_name, j.window_from, j.window_to, j.timezone,
         j.extras
    FROM export_jobs j JOIN export_attempts a ON a.claim_id = _claim WHERE j.id = _job;
END $$;
