-- name: insert_space
-- Add a Space.
INSERT INTO spaces (name, timezone) VALUES ($1, $2) RETURNING id;

-- name: list_spaces
-- All Spaces, by id.
SELECT id, name, timezone, subscription_active FROM spaces ORDER BY id;

-- name: set_subscription
-- Suspend or reactivate a Space; returns no row if the Space does not exist.
UPDATE spaces SET subscription_active = $2 WHERE id = $1 RETURNING id;

-- name: insert_api_key
-- Add an API key; returns no row if the Space does not exist.
INSERT INTO api_keys (key_id, space_id, key_sha256, scopes, expires_at)
SELECT $1, id, $3, $4, now() + $5::interval FROM spaces WHERE id = $2
RETURNING key_id;

-- name: list_api_keys
-- API keys, newest first; $1: only those of this Space; null: of all Spaces.
SELECT key_id, space_id, scopes, created_at, expires_at, revoked_at FROM api_keys
 WHERE space_id = $1 OR $1::bigint IS NULL ORDER BY created_at DESC, key_id;

-- name: revoke_api_key
-- Revoke an API key; returns no row if there is no such key.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id;

-- name: live_api_key
-- The stored credential of a key, with its Space; no row if the key is unknown, revoked or expired.
SELECT k.key_sha256, k.scopes, s.id AS space_id, s.timezone, s.subscription_active
  FROM api_keys k JOIN spaces s ON s.id = k.space_id
 WHERE k.key_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());

-- name: spaces_from
-- Spaces with ids above $1, by id, at most $2.
SELECT id, name, timezone, subscription_active FROM spaces WHERE id > $1 ORDER BY id LIMIT $2;
