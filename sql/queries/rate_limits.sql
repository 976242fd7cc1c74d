-- name: record_hit
-- Add a hit to a moving window of length $3 if at most $2 hits are then in it; returns no row, and writes nothing, if it does
-- not fit. The row lock serializes concurrent hits. Everything after ON CONFLICT is evaluated under the lock, by the
-- clock of that moment. The condition is evaluated before the new hits get their time, so it counts every hit that is in the
-- window at that time.
INSERT INTO rate_limit_windows AS w (key, hits, expires_at)
VALUES ($1, ARRAY[clock_timestamp()], clock_timestamp() + $3::interval)
ON CONFLICT (key) DO UPDATE
   SET hits = ARRAY(SELECT hit FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $3::interval)
              || clock_timestamp(),
       expires_at = clock_timestamp() + $3::interval
 WHERE (SELECT count(*) FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $3::interval) < $2::bigint
RETURNING cardinality(w.hits) AS hits,
          (SELECT extract(epoch FROM clock_timestamp() - min(hit)) FROM unnest(w.hits) hit)::float8 AS age;

-- name: rate_limit_window
-- Number of hits in a moving window, and the age of the oldest in seconds; null if there is none.
SELECT count(*) AS hits, extract(epoch FROM clock_timestamp() - min(hit))::float8 AS age
  FROM rate_limit_windows w, unnest(w.hits) hit
 WHERE w.key = $1 AND hit > clock_timestamp() - $2::interval;

-- name: prune_rate_limits
-- Delete windows whose hits have all expired. Skips locked rows, so concurrent replicas divide the work.
DELETE FROM rate_limit_windows WHERE key IN (
  SELECT key FROM rate_limit_windows WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING key;
