//! How far a move is can be seen from elsewhere while it goes on; and what slows it down is told.
#![cfg(test)]

mod moving;

use std::sync::{Arc, Mutex, mpsc};

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

/// A replica of the target replays nothing: rows crawl, whoever looks on is told why, and when it goes on, so do they.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_waits_for_a_replica_that_is_far_behind() -> Result<()> {
    const PORTION: u64 = 64 << 10;
    const WAL: &str = "CREATE TABLE public.large AS SELECT n FROM generate_series(1, 100000) n";

    let test = cluster_with_tables()?.replicas(1).start().await?;
    test.admin("pg2").await?.batch_execute(ROWS).await.unwrap();
    test.replicated("pg2").await?;
    let replica = test.admin("pg1-r1").await?;
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    test.admin("pg1").await?.batch_execute(WAL).await.unwrap();

    let news = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let telling = news.clone();
    let mover = Mover::new(&test.config())?.max_lag(1 << 20).on_event(move |event| {
        let mut news = telling.lock().unwrap();
        match &event.what {
            MoveNews::Progress { bytes, .. } if event.step == MoveStep::CopyRows => {
                news.0.push(*bytes);
            }
            MoveNews::Note(note) => news.1.push(note.clone()),
            _ => {}
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &pg1()).await });
    until("rows crawl", async || news.lock().unwrap().0.len() >= 3).await;
    let (crawled, notes) = news.lock().unwrap().clone();
    // Each of them is told, and takes a second.
    assert!(crawled[2] <= 5 * PORTION, "{crawled:?}");
    let waits =
        |note: &String| note.contains("waits for pg1: host") && note.contains("1 MiB behind");
    assert!(notes.iter().any(waits), "{notes:?}");
    replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::Reversible);
    Ok(())
}

/// One that is gone is named. The copy goes on; it is the cutover that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_does_not_wait_for_a_replica_that_is_gone() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    test.kill("pg1-r1").await?;
    let notes = Arc::new(Mutex::new(Vec::new()));
    let telling = notes.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        if let MoveNews::Note(note) = &event.what {
            telling.lock().unwrap().push((event.step, note.clone()));
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &pg1()).await });
    until("the cutover waits", async || {
        let notes = notes.lock().unwrap();
        notes.iter().any(|(step, _)| *step == MoveStep::CheckHosts)
    })
    .await;
    let told = notes.lock().unwrap().clone();
    let is_named = |(step, note): &(MoveStep, String)| {
        *step == MoveStep::CopyRows && note.contains("cannot be asked how far behind it is")
    };
    assert!(told.iter().any(is_named), "{told:?}");
    test.start_server("pg1-r1").await?;
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::Reversible);
    Ok(())
}
