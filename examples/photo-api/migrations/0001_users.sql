-- A user lives on shard_for_key(name), so this shard's constraint alone makes the name unique in the cluster,
-- and every row of the user has ids of this shard.
CREATE TABLE users (
    id            bigint  PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
    name          text    NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9._]{1,30}$'),
    email         text,
    password_hash text    NOT NULL,
    -- Kept by the statements that add and remove the rows counted.
    photos        integer NOT NULL DEFAULT 0 CHECK (photos >= 0),
    following     integer NOT NULL DEFAULT 0 CHECK (following >= 0)
);

-- A token names its user, so it leads here by itself; of its secret only the hash is kept.
CREATE TABLE sessions (
    token_hash bytea       PRIMARY KEY,
    user_id    bigint      NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX sessions_of_user ON sessions (user_id, created_at);
