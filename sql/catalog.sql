-- The catalog: which instances there are and where every shard lives. In one PostgreSQL database of the cluster's;
-- applications read it, the owner alone writes it. It holds no passwords.
CREATE SCHEMA IF NOT EXISTS howdah;

-- One row: what was decided once, and what version everything has.
CREATE TABLE IF NOT EXISTS howdah.cluster (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    cluster         uuid    NOT NULL DEFAULT gen_random_uuid(),
    catalog_version integer NOT NULL,
    shards          integer NOT NULL CHECK (shards BETWEEN 1 AND 8192),
    epoch_ms        bigint  NOT NULL,
    shard_bits      integer NOT NULL,
    sequence_bits   integer NOT NULL,
    map_version     bigint  NOT NULL DEFAULT 1,
    -- False until every instance and shard is in place: clients refuse a cluster that is half made.
    ready           boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS howdah.instance (
    name       text   PRIMARY KEY,
    dsn        text   NOT NULL,
    state      text   NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining')),
    -- The lowest generation in the instance's identity row that clients may accept.
    generation bigint NOT NULL DEFAULT 1
);

CREATE TABLE IF NOT EXISTS howdah.home (
    shard    integer PRIMARY KEY,
    instance text    NOT NULL REFERENCES howdah.instance,
    epoch    integer NOT NULL DEFAULT 1 CHECK (epoch > 0)
);

GRANT USAGE ON SCHEMA howdah TO howdah_app, howdah_mover;
GRANT SELECT ON howdah.cluster, howdah.instance, howdah.home TO howdah_app, howdah_mover;
