//! Servers go and come while clients work: every call succeeds, and everything is there.
#![cfg(test)]

mod moving;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{
    InstanceName, Instances, MoveNews, MoveStep, Mover, NewInstance, PlannedMove, Rebalance,
    RebalanceBy, Result,
};
use moving::{Load, cluster_with_tables, leftovers, shard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_emptied_removed_and_comes_back_under_load() -> Result<()> {
    let test = cluster_with_tables()?.instances(3).shards(3).start().await?;
    let config = test.config();
    let cluster = test.cluster().await?;
    let pg2 = InstanceName::new("pg2")?;
    assert_eq!(*cluster.shard(shard())?.home()?.instance(), pg2);
    let mover = Mover::new(&config)?.reverse(false);
    let load = Load::start(&test, 6).await?;

    // The old copy of a move that could still be undone goes too.
    Instances::open(&config).await?.drain(&pg2).await?;
    let plan = Rebalance::new().away_from(pg2.clone()).plan(&cluster).await?;
    assert_eq!(plan.moves.len(), 1);
    let undoable = Mover::new(&config)?;
    for (_, moved) in undoable.carry_out(&plan, 1).await {
        moved?;
    }
    let still = Instances::open(&config).await?.remove(&pg2).await.unwrap_err();
    assert!(still.is_refused() && still.to_string().contains("m1"), "{still}");
    for (_, finished) in mover.finish_away_from(&pg2).await? {
        finished?;
    }
    Instances::open(&config).await?.remove(&pg2).await?;
    load.go_on_for(Duration::from_millis(300)).await;

    let dsn = test.servers().dsn("pg2", "howdah_app")?.parse()?;
    Instances::open(&config).await?.add(&NewInstance::new(pg2.clone(), dsn)).await?;
    let even = Rebalance::new().by(RebalanceBy::Shards).tolerance(0.0);
    let plan = even.plan(&cluster).await?;
    assert_eq!(plan.moves.len(), 1);
    for (_, moved) in mover.carry_out(&plan, 2).await {
        moved?;
    }
    assert!(even.plan(&cluster).await?.moves.is_empty());
    load.go_on_for(Duration::from_millis(300)).await;

    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&cluster.shard(shard())?).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// One move at once at each instance, and one that stands still holds up nobody elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_at_once_are_bounded_at_each_instance_and_not_in_all() -> Result<()> {
    let test = TestCluster::builder().instances(4).shards(8).own_servers().start().await?;
    let mut instances = Instances::open(&test.config()).await?;
    for name in ["pg1", "pg2"] {
        instances.drain(&InstanceName::new(name)?).await?;
    }
    let even = Rebalance::new().by(RebalanceBy::Shards).tolerance(0.0);
    let plan = even.plan(&test.cluster().await?).await?;
    assert_eq!(plan.moves.len(), 4);
    let held = plan.moves[0].clone();
    let shares = |one: &PlannedMove| one.from == held.from || one.to == held.to;
    let beside = plan.moves.iter().find(|one| !shares(one)).unwrap().shard;
    let waiting: Vec<_> = plan.moves[1..].iter().filter(|one| shares(one)).collect();
    let waiting: BTreeSet<_> = waiting.iter().map(|one| one.shard).collect();

    // No slot is made there while it is open.
    let writer = test.admin(held.from.as_str()).await?;
    writer.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let told = Arc::new(Mutex::new([BTreeSet::new(), BTreeSet::new()]));
    let telling = told.clone();
    let mover = Mover::new(&test.config())?.reverse(false).on_event(move |event| {
        let mut told = telling.lock().unwrap();
        told[0].insert(event.shard);
        if event.step == MoveStep::DropCopy && matches!(event.what, MoveNews::Done) {
            told[1].insert(event.shard);
        }
    });
    let moving = tokio::spawn(async move { mover.carry_out(&plan, 1).await });
    until("a move of other instances is over", async || told.lock().unwrap()[1].contains(&beside))
        .await;
    assert!(told.lock().unwrap()[0].is_disjoint(&waiting), "they share an instance with it");
    assert!(!told.lock().unwrap()[1].contains(&held.shard));
    writer.batch_execute("COMMIT").await.unwrap();
    for (_, moved) in moving.await.unwrap() {
        moved?;
    }
    assert_eq!(told.lock().unwrap()[1].len(), 4);
    Ok(())
}
