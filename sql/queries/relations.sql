-- name: contact_relations
-- Columns of the three contact relations, whether these are tables, views or foreign tables.
SELECT c.relname AS relation, a.attname AS "column", format_type(a.atttypid, NULL) AS type
  FROM unnest(ARRAY['contacts', 'contact_emails', 'comet_tokens']) wanted(name)
  JOIN pg_class c ON c.oid = to_regclass(wanted.name)
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;

-- name: probe_contacts
-- Reads the columns of contacts. With 0 rows the server checks rights and row-level security without running the view.
SELECT id, space_id, created_at, email, name, phone, location, merged_into FROM contacts LIMIT $1::bigint;

-- name: probe_contact_emails
-- Like probe_contacts.
SELECT contact_id, email, last_seen_at FROM contact_emails LIMIT $1::bigint;

-- name: probe_comet_tokens
-- Like probe_contacts.
SELECT contact_id, token, last_seen_at FROM comet_tokens LIMIT $1::bigint;
