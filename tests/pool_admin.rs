//! A pool under its operator's hands: paused, renewed, made larger and smaller while it is used, and counted.
#![cfg(test)]

use std::time::Duration;

use futures_util::FutureExt as _;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Instance, Migrations, PoolStats, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");
const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), '{shard}'");

async fn cluster(config: impl FnOnce(Config) -> Config) -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let cluster = Cluster::connect(config(test.config())).await?;
    Ok((test, cluster))
}

fn parts(cluster: &Cluster) -> Result<(Shard, Instance)> {
    Ok((cluster.shard(ShardId::new(0)?)?, cluster.instances().remove(0)))
}

fn stats(cluster: &Cluster) -> PoolStats {
    cluster.stats().remove(0)
}

/// Waits for what has to come by itself.
async fn comes_to(cluster: &Cluster, what: &str, there: impl Fn(&PoolStats) -> bool) {
    let look = async || {
        let pool = stats(cluster);
        (there(&pool), pool)
    };
    until(what, look).await;
}

#[tokio::test]
async fn paused_it_finishes_what_is_under_way_and_holds_the_rest() -> Result<()> {
    let (_test, cluster) = cluster(|config| config.max_size(3).pipelines(1)).await?;
    let (shard, instance) = parts(&cluster)?;
    shard.query(&COUNT, &[]).await?;
    let tx = shard.begin().await?;
    let mut pausing = Box::pin(instance.pause());
    assert!(pausing.as_mut().now_or_never().is_none(), "a transaction is open");

    // A read would need no connection of its own, and is held all the same.
    let read = tokio::spawn({
        let shard = shard.clone();
        async move { shard.query_one(&COUNT, &[]).await }
    });
    let write = tokio::spawn({
        let shard = shard.clone();
        async move { shard.execute(&ADD, &[&"later"]).await }
    });
    comes_to(&cluster, "two wait", |pool| pool.waiting == 2).await;
    tx.execute(&ADD, &[&"in time"]).await?;
    tx.commit().await?;
    pausing.await?;
    let paused = stats(&cluster);
    assert!(paused.paused && paused.active == 0 && paused.pipelines == 0, "{paused:?}");
    assert!(!read.is_finished() && !write.is_finished());

    instance.resume()?;
    assert!(read.await.unwrap()?.get::<_, i64>(0) >= 1);
    assert_eq!(write.await.unwrap()?, 1);
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_paused_pool_too_long_is_told_why() -> Result<()> {
    let (_test, cluster) = cluster(|config| config.pipelines(0)).await?;
    let (shard, instance) = parts(&cluster)?;
    instance.pause().await?;
    let asked = shard.clone().queue_timeout(Duration::from_millis(50)).query(&COUNT, &[]).await;
    let error = asked.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("paused"), "{error:?}");
    instance.resume()?;
    shard.query(&COUNT, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn reconnected_it_lends_no_connection_of_before_and_cuts_nobody_off() -> Result<()> {
    let (_test, cluster) = cluster(|config| config.max_size(2).pipelines(0)).await?;
    let (shard, instance) = parts(&cluster)?;
    let tx = shard.begin().await?;
    let mut before: Vec<i32> = vec![tx.query_one(&BACKEND, &[]).await?.get(0)];
    before.push(shard.query_one(&BACKEND, &[]).await?.get(0));
    instance.reconnect()?;
    tx.execute(&ADD, &[&"goes on"]).await?;
    tx.commit().await?;
    let held = [shard.begin().await?, shard.begin().await?];
    for tx in &held {
        let now: i32 = tx.query_one(&BACKEND, &[]).await?.get(0);
        assert!(!before.contains(&now));
    }
    Ok(())
}

#[tokio::test]
async fn killed_it_lets_go_of_everything_at_once_and_goes_on() -> Result<()> {
    let (test, cluster) = cluster(|config| config.max_size(3).pipelines(1)).await?;
    let (shard, instance) = parts(&cluster)?;
    shard.query(&COUNT, &[]).await?;
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&"never"]).await?;
    let backend: i32 = tx.query_one(&BACKEND, &[]).await?.get(0);
    instance.kill()?;
    // The server has rolled back while the transaction's owner still holds it.
    let admin = test.admin("pg1").await?;
    let there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let ended = async || admin.query_one(there, &[&backend]).await.unwrap().get::<_, i64>(0) == 0;
    until("the session has ended", ended).await;
    let error = tx.commit().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn it_grows_for_those_who_wait_and_shrinks_to_the_last_connection() -> Result<()> {
    let (_test, cluster) =
        cluster(|config| config.max_size(1).pipelines(0).total_max_size(5)).await?;
    let (shard, instance) = parts(&cluster)?;
    let first = shard.begin().await?;
    let waiting = tokio::spawn({
        let shard = shard.clone();
        async move { shard.begin().await }
    });
    comes_to(&cluster, "one waits", |pool| pool.waiting == 1).await;
    instance.resize(5)?;
    let second = waiting.await.unwrap()?;
    let third = shard.begin().await?;
    assert_eq!(stats(&cluster).active, 3);
    drop(third);
    comes_to(&cluster, "one is idle", |pool| pool.idle == 1).await;

    instance.resize(1)?;
    comes_to(&cluster, "none is idle", |pool| pool.idle == 0).await;
    first.commit().await?;
    second.commit().await?;
    shard.execute(&ADD, &[&"one at a time"]).await?;
    let small = stats(&cluster);
    assert_eq!((small.size, small.active + small.idle), (1, 1), "{small:?}");

    for size in [0, 6] {
        let error = instance.resize(size).unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains("1 to 5"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_minimum_is_kept_warm_without_anybody_asking() -> Result<()> {
    let (_test, cluster) = cluster(|config| config.max_size(4).min_idle(3)).await?;
    comes_to(&cluster, "three are warm", |pool| pool.idle == 3).await;
    assert_eq!(stats(&cluster).checkouts, 0);
    Ok(())
}

#[tokio::test]
async fn no_connection_is_lent_past_its_age() -> Result<()> {
    let age = Duration::from_millis(100);
    let (_test, cluster) =
        cluster(|config| config.max_size(1).pipelines(0).max_lifetime(age)).await?;
    let (shard, _) = parts(&cluster)?;
    let first: i32 = shard.query_one(&BACKEND, &[]).await?.get(0);
    until("another one is lent", async || {
        shard.query_one(&BACKEND, &[]).await.unwrap().get::<_, i32>(0) != first
    })
    .await;
    assert!(stats(&cluster).connects >= 2);
    Ok(())
}

#[tokio::test]
async fn what_it_does_is_counted() -> Result<()> {
    let (_test, cluster) = cluster(|config| config.max_size(2).pipelines(1)).await?;
    let (shard, _) = parts(&cluster)?;
    for _ in 0..3 {
        shard.query(&COUNT, &[]).await?;
        shard.execute(&ADD, &[&"note"]).await?;
    }
    shard.transaction(async |tx| tx.execute(&ADD, &[&"note"]).await).await?;
    let pool = stats(&cluster);
    assert_eq!((pool.instance.as_str(), pool.size), ("pg1", 2));
    assert_eq!((pool.active, pool.pipelines, pool.idle, pool.waiting), (0, 1, 1, 0), "{pool:?}");
    assert_eq!((pool.statements, pool.pipelined, pool.transactions), (7, 3, 1), "{pool:?}");
    assert_eq!((pool.checkouts, pool.checkout_failures, pool.connects), (4, 0, 2), "{pool:?}");
    // Prepared once on each of the two connections that it ran on.
    assert_eq!((pool.statement_misses, pool.statement_hits), (2, 5), "{pool:?}");
    assert_eq!(pool.statements_kept, 2, "{pool:?}");
    assert!(pool.statement_time > Duration::ZERO && pool.transaction_time > Duration::ZERO);
    Ok(())
}
