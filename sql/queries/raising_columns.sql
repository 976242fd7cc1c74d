-- name: one_column
-- Evaluates one column for the first $1 rows. The words COLUMN and RELATION are replaced by quoted names.
SELECT count("COLUMN") FROM (SELECT "COLUMN" FROM "RELATION" LIMIT $1::bigint) first;
