-- A photo lives with its user, whose name it repeats (names never change), and counts its likes and comments, so
-- that a page of photos is one statement a shard. When it was posted is part of its id.
CREATE TABLE photos (
    id        bigint   PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
    user_id   bigint   NOT NULL REFERENCES users ON DELETE CASCADE,
    user_name text     NOT NULL,
    caption   text     NOT NULL,
    taken_at  timestamptz,
    lat       double precision CHECK (lat BETWEEN -90 AND 90),
    lon       double precision CHECK (lon BETWEEN -180 AND 180),
    width     integer  NOT NULL,
    height    integer  NOT NULL,
    -- The names of its files: the picture itself and its thumbnails.
    original  text     NOT NULL,
    small     text     NOT NULL,
    large     text     NOT NULL,
    likes     integer  NOT NULL DEFAULT 0 CHECK (likes >= 0),
    comments  integer  NOT NULL DEFAULT 0 CHECK (comments >= 0),
    CHECK ((lat IS NULL) = (lon IS NULL))
) WITH (fillfactor = 85);   -- room for the counters to change in place

-- One user's photos, newest first: profiles, and the feed's look at each followed user.
CREATE INDEX photos_of_user ON photos (user_id, id DESC);

-- What a POST with an Idempotency-Key made, so that the same request again makes nothing more. The row is written
-- with what it names, on that shard. The target is the commented photo, or for an upload the user.
CREATE TABLE idempotency_keys (
    user_id    bigint      NOT NULL,
    target     bigint      NOT NULL CHECK (is_local(target)),
    key        text        NOT NULL,
    request    bytea       NOT NULL,
    made       bigint      CHECK (is_local(made)),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, target, key)
);
