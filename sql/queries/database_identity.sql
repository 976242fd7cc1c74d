-- name: database_identity
-- Which database this is. A restored dump has the same id, but another oid or another server.
SELECT encode(sha256(s.value), 'hex') AS id, d.oid::bigint AS oid, 'service_secrets'::regclass::oid::bigint AS table_oid,
       coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), false) AS may_identify_server
  FROM service_secrets s, pg_database d
 WHERE s.name = 'database' AND d.datname = current_database();

-- name: server_identifier
-- The identifier that initdb gave to this server. Standbys and physical copies have the same.
SELECT system_identifier::text FROM pg_control_system();
