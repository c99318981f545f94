-- What users give each other; see two_phase_commit.rs.
ALTER TABLE users ADD COLUMN points bigint NOT NULL DEFAULT 100 CHECK (points >= 0);

-- Who has which address; a row lives on the shard of the address, wherever its user does. See unique_claim.rs.
CREATE TABLE emails (
    value text   PRIMARY KEY,
    owner bigint NOT NULL
);
