-- name: contact_relations
-- Columns of the three contact relations, whether these are tables, views or foreign tables.
SELECT c.relname AS relation, a.attname AS "column", format_type(a.atttypid, NULL) AS type
  FROM unnest(ARRAY['contacts', 'contact_emails', 'comet_tokens']) wanted(name)
  JOIN pg_class c ON c.oid = to_regclass(wanted.name)
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;

-- name: id_collations
-- Columns with ids of contacts whose collation is not the default of the database, beginning with contacts.id.
SELECT wanted.relation || '.' || wanted.name AS name, quote_ident(o.collname) AS collation
  FROM (VALUES (1, 'contacts', 'id'), (2, 'contacts', 'merged_into'), (3, 'contact_emails', 'contact_id'),
               (4, 'comet_tokens', 'contact_id')) AS wanted(number, relation, name)
  JOIN pg_attribute a ON a.attrelid = to_regclass(wanted.relation) AND a.attname = wanted.name AND NOT a.attisdropped
  JOIN pg_collation o ON o.oid = a.attcollation AND o.collname <> 'default'
 ORDER BY wanted.number;

-- name: probe_contacts
-- Reads the columns of contacts. With 0 rows the server checks rights and row-level security without running the view.
SELECT id, space_id, created_at, email, name, phone, location, merged_into FROM contacts LIMIT $1::bigint;

-- name: probe_contact_emails
-- Like probe_contacts.
SELECT contact_id, email, last_seen_at FROM contact_emails LIMIT $1::bigint;

-- name: probe_comet_tokens
-- Like probe_contacts.
SELECT contact_id, token, last_seen_at FROM comet_tokens LIMIT $1::bigint;
