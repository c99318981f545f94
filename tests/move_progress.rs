//! How far a move is can be seen from elsewhere while it goes on.
#![cfg(test)]

mod moving;

use std::sync::{Mutex, mpsc};

use howdah::testing::{TestCluster, until};
use howdah::{InstanceName, MoveNews, MovePhase, MoveReport, MoveStep, Mover, Result};
use moving::{cluster_with_tables, leftovers, shard};
use tokio::task::block_in_place;

/// Some 20 MB.
const ROWS: &str = "INSERT INTO shard_0001_e1.events (what) SELECT repeat('x', 1000) FROM generate_series(1, 20000)";

fn pg1() -> InstanceName {
    InstanceName::new("pg1").unwrap()
}

/// What somebody else sees of the only move, when it is as he wants it.
async fn seen(
    test: &TestCluster,
    what: &str,
    wanted: impl Fn(&MoveReport) -> bool,
) -> Result<MoveReport> {
    let cluster = test.cluster().await?;
    let look = async || {
        let report = Mover::open_moves(&cluster).await.unwrap().pop();
        report.filter(|report| wanted(report))
    };
    Ok(until(what, look).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_seen_to_grow_by_others() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    test.admin("pg2").await?.batch_execute(ROWS).await.unwrap();
    let mover = Mover::new(&test.config())?.rate(1_000_000);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg1()).await });
    let first = seen(&test, "rows are copied", |report| report.rows > 0).await?;
    assert_eq!((first.phase, first.step), (MovePhase::Copy, MoveStep::CopyRows));
    assert!(first.of_bytes.unwrap() > first.bytes && first.bytes_per_second.unwrap() > 0);
    assert!(!first.left().unwrap().is_zero());
    let later = seen(&test, "more are", |report| report.rows > first.rows).await?;
    assert!(later.bytes > first.bytes);
    moving.abort();
    assert!(moving.await.unwrap_err().is_cancelled());

    let ended = Mover::new(&test.config())?.abort(first.id).await?;
    assert_eq!((ended.of_bytes, ended.bytes_per_second, ended.left()), (None, None, None));
    assert!(Mover::open_moves(&test.cluster().await?).await?.is_empty());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_copy_is_behind_is_seen_by_others() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let (reached, is_there) = tokio::sync::oneshot::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let meeting = Mutex::new(Some((reached, told)));
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        let is_there = event.step == MoveStep::Verify && matches!(event.what, MoveNews::Begun);
        if is_there && let Some((reached, told)) = meeting.lock().unwrap().take() {
            let _ = reached.send(());
            block_in_place(|| told.recv().unwrap());
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &pg1()).await });
    is_there.await.unwrap();
    // What is written now is not applied for a while.
    let target = test.admin("pg1").await?;
    target.batch_execute("BEGIN; LOCK TABLE shard_0001_e1.users").await.unwrap();
    let write = "UPDATE shard_0001_e1.users SET n = n";
    test.admin("pg2").await?.batch_execute(write).await.unwrap();
    go_on.send(()).unwrap();
    let behind = seen(&test, "it is behind", |report| report.lag.is_some()).await?;
    assert_eq!((behind.phase, behind.of_bytes), (MovePhase::Verify, None));
    let lag = behind.lag;
    seen(&test, "it is further behind", |report| report.lag > lag).await?;
    target.batch_execute("ROLLBACK").await.unwrap();
    let moved = moving.await.unwrap()?;
    assert_eq!((moved.phase, moved.lag), (MovePhase::Reversible, None));
    Ok(())
}
