-- Who follows whom, on the follower's shard: a feed starts with one read there. The followed user may live anywhere,
-- so this is no foreign key.
CREATE TABLE follows (
    follower_id   bigint      NOT NULL REFERENCES users ON DELETE CASCADE,
    followee_id   bigint      NOT NULL,
    followee_name text        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (follower_id, followee_id),
    CHECK (follower_id <> followee_id)
);

-- The count of a user's followers is the sum of this shard's and all others'.
CREATE INDEX follows_of_followee ON follows (followee_id);
