-- How exports end on request and by age, and how a creation that is sent again is recognised.
--
-- Expiry comes in three steps, each a commit of its own, so that a crash between any two is mended by whoever comes next:
-- the row is `expired` (no new link is given out), then the file is deleted once the last link has died, then that is recorded.

ALTER TABLE export_jobs ADD COLUMN file_delete_after timestamptz;
COMMENT ON COLUMN export_jobs.file_delete_after IS 'The file of an expired export stays until then, for links given out before; null: not.';
COMMENT ON COLUMN export_attempts.ended_at IS 'When its claim was given up or taken; null while it runs.';

CREATE TABLE idempotency_keys (
  space_id   bigint NOT NULL REFERENCES spaces ON DELETE CASCADE,
  key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  export_id  bigint NOT NULL REFERENCES export_jobs ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (space_id, key)
);
CREATE INDEX idempotency_keys_of_export ON idempotency_keys (export_id);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'Names that consumers gave to creations, so that one sent twice makes one export. Kept for a day.';
COMMENT ON COLUMN idempotency_keys.key IS 'The header Idempotency-Key, without quotes.';
COMMENT ON COLUMN idempotency_keys.export_id IS 'What it made; what was asked is compared with this row.';

INSERT INTO service_secrets (name, value)
VALUES ('cursors', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- What operators and the API may do to an export at any time. The job's row is locked first and its attempt's after, as by
-- every other statement, so that none of them waits in a circle.

CREATE FUNCTION cancel_export(_export_id bigint, _space_id bigint DEFAULT NULL)
RETURNS TABLE (export_id bigint, was text, status text, claim_id uuid) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  _job export_jobs;
  _now text;
BEGIN
  SELECT * INTO _job FROM export_jobs j
   WHERE j.id = _export_id AND (j.space_id = _space_id OR _space_id IS NULL) FOR UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  _now := _job.status;
  IF _job.status IN ('queued', 'processing') THEN
    _now := 'cancelled';
    UPDATE export_jobs j
       SET status = 'cancelled', finished_at = now(), claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL
     WHERE j.id = _job.id;
    UPDATE export_attempts a SET ended_at = now(), outcome = 'cancelled', rows_read = _job.rows_read
     WHERE a.claim_id = _job.claim_id;
  ELSIF _job.status = 'completed' THEN
    _now := 'expired';
    UPDATE export_jobs j SET status = 'expired', expired_at = now(), file_delete_after = now() WHERE j.id = _job.id;
  END IF;
  RETURN QUERY SELECT _job.id, _job.status, _now, _job.claim_id;
END $$;
COMMENT ON FUNCTION cancel_export IS 'Ends a waiting or running export, or removes the file of a completed one; any other stays as it is.';

CREATE FUNCTION kick_export(_export_id bigint)
RETURNS TABLE (export_id bigint, was text, status text, claim_id uuid) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  _job export_jobs;
BEGIN
  SELECT * INTO _job FROM export_jobs j WHERE j.id = _export_id FOR UPDATE;
  IF _job.status = 'processing' THEN
    UPDATE export_jobs j
       SET status = 'queued', attempts = j.attempts - 1, handed_back = j.handed_back + 1, run_after = now(),
           claim_id = NULL, lease_until = NULL, slot = NULL, phase = NULL
     WHERE j.id = _job.id;
    UPDATE export_attempts a
       SET ended_at = now(), outcome = 'handed_back', rows_read = _job.rows_read, error_detail = 'taken back by hand'
     WHERE a.claim_id = _job.claim_id;
    RETURN QUERY SELECT _job.id, _job.status, 'queued', _job.claim_id;
  ELSIF _job.status = 'queued' THEN
    UPDATE export_jobs j SET run_after = now() WHERE j.id = _job.id;
    RETURN QUERY SELECT _job.id, _job.status, _job.status, NULL::uuid;
  END IF;
END $$;
COMMENT ON FUNCTION kick_export IS 'Takes an export from its worker, uncounted, or ends its pause: it is started anew at once.';

CREATE FUNCTION retry_export(_export_id bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id)
  SELECT space_id, start_date, end_date, timezone, window_from, window_to, extras,
         max_attempts, request_id
    FROM export_jobs WHERE id = _export_id AND status NOT IN ('queued', 'processing')
  RETURNING id
$$;
COMMENT ON FUNCTION retry_export IS 'Asks again for what an ended export asked for: a new export, whose id is returned.';

-- What operators look at first. Columns are added, never renamed.

CREATE VIEW exports_running AS
SELECT j.id AS export_id, j.space_id, s.name AS space, j.slot, j.worker, j.phase, j.attempts, j.max_attempts, j.lost_leases,
       date_trunc('second', now() - j.created_at) AS age,
       date_trunc('second', now() - j.claimed_at) AS running_for,
       j.rows_read, j.rows_estimated, j.bytes_stored,
       date_trunc('second', now() - j.progress_at) AS since_progress,
       date_trunc('second', j.lease_until - now()) AS lease_remaining,
       j.lease_until < now() AS abandoned
  FROM export_jobs j JOIN spaces s ON s.id = j.space_id
 WHERE j.status = 'processing';
COMMENT ON VIEW exports_running IS 'What runs now, where, and whether it gets on. Abandoned: its worker is gone, another takes over soon.';

CREATE VIEW exports_waiting AS
SELECT s.id AS space_id, s.name AS space,
       CASE WHEN s.max_running_exports = 0 THEN 'the Space is paused'
            WHEN w.ready = 0 THEN 'all wait to be tried again'
            WHEN r.running >= s.max_running_exports THEN 'as many run as the Space may have'
            ELSE 'a free slot' END AS waits_for,
       w.queued, w.ready, w.queued - w.ready AS paused_after_errors, w.alone, r.running, s.max_running_exports,
       w.oldest_export_id, date_trunc('second', now() - w.oldest) AS oldest_age, w.next_run_after
  FROM (SELECT q.space_id, count(*) AS queued, count(*) FILTER (WHERE q.run_after <= now()) AS ready,
               count(*) FILTER (WHERE q.lost_leases >= 2) AS alone,
               min(q.id) AS oldest_export_id, min(q.created_at) AS oldest, min(q.run_after) AS next_run_after
          FROM export_jobs q WHERE q.status = 'queued' GROUP BY q.space_id) w
  JOIN spaces s ON s.id = w.space_id,
       LATERAL (SELECT count(*) AS running FROM export_jobs r WHERE r.status = 'processing' AND r.space_id = w.space_id) r;
COMMENT ON VIEW exports_waiting IS 'Each Space that has waiting exports, and what they wait for. max_running_exports null: the setting SPACE_SLOTS.';

CREATE VIEW attempts_lost AS
SELECT a.job_id AS export_id, j.space_id, s.name AS space, a.attempt, a.worker, a.started_at, a.ended_at,
       date_trunc('second', a.ended_at - a.started_at) AS duration, a.outcome, a.rows_read,
       coalesce(a.error_code || coalesce(': ' || a.error_detail, ''), a.error_detail) AS why,
       j.status AS export_status, j.attempts, j.max_attempts, j.lost_leases, a.cleaned_at IS NOT NULL AS cleaned, a.claim_id
  FROM export_attempts a JOIN export_jobs j ON j.id = a.job_id JOIN spaces s ON s.id = j.space_id
 WHERE a.outcome IN ('lost', 'error');
COMMENT ON VIEW attempts_lost IS 'Attempts that came to nothing, and why: lost with their process, or ended by an error.';
