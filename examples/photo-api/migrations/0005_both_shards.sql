-- The other half of follows, on the followed user's shard: it tells whether two follow each other without asking anybody
-- else. Both halves are written in one transaction over shards.
CREATE TABLE followers (
    followee_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    follower_id bigint NOT NULL,
    PRIMARY KEY (followee_id, follower_id)
);

-- Whose address is whose. A row lives on the shard of the address, so that its key is the whole cluster's; it is
-- written with its user, who lives on the shard of the name.
CREATE TABLE emails (
    value text   PRIMARY KEY,
    owner bigint NOT NULL
);
