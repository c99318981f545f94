//! Many tasks on few connections: each gets its turn, and what waits is small.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Migrations, Result, Shard, ShardId, Statement, Transaction};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");

async fn test(shards: u16) -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().instances(1).shards(shards).migrations(notes).start().await
}

fn shard(cluster: &Cluster, number: u16) -> Result<Shard> {
    cluster.shard(ShardId::new(number)?)
}

/// The memory of this process that is in use, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// What a task may take while it waits, its own stack and its place in every queue included.
const TASK_BYTES: usize = 12 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_wait_for_four_connections_in_little_memory() -> Result<()> {
    const TASKS: usize = 10_000;

    let test = test(4).await?;
    let config = test.config().max_size(4).pipelines(0).queue_timeout(Duration::from_secs(120));
    let cluster = Cluster::connect(config).await?;
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(shard(&cluster, number)?.begin().await?);
    }
    let before = memory();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let shard = shard(&cluster, u16::try_from(task % 4).unwrap()).unwrap();
            tokio::spawn(async move { shard.execute(&ADD, &[&"note"]).await })
        })
        .collect();
    until("all wait", async || {
        let waiting = cluster.stats()[0].waiting;
        (waiting == TASKS, waiting)
    })
    .await;
    let each = memory().saturating_sub(before) / TASKS;
    assert!(each < TASK_BYTES, "a task that waits takes {each} bytes");
    for tx in held {
        tx.rollback().await?;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap()?, 1);
    }
    assert_eq!(cluster.stats()[0].connects, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_starves() -> Result<()> {
    const TASKS: usize = 32;
    const TURNS: usize = 3200;

    let test = test(1).await?;
    let cluster = Cluster::connect(test.config().max_size(2).pipelines(0)).await?;
    let turns = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (shard, turns) = (shard(&cluster, 0).unwrap(), turns.clone());
            tokio::spawn(async move {
                let mut own = 0;
                while turns.fetch_add(1, Ordering::Relaxed) < TURNS {
                    shard.execute(&ADD, &[&"note"]).await?;
                    own += 1;
                }
                Ok::<_, howdah::Error>(own)
            })
        })
        .collect();
    let mut least = usize::MAX;
    for task in tasks {
        least = least.min(task.await.unwrap()?);
    }
    // Who came first may be some turns ahead.
    assert!(least >= TURNS / TASKS / 2, "one had {least} turns of {TURNS}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_give_up_anywhere_lose_no_connection() -> Result<()> {
    const TASKS: u64 = 60;
    const TURNS: u64 = 20;
    const CONNECTIONS: u32 = 3;

    let test = test(1).await?;
    let cluster = Cluster::connect(test.config().max_size(CONNECTIONS).pipelines(0)).await?;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let shard = shard(&cluster, 0).unwrap();
            tokio::spawn(async move {
                for turn in 0..TURNS {
                    // From giving up before it begins to more than the whole queue takes.
                    let patience = Duration::from_millis((task * 7 + turn * 13) % 40);
                    let impatient = shard.clone().queue_timeout(patience);
                    match turn % 3 {
                        0 => {
                            let call = async { shard.execute(&ADD, &[&"note"]).await };
                            let _ = tokio::time::timeout(patience, call).await;
                        }
                        1 => {
                            let _ = impatient.execute(&ADD, &[&"note"]).await;
                        }
                        _ => {
                            shard.execute(&ADD, &[&"note"]).await?;
                        }
                    }
                }
                Ok::<_, howdah::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap()?;
    }
    until("nobody waits and nothing is lent", async || {
        let pool = cluster.stats().remove(0);
        (pool.waiting == 0 && pool.active == 0, pool)
    })
    .await;
    let mut held: Vec<Transaction> = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(shard(&cluster, 0)?.begin().await?);
    }
    let hurried = shard(&cluster, 0)?.queue_timeout(Duration::from_millis(5));
    assert!(hurried.begin().await.unwrap_err().is_timeout(), "there is one too many");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_stay_below_the_cap_on_every_connection() -> Result<()> {
    const SHARDS: u16 = 64;
    const STATEMENTS: usize = 50;
    const CAP: u32 = 200;
    const CONNECTIONS: u32 = 3;
    const KEPT: Statement = Statement::new(
        "SELECT count(*) FROM pg_prepared_statements WHERE statement NOT LIKE '%{shard}.none%'",
    );

    let test = test(SHARDS).await?;
    let config = test.config().max_size(CONNECTIONS).pipelines(1).statement_cache(CAP, 1 << 20);
    let cluster = Cluster::connect(config).await?;
    let statements: Vec<_> = (0..STATEMENTS)
        .map(|n| Statement::parse(format!("SELECT text, {n} FROM {{shard}}.notes FOR SHARE")))
        .collect::<Result<_>>()?;
    let mut tasks = Vec::new();
    for number in 0..SHARDS {
        let (shard, statements) = (shard(&cluster, number)?, statements.clone());
        tasks.push(tokio::spawn(async move {
            for statement in &statements {
                shard.query(statement, &[]).await?;
            }
            Ok::<_, howdah::Error>(())
        }));
    }
    for task in tasks {
        task.await.unwrap()?;
    }
    let pool = cluster.stats().remove(0);
    assert!(pool.statements_kept <= u64::from(CAP * CONNECTIONS), "{pool:?}");
    assert!(pool.statement_misses >= u64::from(SHARDS) * STATEMENTS as u64, "{pool:?}");
    assert!(pool.statement_evictions >= pool.statement_misses - pool.statements_kept, "{pool:?}");

    let mut held: Vec<Transaction> = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(shard(&cluster, 0)?.begin().await?);
    }
    for tx in &held {
        let kept: i64 = tx.query_one(&KEPT, &[]).await?.get(0);
        assert!(kept <= i64::from(CAP) + 1, "the server keeps {kept} statements");
    }
    Ok(())
}
