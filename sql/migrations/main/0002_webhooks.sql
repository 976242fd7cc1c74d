-- Webhooks: an outbox. The statement that ends or expires an export also writes the delivery, whoever sends the statement.
--
-- A delivery waits (outcome is null) until it is delivered, given up, or its endpoint is gone. One delivery of an endpoint is in
-- flight at a time: the endpoint's row carries the claim, and every write of a sender includes the claim id. An expired lease
-- is taken over by any process, which sends the delivery again with the same webhook id.
--
-- Order: a delivery is sent only after the earlier ones of the same export have an outcome. Nothing else orders deliveries.

CREATE TABLE webhook_endpoints (
  space_id              bigint PRIMARY KEY REFERENCES spaces ON DELETE CASCADE,
  url                   text NOT NULL CHECK (url ~ '^https://'),
  events                text[] NOT NULL DEFAULT ARRAY['contact.export.completed', 'contact.export.failed', 'contact.export.cancelled']
                        CONSTRAINT events_are_known CHECK (cardinality(events) > 0 AND events <@ ARRAY[
                          'contact.export.completed', 'contact.export.failed', 'contact.export.cancelled', 'contact.export.expired']),
  secret                bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                        CHECK (octet_length(secret) BETWEEN 24 AND 64),
  previous_secret       bytea CHECK (octet_length(previous_secret) BETWEEN 24 AND 64),
  previous_secret_until timestamptz,
  created_at            timestamptz NOT NULL DEFAULT now(),
  failing_since         timestamptz,
  disabled_at           timestamptz,
  disabled_reason       text,
  -- the delivery in flight
  claim_id              uuid UNIQUE,
  lease_until           timestamptz,
  CONSTRAINT previous_secret_ends CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL)),
  CONSTRAINT disabled_says_why CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
  CONSTRAINT claim_has_a_lease CHECK ((claim_id IS NULL) = (lease_until IS NULL))
);
COMMENT ON TABLE webhook_endpoints IS 'Where the events of a Space are sent. Start with the view webhook_endpoints_overview, which shows no secret.';
COMMENT ON COLUMN webhook_endpoints.space_id IS 'The Space whose events are sent.';
COMMENT ON COLUMN webhook_endpoints.url IS 'https address that gets the events. A change applies to deliveries that already wait.';
COMMENT ON COLUMN webhook_endpoints.events IS 'Which events are sent.';
COMMENT ON COLUMN webhook_endpoints.secret IS 'Key of the signatures; consumers know it as whsec_ followed by its base64.';
COMMENT ON COLUMN webhook_endpoints.previous_secret IS 'The secret before the last rotation; also signs until previous_secret_until.';
COMMENT ON COLUMN webhook_endpoints.previous_secret_until IS 'When the previous secret stops signing.';
COMMENT ON COLUMN webhook_endpoints.created_at IS 'When the endpoint was first set.';
COMMENT ON COLUMN webhook_endpoints.failing_since IS 'First failed attempt since the last successful one; null if the last attempt succeeded.';
COMMENT ON COLUMN webhook_endpoints.disabled_at IS 'Nothing is sent from then on; null while the endpoint is enabled.';
COMMENT ON COLUMN webhook_endpoints.disabled_reason IS 'Why the endpoint was disabled.';
COMMENT ON COLUMN webhook_endpoints.claim_id IS 'Fencing token of the delivery in flight; null if there is none. Do not edit.';
COMMENT ON COLUMN webhook_endpoints.lease_until IS 'From then on another process may send to this endpoint.';

CREATE TABLE webhook_deliveries (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  webhook_id      text NOT NULL UNIQUE DEFAULT 'msg_' || replace(gen_random_uuid()::text, '-', ''),
  export_id       bigint NOT NULL REFERENCES export_jobs ON DELETE CASCADE,
  space_id        bigint NOT NULL,
  event           text NOT NULL,
  payload         text NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at         timestamptz NOT NULL DEFAULT now(),
  last_attempt_at timestamptz,
  last_status     integer,
  last_reason     text,
  outcome         text CHECK (outcome IN ('delivered', 'given_up', 'endpoint_gone')),
  ended_at        timestamptz,
  CONSTRAINT ended_with_an_outcome CHECK ((outcome IS NULL) = (ended_at IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);
-- The head of each Space's queue, and the next Space that has one.
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (space_id, next_at, id) WHERE outcome IS NULL;
-- Whether any delivery is due.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE outcome IS NULL;
CREATE INDEX webhook_deliveries_of_export ON webhook_deliveries (export_id, id);
CREATE INDEX webhook_deliveries_of_space ON webhook_deliveries (space_id, id);
COMMENT ON TABLE webhook_deliveries IS 'One row per event and endpoint: the outbox of webhooks. Start with the view webhook_deliveries_recent.';
COMMENT ON COLUMN webhook_deliveries.id IS 'Order of the events; deliveries of one export are sent in this order.';
COMMENT ON COLUMN webhook_deliveries.webhook_id IS 'The header webhook-id: the same at every attempt, so that consumers can drop repeats.';
COMMENT ON COLUMN webhook_deliveries.export_id IS 'The export. The delivery is deleted with the export''s row.';
COMMENT ON COLUMN webhook_deliveries.space_id IS 'The Space, and so the endpoint.';
COMMENT ON COLUMN webhook_deliveries.event IS 'Type of the event, such as contact.export.completed.';
COMMENT ON COLUMN webhook_deliveries.payload IS 'The body that is sent, as it was when the event happened.';
COMMENT ON COLUMN webhook_deliveries.created_at IS 'When the event happened.';
COMMENT ON COLUMN webhook_deliveries.attempts IS 'Number of attempts that were begun, since the last resend.';
COMMENT ON COLUMN webhook_deliveries.next_at IS 'Earliest time of the next attempt.';
COMMENT ON COLUMN webhook_deliveries.last_attempt_at IS 'Start of the latest attempt.';
COMMENT ON COLUMN webhook_deliveries.last_status IS 'HTTP status of the latest response; null if there was none.';
COMMENT ON COLUMN webhook_deliveries.last_reason IS 'How the latest attempt ended, in words.';
COMMENT ON COLUMN webhook_deliveries.outcome IS 'delivered, given_up (after the last attempt) or endpoint_gone (disabled or deleted); null while the delivery waits.';
COMMENT ON COLUMN webhook_deliveries.ended_at IS 'When the delivery got its outcome.';

-- The outbox ------------------------------------------------------------------------------------------------------------

-- Runs with the rights of the owner of the tables: a role that may end exports needs no rights on the outbox. It locks no
-- endpoint, so neither a sender nor an operator's open transaction can delay the end of an export. The payload has no link and no
-- personal data.
CREATE FUNCTION export_jobs_write_webhook() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _second constant text := 'YYYY-MM-DD"T"HH24:MI:SS"Z"';
  _event constant text := 'contact.export.' || NEW.status;
  _disabled boolean;
BEGIN
  SELECT e.disabled_at IS NOT NULL INTO _disabled
    FROM webhook_endpoints e WHERE e.space_id = NEW.space_id AND _event = ANY (e.events);
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO webhook_deliveries (export_id, space_id, event, payload, next_at, outcome, ended_at, last_reason)
  VALUES (
    NEW.id, NEW.space_id, _event,
    json_build_object(
      'type', _event,
      'timestamp', to_char(now() AT TIME ZONE 'UTC', _second),
      'data', json_build_object(
        'export_id', NEW.id, 'status', NEW.status,
        'row_count', NEW.row_count, 'file_size', NEW.file_size, 'sha256', NEW.sha256,
        'completed_at', CASE WHEN NEW.object_name IS NOT NULL THEN to_char(NEW.finished_at AT TIME ZONE 'UTC', _second) END,
        'error_code', CASE WHEN NEW.status = 'failed' THEN NEW.error_code END)),
    -- A delivery that must wait for an earlier one of its export becomes due with it, so that it is not found before.
    greatest(now(), (SELECT max(d.next_at) FROM webhook_deliveries d WHERE d.export_id = NEW.id AND d.outcome IS NULL)),
    CASE WHEN _disabled THEN 'endpoint_gone' END,
    CASE WHEN _disabled THEN now() END,
    CASE WHEN _disabled THEN 'the endpoint was disabled' END);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION export_jobs_write_webhook IS 'Internal: writes the delivery of an event in the transaction of the event.';
CREATE TRIGGER export_jobs_webhook AFTER UPDATE OF status ON export_jobs
  FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.status IN ('completed', 'failed', 'cancelled', 'expired'))
  EXECUTE FUNCTION export_jobs_write_webhook();

-- For operators ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION resend_webhook(_webhook_id text) RETURNS text LANGUAGE sql VOLATILE AS $$
  UPDATE webhook_deliveries d
     SET outcome = NULL, ended_at = NULL, attempts = CASE WHEN d.outcome IS NULL THEN d.attempts ELSE 0 END, next_at = now()
    FROM webhook_endpoints e
   WHERE d.webhook_id = _webhook_id AND e.space_id = d.space_id AND e.disabled_at IS NULL
  RETURNING d.webhook_id
$$;
COMMENT ON FUNCTION resend_webhook IS 'Sends a delivery again, or at once if it waits, with the same webhook id. Returns null if there is none or its endpoint is disabled.';

CREATE FUNCTION webhook_summary(_delivery webhook_deliveries) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN _delivery.outcome = 'delivered' THEN format('delivered at attempt %s: %s', _delivery.attempts, _delivery.last_reason)
    WHEN _delivery.outcome = 'given_up' THEN format('given up after %s attempts: %s', _delivery.attempts, _delivery.last_reason)
    WHEN _delivery.outcome = 'endpoint_gone' THEN format('not sent any more: %s', _delivery.last_reason)
    WHEN _delivery.attempts = 0 THEN 'waiting for its first attempt'
    WHEN _delivery.last_reason IS NULL THEN format('attempt %s was begun', _delivery.attempts)
    ELSE format('waiting for attempt %s after: %s', _delivery.attempts + 1, _delivery.last_reason)
  END
$$;
COMMENT ON FUNCTION webhook_summary IS 'The story of a delivery in one line.';

CREATE VIEW webhook_deliveries_recent AS
SELECT d.webhook_id, d.export_id, d.space_id, s.name AS space, d.event, webhook_summary(d) AS summary,
       coalesce(d.outcome, 'waiting') AS state, d.attempts, d.last_status, d.last_reason, d.last_attempt_at,
       CASE WHEN d.outcome IS NULL THEN d.next_at END AS next_at,
       d.created_at, date_trunc('second', now() - d.created_at) AS age, d.ended_at, d.payload
  FROM webhook_deliveries d JOIN spaces s ON s.id = d.space_id
 WHERE d.outcome IS NULL OR d.created_at > now() - interval '7 days' OR d.ended_at > now() - interval '7 days';
COMMENT ON VIEW webhook_deliveries_recent IS 'Webhook deliveries that wait, and those of the last 7 days, with a summary. A stable, public view.';

CREATE VIEW webhook_endpoints_overview AS
SELECT e.space_id, s.name AS space, e.url, e.events,
       CASE
         WHEN e.disabled_at IS NOT NULL THEN format('disabled since %s: %s', date_trunc('second', e.disabled_at), e.disabled_reason)
         WHEN e.failing_since IS NOT NULL THEN format('failing since %s', date_trunc('second', e.failing_since))
         ELSE 'enabled'
       END AS state,
       e.disabled_at, e.disabled_reason, e.failing_since, w.waiting, w.oldest_age, w.next_at,
       e.lease_until > now() AS sending, e.previous_secret_until, e.created_at
  FROM webhook_endpoints e JOIN spaces s ON s.id = e.space_id,
       LATERAL (SELECT count(*) AS waiting, date_trunc('second', now() - min(d.created_at)) AS oldest_age, min(d.next_at) AS next_at
                  FROM webhook_deliveries d WHERE d.space_id = e.space_id AND d.outcome IS NULL) w;
COMMENT ON VIEW webhook_endpoints_overview IS 'Webhook endpoints, whether they work, and what waits for them; without secrets. A stable, public view.';
