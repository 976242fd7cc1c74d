-- name: record_hits
-- Adds hits to a moving window if they fit in it and says what is in it then; no row: they do not fit, and nothing is
-- written. The row's lock serialises
-- concurrent hits, and what follows ON CONFLICT is evaluated under it, by the clock of that moment. The condition is read
-- before the new hits get their time, so that those it counted include all that are in the window then.
INSERT INTO rate_limit_windows AS w (key, hits, expires_at)
VALUES ($1, array_fill(clock_timestamp(), ARRAY[$4::integer]), clock_timestamp() + $3::interval)
ON CONFLICT (key) DO UPDATE
   SET hits = ARRAY(SELECT hit FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $3::interval)
              || array_fill(clock_timestamp(), ARRAY[$4::integer]),
       expires_at = clock_timestamp() + $3::interval
 WHERE (SELECT count(*) FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $3::interval) + $4 <= $2::bigint
RETURNING cardinality(w.hits) AS hits,
          (SELECT extract(epoch FROM clock_timestamp() - min(hit)) FROM unnest(w.hits) hit)::float8 AS age;

-- name: rate_limit_window
-- How many hits are in a moving window, and how many seconds ago the oldest of them was; null when there is none.
SELECT count(*) AS hits, extract(epoch FROM clock_timestamp() - min(hit))::float8 AS age
  FROM rate_limit_windows w, unnest(w.hits) hit
 WHERE w.key = $1 AND hit > clock_timestamp() - $2::interval;

-- name: prune_rate_limits
-- Remove rows of which nothing counts any more. Locked rows are in use; replicas that prune at the same time share the work.
DELETE FROM rate_limit_windows WHERE key IN (
  SELECT key FROM rate_limit_windows WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING key;
