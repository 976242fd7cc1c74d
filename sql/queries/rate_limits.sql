-- name: record_hit
-- Add a hit to moving window $3 of length $2 if at most $1 hits are then in it, by the fragment in place of the marker.
INSERT INTO rate_limit_windows AS w (key, hits, expires_at)
VALUES ($3, ARRAY[clock_timestamp()], clock_timestamp() + $2::interval)
/* hit */;

-- fragment: exact_hit
-- The end of an INSERT, for a window that exists: add a hit if fewer than $1 are in the window of length $2.
-- It returns no row, and writes nothing, if the hit does not fit. The row lock serializes concurrent hits. Everything after
-- ON CONFLICT is evaluated under the lock, by the clock of that moment. The condition is evaluated before the new hit gets its
-- time, so it counts every hit that is in the window at that time.
ON CONFLICT (key) DO UPDATE
   SET hits = ARRAY(SELECT hit FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $2::interval)
              || clock_timestamp(),
       expires_at = clock_timestamp() + $2::interval
 WHERE (SELECT count(*) FROM unnest(w.hits) hit WHERE hit > clock_timestamp() - $2::interval) < $1::bigint
RETURNING cardinality(w.hits) AS hits,
          (SELECT extract(epoch FROM clock_timestamp() - min(hit)) FROM unnest(w.hits) hit)::float8 AS age

-- fragment: merged_hit
-- Like exact_hit, for a limit so high that one time for each hit would be slow: the times are rounded up to 1/64 of the window,
-- and `calls` has the number of hits at each time. A hit never leaves the window early, and at most 1/64 of it late;
-- its age is negative until its time.
ON CONFLICT (key) DO UPDATE
   SET (hits, calls) = (
         SELECT array_agg(hit), array_agg(calls)
           FROM (SELECT hit, sum(calls)::integer AS calls
                   FROM (SELECT hit, coalesce(calls, 1) AS calls FROM unnest(w.hits, w.calls) stored(hit, calls)
                          WHERE hit > clock_timestamp() - $2::interval
                          UNION ALL
                         SELECT date_bin($2::interval / 64, clock_timestamp(), 'epoch') + $2::interval / 64, 1) every
                  GROUP BY hit) merged),
       expires_at = clock_timestamp() + $2::interval * 65 / 64
 WHERE (SELECT coalesce(sum(coalesce(calls, 1)), 0) FROM unnest(w.hits, w.calls) stored(hit, calls)
         WHERE hit > clock_timestamp() - $2::interval) < $1::bigint
RETURNING (SELECT sum(coalesce(calls, 1)) FROM unnest(w.hits, w.calls) stored(hit, calls))::bigint AS hits,
          (SELECT extract(epoch FROM clock_timestamp() - min(hit)) FROM unnest(w.hits) hit)::float8 AS age

-- name: admit
-- The credential of key $3 with its Space, as live_api_key reads it; and if the hash of the key is $4, the key has the scope $5
-- and the Space is active, a hit in the window $6 || (id of the Space) || $7, as record_hit adds it. Without a hit, hits and age
-- are null: the call is not allowed, or does not fit. The marker as in record_hit.
WITH key AS MATERIALIZED (
  SELECT k.key_sha256, k.scopes, s.id AS space_id, s.timezone, s.subscription_active
    FROM api_keys k JOIN spaces s ON s.id = k.space_id
   WHERE k.key_id = $3 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
), hit AS (
INSERT INTO rate_limit_windows AS w (key, hits, expires_at)
SELECT $6::text || key.space_id || $7::text, ARRAY[clock_timestamp()], clock_timestamp() + $2::interval
  FROM key WHERE key.key_sha256 = $4 AND key.subscription_active AND $5 = ANY (key.scopes)
/* hit */
)
SELECT key.key_sha256, key.scopes, key.space_id, key.timezone, key.subscription_active, hit.hits, hit.age
  FROM key LEFT JOIN hit ON true;

-- name: rate_limit_window
-- Number of hits in a moving window, and the age of the oldest in seconds, 0 if there is none.
SELECT coalesce(sum(coalesce(stored.calls, 1)), 0)::bigint AS hits,
       coalesce(extract(epoch FROM clock_timestamp() - min(stored.hit)), 0)::float8 AS age
  FROM rate_limit_windows w, unnest(w.hits, w.calls) stored(hit, calls)
 WHERE w.key = $1 AND stored.hit > clock_timestamp() - $2::interval;

-- name: prune_rate_limits
-- Delete windows whose hits have all expired. Skips locked rows, so concurrent replicas divide the work.
DELETE FROM rate_limit_windows WHERE key IN (
  SELECT key FROM rate_limit_windows WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING key;
