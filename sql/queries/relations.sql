-- name: contact_relations
-- Columns of the three contact relations, whether these are tables, views or foreign tables.
SELECT c.relname AS relation, a.attname AS "column", format_type(a.atttypid, NULL) AS type
  FROM unnest(ARRAY['contacts', 'contact_emails', 'comet_tokens']) wanted(name)
  JOIN pg_class c ON c.oid = to_regclass(wanted.name)
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;
