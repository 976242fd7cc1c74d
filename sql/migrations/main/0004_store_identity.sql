-- An identity of this database, so that a service recognises a file store that belongs to another database. A dump contains
-- it; therefore `database_identity` adds the server and the oid of the database, which a restored copy does not share.

INSERT INTO service_secrets (name, value)
VALUES ('database', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
COMMENT ON TABLE service_secrets IS 'Random values shared by all replicas: links signs download links, cursors signs pagination cursors, database identifies this database in the marker of its file store.';
