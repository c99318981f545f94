-- The roles of a cluster, for an administrator to make once on every instance; give each a password or a certificate as
-- the server demands. `howdah init` makes the last two by itself where the owner may do that: howdah_mover can be made by
-- a superuser alone, and from PostgreSQL 16 on by an owner with CREATEROLE and REPLICATION.
--
--   howdah_owner   owns the schemas and runs migrations; must own the database, or be allowed to create schemas in it
--   howdah_mover   moves shards: replication, and more, which differs between versions: see docs/operations.md
--   howdah_app     what applications run as: reads the map, reads and writes rows; changes no home, creates no table
CREATE ROLE howdah_owner LOGIN;
CREATE ROLE howdah_mover LOGIN REPLICATION;
CREATE ROLE howdah_app LOGIN;
