//! A network that cuts, delays or swallows what is sent: errors within their time and with their outcome, and recovery by
//! itself.
#![cfg(test)]

use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Migrations, Outcome, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

async fn behind_a_proxy() -> Result<(TestCluster, Shard)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).shards(1).proxies();
    let test = builder.migrations(notes).start().await?;
    let config = test.config().connect_timeout(Duration::from_secs(2));
    let shard = Cluster::connect(config).await?.shard(ShardId::new(0)?)?;
    // One connection becomes a pipeline, and one is there to be lent.
    shard.query(&COUNT, &[]).await?;
    shard.execute(&ADD, &[&0_i32]).await?;
    Ok((test, shard))
}

async fn count(shard: &Shard) -> Result<i64> {
    Ok(shard.query_one(&COUNT, &[]).await?.get(0))
}

#[tokio::test]
async fn a_connection_that_is_cut_under_a_write_leaves_it_unknown() -> Result<()> {
    let (test, shard) = behind_a_proxy().await?;
    let proxy = test.proxy("pg1")?;
    proxy.blackhole();
    let writing = tokio::spawn({
        let shard = shard.clone();
        async move { shard.execute(&ADD, &[&1_i32]).await }
    });
    // It is told nowhere when a statement is on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.cut();
    let error = writing.await.unwrap().unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::Unknown, "{error:?}");
    assert_eq!(error.instance(), Some("pg1"));
    // From now on nothing can be sent.
    let error = shard.execute(&ADD, &[&2_i32]).await.unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    proxy.heal();
    until("it is served again", async || shard.execute(&ADD, &[&3_i32]).await).await;
    Ok(())
}

#[tokio::test]
async fn a_read_on_a_connection_that_was_cut_was_not_executed() -> Result<()> {
    let (test, shard) = behind_a_proxy().await?;
    test.proxy("pg1")?.cut();
    let error = count(&shard).await.unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    test.proxy("pg1")?.heal();
    assert_eq!(until("it is served again", async || count(&shard).await).await, 1);
    Ok(())
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_waited_for_no_longer_than_said() -> Result<()> {
    let (test, shard) = behind_a_proxy().await?;
    let hurried = shard.clone().timeout(Duration::from_secs(1));
    test.proxy("pg1")?.blackhole();
    let began = Instant::now();
    let error = hurried.execute(&ADD, &[&1_i32]).await.unwrap_err();
    assert!(error.is_timeout() && error.outcome() == Outcome::Unknown, "{error:?}");
    let error = count(&hurried).await.unwrap_err();
    assert!(error.is_timeout() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    // No connection is left that could be used, and a new one takes its own time.
    let error = shard.execute(&ADD, &[&2_i32]).await.unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());

    test.proxy("pg1")?.heal();
    until("it is served again", async || shard.execute(&ADD, &[&3_i32]).await).await;
    // What was swallowed may have arrived after all: that is what unknown means.
    assert!((2..=3).contains(&count(&shard).await?));
    Ok(())
}

#[tokio::test]
async fn a_slow_network_changes_nothing_but_the_time() -> Result<()> {
    let (test, shard) = behind_a_proxy().await?;
    test.proxy("pg1")?.delay(Duration::from_millis(20));
    let began = Instant::now();
    for n in 1..5_i32 {
        shard.execute(&ADD, &[&n]).await?;
    }
    assert_eq!(count(&shard).await?, 5);
    assert!(began.elapsed() >= Duration::from_millis(5 * 40));
    Ok(())
}

/// A server that is gone without a word leaves its connections open. The kernel finds that out by itself if it was told
/// to ask: every connection has a timer for the next question.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_probes_every_connection() -> Result<()> {
    let (test, shard) = behind_a_proxy().await?;
    // One that is lent, and the pipeline's.
    let _tx = shard.begin().await?;
    let proxy = format!(":{:04X}", test.proxy("pg1")?.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        // The other end is the proxy, and the connection is established.
        .filter(|fields| fields.len() > 5 && fields[2].ends_with(&proxy) && fields[3] == "01")
        .map(|fields| fields[5].to_owned())
        .collect();
    assert!(timers.len() >= 2, "{timers:?}");
    for timer in timers {
        let (kind, left) = timer.split_once(':').unwrap();
        // A timer of kind 2 asks whether the other end is there; in hundredths of a second.
        let left = u64::from_str_radix(left, 16).unwrap();
        assert!(kind == "02" && left <= 1_000, "{timer}");
    }
    Ok(())
}
