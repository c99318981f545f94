//! Each phase of a call has its limit, by the configuration or by the call, and the server keeps those that concern it.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Migrations, Outcome, Phase, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const ALL: Statement = Statement::new("SELECT * FROM {shard}.notes");
const LIMIT: Statement =
    Statement::new("SELECT current_setting('statement_timeout'), pg_backend_pid(), '{shard}'");
const SLOW: Statement =
    Statement::new("INSERT INTO {shard}.notes (text) SELECT 'slept' FROM pg_sleep(60)");

async fn cluster(config: impl FnOnce(Config) -> Config) -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let cluster = Cluster::connect(config(test.config().max_size(1).pipelines(0))).await?;
    Ok((test, cluster))
}

fn first(cluster: &Cluster) -> Result<Shard> {
    cluster.shard(ShardId::new(0)?)
}

async fn limit(shard: &Shard) -> Result<String> {
    Ok(shard.query_one(&LIMIT, &[]).await?.get(0))
}

#[tokio::test]
async fn the_server_ends_what_takes_longer_than_the_call_allows_and_nothing_remains() -> Result<()>
{
    let (_test, cluster) = cluster(|config| config).await?;
    let shard = first(&cluster)?;
    let short = shard.clone().statement_timeout(Duration::from_millis(100));
    let error = short.execute(&SLOW, &[]).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(error.phase(), Some(Phase::Execute));
    // The server said so: nothing of it happened.
    assert_eq!(error.outcome(), Outcome::Failed);
    let error = short.transaction(async |tx| tx.execute(&SLOW, &[]).await).await.unwrap_err();
    assert!(error.is_timeout() && error.outcome() == Outcome::Failed, "{error:?}");
    assert!(shard.query(&ALL, &[]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_limit_is_the_calls_own_and_the_next_one_has_the_usual() -> Result<()> {
    let usual = Duration::from_secs(20);
    let (_test, cluster) = cluster(|config| config.statement_timeout(usual)).await?;
    let shard = first(&cluster)?;
    let with = |seconds| shard.clone().statement_timeout(Duration::from_secs(seconds));
    assert_eq!(limit(&shard).await?, "20s");
    assert_eq!(limit(&with(7)).await?, "7s");
    assert_eq!(limit(&shard).await?, "20s");
    // Of a deadline the server is told, too; and nobody gets more than the usual.
    assert_eq!(limit(&shard.clone().timeout(Duration::from_secs(9))).await?, "9s");
    assert_eq!(limit(&with(3).timeout(Duration::from_secs(9))).await?, "3s");
    assert_eq!(limit(&with(60)).await?, "20s");

    let inside = async |shard: &Shard| {
        let tx = shard.begin().await?;
        let said: String = tx.query_one(&LIMIT, &[]).await?.get(0);
        tx.commit().await?;
        Ok::<_, howdah::Error>(said)
    };
    assert_eq!(inside(&with(7)).await?, "7s");
    assert_eq!(inside(&shard).await?, "20s");
    limit(&with(7)).await?;
    assert_eq!(inside(&shard).await?, "20s");
    assert_eq!(limit(&shard).await?, "20s");
    // All of this on one connection.
    assert_eq!(cluster.stats()[0].connects, 1);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_waits_too_long_for_its_next_statement_is_ended() -> Result<()> {
    let patience = Duration::from_secs(1);
    let (test, cluster) = cluster(|config| config.idle_in_transaction_timeout(patience)).await?;
    let shard = first(&cluster)?;
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&"never"]).await?;
    let backend: i32 = tx.query_one(&LIMIT, &[]).await?.get(1);
    let admin = test.admin("pg1").await?;
    let there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let ended = async || admin.query_one(there, &[&backend]).await.unwrap().get::<_, i64>(0) == 0;
    until("the server has ended the session", ended).await;
    let error = tx.execute(&ADD, &[&"never"]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
    drop(tx);
    assert!(shard.query(&ALL, &[]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn who_has_waited_in_vain_does_not_wait_again_because_of_some_news() -> Result<()> {
    let (test, cluster) = cluster(|config| config).await?;
    let shard = first(&cluster)?;
    let _held = shard.begin().await?;
    let waiting = shard.clone().queue_timeout(Duration::from_secs(3));
    let began = std::time::Instant::now();
    let (waited, ()) = tokio::join!(async { waiting.execute(&ADD, &[&"never"]).await }, async {
        // Another state of its own instance, which says nothing of the connections.
        let admin = test.admin("pg1").await.unwrap();
        let drain = "UPDATE howdah.instance SET state = 'draining'";
        assert_eq!(admin.execute(drain, &[]).await.unwrap(), 1);
    });
    assert_eq!(waited.unwrap_err().phase(), Some(Phase::Queue));
    assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_wait_for_a_connection_has_the_calls_own_limit() -> Result<()> {
    let (_test, cluster) = cluster(|config| config).await?;
    let shard = first(&cluster)?;
    let held = shard.begin().await?;
    let short = shard.clone().queue_timeout(Duration::from_millis(50));
    let error = short.execute(&ADD, &[&"never"]).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("50ms"), "{error:?}");
    assert_eq!((error.phase(), error.instance()), (Some(Phase::Queue), Some("pg1")));
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    held.rollback().await
}
