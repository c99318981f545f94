-- Files that no photo names: not yet, because they are being uploaded, or not any more. The store has no transactions, so a
-- file is noted here before it is stored and until its photo's row is committed, and again with that row's removal.
CREATE TABLE discarded_files (
    file text        PRIMARY KEY,
    -- From then on it belongs to nobody. Until then an upload may still name it.
    due  timestamptz NOT NULL DEFAULT now()
);
