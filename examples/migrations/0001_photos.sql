-- What the examples work with: users, their photos, and who likes which. A user lives on the shard of the name, and
-- everything of a user's beside it.
CREATE TABLE users (
    id   bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
    name text   NOT NULL UNIQUE
);

CREATE TABLE photos (
    id      bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
    user_id bigint NOT NULL REFERENCES users,
    caption text   NOT NULL,
    likes   bigint NOT NULL DEFAULT 0
);
CREATE INDEX photos_of_user ON photos (user_id, id DESC);

-- A like lives with its photo; the fan may be on any shard.
CREATE TABLE likes (
    photo_id bigint NOT NULL REFERENCES photos,
    user_id  bigint NOT NULL,
    PRIMARY KEY (photo_id, user_id)
);
