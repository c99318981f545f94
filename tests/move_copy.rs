//! What a copy is made of: everything in the schema, as its home has it; made anew where it cannot be gone on with; and for many
//! shards at once.
#![cfg(test)]

mod moving;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use howdah::testing::TestCluster;
use howdah::{InstanceName, Migrations, MoveEvent, MoveNews, MovePhase, MoveStep, Mover, Result};
use howdah::{ShardId, Statement};
use moving::{Load, cluster_with_tables, leftovers, shard};
use tokio::process::Command;

/// One of each kind that a schema may have, with names and bodies that look like a dump's own lines.
const ALL_SORTS: &str = r#"
    CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
    CREATE TYPE point3 AS (x int, y int, z int);
    CREATE TYPE mood AS ENUM ('fine', 'better');
    CREATE SEQUENCE numbers INCREMENT 5 START 15;
    CREATE TABLE a (
        id bigint PRIMARY KEY,
        "odd; Type: INDEX; Schema: nowhere; Owner: nobody" text COLLATE "C" DEFAULT 'x;y',
        share percent, place point3, mood mood, n bigint DEFAULT nextval('numbers'),
        twice bigint GENERATED ALWAYS AS (n * 2) STORED,
        EXCLUDE USING btree (n WITH =), UNIQUE (mood, n) DEFERRABLE INITIALLY DEFERRED
    ) WITH (fillfactor = 70);
    COMMENT ON TABLE a IS E'two\nlines';
    COMMENT ON COLUMN a.share IS 'a column';
    CREATE INDEX "by; Type: TABLE; Schema: x" ON a (lower("odd; Type: INDEX; Schema: nowhere; Owner: nobody")) WHERE n > 3;
    COMMENT ON INDEX "by; Type: TABLE; Schema: x" IS 'an index';
    ALTER TABLE a CLUSTER ON a_pkey;
    CREATE STATISTICS a_stats (dependencies) ON n, mood FROM a;
    ALTER TABLE a ALTER COLUMN n SET STATISTICS 77;
    CREATE TABLE b (a bigint REFERENCES a ON DELETE CASCADE DEFERRABLE, k text, PRIMARY KEY (a, k));
    ALTER TABLE b ADD CONSTRAINT later CHECK (k <> 'no') NOT VALID;
    ALTER TABLE b ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON b FOR SELECT TO howdah_app USING (k <> 'hidden');
    COMMENT ON POLICY own ON b IS 'a policy';
    CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
    CREATE INDEX parts_by_at ON parts (at);
    CREATE VIEW grouped AS SELECT id, n, count(*) FROM a GROUP BY id;
    CREATE VIEW names AS SELECT k FROM b;
    CREATE RULE quiet AS ON INSERT TO names DO INSTEAD NOTHING;
    CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
--
-- TOC entry 1 (class 1259 OID 1)
-- Name: a; Type: TABLE; Schema: nowhere; Owner: nobody
--
SET default_table_access_method = nothing;
        RETURN NEW; END $$;
    CREATE TRIGGER odd BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION odd();
    COMMENT ON TRIGGER odd ON a IS 'a trigger';
    ALTER TABLE a DISABLE TRIGGER odd;
    CREATE FUNCTION sum_of(b) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1.a';
    CREATE AGGREGATE total (bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0');
    CREATE PROCEDURE nothing() LANGUAGE sql AS '';
    GRANT SELECT (id, n), UPDATE (n) ON a TO howdah_app;
    DO $do$ BEGIN
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO howdah_mover', current_schema());
    END $do$;
    INSERT INTO a (id, "odd; Type: INDEX; Schema: nowhere; Owner: nobody", share, place, mood)
        SELECT i, E'tab\tnew\nline \\ ' || i, i % 100, format('(%s,2,)', i)::point3, 'better' FROM generate_series(1, 2000) i;
    INSERT INTO b SELECT id, NULLIF('k' || id, 'k7') || '' FROM a WHERE id <> 7;
    INSERT INTO parts SELECT i, '2026-12-01'::date + i FROM generate_series(1, 60) i;
"#;

fn pg(number: u16) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

/// A shard's schema as pg_dump writes it, rows included, without its name.
async fn dump(test: &TestCluster, instance: &str) -> Result<String> {
    let admin = test.admin(instance).await?;
    let program = test.servers().server(instance)?.bin_dir().join("pg_dump");
    let row = admin
        .query_one(
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'shard\\_0001\\_e%'",
            &[],
        )
        .await;
    let schema: String = row.unwrap().get(0);
    let dsn = test.servers().dsn(instance, "howdah_mover")?;
    let mut dump = Command::new(program);
    dump.args(["--dbname", &dsn, "--schema", &schema]);
    let output = dump.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap().replace(&schema, "{shard}");
    // A key that is drawn for each dump; values that the shard's clock has reached; who wrote it.
    let is_of_schema = |line: &&str| {
        !line.starts_with("\\restrict")
            && !line.starts_with("\\unrestrict")
            && !line.contains("setval")
    };
    Ok(text.lines().filter(is_of_schema).collect::<Vec<_>>().join("\n"))
}

async fn everything_arrives(from: u32, instances: [&str; 2]) -> Result<()> {
    let [home, other] = instances;
    let migrations = Migrations::new([("0001_all_sorts.sql", ALL_SORTS)])?;
    let test =
        TestCluster::builder().shards(2).postgres(from).migrations(migrations).start().await?;
    let before = dump(&test, home).await?;
    let mover = Mover::new(&test.config())?.reverse(false);
    mover.run(shard(), &InstanceName::new(other)?).await?;
    let after = dump(&test, other).await?;
    for (line, (was, is)) in before.lines().zip(after.lines()).enumerate() {
        assert_eq!(was, is, "line {line}");
    }
    assert_eq!(before.lines().count(), after.lines().count());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_a_schema_arrives() -> Result<()> {
    everything_arrives(15, ["pg2", "pg1"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_a_schema_arrives_on_18() -> Result<()> {
    everything_arrives(18, ["pg2", "pg1"]).await
}

/// What was dumped ahead is not what a shard is made of that was changed before its own turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_move_together_are_each_as_they_were_last() -> Result<()> {
    const CHANGED: Statement =
        Statement::new("SELECT added FROM {shard}.users WHERE id = 1 AND added = 7");

    let migrations = Migrations::new([("0001_tables.sql", moving::TABLES)])?;
    let test = TestCluster::builder().shards(8).migrations(migrations).start().await?;
    let shards = [1, 3, 5, 7].map(|number| ShardId::new(number).unwrap());
    let changed = Arc::new(AtomicBool::new(false));
    let admin = Arc::new(test.admin("pg2").await?);
    let (was_changed, runtime) = (changed.clone(), tokio::runtime::Handle::current());
    let mover = Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
        let is_first = event.shard == shards[0] && event.step == MoveStep::CopyRows;
        if is_first && matches!(event.what, MoveNews::Done) && !was_changed.swap(true, Ordering::Relaxed) {
            // As a migration does it, which would take the shards one after the other.
            let change = "ALTER TABLE shard_0007_e1.users ADD COLUMN added int NOT NULL DEFAULT 7; \
                INSERT INTO shard_0007_e1.howdah_migrations SELECT 2, 'added', checksum, applied_at \
                    FROM shard_0007_e1.howdah_migrations WHERE version = 1";
            let admin = admin.clone();
            let changing = async move { admin.batch_execute(change).await.unwrap() };
            tokio::task::block_in_place(|| runtime.block_on(changing));
        }
    });
    for (shard, moved) in mover.run_all(&shards, &pg(1), 1).await {
        assert_eq!(moved?.phase, MovePhase::Reversible, "{shard}");
    }
    assert!(changed.load(Ordering::Relaxed));
    let cluster = test.cluster().await?;
    assert!(cluster.shard(shards[3])?.query_opt(&CHANGED, &[]).await?.is_some());

    // Back, several at once, and to their rest.
    for (shard, moved) in mover.run_all(&shards, &pg(2), 3).await {
        assert_eq!(moved?.phase, MovePhase::Reversible, "{shard}");
    }
    for shard in shards {
        let open = mover.open_move(shard).await?.unwrap();
        mover.finish(open.id).await?;
        assert_eq!(cluster.shard(shard)?.home()?.instance(), &pg(2));
    }
    drop(mover);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// Without its slot nothing has kept what a copy lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lost_its_slot_is_made_anew() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 3).await?;
    let at = Arc::new(Mutex::new(MoveStep::Follow));
    let dying_at = at.clone();
    let mover = Arc::new(Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
        let is_there = event.step == *dying_at.lock().unwrap();
        assert!(!(is_there && matches!(event.what, MoveNews::Begun)), "died as it should");
    }));
    for step in [MoveStep::Follow, MoveStep::BuildIndexes, MoveStep::Verify] {
        *at.lock().unwrap() = step;
        let dying = mover.clone();
        assert!(tokio::spawn(async move { dying.run(shard(), &pg(1)).await }).await.is_err());
        let (source, target) = (test.admin("pg2").await?, test.admin("pg1").await?);
        let name: String = source
            .query_one("SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()", &[])
            .await
            .unwrap()
            .get(0);
        if step != MoveStep::Follow {
            target.batch_execute(&format!("ALTER SUBSCRIPTION {name} DISABLE")).await.unwrap();
        }
        load.go_on_for(std::time::Duration::from_millis(50)).await;
        let drop = "SELECT pg_drop_replication_slot($1) FROM pg_replication_slots \
            WHERE slot_name = $1 AND active_pid IS NULL";
        while source.query(drop, &[&name]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    let mover = Mover::new(&test.config())?;
    let moved = mover.run(shard(), &pg(1)).await?;
    mover.finish(moved.id).await?;
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// How far a copy has come is known by its subscription alone.
/// A move that died with its copy whole, before that is compared; and the name of the subscription.
async fn died_before_it_compared(test: &TestCluster) -> Result<String> {
    let dying = Mover::new(&test.config())?.on_event(|event: &MoveEvent| {
        assert!(event.step != MoveStep::Verify, "died as it should");
    });
    assert!(tokio::spawn(async move { dying.run(shard(), &pg(1)).await }).await.is_err());
    let name = "SELECT subname::text FROM pg_subscription JOIN pg_database d ON d.oid = subdbid \
        WHERE datname = current_database()";
    Ok(test.admin("pg1").await?.query_one(name, &[]).await.unwrap().get(0))
}

/// Goes on, and says whether rows were copied again.
async fn goes_on(test: &TestCluster, load: Load) -> Result<bool> {
    let was_copied = Arc::new(AtomicBool::new(false));
    let copied = was_copied.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
        copied.fetch_or(event.step == MoveStep::CopyRows, Ordering::Relaxed);
    });
    let moved = mover.run(shard(), &pg(1)).await?;
    mover.finish(moved.id).await?;
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(leftovers(test).await?, Vec::<String>::new());
    Ok(was_copied.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lost_its_subscription_is_made_anew() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 3).await?;
    let name = died_before_it_compared(&test).await?;
    let drop = format!(
        "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); \
         DROP SUBSCRIPTION {name}"
    );
    test.admin("pg1").await?.batch_execute(&drop).await.unwrap();
    assert!(goes_on(&test, load).await?, "nobody knew how far it had come");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_to_be_given_up_is_gone_on_with() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 3).await?;
    let name = died_before_it_compared(&test).await?;
    // As far as whoever gave it up came.
    let disable = format!("ALTER SUBSCRIPTION {name} DISABLE");
    test.admin("pg1").await?.batch_execute(&disable).await.unwrap();
    assert!(!goes_on(&test, load).await?, "it was whole");
    Ok(())
}

/// Whoever holds a table of the copy is met before anything was built: what is lost in a deadlock is no work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tables_are_locked_before_an_index_is_built() -> Result<()> {
    // What it holds, while it waits, that is not a lock of the first kind.
    const HELD: &str = "SELECT coalesce(array_agg(DISTINCT mode) FILTER (WHERE granted), '{}')::text[] \
        FROM pg_locks l JOIN pg_class c ON c.oid = relation \
        WHERE relnamespace = to_regnamespace('shard_0001_e1') AND relkind = 'r' AND pid = (SELECT pid FROM pg_locks \
            WHERE NOT granted AND relation = to_regclass('shard_0001_e1.users'))";

    let test = cluster_with_tables()?.start().await?;
    let held = Arc::new(test.admin("pg1").await?);
    let (holder, runtime) = (held.clone(), tokio::runtime::Handle::current());
    let mover = Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
        if event.step == MoveStep::BuildIndexes && matches!(event.what, MoveNews::Begun) {
            let hold = "BEGIN; LOCK TABLE shard_0001_e1.users IN ROW EXCLUSIVE MODE";
            let holding = holder.batch_execute(hold);
            tokio::task::block_in_place(|| runtime.block_on(holding)).unwrap();
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    let looking = test.admin("pg1").await?;
    let modes = howdah::testing::until("it waits for the table", async || {
        let modes: Vec<String> = looking.query_one(HELD, &[]).await.unwrap().get(0);
        (!modes.is_empty()).then_some(modes)
    })
    .await;
    assert_eq!(modes, ["ShareRowExclusiveLock"]);
    held.batch_execute("ROLLBACK").await.unwrap();
    moving.await.unwrap()?;
    Ok(())
}
