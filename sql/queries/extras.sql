-- name: emails_are_unique
-- Whether contact_emails is a table with a unique constraint on contact and address. A view may show an address twice, and so
-- may a table with children: a unique index does not cover them, unless they are partitions.
SELECT EXISTS (
  SELECT FROM pg_index i
   WHERE i.indrelid = to_regclass('contact_emails') AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
     AND i.indexprs IS NULL AND i.indnkeyatts = 2
     AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
           WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:1])) = ARRAY['contact_id', 'email'])
   AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent
                    WHERE h.inhparent = to_regclass('contact_emails') AND c.relkind <> 'p');

-- name: custom_fields_exist
-- Whether contacts has the optional column custom_fields.
SELECT EXISTS (
  SELECT FROM pg_attribute
   WHERE attrelid = to_regclass('contacts') AND attname = 'custom_fields' AND attnum > 0 AND NOT attisdropped);

-- name: read_contacts
-- The contacts of an export in file order, as written for ids of type bigint. The markers are replaced by the fragments of the
-- requested extras, and by what other types of ids need.
SELECT c.id/* shown */, c.email, c.name, c.phone, c.location /* extras */
  FROM contacts c
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.merged_into IS NULL
 ORDER BY c.created_at, c.id/* ordered */;

-- fragment: extra_comet_tokens
-- The five most recent comet tokens as JSON text, ready for the file. A correlated lookup in a covering index was faster
-- than batched lookups, and much faster than arrays decoded by the client.
array_to_json(ARRAY(
  SELECT t.token FROM comet_tokens t WHERE t.contact_id = c.id AND t.token IS NOT NULL
   ORDER BY t.last_seen_at DESC NULLS LAST, t.token COLLATE "C" LIMIT 5))

-- fragment: extra_emails
-- All addresses of a contact, each once, the most recent first.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   GROUP BY e.email ORDER BY max(e.last_seen_at) DESC NULLS LAST, e.email COLLATE "C"))

-- fragment: extra_emails_unique
-- Like extra_emails, for a table that cannot contain duplicates: without grouping.
array_to_json(ARRAY(
  SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
   ORDER BY e.last_seen_at DESC NULLS LAST, e.email COLLATE "C"))

-- fragment: extra_custom_fields
-- The custom fields as JSON text, {} if there are none. A value that is no object ends the statement with an error of class 22
-- (data): the name of its type is cast to a number. The cast to jsonb normalizes a column of type json, which could contain
-- the bytes that separate two lines.
CASE coalesce(jsonb_typeof(c.custom_fields::jsonb), 'null')
     WHEN 'object' THEN (c.custom_fields::jsonb)::text
     WHEN 'null' THEN '{}'
     ELSE (jsonb_typeof(c.custom_fields::jsonb)::integer)::text END

-- fragment: extra_custom_fields_absent
-- Replaces extra_custom_fields if contacts has no such column.
'{}'
