//! What cannot be moved is refused before anything is touched, all reasons at once; and moves and migrations keep out of
//! each other's way.
#![cfg(test)]

mod moving;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{InstanceName, Migrations, MoveNews, MovePhase, MoveStep, Mover, Result, ShardId};
use moving::{TABLES, cluster_with_tables, leftovers, schemas, shard};

fn pg(number: u8) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

#[tokio::test]
async fn everything_in_the_way_is_named_at_once_and_nothing_is_touched() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let owner = test.servers().client("pg2", "howdah_owner").await?;
    owner
        .batch_execute(
            "SET search_path = shard_0001_e1;
             CREATE TABLE keyless (a int);
             CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
             CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
             CREATE TABLE files (id int PRIMARY KEY, content oid);
             CREATE TABLE family (id int PRIMARY KEY);
             CREATE TABLE whole (id int PRIMARY KEY);
             ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE loud (id int PRIMARY KEY);
             CREATE TRIGGER always BEFORE UPDATE ON loud FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
             ALTER TABLE loud ENABLE ALWAYS TRIGGER always;
             CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
             CREATE SCHEMA elsewhere;
             CREATE TABLE elsewhere.parents (id int PRIMARY KEY);
             CREATE TABLE children (id int PRIMARY KEY REFERENCES elsewhere.parents);
             CREATE TABLE heirs (id int PRIMARY KEY) INHERITS (elsewhere.parents);
             CREATE VIEW looks_out AS SELECT id FROM elsewhere.parents;
             CREATE VIEW elsewhere.looks_in AS SELECT id FROM family;
             CREATE TABLE elsewhere.refers (id int REFERENCES family);
             CREATE FUNCTION elsewhere.writes() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM family; END;",
        )
        .await
        .unwrap();
    let before = leftovers(&test).await?;
    let error = Mover::new(&test.config())?.run(shard(), &pg(1)).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    let message = error.to_string();
    for reason in [
        "keyless has no primary key",
        "late has a primary key that is deferrable, and so no replica identity",
        "fleeting is unlogged",
        "files has the column content of type oid",
        "whole has a replica identity",
        "trigger always of loud fires for replication too",
        "materialized view kept cannot be replicated",
        "constraint children_id_fkey on table shard_0001_e1.children depends on table elsewhere.parents",
        "table shard_0001_e1.heirs depends on table elsewhere.parents",
        "on view shard_0001_e1.looks_out depends on table elsewhere.parents",
        "on view elsewhere.looks_in depends on table shard_0001_e1.family",
        "constraint refers_id_fkey on table elsewhere.refers depends on",
        "function elsewhere.writes() depends on table shard_0001_e1.family",
    ] {
        assert!(message.contains(reason), "{reason}: {message}");
    }
    assert_eq!(leftovers(&test).await?, before);
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    assert!(Mover::new(&test.config())?.list().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn whatever_is_bound_over_the_border_and_what_the_target_lacks_is_named() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let admin = test.admin("pg2").await?;
    admin.batch_execute("CREATE EXTENSION citext").await.unwrap();
    let owner = test.servers().client("pg2", "howdah_owner").await?;
    owner
        .batch_execute(
            "CREATE SCHEMA elsewhere;
             CREATE SEQUENCE elsewhere.numbers;
             CREATE TABLE elsewhere.whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE elsewhere.noted (id int);
             SET search_path = shard_0001_e1, public;
             CREATE TABLE names (name citext PRIMARY KEY);
             CREATE TABLE family (id int PRIMARY KEY);
             CREATE TABLE numbered (id int PRIMARY KEY DEFAULT nextval('elsewhere.numbers'));
             CREATE TABLE part PARTITION OF elsewhere.whole FOR VALUES FROM (1) TO (2);
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE elsewhere.part PARTITION OF parted FOR VALUES FROM (1) TO (2);
             CREATE TABLE elsewhere.heirs () INHERITS (family);
             CREATE RULE notes AS ON INSERT TO family DO ALSO INSERT INTO elsewhere.noted VALUES (1);
             CREATE RULE writes AS ON INSERT TO elsewhere.noted DO ALSO DELETE FROM family;
             CREATE FUNCTION looks_out() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM elsewhere.noted; END;",
        )
        .await
        .unwrap();
    // As if it had been made with a server that is there.
    admin
        .batch_execute(
            "CREATE SUBSCRIPTION foreign_writer CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false);
             SET allow_system_table_mods = on;
             INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)
             SELECT oid, 'shard_0001_e1.family'::regclass, 'r' FROM pg_subscription WHERE subname = 'foreign_writer'",
        )
        .await
        .unwrap();
    let refused = Mover::new(&test.config())?.run(shard(), &pg(1)).await;
    admin.batch_execute("ALTER SUBSCRIPTION foreign_writer SET (slot_name = NONE)").await.unwrap();
    admin.batch_execute("DROP SUBSCRIPTION foreign_writer").await.unwrap();
    let error = refused.unwrap_err();
    assert!(error.is_refused(), "{error}");
    let message = error.to_string();
    for reason in [
        "pg1 lacks the extension citext",
        "the subscription foreign_writer writes into table family",
        "default value for column id of table shard_0001_e1.numbered depends on sequence elsewhere.numbers",
        "table shard_0001_e1.part depends on table elsewhere.whole",
        "table elsewhere.part depends on table shard_0001_e1.parted",
        "table elsewhere.heirs depends on table shard_0001_e1.family",
        "rule notes on table shard_0001_e1.family depends on table elsewhere.noted",
        "rule writes on table elsewhere.noted depends on table shard_0001_e1.family",
        "function shard_0001_e1.looks_out() depends on table elsewhere.noted",
    ] {
        assert!(message.contains(reason), "{reason}: {message}");
    }
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_away_or_another_one_takes_no_shard() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let other = TestCluster::builder().shards(1).start().await?;
    let mover = Mover::new(&test.config())?;
    let catalog = test.admin("pg1").await?;
    let enter = async |dsn: &str| {
        let enter = "INSERT INTO howdah.instance (name, dsn) VALUES ('pg3', $1) ON CONFLICT (name) DO UPDATE SET dsn = $1";
        catalog.execute(enter, &[&dsn]).await.unwrap();
    };
    enter("postgres://howdah_app@127.0.0.1:1/nowhere").await;
    let error = mover.run(shard(), &pg(3)).await.unwrap_err();
    assert!(error.is_unavailable() && error.instance() == Some("pg3"), "{error:?}");
    for another in
        [other.servers().dsn("pg1", "howdah_app")?, test.servers().dsn("pg2", "howdah_app")?]
    {
        enter(&another).await;
        let error = mover.run(shard(), &pg(3)).await.unwrap_err();
        assert!(error.is_wrong_server(), "{error:?}");
    }
    assert!(mover.list().await?.is_empty());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_shard_moves_neither_onto_itself_nor_to_nowhere() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let mover = Mover::new(&test.config())?;
    let error = mover.run(shard(), &pg(2)).await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("lives on pg2 already"),
        "{error}"
    );
    let error = mover.run(shard(), &pg(9)).await.unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("no instance pg9"), "{error}");
    let error = mover.run(ShardId::new(2)?, &pg(1)).await.unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("no shard 2"), "{error}");
    let admin = test.admin("pg1").await?;
    admin.batch_execute("UPDATE howdah.instance SET state = 'draining'").await.unwrap();
    let error = mover.run(shard(), &pg(1)).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("draining"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_schema_that_is_in_the_way_on_the_target_is_left_alone() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let owner = test.servers().client("pg1", "howdah_owner").await?;
    owner
        .batch_execute("CREATE SCHEMA shard_0001_e1; CREATE TABLE shard_0001_e1.t ()")
        .await
        .unwrap();
    let error = Mover::new(&test.config())?.run(shard(), &pg(1)).await.unwrap_err();
    assert!(
        error.is_refused() && error.to_string().contains("has a schema of shard 1 already"),
        "{error}"
    );
    assert!(error.to_string().contains("`howdah moves list`"), "{error}");
    owner.batch_execute("TABLE shard_0001_e1.t").await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_migration_waits_for_the_end_of_a_move_and_a_move_for_the_end_of_a_migration()
-> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let moved = mover.run(shard(), &pg(1)).await?;
    assert_eq!(moved.phase, MovePhase::Reversible);

    let more = "CREATE TABLE more (id int PRIMARY KEY)";
    let more = Migrations::new([("0001_tables.sql", TABLES), ("0002_more.sql", more)])?;
    let config = test.config();
    let report = more.up(&config, 1, |_| {}).await?;
    let refused: Vec<_> = report.failed().collect();
    assert_eq!(refused.len(), 1);
    let error = refused[0].error().unwrap();
    assert!(error.is_refused() && error.to_string().contains("moves finish 1"), "{error}");
    mover.finish(moved.id).await?;
    assert_eq!(more.up(&config, 1, |_| {}).await?.failed().count(), 0);

    // Whoever changes the shard holds its lock, as a migration does.
    let owner = test.servers().client("pg1", "howdah_owner").await?;
    owner.batch_execute("SELECT pg_advisory_lock(1752135524, 1)").await.unwrap();
    let (asked, locked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tell = (asked.clone(), locked.clone());
    let mover = mover.on_event(move |event| match (event.step, &event.what) {
        (MoveStep::LockServers, MoveNews::Begun) => tell.0.store(true, Ordering::Relaxed),
        (MoveStep::LockServers, MoveNews::Done) => tell.1.store(true, Ordering::Relaxed),
        _ => {}
    });
    let to = pg(2);
    let moving = mover.run(shard(), &to);
    tokio::pin!(moving);
    let waits = async {
        until("it asks for the lock", async || asked.load(Ordering::Relaxed)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    tokio::select! {
        moved = &mut moving => panic!("it did not wait for the lock: {moved:?}"),
        () = waits => assert!(!locked.load(Ordering::Relaxed), "somebody else holds it"),
    }
    owner.batch_execute("SELECT pg_advisory_unlock(1752135524, 1)").await.unwrap();
    let moved = moving.await?;
    mover.finish(moved.id).await?;
    Ok(())
}

#[tokio::test]
async fn a_transaction_in_doubt_keeps_its_shard_where_it_is() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let app = test.servers().client("pg2", "howdah_app").await?;
    let gid = format!("doubt:{}", test.servers().database());
    let prepare = format!(
        "BEGIN; INSERT INTO shard_0001_e1.howdah_decisions (committed) VALUES (true); PREPARE TRANSACTION '{gid}'"
    );
    app.batch_execute(&prepare).await.unwrap();
    let refused = Mover::new(&test.config())?.run(shard(), &pg(1)).await;
    app.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
    let error = refused.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("howdah tx recover"), "{error}");
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    Ok(())
}
