-- name: set_endpoint
-- Set the address and the events of a Space's endpoint and enable it. created: it is new, so its secret has to be shown. Returns
-- no row if the Space does not exist.
INSERT INTO webhook_endpoints (space_id, url, events)
SELECT s.id, $2, $3::text[] FROM spaces s WHERE s.id = $1
ON CONFLICT (space_id) DO UPDATE
  SET url = excluded.url, events = excluded.events, disabled_at = NULL, disabled_reason = NULL, failing_since = NULL
RETURNING secret, xmax = 0 AS created;

-- name: rotate_secret
-- Make a new secret. The one before also signs for $2. Returns no row if the Space has no endpoint.
UPDATE webhook_endpoints
   SET previous_secret = secret, previous_secret_until = now() + $2::interval,
       secret = uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
 WHERE space_id = $1
RETURNING secret;

-- name: disable_endpoint
-- Stop sending to an endpoint. Returns no row if the Space has none.
UPDATE webhook_endpoints
   SET disabled_at = coalesce(disabled_at, now()), disabled_reason = coalesce(disabled_reason, $2)
 WHERE space_id = $1
RETURNING space_id;

-- name: enable_endpoint
-- Send to an endpoint again. Returns no row if the Space has none.
UPDATE webhook_endpoints SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL WHERE space_id = $1
RETURNING space_id;

-- name: endpoint_to_test
-- Address and secrets of a Space's endpoint; no row if it has none.
SELECT url, secret, CASE WHEN previous_secret_until > now() THEN previous_secret END AS previous_secret, now() AS at
  FROM webhook_endpoints WHERE space_id = $1;

-- name: endpoint_overview
-- A Space's endpoint for operators; no row if it has none.
SELECT * FROM webhook_endpoints_overview WHERE space_id = $1;
