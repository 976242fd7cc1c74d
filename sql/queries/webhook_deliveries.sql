-- name: claim_deliveries
-- Claims at most $2 due deliveries, one for each endpoint that has none in flight, under a lease of $1. At most $3 of them are
-- for endpoints whose last attempt failed; these come last, and in each group the delivery that has been due longest is first.
-- The cost grows with the number of Spaces that have waiting deliveries, not with the number of deliveries: `walk` jumps
-- through the index from one Space to the next. If nothing is due, one index entry is read.
-- An endpoint or delivery that another process claimed meanwhile is skipped: its row is locked or no longer matches.
WITH RECURSIVE walk AS (
  (SELECT d.space_id FROM webhook_deliveries d
    WHERE d.outcome IS NULL
      AND (SELECT due.next_at FROM webhook_deliveries due WHERE due.outcome IS NULL ORDER BY due.next_at LIMIT 1) <= now()
    ORDER BY d.space_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.space_id FROM webhook_deliveries d
           WHERE d.outcome IS NULL AND d.space_id > w.space_id ORDER BY d.space_id LIMIT 1)
    FROM walk w WHERE w.space_id IS NOT NULL
), heads AS (
  SELECT e.space_id, head.id, head.next_at, e.failing_since IS NOT NULL AS failing
    FROM walk JOIN webhook_endpoints e ON e.space_id = walk.space_id,
         LATERAL (SELECT d.id, d.next_at FROM webhook_deliveries d
                   WHERE d.space_id = e.space_id AND d.outcome IS NULL AND d.next_at <= now()
                     AND NOT EXISTS (SELECT FROM webhook_deliveries earlier
                                      WHERE earlier.export_id = d.export_id AND earlier.id < d.id AND earlier.outcome IS NULL)
                   ORDER BY d.next_at, d.id LIMIT 1) head
   WHERE e.disabled_at IS NULL AND coalesce(e.lease_until, '-infinity') <= now()
), ranked AS (
  SELECT *, row_number() OVER (PARTITION BY failing ORDER BY next_at, id) AS place FROM heads
), free AS MATERIALIZED (
  SELECT endpoint.space_id, delivery.id
    FROM (SELECT * FROM ranked WHERE NOT failing OR place <= $3 ORDER BY failing, next_at, id) fair,
         LATERAL (SELECT e.space_id FROM webhook_endpoints e
                   WHERE e.space_id = fair.space_id AND e.disabled_at IS NULL
                     AND coalesce(e.lease_until, '-infinity') <= now() FOR UPDATE SKIP LOCKED) endpoint,
         LATERAL (SELECT d.id FROM webhook_deliveries d
                   WHERE d.id = fair.id AND d.outcome IS NULL AND d.next_at <= now() FOR UPDATE SKIP LOCKED) delivery
   LIMIT $2
), leased AS (
  UPDATE webhook_endpoints e SET claim_id = gen_random_uuid(), lease_until = now() + $1::interval
    FROM free WHERE e.space_id = free.space_id
  RETURNING e.space_id, e.claim_id, e.url, e.secret, e.failing_since,
            CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS previous_secret
), begun AS (
  UPDATE webhook_deliveries d SET attempts = d.attempts + 1, last_attempt_at = now()
    FROM free WHERE d.id = free.id
  RETURNING d.id, d.space_id, d.webhook_id, d.export_id, d.event, d.payload, d.attempts
)
SELECT leased.claim_id, leased.url, leased.secret, leased.previous_secret, leased.failing_since IS NOT NULL AS failing,
       begun.*, now() AS claimed_at
  FROM leased JOIN begun ON begun.space_id = leased.space_id;

-- name: record_delivered
-- The endpoint accepted the delivery. Returns no row if the claim is lost.
WITH mine AS (
  UPDATE webhook_endpoints SET claim_id = NULL, lease_until = NULL, failing_since = NULL WHERE claim_id = $1 RETURNING space_id
), ended AS (
  UPDATE webhook_deliveries d SET outcome = 'delivered', ended_at = now(), last_status = $3, last_reason = $4
    FROM mine WHERE d.id = $2 AND d.outcome IS NULL
  RETURNING d.id, d.export_id
), later AS (
  UPDATE webhook_deliveries d SET next_at = now()
    FROM ended WHERE d.export_id = ended.export_id AND d.id > ended.id AND d.outcome IS NULL AND d.next_at > now()
)
SELECT space_id FROM mine;

-- name: record_failed
-- An attempt failed. The delivery is tried again after $5, or given up if that is null. $6: the endpoint said that it is gone;
-- it is disabled, as it is once it has been failing for $7. A response of an address that was changed meanwhile ($8 is the one
-- that was called) counts for nothing: the delivery is due at once. Later deliveries of the export wait for this one. Returns
-- the state of the endpoint, or no row if the claim is lost.
WITH mine AS (
  UPDATE webhook_endpoints e
     SET claim_id = NULL, lease_until = NULL,
         failing_since = CASE WHEN e.url = $8 THEN coalesce(e.failing_since, now()) ELSE e.failing_since END,
         disabled_at = CASE WHEN e.url = $8 AND ($6 OR e.failing_since < now() - $7::interval) THEN coalesce(e.disabled_at, now())
                            ELSE e.disabled_at END,
         disabled_reason = CASE WHEN e.disabled_at IS NOT NULL OR e.url <> $8 THEN e.disabled_reason
                                WHEN $6 THEN 'it returned 410 Gone'
                                WHEN e.failing_since < now() - $7::interval
                                  THEN format('no attempt succeeded for %s days; the last: %s', extract(day FROM $7::interval), $4::text)
                                ELSE e.disabled_reason END
   WHERE e.claim_id = $1
  RETURNING e.space_id, e.url = $8 AS same_url, e.disabled_at IS NOT NULL AS disabled
), tried AS (
  UPDATE webhook_deliveries d
     SET last_status = $3, last_reason = $4,
         outcome = CASE WHEN mine.disabled THEN 'endpoint_gone' WHEN mine.same_url AND $5::interval IS NULL THEN 'given_up' END,
         ended_at = CASE WHEN mine.disabled OR (mine.same_url AND $5::interval IS NULL) THEN now() END,
         next_at = CASE WHEN mine.same_url THEN now() + coalesce($5::interval, '0') ELSE now() END
    FROM mine WHERE d.id = $2 AND d.outcome IS NULL
  RETURNING d.id, d.export_id, d.next_at
), later AS (
  UPDATE webhook_deliveries d SET next_at = tried.next_at
    FROM tried WHERE d.export_id = tried.export_id AND d.id > tried.id AND d.outcome IS NULL AND d.attempts = 0
)
SELECT disabled FROM mine;

-- name: release_delivery
-- A shutdown interrupted an attempt, which is not counted. Returns no row if the claim is lost.
WITH mine AS (
  UPDATE webhook_endpoints SET claim_id = NULL, lease_until = NULL WHERE claim_id = $1 RETURNING space_id
)
UPDATE webhook_deliveries d SET attempts = greatest(d.attempts - 1, 0) FROM mine
 WHERE d.id = $2 AND d.outcome IS NULL RETURNING d.id;

-- name: end_deliveries_without_endpoint
-- Deliveries whose endpoint was disabled or deleted while they waited.
WITH RECURSIVE walk AS (
  (SELECT d.space_id FROM webhook_deliveries d WHERE d.outcome IS NULL ORDER BY d.space_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.space_id FROM webhook_deliveries d
           WHERE d.outcome IS NULL AND d.space_id > w.space_id ORDER BY d.space_id LIMIT 1)
    FROM walk w WHERE w.space_id IS NOT NULL
), gone AS (
  SELECT walk.space_id, coalesce('the endpoint was disabled: ' || e.disabled_reason, 'the endpoint was deleted') AS reason
    FROM walk LEFT JOIN webhook_endpoints e ON e.space_id = walk.space_id
   WHERE walk.space_id IS NOT NULL AND (e.space_id IS NULL OR e.disabled_at IS NOT NULL)
), ending AS MATERIALIZED (
  SELECT d.id, gone.reason
    FROM gone, LATERAL (SELECT w.id FROM webhook_deliveries w WHERE w.space_id = gone.space_id AND w.outcome IS NULL
                         ORDER BY w.next_at, w.id LIMIT $1 FOR UPDATE SKIP LOCKED) d
   LIMIT $1
)
UPDATE webhook_deliveries d SET outcome = 'endpoint_gone', ended_at = now(), last_reason = ending.reason
  FROM ending WHERE d.id = ending.id
RETURNING d.space_id;

-- name: resend_delivery
-- Send a delivery again. webhook_id is null if there is none with this id or its endpoint is disabled.
SELECT resend_webhook($1) AS webhook_id;

-- name: delivery_exists
-- Whether there is a delivery with this webhook id.
SELECT FROM webhook_deliveries WHERE webhook_id = $1;

-- name: latest_deliveries
-- Deliveries that wait and recent ones, newest first, optionally of Space $1 and in state $2.
SELECT v.* FROM webhook_deliveries_recent v
 WHERE (v.space_id = $1 OR $1::bigint IS NULL) AND (v.state = $2 OR $2::text IS NULL)
 ORDER BY v.created_at DESC, v.webhook_id LIMIT $3;

-- name: deliveries_of_export
-- All deliveries of an export, oldest first.
SELECT d.webhook_id, d.event, d.created_at, webhook_summary(d) AS summary, CASE WHEN d.outcome IS NULL THEN d.next_at END AS next_at
  FROM webhook_deliveries d WHERE d.export_id = $1 ORDER BY d.id;
