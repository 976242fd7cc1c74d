-- name: has_contacts
-- Whether contacts has a row, and whether it has one of the Space $1.
SELECT EXISTS (SELECT FROM contacts) AS any, $1::bigint IS NOT NULL AND EXISTS (SELECT FROM contacts WHERE space_id = $1) AS of_space;

-- name: space_exists
-- Whether there is a Space $1, in the main database.
SELECT EXISTS (SELECT FROM spaces WHERE id = $1::bigint);
