//! What others do between a mover's look and its entry in the journal: the move begins with what is so then, or not at all.
#![cfg(test)]

mod moving;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use howdah::testing::TestCluster;
use howdah::{Config, InstanceName, Instances, MoveNews, MovePhase, MoveStep, Mover, Result};
use moving::{cluster_with_tables, leftovers, schemas, shard};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

fn pg(number: u8) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

/// A mover that stands still once, when a step begins or is done, until something else has been done.
fn held_up<F>(
    config: &Config,
    step: MoveStep,
    after: bool,
    meanwhile: impl FnOnce() -> F + Send + 'static,
) -> Result<Mover>
where
    F: Future<Output = Result<()>>,
{
    let (meanwhile, runtime) = (Mutex::new(Some(meanwhile)), Handle::current());
    Ok(Mover::new(config)?.on_event(move |event| {
        let is_there = event.step == step && matches!(event.what, MoveNews::Done) == after;
        let mut meanwhile = meanwhile.lock().unwrap();
        if is_there && let Some(meanwhile) = meanwhile.take() {
            block_in_place(|| runtime.block_on(meanwhile())).unwrap();
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_moves_while_another_mover_waits_is_moved_on_from_there() -> Result<()> {
    let test = cluster_with_tables()?.instances(3).start().await?;
    let config = test.config();
    let other = Mover::new(&config)?.reverse(false);
    let slow = held_up(&config, MoveStep::LockServers, false, || async move {
        other.run(shard(), &pg(1)).await.map(drop)
    })?;
    let moved = slow.run(shard(), &pg(3)).await?;
    assert_eq!((moved.source, moved.phase), (pg(1), MovePhase::Reversible));
    slow.finish(moved.id).await?;

    // What was entered all the same, by a version before this, is no obstacle for ever.
    let enter = "INSERT INTO howdah.move (shard, source, target, epoch, step, reverse) \
                 VALUES (1, 'pg2', 'pg1', 1, 'journal', true)";
    test.admin("pg1").await?.batch_execute(enter).await.unwrap();
    let open = slow.open_move(shard()).await?.unwrap();
    assert!(slow.resume(open.id).await.unwrap_err().is_refused());
    assert_eq!(slow.abort(open.id).await?.phase, MovePhase::Aborted);
    assert_eq!(schemas(&test).await?, ["pg3 shard_0001_e3"]);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_others_begin_while_a_mover_waits_is_gone_on_with() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let config = test.config();
    let dying = Mover::new(&config)?
        .on_event(|event| assert!(event.step != MoveStep::Verify, "died as it should"));
    let slow = held_up(&config, MoveStep::LockServers, false, || async move {
        let died = tokio::spawn(async move { dying.run(shard(), &pg(1)).await });
        assert!(died.await.is_err());
        Ok(())
    })?;
    let moved = slow.run(shard(), &pg(1)).await?;
    assert_eq!(moved.phase, MovePhase::Reversible);
    assert_eq!(slow.list().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_drained_or_removed_meanwhile_gets_no_move() -> Result<()> {
    let test = cluster_with_tables()?.instances(3).shards(2).start().await?;
    let config = test.config();
    for (removed, reason) in [(false, "pg3 is draining"), (true, "no instance pg3")] {
        let instances = opened(&config).await;
        let change = move || async move { gone(instances, removed).await };
        let mover = held_up(&config, MoveStep::Preflight, true, change)?;
        let error = mover.run(shard(), &pg(3)).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(mover.list().await?.is_empty());
        active(&test).await;
    }
    Ok(())
}

/// As soon as the session is gone that changed instances before.
async fn opened(config: &Config) -> Instances {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match Instances::open(config).await {
            Ok(instances) => return instances,
            Err(error) => assert!(error.is_refused() && Instant::now() < patience, "{error}"),
        }
    }
}

async fn gone(mut instances: Instances, removed: bool) -> Result<()> {
    if removed { instances.remove(&pg(3)).await } else { instances.drain(&pg(3)).await }
}

async fn active(test: &TestCluster) {
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute("UPDATE howdah.instance SET state = 'active'").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_to_which_a_move_is_just_being_entered_is_not_removed() -> Result<()> {
    let test = TestCluster::builder().instances(3).shards(2).start().await?;
    let catalog = test.admin("pg1").await?;
    let enter = "BEGIN; INSERT INTO howdah.move (shard, source, target, epoch, step, reverse) \
                 VALUES (1, 'pg2', 'pg3', 1, 'journal', true)";
    catalog.batch_execute(enter).await.unwrap();
    let config = test.config();
    let removing =
        tokio::spawn(async move { Instances::open(&config).await?.remove(&pg(3)).await });
    let looking = test.admin("pg1").await?;
    let waits = "SELECT FROM pg_locks WHERE relation = 'howdah.move'::regclass AND NOT granted";
    let patience = Instant::now() + Duration::from_secs(60);
    while looking.query_opt(waits, &[]).await.unwrap().is_none() {
        assert!(!removing.is_finished() && Instant::now() < patience, "it waits for nobody");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    catalog.batch_execute("COMMIT").await.unwrap();
    let error = removing.await.unwrap().unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    assert_eq!(test.cluster().await?.instances().len(), 3);
    Ok(())
}
