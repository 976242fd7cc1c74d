-- name: contacts_before
-- Contacts of Space $1 created at or after $2 that precede the position ($3, $4), newest first. There is no other upper bound
-- on created_at: with two, the server starts the index scan at the first one and may read every page before this one. A
-- position has its time as text, because the driver reads no time after the year 9999 and takes the last microsecond for
-- infinity. The statements of this file are for ids of type bigint; their markers are replaced for other types.
SELECT c.id/* shown */, c.email, c.name, c.phone, c.location /* extras */, c.created_at::text AS created_at
  FROM contacts c
 WHERE c.space_id = $1::bigint AND c.merged_into IS NULL
   AND c.created_at >= $2 AND (c.created_at, c.id/* ordered */) </* or at */ ($3::text::timestamptz, $4::bigint/* id */)
 ORDER BY c.created_at DESC, c.id/* ordered */ DESC LIMIT $5::bigint;

-- name: contacts_after
-- Contacts of Space $1 created before $2 that follow the position ($3, $4), oldest first.
SELECT c.id/* shown */, c.email, c.name, c.phone, c.location /* extras */, c.created_at::text AS created_at
  FROM contacts c
 WHERE c.space_id = $1::bigint AND c.merged_into IS NULL
   AND c.created_at < $2 AND (c.created_at, c.id/* ordered */) >/* or at */ ($3::text::timestamptz, $4::bigint/* id */)
 ORDER BY c.created_at, c.id/* ordered */ LIMIT $5::bigint;

-- name: one_contact
-- The contact of Space $2 that surviving contact $1 is, or that contact $1 was merged into, with up to 25 values of each kind
-- as JSON text. The survivor's own values come first, then those of the contacts merged into it, newest first. A survivor that
-- was itself merged into another contact is none.
SELECT c.id/* shown */,
       array_to_json(ARRAY(
         SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id AND e.email IS NOT NULL
          GROUP BY e.email ORDER BY max(e.last_seen_at) DESC NULLS LAST, e.email COLLATE "C" LIMIT 25)) AS emails,
       array_to_json(ARRAY(
         SELECT v.phone
           FROM (SELECT true AS own, c.created_at, c.phone
                 UNION ALL
                 SELECT false, m.created_at, m.phone FROM contacts m WHERE m.merged_into = c.id AND m.space_id = $2::bigint) v
          WHERE v.phone IS NOT NULL
          GROUP BY v.phone ORDER BY bool_or(v.own) DESC, max(v.created_at) DESC, v.phone COLLATE "C" LIMIT 25)) AS phones,
       array_to_json(ARRAY(
         SELECT v.name
           FROM (SELECT true AS own, c.created_at, c.name
                 UNION ALL
                 SELECT false, m.created_at, m.name FROM contacts m WHERE m.merged_into = c.id AND m.space_id = $2::bigint) v
          WHERE v.name IS NOT NULL
          GROUP BY v.name ORDER BY bool_or(v.own) DESC, max(v.created_at) DESC, v.name COLLATE "C" LIMIT 25)) AS names,
       array_to_json(ARRAY(
         SELECT v.location
           FROM (SELECT true AS own, c.created_at, c.location
                 UNION ALL
                 SELECT false, m.created_at, m.location FROM contacts m WHERE m.merged_into = c.id AND m.space_id = $2::bigint) v
          WHERE v.location IS NOT NULL
          GROUP BY v.location ORDER BY bool_or(v.own) DESC, max(v.created_at) DESC, v.location COLLATE "C" LIMIT 25))
         AS locations /* extras */
  FROM contacts r JOIN contacts c ON c.id = coalesce(r.merged_into, r.id)
 WHERE r.id = $1::bigint/* id */ AND r.space_id = $2::bigint AND c.space_id = $2::bigint AND c.merged_into IS NULL
 LIMIT 1;
