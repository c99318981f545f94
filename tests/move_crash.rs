//! A mover that dies at any step leaves the shard where it was, or brings it where it should go when it is run again:
//! nothing is lost, nothing is done twice, nothing is left behind.
//!
//! `make torture` lets it die at every step, before and after, there and back, and at the end and the abortion of a move; else it is a sample.
#![cfg(test)]

mod moving;
mod torture;

use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{InstanceName, MovePhase, MoveStep, Mover, Result};
use moving::fault::{Command, Point};
use moving::{Load, cluster_with_tables, leftovers, shard};
use torture::Random;

/// Where a mover dies: at a point, before the step or after it.
type Death = (Point, bool);

/// A mover that dies at a point.
fn doomed(test: &TestCluster, (point, after): Death) -> Result<Mover> {
    let mover = Mover::new(&test.config())?;
    Ok(mover.on_event(move |event| {
        let is_here = if after { point.is_done_by(event) } else { point.is_begun_by(event) };
        assert!(!is_here, "died as it should");
    }))
}

/// Has a command die on the way.
async fn die(test: &TestCluster, command: &Command, death: Death) -> Result<()> {
    let (dying, command) = (doomed(test, death)?, command.clone());
    let died = tokio::spawn(async move { command.give(&dying).await }).await;
    assert!(died.is_err_and(|error| error.is_panic()), "it did not come to {death:?}");
    Ok(())
}

/// Gives a command about the shard, which dies on the way, and gives it again.
async fn die_and_go_on(test: &TestCluster, death: Death) -> Result<()> {
    let config = test.config();
    let home = test.cluster().await?.shard(shard())?.home()?.instance().clone();
    let other = InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?;
    let command = Command::reaching(death.0, &config, &other).await?;
    die(test, &command, death).await?;
    command.complete(&Mover::new(&config)?, &death).await?;
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
    let go = Command::Go(InstanceName::new("pg1")?);
    for (step, after) in [
        (MoveStep::MarkShard, false),
        (MoveStep::Publish, true),
        (MoveStep::CopySchema, true),
        (MoveStep::CopyRows, false),
        (MoveStep::Follow, false),
        (MoveStep::PrepareReverse, true),
        (MoveStep::RenameTarget, true),
    ] {
        let death = (Point::there(step), after);
        die(&test, &go, death).await?;
        let open = mover.open_move(shard()).await?.unwrap();
        assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted, "{death:?}");
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{death:?}");
        assert_eq!(moving::schemas(&test).await?, ["pg2 shard_0001_e1"], "{death:?}");
    }

    // Once it has left there is no way but forward, and back by rollback.
    die(&test, &go, (Point::there(MoveStep::CloseSource), true)).await?;
    let open = mover.open_move(shard()).await?.unwrap();
    let error = mover.abort(open.id).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("has left pg2"), "{error}");
    assert_eq!(mover.resume(open.id).await?.phase, MovePhase::Reversible);
    assert_eq!(mover.rollback(open.id).await?.phase, MovePhase::RolledBack);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
