-- name: contact_ids
-- The type of contacts.id, and whether contacts is a table whose definition excludes null and repeated ids. The ids of any
-- other relation are checked while it is read. No row if there is no such column.
SELECT format_type(a.atttypid, NULL) AS type,
       a.attnotnull
       AND EXISTS (SELECT FROM pg_index i
                    WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                      AND i.indexprs IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
       AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent
                        WHERE h.inhparent = a.attrelid AND c.relkind <> 'p') AS are_unique
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass('contacts') AND a.attname = 'id' AND a.attnum > 0 AND NOT a.attisdropped;
