//! Servers go and come while clients work: every call succeeds, and everything is there.
#![cfg(test)]

mod moving;

use std::time::Duration;

use howdah::{InstanceName, Instances, Mover, NewInstance, Rebalance, RebalanceBy, Result};
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
