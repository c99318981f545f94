-- What stays where the catalog was: one row that says where it is now. A copy that is not the catalog yet has one too, and
-- that leads back to the catalog. So a database with a signpost takes no changes, and one without it does.
CREATE TABLE howdah.signpost (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- NULL: a database that is no instance's.
    instance    text,
    -- How applications reach it.
    dsn         text    NOT NULL,
    -- What the map had come to. It only rises on the way from one signpost to the next, so that nobody is led in a circle.
    map_version bigint  NOT NULL,
    -- The attempt that made it: the same on a copy and on the signpost that leads to it.
    mark        uuid    NOT NULL
);

GRANT SELECT ON howdah.signpost TO howdah_app, howdah_mover;

-- Whoever still writes here, or was waiting to, learns it from the server, whatever program it is.
CREATE OR REPLACE FUNCTION howdah.refuse_elsewhere() RETURNS trigger LANGUAGE plpgsql
AS $$
DECLARE
  place text;
BEGIN
  IF to_regclass('howdah.signpost') IS NOT NULL THEN
    SELECT coalesce(instance, dsn) INTO place FROM howdah.signpost;
    RAISE 'the catalog is not here but at %', place USING ERRCODE = 'HW003';
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.cluster
    EXECUTE FUNCTION howdah.refuse_elsewhere();
CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.instance
    EXECUTE FUNCTION howdah.refuse_elsewhere();
CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.home
    EXECUTE FUNCTION howdah.refuse_elsewhere();
CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.move
    EXECUTE FUNCTION howdah.refuse_elsewhere();
CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.move_step
    EXECUTE FUNCTION howdah.refuse_elsewhere();
CREATE OR REPLACE TRIGGER howdah_elsewhere BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON howdah.move_verified
    EXECUTE FUNCTION howdah.refuse_elsewhere();
