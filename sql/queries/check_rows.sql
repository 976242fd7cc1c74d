-- name: bad_contacts
-- Counts contacts with values that no file can have, among the first $1 rows; all rows if $1 is null.
SELECT count(*) AS rows, count(*) FILTER (WHERE id IS NULL) AS null_ids, count(*) FILTER (WHERE space_id IS NULL) AS null_spaces,
       count(*) FILTER (WHERE created_at IS NULL) AS null_times,
       count(*) FILTER (WHERE NOT isfinite(created_at)) AS infinite_times,
       count(*) FILTER (WHERE isfinite(created_at) AND created_at > now() + interval '5 minutes') AS future_times
  FROM (SELECT id, space_id, created_at FROM contacts LIMIT $1::bigint) first;

-- name: repeated_ids
-- Counts ids that several of the first $1 contacts have.
SELECT coalesce(sum(each.count), 0)::bigint AS rows, count(*) FILTER (WHERE each.count > 1) AS repeated
  FROM (SELECT count(*) FROM (SELECT id FROM contacts LIMIT $1::bigint) first WHERE id IS NOT NULL GROUP BY id) AS each;

-- name: aliases_without_survivor
-- Counts merged contacts among the first $1 whose survivor does not exist, is merged itself, or belongs to another Space.
SELECT count(*) AS rows, count(*) FILTER (WHERE s.id IS NULL) AS without, count(*) FILTER (WHERE s.merged_into IS NOT NULL) AS chained,
       count(*) FILTER (WHERE s.space_id <> a.space_id) AS elsewhere
  FROM (SELECT space_id, merged_into FROM contacts WHERE merged_into IS NOT NULL LIMIT $1::bigint) a
  LEFT JOIN contacts s ON s.id = a.merged_into;

-- name: lost_addresses
-- Counts rows of contact_emails among the first $1 that no file shows: without a contact, or with one that was merged.
SELECT count(*) AS rows, count(*) FILTER (WHERE c.id IS NULL) AS without, count(*) FILTER (WHERE c.merged_into IS NOT NULL) AS merged
  FROM (SELECT contact_id FROM contact_emails LIMIT $1::bigint) e LEFT JOIN contacts c ON c.id = e.contact_id;

-- name: lost_tokens
-- Like lost_addresses, for comet_tokens.
SELECT count(*) AS rows, count(*) FILTER (WHERE c.id IS NULL) AS without, count(*) FILTER (WHERE c.merged_into IS NOT NULL) AS merged
  FROM (SELECT contact_id FROM comet_tokens LIMIT $1::bigint) t LEFT JOIN contacts c ON c.id = t.contact_id;

-- name: repeated_tokens
-- Counts tokens that one contact has several times, among the first $1 rows.
SELECT coalesce(sum(each.count), 0)::bigint AS rows, count(*) FILTER (WHERE each.count > 1) AS repeated
  FROM (SELECT count(*) FROM (SELECT contact_id, token FROM comet_tokens LIMIT $1::bigint) first GROUP BY contact_id, token) AS each;

-- name: bad_custom_fields
-- Counts custom fields that are neither an object nor null, among the first $1 contacts.
SELECT count(*) AS rows, count(*) FILTER (WHERE jsonb_typeof(value) NOT IN ('object', 'null')) AS bad
  FROM (SELECT custom_fields::jsonb AS value FROM contacts LIMIT $1::bigint) first;
