-- The clock behind all ids of this database: unique, strictly increasing per shard, at the pace of a sequence.
-- Run in every instance's database by the owner; running it again changes nothing. Numbers are put for
-- :epoch_ms, :shard_bits and :sequence_bits by src/id/sql.rs.
--
-- A block is the ids of one millisecond of one shard: all that differ in their last :sequence_bits bits alone. Its number is
-- what they have in common. A shard's clock is two sequences:
--
--   howdah_id      the ids themselves; drawn from with nextval, and set to where a block begins
--   howdah_block   the number of the block that is open
--
-- The rule: read which block is open, then draw. The id is issued unless it lies beyond that block.
--
-- To open a block, one caller at a time sets howdah_id to where a later block begins than the one that is open, and then
-- howdah_block to its number.
--
-- Why no id is issued twice, and each is greater than all that were issued before it was asked for:
--
-- 1. howdah_block only rises, as whoever opens is alone, and goes beyond what he then reads.
-- 2. So howdah_id leaves the open block only forwards: at its end, or to the beginning of a later one. What is drawn from a
--    block while it is open is drawn once, and in order; and from earlier ones nothing is drawn any more.
-- 3. What is drawn from a block before it was opened is not issued: its caller had read howdah_block before the draw, thus
--    an earlier block, and it lies beyond. Such draws may even be repeated; nobody gets them.
--    (A session must not draw in advance either: CACHE stays 1.)
--
-- The server's clock has no part in this: it may step anywhere. Nor has a caller that stops half-way: between the two
-- settings nothing is issued, and whoever comes next opens another block. tests/clock_model.rs checks the argument under
-- every interleaving.

CREATE SCHEMA IF NOT EXISTS howdah;
GRANT USAGE ON SCHEMA howdah TO howdah_app;

-- What the server's clock says: the one place where ids meet the time. Like all functions below that are one expression, the
-- planner puts it in place of its call.
CREATE OR REPLACE FUNCTION howdah.clock() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN clock_timestamp();

-- The same in milliseconds since the layout's epoch. floor, because the cast alone would round up to one that has not come.
CREATE OR REPLACE FUNCTION howdah.clock_ms() RETURNS bigint LANGUAGE sql VOLATILE
RETURN floor(date_part('epoch', howdah.clock()) * 1000.0)::bigint - :epoch_ms;

-- How far a shard's open block is ahead of the server's clock, in milliseconds; negative while it is idle. A burst gets
-- to a second; more than ten mean that the clock was set back.
CREATE OR REPLACE FUNCTION howdah.clock_lead_ms(block regclass) RETURNS bigint LANGUAGE sql VOLATILE
RETURN (pg_sequence_last_value(block) >> :shard_bits) - howdah.clock_ms();

-- Starts a shard's clock at the server's time, if it was never started.
CREATE OR REPLACE FUNCTION howdah.start_clock(id regclass, block regclass, shard bigint) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
  opened bigint := (howdah.clock_ms() << :shard_bits) | shard;
BEGIN
  -- The lock is kept to the transaction's end, so not where there is nothing to do.
  IF pg_sequence_last_value(block) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock(1752135524, block::oid::int);
  IF pg_sequence_last_value(block) IS NULL THEN
    PERFORM setval(id, opened << :sequence_bits, false);
    PERFORM setval(block, opened);
  END IF;
END $$;

-- Opens a shard's next block, at the server's time if that is later, unless the open one is of the present and
-- was not drawn past its end.
-- Where another is at it: waits for him if told to, or else leaves it to him.
--
-- Runs with its owner's rights, so that applications need none to set a sequence. Since it is then able to set any
-- sequence of that owner, it makes sure that it was given a clock. By name, as looking into the catalog takes longer
-- than all the rest.
CREATE OR REPLACE FUNCTION howdah.open_block(id regclass, block regclass, wait boolean) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  opened bigint;
  ms bigint;
BEGIN
  -- A transaction's lock would be kept to its end, and a session's would leak when the caller is cancelled. So
  -- the block always ends in an exception: rolling back frees the lock, and sequences are not rolled back.
  BEGIN
    -- The first key reads "howd" in ASCII. Applications share the space of keys; all with this one are howdah's.
    IF NOT pg_try_advisory_xact_lock(1752135524, block::oid::int) THEN
      IF NOT wait THEN
        RAISE SQLSTATE 'HW001';
      END IF;
      PERFORM pg_advisory_xact_lock(1752135524, block::oid::int);
    END IF;
    opened := pg_sequence_last_value(block);
    ms := howdah.clock_ms();
    -- An id that was not drawn yet is NULL: the block is new, and full.
    IF opened >> :shard_bits <= ms - 4 OR pg_sequence_last_value(id) >> :sequence_bits <> opened THEN
      IF left(block::text, -12) || 'howdah_id' <> id::text OR right(block::text, 13) <> '.howdah_block' THEN
        RAISE '% and % are not the clock of a shard', id, block USING ERRCODE = 'invalid_parameter_value';
      END IF;
      -- The sequence of a copy that is not the home is ended, and says so here: it is not to be set back.
      PERFORM nextval(id);
      -- A burst waits for the clock, here so that all who take part do: none gets further than this. Who is further ahead has
      -- seen the clock set back; waiting would take too long, and goes on from where it was.
      IF (opened >> :shard_bits) - ms BETWEEN 1000 AND 10000 THEN
        PERFORM pg_sleep(0.001);
      END IF;
      ms := greatest((opened >> :shard_bits) + 1, ms);
      -- The layout's last millisecond is left out, as the greatest number is the end of any sequence.
      IF ms >= (1::bigint << (63 - :shard_bits - :sequence_bits)) - 1 THEN
        RAISE 'the layout of the ids has ended' USING ERRCODE = 'numeric_value_out_of_range';
      END IF;
      opened := (ms << :shard_bits) | (opened & ((1 << :shard_bits) - 1));
      PERFORM setval(id, opened << :sequence_bits, false);
      PERFORM setval(block, opened);
    END IF;
    RAISE SQLSTATE 'HW001';
  EXCEPTION WHEN SQLSTATE 'HW001' THEN
    NULL;
  END;
END $$;

-- The next id after one was drawn that will not do: first the next block is opened. Where it would do but for its time, nobody
-- is waited for, as lagging a little costs accuracy, not safety.
CREATE OR REPLACE FUNCTION howdah.next_id_settled(id regclass, block regclass) RETURNS bigint LANGUAGE plpgsql
AS $$
DECLARE
  opened bigint := pg_sequence_last_value(block);
  drawn bigint := currval(id);
BEGIN
  LOOP
    IF opened IS NULL THEN
      RAISE 'the clock % was not started, or the role has no right to read it', block
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'A dump of the schema alone leaves it so; run howdah init again.';
    END IF;
    PERFORM howdah.open_block(id, block, wait => drawn >> :sequence_bits <> opened);

    opened := pg_sequence_last_value(block);
    drawn := nextval(id);
    IF drawn >> :sequence_bits = opened THEN
      RETURN drawn;
    END IF;
  END LOOP;
END $$;

-- How far behind the clock an id's time may be, and how long after 1970 the layout's epoch is, as a number of blocks. 4
-- milliseconds, so that a busy shard need not open a block in each of them; and a few more in some sessions than in others, so
-- that not all come to open it at once.
--
-- It differs between sessions, but a plan is one session's: for the planner it is a constant, and costs nothing.
CREATE OR REPLACE FUNCTION howdah.allowance() RETURNS double precision LANGUAGE sql IMMUTABLE
RETURN (:epoch_ms + 4 + (pg_backend_pid() & 7)) * (1 << :shard_bits)::double precision;

-- The number of the oldest block that is of the present, whichever shard's.
CREATE OR REPLACE FUNCTION howdah.oldest_block() RETURNS bigint LANGUAGE sql VOLATILE
RETURN (date_part('epoch', howdah.clock()) * (1000 * (1 << :shard_bits))::double precision - howdah.allowance())::bigint;

-- The next id of a shard: the rule, and that the id's time is of the present, which are one comparison. The open block is the
-- greater of the block that was drawn from and of the oldest one that will do: so neither lies beyond it.
--
-- CASE reads the block before it draws, and currval is what this session has drawn. One expression of few calls, for what
-- PostgreSQL has to call or to make anew in every transaction counts: each takes up to 2,000 instructions, and in PL/pgSQL the
-- whole takes twice as long.
CREATE OR REPLACE FUNCTION howdah.next_id(id regclass, block regclass) RETURNS bigint LANGUAGE sql VOLATILE
RETURN CASE pg_sequence_last_value(block)
  WHEN greatest(nextval(id) >> :sequence_bits, howdah.oldest_block()) THEN currval(id)
  ELSE howdah.next_id_settled(id, block)
END;

REVOKE EXECUTE ON FUNCTION
  howdah.start_clock(regclass, regclass, bigint), howdah.open_block(regclass, regclass, boolean)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  howdah.clock(), howdah.clock_ms(), howdah.clock_lead_ms(regclass),
  howdah.open_block(regclass, regclass, boolean),
  howdah.next_id_settled(regclass, regclass), howdah.allowance(), howdah.oldest_block(),
  howdah.next_id(regclass, regclass)
TO howdah_app;
