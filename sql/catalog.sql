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

-- Version 2 added these. How the other servers reach it, where that is not how applications do.
ALTER TABLE howdah.instance ADD COLUMN IF NOT EXISTS peer_dsn text;
-- Its share of the load, in proportion to the others'.
ALTER TABLE howdah.instance ADD COLUMN IF NOT EXISTS capacity double precision NOT NULL DEFAULT 1
    CHECK (capacity > 0 AND capacity < 'infinity');

CREATE TABLE IF NOT EXISTS howdah.home (
    shard    integer PRIMARY KEY,
    instance text    NOT NULL REFERENCES howdah.instance,
    epoch    integer NOT NULL DEFAULT 1 CHECK (epoch > 0)
);

-- The journal of moves. What is on the servers decides how a move goes on; this says what was meant and how far it came.
CREATE TABLE IF NOT EXISTS howdah.move (
    id         bigint  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    shard      integer NOT NULL REFERENCES howdah.home,
    -- No references: the journal outlives instances.
    source     text    NOT NULL,
    target     text    NOT NULL,
    -- The home's epoch on the source when the move began; each cutover, the one of a rollback included, adds one.
    epoch      integer NOT NULL CHECK (epoch > 0),
    phase      text    NOT NULL DEFAULT 'preflight' CHECK (phase IN
        ('preflight', 'copy', 'verify', 'fence', 'reversible', 'finished', 'rolled_back', 'aborted')),
    -- The step that was begun last, and whether it is one of the way back.
    step       text    NOT NULL,
    back       boolean NOT NULL DEFAULT false,
    -- Raised by every run that took the locks: what an earlier one sends late changes nothing.
    attempt    integer NOT NULL DEFAULT 1,
    reverse    boolean NOT NULL,
    -- The system identifier and the timeline of each server when the copy began. If they change, it is void.
    source_system text, source_timeline integer,
    target_system text, target_timeline integer,
    -- Where the reverse stream begins, in the WAL of the new home.
    position   pg_lsn,
    rows       bigint  NOT NULL DEFAULT 0,
    bytes      bigint  NOT NULL DEFAULT 0,
    copy_ms    double precision,
    fence_ms   double precision,
    verified   boolean NOT NULL DEFAULT false,
    error      text,
    begun_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (source <> target)
);

-- What goes on just now, for whoever looks on: what is to be copied and how fast it is, the rows that were compared, and how far
-- the copy is behind.
ALTER TABLE howdah.move ADD COLUMN IF NOT EXISTS of_bytes bigint, ADD COLUMN IF NOT EXISTS bytes_per_second bigint,
    ADD COLUMN IF NOT EXISTS compared bigint, ADD COLUMN IF NOT EXISTS lag_ms double precision;

-- A shard has one open move at most.
CREATE UNIQUE INDEX IF NOT EXISTS move_open ON howdah.move (shard)
    WHERE phase NOT IN ('finished', 'rolled_back', 'aborted');

-- Every step of every attempt: a row before it, and another one after it.
CREATE TABLE IF NOT EXISTS howdah.move_step (
    id      bigint  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    move    bigint  NOT NULL REFERENCES howdah.move,
    attempt integer NOT NULL,
    step    text    NOT NULL,
    back    boolean NOT NULL,
    done    boolean NOT NULL,
    detail  text,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX IF NOT EXISTS move_step_of ON howdah.move_step (move);

-- What a verification found: a row a table, and one without a table for the structure.
CREATE TABLE IF NOT EXISTS howdah.move_verified (
    id         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    move       bigint NOT NULL REFERENCES howdah.move,
    attempt    integer NOT NULL,
    relation   text,
    rows       bigint NOT NULL,
    chunks     bigint NOT NULL,
    -- NULL: equal.
    difference text,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT USAGE ON SCHEMA howdah TO howdah_app, howdah_mover;
GRANT SELECT ON howdah.cluster, howdah.instance, howdah.home, howdah.move, howdah.move_step, howdah.move_verified
TO howdah_app, howdah_mover;
