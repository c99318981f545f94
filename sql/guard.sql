-- What a copy of a shard that is not its home answers to a write: a state that clients take for a stale home. Replication
-- alone writes to a copy; its workers run as a replica, for which ordinary triggers do not fire. One for each
-- instance; the triggers that call it are made with the copies.
CREATE OR REPLACE FUNCTION howdah.guard() RETURNS trigger LANGUAGE plpgsql
AS $$
BEGIN
  RAISE 'this copy of % is not its home', TG_TABLE_SCHEMA USING ERRCODE = 'HW002';
END $$;

GRANT EXECUTE ON FUNCTION howdah.guard() TO howdah_app;
