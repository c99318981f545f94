//! A server that dies at any step of a move, and comes back, leaves nothing lost, nothing done twice and nothing behind.
//!
//! `make torture` kills each server at every step; else it is a sample.
#![cfg(test)]

mod moving;
mod torture;

use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{InstanceName, Mover, Result};
use moving::fault::{Command, Point, Standing};
use moving::{Load, cluster_with_tables, leftovers, other_instance, shard};
use torture::Random;

/// Which server dies. No shard that moves is on the catalog's.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Source,
    Target,
    Catalog,
}

/// Moves the shard; at the point the victim is killed, and started again: before the mover goes on, or while it does.
async fn move_and_kill(
    test: &mut TestCluster,
    to: &InstanceName,
    (point, victim): (Point, Victim),
    late: bool,
) -> Result<()> {
    let config = test.config();
    let mover = Mover::new(&config)?;
    let victim = match victim {
        Victim::Source => other_instance(to),
        Victim::Target => to.clone(),
        Victim::Catalog => InstanceName::new("pg1")?,
    };
    let command = Command::reaching(point, &config, to).await?;
    let standing = Standing::at(point, &config, &command).await?;
    let port = test.servers().server(victim.as_str())?.port();
    if late {
        standing.go();
    }
    test.kill(victim.as_str()).await?;
    if !late {
        standing.go();
    }
    test.start_server(victim.as_str()).await?;
    assert_eq!(
        test.servers().server(victim.as_str())?.port(),
        port,
        "the catalog has its old address"
    );
    // It may have gone on by itself, or given up.
    let first = standing.end().await;
    command.complete(&mover, &first).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_may_die_at_any_step() -> Result<()> {
    let mut random = Random::of_this_run();
    let mut all = Vec::new();
    for victim in [Victim::Source, Victim::Target, Victim::Catalog] {
        all.extend(Point::all().into_iter().map(|point| (point, victim)));
    }
    let mut test = cluster_with_tables()?.instances(3).shards(3).own_servers().start().await?;
    let load = Load::start(&test, 4).await?;
    for chosen in random.sample(&all, 3) {
        let late = random.below(2) == 1;
        eprintln!("{chosen:?}{}", if late { ", late" } else { "" });
        let home = test.cluster().await?.shard(shard())?.home()?.instance().clone();
        move_and_kill(&mut test, &other_instance(&home), chosen, late).await?;
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{chosen:?}");
    }
    load.go_on_for(Duration::from_millis(200)).await;
    let ledger = load.stop().await;
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    assert!(ledger.written.len() > 50, "{}", ledger.written.len());
    Ok(())
}
