-- Tables and triggers that the crash test adds. They only record violations, in the transaction that caused them, so that a
-- violation is recorded exactly if it was committed. Sessions of a replica have its name in the setting chaos.replica.
CREATE SCHEMA chaos;
CREATE TABLE chaos.violations (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, invariant text NOT NULL, detail text NOT NULL
);
CREATE TABLE chaos.history (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), replica text,
  space_id bigint NOT NULL, job_id bigint NOT NULL, before text, after text NOT NULL, claim_id uuid, object_name text
);
CREATE INDEX ON chaos.history (space_id, at);
-- Which process made a claim.
CREATE TABLE chaos.claims (claim_id uuid PRIMARY KEY, job_id bigint NOT NULL, replica text);
-- One row per transaction of a writer, to find out whether a transaction without a response was committed.
CREATE TABLE chaos.writes (writer integer, n integer, PRIMARY KEY (writer, n));

CREATE FUNCTION chaos.replica() RETURNS text LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('chaos.replica', true), '') $$;

CREATE FUNCTION chaos.violation(_invariant text, _detail text) RETURNS void LANGUAGE sql VOLATILE AS $$
  INSERT INTO chaos.violations (invariant, detail) VALUES (_invariant, _detail)
$$;

-- Every move of an export, and who made it.
CREATE FUNCTION chaos.watch_moves() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  _before text := CASE TG_OP WHEN 'UPDATE' THEN OLD.status END;
  _claim uuid := CASE WHEN TG_OP = 'UPDATE' AND OLD.claim_id IS NOT NULL THEN OLD.claim_id ELSE NEW.claim_id END;
  _holder text;
BEGIN
  INSERT INTO chaos.history (replica, space_id, job_id, before, after, claim_id, object_name)
  VALUES (chaos.replica(), NEW.space_id, NEW.id, _before, NEW.status, _claim, NEW.object_name);
  IF (coalesce(_before, ''), NEW.status) NOT IN (
       ('', 'queued'), ('queued', 'processing'), ('queued', 'cancelled'), ('processing', 'completed'),
       ('processing', 'queued'), ('processing', 'failed'), ('processing', 'cancelled'), ('completed', 'expired')) THEN
    PERFORM chaos.violation('I3', format('export %s moved from %s to %s', NEW.id, _before, NEW.status));
  END IF;
  IF NEW.status = 'processing' THEN
    INSERT INTO chaos.claims VALUES (NEW.claim_id, NEW.id, chaos.replica());
    PERFORM chaos.check_claim(NEW.id, NEW.space_id);
  ELSIF _before = 'processing' THEN
    SELECT replica INTO _holder FROM chaos.claims WHERE claim_id = OLD.claim_id;
    IF NEW.status = 'completed' AND NEW.object_name NOT IN (
         SELECT object_name FROM export_attempts WHERE claim_id = OLD.claim_id) THEN
      PERFORM chaos.violation('I8', format('export %s was completed with %s under claim %s', NEW.id, NEW.object_name, OLD.claim_id));
    END IF;
    IF chaos.replica() IS NOT NULL AND chaos.replica() <> _holder THEN
      IF NEW.status = 'completed' THEN
        PERFORM chaos.violation('I8', format('export %s of %s was completed by %s', NEW.id, _holder, chaos.replica()));
      ELSIF NEW.status IN ('queued', 'failed') AND OLD.lease_until >= clock_timestamp() THEN
        PERFORM chaos.violation('I8', format('export %s was taken by %s from %s, whose lease held', NEW.id, chaos.replica(), _holder));
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END $$;

-- Checks each claim under the claim lock: the limit of its Space, and that no export with priority was waiting.
CREATE FUNCTION chaos.check_claim(_job bigint, _space bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _running bigint;
  _cap integer;
  _fairer bigint;
BEGIN
  SELECT count(*) INTO _running FROM export_jobs WHERE status = 'processing' AND space_id = _space;
  SELECT coalesce(max_running_exports, {space_slots}) INTO _cap FROM spaces WHERE id = _space;
  IF _running > _cap THEN
    PERFORM chaos.violation('I1', format('Space %s runs %s exports, of %s allowed', _space, _running, _cap));
  END IF;
  -- The claim may not have seen rows that were added or that ended in the last seconds.
  SELECT q.id INTO _fairer
    FROM export_jobs q JOIN spaces s ON s.id = q.space_id,
         LATERAL (SELECT count(*) AS running FROM export_jobs r
                   WHERE r.status = 'processing' AND r.space_id = q.space_id AND r.id <> _job) other
   WHERE q.status = 'queued' AND q.lost_leases < 2 AND greatest(q.run_after, q.created_at) < now() - interval '1 second'
     AND other.running < coalesce(s.max_running_exports, {space_slots}) AND (other.running, q.id) < (_running - 1, _job)
     AND NOT EXISTS (SELECT FROM chaos.history h
                      WHERE h.space_id = q.space_id AND h.at > now() - interval '2 seconds' AND h.before = 'processing')
   ORDER BY q.id LIMIT 1 FOR UPDATE OF q SKIP LOCKED;
  IF _fairer IS NOT NULL THEN
    PERFORM chaos.violation('I17', format('export %s was claimed while export %s was due', _job, _fairer));
  END IF;
END $$;

-- Only the process that holds the claim may change a running export.
CREATE FUNCTION chaos.watch_renewals() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  _holder text;
BEGIN
  SELECT replica INTO _holder FROM chaos.claims WHERE claim_id = NEW.claim_id;
  IF OLD.claim_id <> NEW.claim_id THEN
    PERFORM chaos.violation('I8', format('export %s changed its claim while it ran', NEW.id));
  ELSIF chaos.replica() IS NOT NULL AND chaos.replica() <> _holder THEN
    PERFORM chaos.violation('I8', format('export %s of %s was renewed by %s', NEW.id, _holder, chaos.replica()));
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER chaos_start AFTER INSERT ON export_jobs FOR EACH ROW EXECUTE FUNCTION chaos.watch_moves();
CREATE TRIGGER chaos_moves AFTER UPDATE ON export_jobs
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION chaos.watch_moves();
CREATE TRIGGER chaos_renewals AFTER UPDATE ON export_jobs
  FOR EACH ROW WHEN (OLD.status = 'processing' AND NEW.status = 'processing') EXECUTE FUNCTION chaos.watch_renewals();
