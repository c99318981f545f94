-- One shard's schema, empty of tables: its clock, and the two functions that applications call.
-- Run by the owner after clock.sql; running it again finishes what is half made and sets no clock back. Rust puts a name
-- made of numbers for :schema, and numbers for :shard, :shard_bits and :sequence_bits (src/id/sql.rs).

CREATE SCHEMA IF NOT EXISTS :schema;
CREATE SEQUENCE IF NOT EXISTS :schema.howdah_id MINVALUE 0;
CREATE SEQUENCE IF NOT EXISTS :schema.howdah_block MINVALUE 0;
SELECT howdah.start_clock(':schema.howdah_id', ':schema.howdah_block', :shard);

-- Both are bound to what they name when they are made, so that renaming the schema does not break them, and
-- both are expressions that the planner puts in place of a call.
CREATE OR REPLACE FUNCTION :schema.next_id() RETURNS bigint LANGUAGE sql VOLATILE
RETURN howdah.next_id(':schema.howdah_id'::regclass, ':schema.howdah_block'::regclass);

-- For CHECK constraints: whether an id belongs to this shard.
CREATE OR REPLACE FUNCTION :schema.is_local(id bigint) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN id >= 0 AND (id >> :sequence_bits) & ((1 << :shard_bits) - 1) = :shard;

-- What was decided about transactions over shards of which this one is the first: see src/cluster/two_phase. A row that a
-- part somewhere still waits for is never deleted.
CREATE TABLE IF NOT EXISTS :schema.howdah_decisions (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    committed  boolean     NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON :schema.howdah_decisions TO howdah_app;

-- Drawing is all that an application may do to the clock: it cannot set it.
GRANT USAGE ON SCHEMA :schema TO howdah_app;
GRANT USAGE ON SEQUENCE :schema.howdah_id TO howdah_app;
REVOKE ALL ON SEQUENCE :schema.howdah_block FROM howdah_app;
GRANT SELECT ON SEQUENCE :schema.howdah_block TO howdah_app;
GRANT EXECUTE ON FUNCTION :schema.next_id(), :schema.is_local(bigint) TO howdah_app;

-- What migrations create here later is for applications to read and write.
ALTER DEFAULT PRIVILEGES IN SCHEMA :schema GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO howdah_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA :schema GRANT USAGE ON SEQUENCES TO howdah_app;
