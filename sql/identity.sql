-- What every instance knows of itself, so that a connection that reached the wrong server is refused.
CREATE SCHEMA IF NOT EXISTS howdah;

CREATE TABLE IF NOT EXISTS howdah.identity (
    only_one      boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    cluster       uuid    NOT NULL,
    instance      text    NOT NULL,
    -- Raised whenever this instance's primary is fenced; it begins above that of an instance of this name that was removed.
    generation    bigint  NOT NULL DEFAULT 1,
    -- The layout that is baked into the functions of clock.sql.
    epoch_ms      bigint  NOT NULL,
    shard_bits    integer NOT NULL,
    sequence_bits integer NOT NULL
);

GRANT USAGE ON SCHEMA howdah TO howdah_app, howdah_mover;
GRANT SELECT ON howdah.identity TO howdah_app, howdah_mover;
