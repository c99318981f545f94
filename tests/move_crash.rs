//! A mover that dies at any step leaves the shard where it was, or brings it where it should go when it is run again:
//! nothing is lost, nothing is done twice, nothing is left behind.
//!
//! `HOWDAH_CRASHES=all` goes through every step, before and after, in both directions, `back` through those of the way
//! back; else a sample of them,
//! `HOWDAH_SEED` says which.
#![cfg(test)]

mod moving;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use howdah::testing::TestCluster;
use howdah::{InstanceName, MoveEvent, MoveNews, MovePhase, MoveStep, Mover, Result};
use moving::{Load, cluster_with_tables, leftovers, shard};

/// Where a mover dies: at a step of the way there or back, before it or after it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    step: MoveStep,
    back: bool,
    after: bool,
}

impl Point {
    fn all() -> Vec<Self> {
        let mut points = Vec::new();
        for back in [false, true] {
            for step in MoveStep::ALL {
                let taken = if back {
                    step >= MoveStep::Verify
                        && !matches!(
                            step,
                            MoveStep::NotePosition
                                | MoveStep::DropForward
                                | MoveStep::AdvanceReverse
                                | MoveStep::StartReverse
                        )
                } else {
                    !matches!(step, MoveStep::Journal)
                };
                if taken {
                    points.extend([false, true].map(|after| Self { step, back, after }));
                }
            }
        }
        points
    }

    fn is(self, event: &MoveEvent) -> bool {
        let after = match event.what {
            MoveNews::Begun => false,
            MoveNews::Done => true,
            _ => return false,
        };
        (event.step, event.back, after) == (self.step, self.back, self.after)
    }
}

/// A mover that dies at a point.
fn doomed(test: &TestCluster, point: Point) -> Result<Arc<Mover>> {
    let mover = Mover::new(&test.config())?;
    Ok(Arc::new(mover.on_event(move |event| assert!(!point.is(event), "died as it should"))))
}

/// Moves the shard to where it does not live, dies on the way, and goes on; the way back, too, if that is where it dies.
async fn die_and_go_on(test: &TestCluster, point: Point) -> Result<()> {
    let cluster = test.cluster().await?;
    let mover = Mover::new(&test.config())?;
    let home = cluster.shard(shard())?.home()?.instance().clone();
    let other = InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?;

    let to = other.clone();
    let dying = doomed(test, point)?;
    let run = tokio::spawn(async move { dying.run(shard(), &to).await });
    let died = run.await.is_err();
    let finishing = matches!(point.step, MoveStep::DropReverse | MoveStep::DropCopy);
    assert_eq!(died, !point.back && !finishing, "{point:?}");
    let moved = mover.run(shard(), &other).await?;
    assert_eq!(moved.phase, MovePhase::Reversible, "{point:?}");

    if point.back {
        let dying = doomed(test, point)?;
        let back = tokio::spawn(async move { dying.roll_back(moved.id).await });
        assert!(back.await.is_err(), "{point:?}");
        let back = mover.roll_back(moved.id).await?;
        assert_eq!(back.phase, MovePhase::RolledBack, "{point:?}");
    } else {
        let dying = doomed(test, point)?;
        let end = tokio::spawn(async move { dying.finish(moved.id).await });
        assert_eq!(end.await.is_err(), finishing, "{point:?}");
        let ended =
            if finishing { mover.resume(moved.id).await? } else { mover.show(moved.id).await? };
        assert_eq!(ended.phase, MovePhase::Finished, "{point:?}");
    }
    assert_eq!(leftovers(test).await?, Vec::<String>::new(), "{point:?}");
    Ok(())
}

fn chosen() -> Vec<Point> {
    let all = Point::all();
    match std::env::var("HOWDAH_CRASHES").as_deref() {
        Ok("all") => return all,
        Ok("back") => return all.into_iter().filter(|point| point.back).collect(),
        _ => {}
    }
    let seed = std::env::var("HOWDAH_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = usize::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let seed: usize = seed.unwrap_or(now);
    eprintln!("HOWDAH_SEED={seed}");
    // A few that are far apart.
    (0..3).map(|n| all[(seed * 7 + n * all.len() / 3) % all.len()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_may_die_at_any_step() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 4).await?;
    for point in chosen() {
        eprintln!("{point:?}");
        die_and_go_on(&test, point).await?;
    }
    load.go_on_for(Duration::from_millis(100)).await;
    let ledger = load.stop().await;
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_died_before_the_shard_left_is_aborted_without_a_trace() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let to = InstanceName::new("pg1")?;
    for (step, after) in [
        (MoveStep::MarkShard, false),
        (MoveStep::CopySchema, true),
        (MoveStep::CopyRows, false),
        (MoveStep::PrepareReverse, true),
        (MoveStep::OpenTarget, true),
    ] {
        let point = Point { step, back: false, after };
        let (dying, target) = (doomed(&test, point)?, to.clone());
        let died = tokio::spawn(async move { dying.run(shard(), &target).await }).await;
        assert!(died.is_err());
        let open = mover.open_move(shard()).await?.unwrap();
        assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted, "{point:?}");
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{point:?}");
        assert_eq!(moving::schemas(&test).await?, ["pg2 shard_0001_e1"], "{point:?}");
    }

    // Once it has left there is no way but forward, and back by rollback.
    let point = Point { step: MoveStep::CloseSource, back: false, after: true };
    let (dying, target) = (doomed(&test, point)?, to.clone());
    assert!(tokio::spawn(async move { dying.run(shard(), &target).await }).await.is_err());
    let open = mover.open_move(shard()).await?.unwrap();
    let error = mover.abort(open.id).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("has left pg2"), "{error}");
    assert_eq!(mover.resume(open.id).await?.phase, MovePhase::Reversible);
    assert_eq!(mover.roll_back(open.id).await?.phase, MovePhase::RolledBack);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
