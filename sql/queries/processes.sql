-- name: announce_process
-- Record that a process runs. Rows of processes that were not seen for a day are deleted; locked rows are skipped, so
-- replicas do not wait for each other.
WITH gone AS (
  DELETE FROM processes WHERE worker IN (
    SELECT worker FROM processes WHERE seen_at < now() - interval '1 day' AND worker <> $1 FOR UPDATE SKIP LOCKED)
)
INSERT INTO processes (worker, version, export_slots, space_slots) VALUES ($1, $2, $3, $4)
ON CONFLICT (worker) DO UPDATE SET seen_at = now();
