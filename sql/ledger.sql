-- What was applied to a shard: one row a migration, written in the migration's own transaction. {shard} is the
-- schema. Applications may read it; the migrations alone write it.
CREATE TABLE IF NOT EXISTS {shard}.howdah_migrations (
    version    integer     PRIMARY KEY CHECK (version > 0),
    name       text        NOT NULL,
    -- SHA-256 of the file.
    checksum   bytea       NOT NULL CHECK (length(checksum) = 32),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- NULL: runs outside a transaction just now, or was interrupted.
    applied_at timestamptz
);

REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {shard}.howdah_migrations FROM howdah_app;
