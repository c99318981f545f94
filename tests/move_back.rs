//! A way back that cannot be gone is refused with nothing changed, and the move can be ended all the same.
#![cfg(test)]

mod moving;

use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{
    Error, InstanceName, MoveId, MoveNews, MovePhase, MoveStep, Mover, Result, ShardId, Statement,
};
use moving::fault::{Command, Point, Standing};
use moving::{cluster_with_tables, leftovers, leftovers_on, schemas, shard};

/// A row of which nobody writes anything.
const ADD: Statement = Statement::new("INSERT INTO {shard}.users (id) VALUES (101)");
const REMOVE: Statement = Statement::new("DELETE FROM {shard}.users WHERE id = 101");
/// On the old copy, around its guard and the stream.
const SPOIL: &str = "SET session_replication_role = replica; \
    UPDATE shard_0001_e2.users SET n = n + 1000 WHERE id = 101";

/// A way back dies at a step.
async fn die_on_the_way_back(test: &TestCluster, id: MoveId, at: MoveStep) -> Result<()> {
    let dying = Mover::new(&test.config())?.on_event(move |event| {
        let is_there = event.back && event.step == at && matches!(event.what, MoveNews::Done);
        assert!(!is_there, "died as it should");
    });
    assert!(tokio::spawn(async move { dying.rollback(id).await }).await.is_err());
    Ok(())
}

fn assert_refused(error: &Error, reason: &str) {
    assert!(error.is_refused(), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(reason) && said.contains("howdah moves finish m1"), "{said}");
}

#[tokio::test]
async fn copies_that_differ_keep_the_shard_where_it_is_until_the_move_is_finished() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let cluster = test.cluster().await?;
    cluster.shard(shard())?.execute(&ADD, &[]).await?;
    let mover = Mover::new(&test.config())?;
    let id = mover.run(shard(), &InstanceName::new("pg1")?).await?.id;
    test.admin("pg2").await?.batch_execute(SPOIL).await.unwrap();

    assert_refused(&mover.rollback(id).await.unwrap_err(), "users: row id 101 differs in n");
    // It is what it was: it can be looked at, and moved on from.
    assert_eq!(mover.resume(id).await?.phase, MovePhase::Reversible);
    assert_refused(&mover.rollback(id).await.unwrap_err(), "users: row id 101 differs in n");
    assert_eq!(mover.finish(id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e2"]);
    Ok(())
}

#[tokio::test]
async fn a_way_back_that_was_begun_is_given_up_as_long_as_the_shard_has_not_left() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let cluster = test.cluster().await?;
    cluster.shard(shard())?.execute(&ADD, &[]).await?;
    let mover = Mover::new(&test.config())?;
    let id = mover.run(shard(), &InstanceName::new("pg1")?).await?.id;
    // The old copy has its new name already; the home is not closed.
    die_on_the_way_back(&test, id, MoveStep::RecheckTimelines).await?;
    let there = schemas(&test).await?;
    assert_eq!(there, ["pg1 shard_0001_e2", "pg2 shard_0001_e3"]);
    assert!(mover.abort(id).await.unwrap_err().to_string().contains("finish"));

    assert_eq!(mover.finish(id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e2"]);
    assert_eq!(cluster.shard(shard())?.execute(&REMOVE, &[]).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_is_there_once_it_runs() -> Result<()> {
    const HOLD: &str = "BEGIN; LOCK TABLE shard_0001_e2.howdah_move IN SHARE MODE";
    const WAITS: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted \
        AND relation = to_regclass('shard_0001_e2.howdah_move'))";

    let test = cluster_with_tables()?.start().await?;
    let starting = Point::there(MoveStep::StartReverse);
    let command = Command::Go(InstanceName::new("pg1")?);
    let standing = Standing::at(starting, &test.config(), &command).await?;
    let [holder, looker] = [test.admin("pg2").await?, test.admin("pg2").await?];
    holder.batch_execute(HOLD).await.unwrap();
    standing.go();
    let waits = async || looker.query_one(WAITS, &[]).await.unwrap().get::<_, bool>(0);
    until("the old copy cannot follow", waits).await;
    let mover = Mover::new(&test.config())?;
    let open = mover.open_move(shard()).await?.unwrap();
    assert_eq!((open.phase, open.step), (MovePhase::Fence, MoveStep::StartReverse));
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(standing.end().await?.phase, MovePhase::Reversible);
    Ok(())
}

#[tokio::test]
async fn a_shard_that_has_left_again_is_not_finished_there() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let id = mover.run(shard(), &InstanceName::new("pg1")?).await?.id;
    die_on_the_way_back(&test, id, MoveStep::CloseSource).await?;
    let error = mover.finish(id).await.unwrap_err();
    assert!(
        error.is_refused() && error.to_string().contains("does not live on pg1 any more"),
        "{error}"
    );
    assert_eq!(mover.resume(id).await?.phase, MovePhase::RolledBack);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_of_the_new_home_there_is_no_way_back_but_an_end() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let mover = Mover::new(&test.config())?;
    // From the instance with the catalog to the other one, which fails over.
    let (shard, to) = (ShardId::new(0)?, InstanceName::new("pg2")?);
    let id = mover.run(shard, &to).await?.id;
    follow(&test).await;
    test.kill("pg2").await?;
    test.promote("pg2-r1").await?;

    assert_refused(&mover.rollback(id).await.unwrap_err(), "failed over since the move");
    assert_eq!(mover.show(id).await?.phase, MovePhase::Reversible);
    assert_eq!(mover.finish(id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers_on(&test, ["pg1", "pg2-r1"]).await?, Vec::<String>::new());
    let cluster = test.cluster().await?;
    assert_eq!(*cluster.shard(shard)?.home()?.instance(), to);
    cluster.shard(shard)?.execute(&ADD, &[]).await?;
    Ok(())
}

/// Until the standby of pg2 has everything.
async fn follow(test: &TestCluster) {
    let primary = test.admin("pg2").await.unwrap();
    let standby = test.admin("pg2-r1").await.unwrap();
    let at = primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let at: String = at.get(0);
    let patience = Instant::now() + Duration::from_secs(60);
    let has = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    while !standby.query_one(has, &[&at]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < patience, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
