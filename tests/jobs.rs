//! Work on every shard: a bounded number at a time, and an account of what was done and what was not.
#![cfg(test)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use howdah::testing::TestCluster;
use howdah::{Error, Migrations, Result, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES ($1)");
const FAIL: Statement = Statement::new("SELECT 1 / (n - n) FROM {shard}.notes");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

async fn test() -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().migrations(notes).start().await
}

#[tokio::test]
async fn each_shard_is_done_once_and_few_at_a_time() -> Result<()> {
    let test = test().await?;
    let cluster = test.cluster().await?;
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Mutex::new(Vec::new());
    let jobs = cluster.jobs().parallel(1).on_progress(|progress| {
        seen.lock().unwrap().push((progress.done, progress.failed, progress.total));
    });
    let report = jobs
        .for_each_shard(async |shard| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let rows = shard.execute(&ADD, &[&i32::from(shard.id().get())]).await;
            running.fetch_sub(1, Ordering::SeqCst);
            rows
        })
        .await?;
    assert_eq!(most.into_inner(), 2, "one on each of two instances");
    let done = report.into_result()?;
    let shards: Vec<_> = done.iter().map(|(shard, rows)| (shard.get(), *rows)).collect();
    assert_eq!(shards, (0..8).map(|shard| (shard, 1)).collect::<Vec<_>>());
    assert_eq!(seen.into_inner().unwrap(), (1..=8).map(|n| (n, 0, 8)).collect::<Vec<_>>());
    assert_eq!(cluster.scatter(&COUNT).all(&[]).count().await?.value, 8);
    Ok(())
}

#[tokio::test]
async fn a_failure_is_named_and_nothing_more_is_begun() -> Result<()> {
    let test = test().await?;
    let cluster = test.cluster().await?;
    cluster.shard(ShardId::new(2)?)?.execute(&ADD, &[&1]).await?;
    let some = || [0, 2, 4, 6].map(|number| ShardId::new(number).unwrap());
    let jobs = || cluster.jobs().shards(some()).parallel(1);
    let report = jobs().for_each_shard(async |shard| shard.query(&FAIL, &[]).await).await?;
    let numbers = |shards: &[ShardId]| shards.iter().map(|shard| shard.get()).collect::<Vec<_>>();
    assert_eq!(report.done.len(), 1);
    assert_eq!(report.failed[0].0.get(), 2);
    assert_eq!(numbers(&report.not_begun), [4, 6]);
    assert!(report.into_result().unwrap_err().to_string().contains("shard 2"));

    let report =
        jobs().keep_going().for_each_shard(async |shard| shard.query(&FAIL, &[]).await).await?;
    assert_eq!((report.done.len(), report.failed.len(), report.not_begun.len()), (3, 1, 0));
    Ok(())
}

#[tokio::test]
async fn an_instance_is_given_its_shards() -> Result<()> {
    let test = test().await?;
    let cluster = test.cluster().await?;
    let report = cluster
        .jobs()
        .for_each_instance(async |instance, shards| {
            for shard in &shards {
                shard.execute(&ADD, &[&1]).await?;
            }
            let shards: Vec<_> = shards.iter().map(|shard| shard.id()).collect();
            assert_eq!(shards, instance.shards());
            Ok::<_, Error>(shards.len())
        })
        .await?;
    let done = report.into_result()?;
    let counts: Vec<_> = done.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counts, [("pg1", 4), ("pg2", 4)]);
    Ok(())
}

#[tokio::test]
async fn a_job_that_cannot_begin_does_nothing() -> Result<()> {
    let test = test().await?;
    let cluster = test.cluster().await?;
    let add = async |shard: howdah::Shard| shard.execute(&ADD, &[&1]).await;
    for jobs in [cluster.jobs().parallel(0), cluster.jobs().shards([ShardId::new(8)?])] {
        assert!(jobs.for_each_shard(add).await.unwrap_err().is_invalid_input());
    }
    // Nothing to do is no way to say everything.
    let report = cluster.jobs().shards([]).for_each_shard(add).await?;
    assert!(report.into_result()?.is_empty());
    assert!(cluster.exec(&COUNT).shards([]).run(|_| {}).await?.is_empty());
    assert!(cluster.copy_out(&COUNT).shards([]).stream().next().await.is_none());
    assert_eq!(cluster.scatter(&COUNT).all(&[]).count().await?.value, 0);
    Ok(())
}
