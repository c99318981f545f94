//! A catalog that has failed over may have forgotten the end of a move, or all of it. The servers still know, and the same command
//! tells the catalog again; what nobody can explain any more is left alone.
#![cfg(test)]

mod moving;

use howdah::testing::TestCluster;
use howdah::{InstanceName, MovePhase, MoveStep, Mover, Result};
use moving::fault::{Command, Point, Standing};
use moving::{Load, cluster_with_tables, leftovers, schemas, shard};

/// What the catalog's standby had not heard of when it was promoted.
const HOME: &str = "UPDATE howdah.home SET instance = 'pg2', epoch = 1 WHERE shard = 1; \
    UPDATE howdah.cluster SET map_version = map_version - 1";
const END: &str = "UPDATE howdah.move SET phase = 'fence', step = 'recheck'";
const MOVE: &str = "TRUNCATE howdah.move RESTART IDENTITY CASCADE";

async fn forget(test: &TestCluster, what: &[&str]) -> Result<()> {
    test.admin("pg1").await?.batch_execute(&what.join("; ")).await.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_forgot_that_a_move_has_ended_is_told_again() -> Result<()> {
    for forgotten in [[HOME, END], [HOME, MOVE]] {
        let test = cluster_with_tables()?.start().await?;
        let to = InstanceName::new("pg1")?;
        let mover = Mover::new(&test.config())?;
        let load = Load::start(&test, 3).await?;
        let moved = mover.run(shard(), &to).await?;
        mover.finish(moved.id).await?;
        let ledger = load.stop().await;
        forget(&test, &forgotten).await?;

        let told = mover.run(shard(), &to).await?;
        assert_eq!((told.id, told.phase), (moved.id, MovePhase::Finished), "{forgotten:?}");
        assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e2"]);
        assert_eq!(leftovers(&test).await?, Vec::<String>::new());
        let shard = test.cluster().await?.shard(shard())?;
        assert_eq!(*shard.home()?.instance(), to);
        ledger.check(&shard).await?;

        let back = mover.run(shard.id(), &InstanceName::new("pg2")?).await?;
        assert_eq!(back.phase, MovePhase::Reversible);
        mover.finish(back.id).await?;
        ledger.check(&shard).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_things_of_a_move_that_was_forgotten_are_not_taken_for_those_of_the_next() -> Result<()>
{
    // What is left ends with its servers.
    let test = cluster_with_tables()?.own_servers().start().await?;
    let mover = Mover::new(&test.config())?;
    let go = Command::Go(InstanceName::new("pg1")?);
    let verify = Point::there(MoveStep::Verify);
    Standing::at(verify, &test.config(), &go).await?.die().await;
    let left = schemas(&test).await?;
    forget(&test, &[MOVE]).await?;

    // It would be of the same number, the same shard and the same epoch.
    let refused = mover.run(shard(), &InstanceName::new("pg1")?).await.unwrap_err();
    assert!(refused.is_refused(), "{refused}");
    for reason in ["howdah_move of another move", "pg1 has a schema of shard 1 already"] {
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    assert_eq!(schemas(&test).await?, left);
    assert!(mover.list().await?.is_empty());
    Ok(())
}
