//! Reads by policy: a replica answers while it satisfies the policy, and the primary has the last word.
#![cfg(test)]

mod cutover;

use std::time::Duration;

use cutover::cut_over;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Migrations, Outcome, ReadFrom, Result, Shard, ShardId, Statement, Token};
use tokio::time::timeout;

const NOTES: &str = "CREATE TABLE notes (n bigint PRIMARY KEY);
    CREATE VIEW here AS SELECT pg_is_in_recovery() AS replica, count(*) FROM notes";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES ($1)");
const HERE: Statement = Statement::new("SELECT replica, count FROM {shard}.here");
const WITH_NEW_COLUMN: Statement = Statement::new("SELECT later FROM {shard}.notes");

const ANY: ReadFrom = ReadFrom::Replica { max_lag: Duration::MAX };

async fn one_instance_with_a_replica(postgres: u32) -> Result<(TestCluster, Shard)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().postgres(postgres).instances(1).replicas(1).shards(1);
    let test = builder.migrations(notes).start().await?;
    let shard = test.cluster().await?.shard(ShardId::new(0)?)?;
    shard.execute(&ADD, &[&0_i64]).await?;
    Ok((test, shard))
}

/// The same shard, for somebody who would wait for a server that hangs for as long as it takes.
async fn patient(test: &TestCluster, shard: &Shard) -> Result<Shard> {
    let minute = Duration::from_secs(60);
    let config = test.config().connect_timeout(minute).statement_timeout(minute);
    Cluster::connect(config).await?.shard(shard.id())
}

/// Whether a replica answered, and how many rows there were.
async fn here(shard: &Shard, from: ReadFrom) -> Result<(bool, i64)> {
    let row = shard.read(from).query_one(&HERE, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Reads from the replica until it has answered with so many rows.
async fn until_replica_has(shard: &Shard, count: i64) {
    until("the replica has it", async || {
        let seen = here(shard, ANY).await.unwrap();
        (seen == (true, count), seen)
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_falls_behind_is_left_and_taken_again() -> Result<()> {
    let (test, shard) = one_instance_with_a_replica(18).await?;
    let recent = || ReadFrom::Replica { max_lag: Duration::from_millis(400) };
    until_replica_has(&shard, 1).await;
    until("the replica is read", async || here(&shard, recent()).await.unwrap().0).await;
    assert_eq!(here(&shard, ReadFrom::Primary).await?, (false, 1));

    let replica = test.admin("pg1-r1").await?;
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    shard.execute(&ADD, &[&1_i64]).await?;
    // From when it is too far behind on, every answer is the primary's, and complete.
    until("the replica is left", async || !here(&shard, recent()).await.unwrap().0).await;
    for _ in 0..50 {
        assert_eq!(here(&shard, recent()).await?, (false, 2));
    }
    assert_eq!(here(&shard, ANY).await?, (true, 1), "whoever does not mind reads there still");
    let refused = shard.read(recent()).replicas_only().query(&HERE, &[]).await.unwrap_err();
    assert!(refused.is_unavailable() && refused.outcome() == Outcome::NotExecuted, "{refused:?}");

    replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    until("the replica is read again", async || {
        let seen = here(&shard, recent()).await.unwrap();
        (seen == (true, 2), seen)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_session_reads_what_it_has_written() -> Result<()> {
    reads_what_it_has_written(18).await
}

#[tokio::test]
async fn a_session_reads_what_it_has_written_to_the_oldest_postgresql() -> Result<()> {
    reads_what_it_has_written(15).await
}

async fn reads_what_it_has_written(postgres: u32) -> Result<()> {
    let (test, shard) = one_instance_with_a_replica(postgres).await?;
    until_replica_has(&shard, 1).await;
    let replica = test.admin("pg1-r1").await?;
    let mut by_replica = 0;
    for n in 1..40_i64 {
        if n == 20 {
            replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
        }
        if n == 25 {
            replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
        }
        shard.execute(&ADD, &[&n]).await?;
        let cookie = shard.token().await?.to_string();
        let token: Token = cookie.parse()?;
        let (is_replica, count) = here(&shard, ReadFrom::AtLeast(token)).await?;
        assert_eq!(count, n + 1, "answered by a replica: {is_replica}");
        assert!(!(is_replica && (20..25).contains(&n)));
        by_replica += usize::from(is_replica);
    }
    assert!(by_replica > 0, "the primary did it all");

    let elsewhere: Token = "AQAAAAIAAAAWs3TYSHBnMg".parse()?;
    assert_eq!(here(&shard, ReadFrom::AtLeast(elsewhere)).await?, (false, 40));
    Ok(())
}

#[tokio::test]
async fn a_replica_that_does_not_know_the_shards_new_name_yet_sends_nobody_astray() -> Result<()> {
    let (test, shard) = one_instance_with_a_replica(18).await?;
    until_replica_has(&shard, 1).await;
    let replica = test.admin("pg1-r1").await?;
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let primary = test.admin("pg1").await?;
    let add = "ALTER TABLE shard_0000_e1.notes ADD COLUMN later int";
    primary.batch_execute(add).await.unwrap();
    cut_over(&test, 0).await;
    // With the old map the replica answers still, as it was; with the new one it does not know the name.
    assert_eq!(here(&shard, ANY).await?, (true, 1));
    shard.execute(&ADD, &[&1_i64]).await?;
    assert_eq!(shard.home()?.epoch().get(), 2);
    assert_eq!(here(&shard, ANY).await?, (false, 2));
    assert_eq!(shard.read(ANY).query(&WITH_NEW_COLUMN, &[]).await?.len(), 2);
    let error = shard.read(ANY).replicas_only().query(&HERE, &[]).await.unwrap_err();
    assert_eq!(error.instance(), Some("pg1"), "{error:?}");

    replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    until_replica_has(&shard, 2).await;
    // What the primary refuses too is the caller's own mistake.
    const TYPO: Statement = Statement::new("SELECT n FROM {shard}.noets");
    let error = shard.read(ANY).query(&TYPO, &[]).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42P01"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_lost_delays_reads_and_fails_none() -> Result<()> {
    let (mut test, shard) = one_instance_with_a_replica(18).await?;
    let shard = patient(&test, &shard).await?;
    until_replica_has(&shard, 1).await;
    test.suspend("pg1-r1").await?;
    // A replica that hangs is noticed within two seconds; reads that are waiting there are asked again.
    let waited = timeout(Duration::from_secs(50), here(&shard, ANY)).await;
    assert_eq!(waited.expect("it waits on")?, (false, 1));
    test.resume("pg1-r1").await?;
    until_replica_has(&shard, 1).await;

    test.kill("pg1-r1").await?;
    for _ in 0..20 {
        assert_eq!(here(&shard, ANY).await?, (false, 1));
    }
    test.start_server("pg1-r1").await?;
    until_replica_has(&shard, 1).await;
    Ok(())
}

#[tokio::test]
async fn what_may_write_goes_to_no_replica() -> Result<()> {
    let (_test, shard) = one_instance_with_a_replica(18).await?;
    let error = shard.read(ANY).query(&ADD, &[&7_i64]).await.unwrap_err();
    assert!(error.is_invalid_input() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    let error = shard.read(ReadFrom::Primary).query(&ADD, &[&7_i64]).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_does_not_follow_the_new_primary_is_not_read() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).replicas(2).shards(2);
    let mut test = builder.migrations(notes).start().await?;
    // The second shard keeps to the second replica, as long as that serves.
    let shard = test.cluster().await?.shard(ShardId::new(1)?)?;
    shard.execute(&ADD, &[&0_i64]).await?;
    test.replicated("pg1").await?;
    until_replica_has(&shard, 1).await;

    test.kill("pg1").await?;
    test.promote("pg1-r1").await?;
    let write = async || shard.execute(&ADD, &[&1_i64]).await;
    until("the first replica takes writes", write).await;
    // The other one waits for the old primary, and knows nothing of the new history.
    until("the other one is left", async || {
        let seen = here(&shard, ANY).await.unwrap();
        (seen == (false, 2), seen)
    })
    .await;
    for _ in 0..50 {
        assert_eq!(here(&shard, ANY).await?, (false, 2));
    }

    let port = test.servers().server("pg1-r1")?.port();
    let other = test.admin("pg1-r2").await?;
    let follow =
        format!("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'");
    other.batch_execute(&follow).await.unwrap();
    other.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let primary = test.admin("pg1-r1").await?;
    primary.batch_execute("GRANT pg_read_all_stats TO howdah_app").await.unwrap();
    until_replica_has(&shard, 2).await;
    Ok(())
}
