-- The clock behind all ids of this database: unique, strictly increasing per shard, never waiting for anybody.
-- Run in every instance's database by the owner; running it again changes nothing. Numbers are put for
-- :epoch_ms, :shard_bits and :sequence_bits by src/id/sql.rs.
--
-- A tick is milliseconds since the layout's epoch << sequence_bits | sequence. A shard keeps its tick as the sum
-- of two sequences:
--
--   howdah_tick    only ever drawn from, with nextval
--   howdah_jumps   how many ticks were jumped over in all, to keep up with the clock; only ever raised
--
-- The rule: read jumps, draw, read jumps again. The sum is issued if both readings are equal.
--
-- Why no tick is issued twice, and each is later than all that were issued before it was asked for: jumps never
-- falls, so equal readings mean that it had this value at the moment of the draw. Whatever is issued is thus the sum
-- of both sequences at one moment, and of two such moments the later has drawn more and jumped no less. The
-- server's clock has no part in this: it may step anywhere. Nor has a caller that stops half-way, as drawing
-- and raising are one step each.
--
-- And jumps never falls, as only jump() sets it: one caller at a time, and to more than it read while alone.
-- tests/clock_model.rs checks the argument under every interleaving.

CREATE SCHEMA IF NOT EXISTS howdah;
GRANT USAGE ON SCHEMA howdah TO howdah_app;

-- What the server's clock says, in seconds since 1970, to the microsecond: the one place where ids meet the time. Like all
-- functions below that are one expression, the planner puts it in place of its call.
CREATE OR REPLACE FUNCTION howdah.clock() RETURNS double precision LANGUAGE sql VOLATILE
RETURN date_part('epoch', clock_timestamp());

-- The same as a tick, of which the sequence is 0. floor, because the cast alone would round up to a millisecond that
-- has not come.
CREATE OR REPLACE FUNCTION howdah.clock_tick() RETURNS bigint LANGUAGE sql VOLATILE
RETURN (floor(howdah.clock() * 1000.0)::bigint - :epoch_ms) << :sequence_bits;

-- How far a shard's ids are ahead of the server's clock, in milliseconds; negative while it is idle. A burst gets
-- to a second; more than ten mean that the clock was set back.
CREATE OR REPLACE FUNCTION howdah.clock_lead_ms(tick regclass, jumps regclass) RETURNS bigint LANGUAGE sql VOLATILE
RETURN (pg_sequence_last_value(tick) + pg_sequence_last_value(jumps) - howdah.clock_tick()) >> :sequence_bits;

-- Starts a shard's clock at the server's time, if it was never started.
CREATE OR REPLACE FUNCTION howdah.start_clock(jumps regclass) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1752135524, jumps::oid::int);
  IF pg_sequence_last_value(jumps) IS NULL THEN
    PERFORM setval(jumps, howdah.clock_tick());
  END IF;
END $$;

-- Brings a shard's clock up to the server's. Whoever comes while another is at it goes on without: lagging a
-- little costs accuracy, not safety.
--
-- Runs with its owner's rights, so that applications need none to set a sequence. Since it is then able to set any
-- sequence of that owner, it makes sure that it was given a clock. By name, as looking into the catalog takes longer
-- than all the rest.
CREATE OR REPLACE FUNCTION howdah.jump(tick regclass, jumps regclass) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  behind bigint;
BEGIN
  -- A transaction's lock would be kept to its end, and a session's would leak when the caller is cancelled. So
  -- the block always ends in an exception: rolling back frees the lock, and sequences are not rolled back.
  BEGIN
    -- The first key reads "howd" in ASCII. Applications share the space of keys; all with this one are howdah's.
    IF pg_try_advisory_xact_lock(1752135524, jumps::oid::int) THEN
      behind := howdah.clock_tick() - pg_sequence_last_value(tick) - pg_sequence_last_value(jumps);
      IF behind > 0 THEN
        IF left(jumps::text, -12) || 'howdah_tick' <> tick::text OR right(jumps::text, 13) <> '.howdah_jumps' THEN
          RAISE '% and % are not the clock of a shard', tick, jumps USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM setval(jumps, pg_sequence_last_value(jumps) + behind);
      END IF;
    END IF;
    RAISE SQLSTATE 'HW001';
  EXCEPTION WHEN SQLSTATE 'HW001' THEN
    NULL;
  END;
END $$;

-- The id at a tick of the shard whose id at tick 0 is base: the time moves up by the bits of the shard. Past the
-- layout's end the sum is out of range, which is an error.
CREATE OR REPLACE FUNCTION howdah.id_at(tick bigint, base bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN tick + (tick >> :sequence_bits) * (((1 << :shard_bits) - 1)::bigint << :sequence_bits) + base;

-- The next id where the clock is off: first it is brought up to the time, or waited for.
CREATE OR REPLACE FUNCTION howdah.next_id_settled(tick regclass, jumps regclass, base bigint) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
  lead bigint;
  before bigint;
  n bigint;
BEGIN
  LOOP
    lead := pg_sequence_last_value(tick) + pg_sequence_last_value(jumps) - howdah.clock_tick();
    IF lead IS NULL THEN
      RAISE 'the clock % was not started, or the role has no right to read it', jumps
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'A dump of the schema alone leaves it so; run howdah init again.';
    ELSIF lead < 0 THEN
      PERFORM howdah.jump(tick, jumps);
    ELSIF lead BETWEEN 1000::bigint << :sequence_bits AND 10000::bigint << :sequence_bits THEN
      -- A burst waits for the clock, so none gets further than this. Who is further ahead has seen the clock set
      -- back; waiting would take too long, and goes on from where it was.
      PERFORM pg_sleep(0.001);
    END IF;

    before := pg_sequence_last_value(jumps);
    n := nextval(tick) + before;
    IF n >= 1::bigint << (63 - :shard_bits) THEN
      RAISE 'the layout of the ids has ended' USING ERRCODE = 'numeric_value_out_of_range';
    ELSIF before = pg_sequence_last_value(jumps) THEN
      RETURN howdah.id_at(n, base);
    END IF;
  END LOOP;
END $$;

-- The next id of the shard whose id at tick 0 is base. PostgreSQL makes its expressions anew in every transaction, so each
-- operator counts: without them a single insert would take half as long again.
CREATE OR REPLACE FUNCTION howdah.next_id(tick regclass, jumps regclass, base bigint) RETURNS bigint LANGUAGE plpgsql
AS $$
DECLARE
  before bigint;
  n bigint;
BEGIN
  before := pg_sequence_last_value(jumps);
  n := nextval(tick) + before;
  -- Accurate is from 4 milliseconds behind the clock, so that a busy shard need not jump in each of them, to a
  -- second ahead of it: at most 502 from the middle, which is 498 ahead.
  RETURN CASE
    WHEN before = pg_sequence_last_value(jumps)
     AND abs(n - howdah.clock() * (1000.0 * (1 << :sequence_bits)) + (:epoch_ms - 498.0) * (1 << :sequence_bits))
         <= 502.0 * (1 << :sequence_bits)
    THEN howdah.id_at(n, base)
    ELSE howdah.next_id_settled(tick, jumps, base)
  END;
END $$;

REVOKE EXECUTE ON FUNCTION howdah.start_clock(regclass), howdah.jump(regclass, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  howdah.clock(), howdah.clock_tick(), howdah.clock_lead_ms(regclass, regclass), howdah.id_at(bigint, bigint),
  howdah.jump(regclass, regclass),
  howdah.next_id_settled(regclass, regclass, bigint), howdah.next_id(regclass, regclass, bigint)
TO howdah_app;
