-- name: shared_secret
-- A secret shared by all replicas.
SELECT value FROM service_secrets WHERE name = $1;
