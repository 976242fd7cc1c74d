-- name: ping
-- Check that the database responds.
SELECT 1;
