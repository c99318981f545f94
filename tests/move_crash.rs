//! A mover that dies at any step leaves the shard where it was, or brings it where it should go when it is run again:
//! nothing is lost, nothing is done twice, nothing is left behind.
//!
//! `make torture` lets it die at every step, before and after, there and back; else it is a sample.
#![cfg(test)]

mod moving;
mod torture;

use std::sync::Arc;
use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{InstanceName, MoveEvent, MoveNews, MovePhase, MoveStep, Mover, Result};
use moving::fault::Point;
use moving::{Load, cluster_with_tables, leftovers, shard};
use torture::Random;

/// Where a mover dies: at a point, before the step or after it.
type Death = (Point, bool);

fn is_here((point, after): Death, event: &MoveEvent) -> bool {
    let is_end = matches!(event.what, MoveNews::Done);
    if after {
        is_end && (event.step, event.back) == (point.step, point.back)
    } else {
        point.is_begun_by(event)
    }
}

/// A mover that dies at a point.
fn doomed(test: &TestCluster, death: Death) -> Result<Arc<Mover>> {
    let mover = Mover::new(&test.config())?;
    Ok(Arc::new(mover.on_event(move |event| assert!(!is_here(death, event), "died as it should"))))
}

/// Moves the shard to where it does not live, dies on the way, and goes on; the way back, too, if that is where it dies.
async fn die_and_go_on(test: &TestCluster, death: Death) -> Result<()> {
    let (point, _) = death;
    let cluster = test.cluster().await?;
    let mover = Mover::new(&test.config())?;
    let home = cluster.shard(shard())?.home()?.instance().clone();
    let other = InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?;

    let to = other.clone();
    let dying = doomed(test, death)?;
    let run = tokio::spawn(async move { dying.run(shard(), &to).await });
    let died = run.await.is_err();
    let finishing = point.is_of_end();
    assert_eq!(died, !point.back && !finishing, "{death:?}");
    let moved = mover.run(shard(), &other).await?;
    assert_eq!(moved.phase, MovePhase::Reversible, "{death:?}");

    if point.back {
        let dying = doomed(test, death)?;
        let back = tokio::spawn(async move { dying.rollback(moved.id).await });
        assert!(back.await.is_err(), "{death:?}");
        let back = mover.rollback(moved.id).await?;
        assert_eq!(back.phase, MovePhase::RolledBack, "{death:?}");
    } else {
        let dying = doomed(test, death)?;
        let end = tokio::spawn(async move { dying.finish(moved.id).await });
        assert_eq!(end.await.is_err(), finishing, "{death:?}");
        let ended =
            if finishing { mover.resume(moved.id).await? } else { mover.show(moved.id).await? };
        assert_eq!(ended.phase, MovePhase::Finished, "{death:?}");
    }
    assert_eq!(leftovers(test).await?, Vec::<String>::new(), "{death:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_may_die_at_any_step() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 4).await?;
    let all: Vec<Death> =
        Point::all().into_iter().flat_map(|point| [(point, false), (point, true)]).collect();
    let chosen = Random::of_this_run().sample(&all, 3);
    for death in &chosen {
        eprintln!("{death:?}");
        die_and_go_on(&test, *death).await?;
    }
    load.go_on_for(Duration::from_millis(100)).await;
    let mut ledger = load.stop().await;
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    // As long as the shard has no home, until the mover goes on, a client may lose patience.
    let nowhere = MoveStep::CloseSource..=MoveStep::ChangeHome;
    if chosen.iter().any(|(point, _)| nowhere.contains(&point.step)) {
        ledger.errors.retain(|error| !error.starts_with("NotExecuted"));
    }
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
        (MoveStep::Publish, true),
        (MoveStep::CopySchema, true),
        (MoveStep::CopyRows, false),
        (MoveStep::Follow, false),
        (MoveStep::PrepareReverse, true),
        (MoveStep::RenameTarget, true),
    ] {
        let death = (Point { step, back: false }, after);
        let (dying, target) = (doomed(&test, death)?, to.clone());
        let died = tokio::spawn(async move { dying.run(shard(), &target).await }).await;
        assert!(died.is_err());
        let open = mover.open_move(shard()).await?.unwrap();
        assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted, "{death:?}");
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{death:?}");
        assert_eq!(moving::schemas(&test).await?, ["pg2 shard_0001_e1"], "{death:?}");
    }

    // Once it has left there is no way but forward, and back by rollback.
    let death = (Point { step: MoveStep::CloseSource, back: false }, true);
    let (dying, target) = (doomed(&test, death)?, to.clone());
    assert!(tokio::spawn(async move { dying.run(shard(), &target).await }).await.is_err());
    let open = mover.open_move(shard()).await?.unwrap();
    let error = mover.abort(open.id).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("has left pg2"), "{error}");
    assert_eq!(mover.resume(open.id).await?.phase, MovePhase::Reversible);
    assert_eq!(mover.rollback(open.id).await?.phase, MovePhase::RolledBack);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
