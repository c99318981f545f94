//! A server that dies at any step of a move, and comes back, leaves nothing lost, nothing done twice and nothing behind.
//!
//! `HOWDAH_KILLS=all` goes through every step with each server; else a sample of them, `HOWDAH_SEED` says which.
#![cfg(test)]

mod moving;

use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use howdah::testing::TestCluster;
use howdah::{InstanceName, MoveNews, MovePhase, MoveStep, Mover, Result};
use moving::{Load, cluster_with_tables, leftovers, shard};

/// How long a move may take to get there once everything runs again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which server dies, and before which step. The catalog is on pg1; the shard goes from one to the other in turns.
type Point = (MoveStep, &'static str);

fn chosen() -> Vec<Point> {
    let steps = MoveStep::ALL.into_iter().filter(|step| {
        !matches!(step, MoveStep::Journal | MoveStep::DropReverse | MoveStep::DropCopy)
    });
    let all: Vec<Point> =
        steps.flat_map(|step| ["pg1", "pg2"].map(|victim| (step, victim))).collect();
    if let Ok("all") = std::env::var("HOWDAH_KILLS").as_deref() {
        return all;
    }
    let seed = std::env::var("HOWDAH_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed: usize = seed.unwrap_or_else(|| usize::try_from(now).unwrap());
    eprintln!("HOWDAH_SEED={seed}");
    (0..2).map(|n| all[(seed * 7 + n * all.len() / 2) % all.len()]).collect()
}

/// Moves the shard; when the step begins, the victim is killed before the mover goes on, and started again.
async fn move_and_kill(test: &mut TestCluster, to: &InstanceName, point: Point) -> Result<()> {
    let (step, victim) = point;
    let (reached, at_step) = tokio::sync::oneshot::channel();
    let (go_on, killed) = mpsc::channel::<()>();
    let meeting = Mutex::new(Some((reached, killed)));
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        let is_there = event.step == step && matches!(event.what, MoveNews::Begun);
        if is_there && let Some((reached, killed)) = meeting.lock().unwrap().take() {
            let _ = reached.send(());
            // The mover stands still here until the server is dead.
            tokio::task::block_in_place(|| killed.recv().unwrap());
        }
    });
    let goal = to.clone();
    let moving = tokio::spawn(async move { mover.run(shard(), &goal).await });
    at_step.await.unwrap();
    let port = test.servers().server(victim)?.port();
    test.kill(victim).await?;
    go_on.send(()).unwrap();
    test.start_server(victim).await?;
    assert_eq!(test.servers().server(victim)?.port(), port, "the catalog has its old address");
    // It may have gone on by itself, or given up.
    let first = moving.await.unwrap();

    let mover = Mover::new(&test.config())?;
    let began = Instant::now();
    loop {
        match mover.run(shard(), to).await {
            Ok(moved) => {
                assert_eq!(moved.phase, MovePhase::Reversible, "{point:?}");
                mover.finish(moved.id).await?;
                return Ok(());
            }
            // A server that has just come back may need a moment more.
            Err(error) if error.is_unavailable() && began.elapsed() < PATIENCE => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{point:?}: {error}; the first run: {first:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_may_die_at_any_step() -> Result<()> {
    let mut test = cluster_with_tables()?.own_servers().start().await?;
    let load = Load::start(&test, 4).await?;
    for point in chosen() {
        eprintln!("{point:?}");
        let home = test.cluster().await?.shard(shard())?.home()?.instance().clone();
        let to = InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?;
        move_and_kill(&mut test, &to, point).await?;
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{point:?}");
    }
    load.go_on_for(Duration::from_millis(200)).await;
    let ledger = load.stop().await;
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    assert!(ledger.written.len() > 50, "{}", ledger.written.len());
    Ok(())
}
