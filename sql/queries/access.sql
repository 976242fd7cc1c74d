-- name: insert_space
-- A new tenant.
INSERT INTO spaces (name, timezone) VALUES ($1, $2) RETURNING id;

-- name: list_spaces
-- All tenants.
SELECT id, name, timezone, subscription_active, max_running_exports FROM spaces ORDER BY id;

-- name: set_subscription
-- Suspend a Space or end its suspension; no row when there is none.
UPDATE spaces SET subscription_active = $2 WHERE id = $1 RETURNING id;

-- name: insert_api_key
-- A new key; no row when there is no such Space.
INSERT INTO api_keys (key_id, space_id, key_sha256, scopes, expires_at)
SELECT $1, id, $3, $4, now() + $5::interval FROM spaces WHERE id = $2
RETURNING key_id;

-- name: list_api_keys
-- The keys, of one Space or of all, newest first.
SELECT key_id, space_id, scopes, created_at, expires_at, revoked_at FROM api_keys
 WHERE space_id = $1 OR $1::bigint IS NULL ORDER BY created_at DESC, key_id;

-- name: revoke_api_key
-- From now on the key is refused; no row when it is unknown.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id;

-- name: live_api_key
-- The credential behind the public part of a key, with its Space; revoked and expired keys are not found.
SELECT k.key_id, k.key_sha256, k.scopes, s.id AS space_id, s.timezone, s.subscription_active
  FROM api_keys k JOIN spaces s ON s.id = k.space_id
 WHERE k.key_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());

-- name: shared_secret
-- A secret all replicas share.
SELECT value FROM service_secrets WHERE name = $1;

-- name: ping
-- Whether the database answers.
SELECT 1;
