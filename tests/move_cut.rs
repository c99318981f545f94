//! A network that is cut or falls silent between any two that take part, at any step of a move, and comes back, leaves nothing
//! lost, nothing done twice and nothing behind; and clients, whose own network is well, never notice.
//!
//! `make torture` does it to each link at every step; else it is a sample.
#![cfg(test)]

mod moving;
mod torture;

use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{InstanceName, Mover, Result};
use moving::fault::{Command, Point, Standing};
use moving::network::{Link, Network};
use moving::{Load, cluster_with_tables, leftovers, other_instance, shard};
use torture::Random;

/// How long a link is away while the mover goes on; less, if it gives up.
const AWAY: Duration = Duration::from_secs(1);

/// What becomes of a link.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Cut,
    Silent,
}

/// Moves the shard; at the point the link is lost, before the mover goes on or while it does, and comes back.
async fn move_and_cut(
    network: &Network,
    to: &InstanceName,
    (point, link): (Point, Link),
    fault: Fault,
    late: bool,
) -> Result<()> {
    let config = network.config();
    let mover = Mover::new(&config)?;
    let command = Command::reaching(point, &config, to).await?;
    let mut standing = Standing::at(point, &config, &command).await?;
    let link = network.link(link, other_instance(to).as_str(), to.as_str());
    if late {
        standing.go();
    }
    match fault {
        Fault::Cut => link.cut(),
        Fault::Silent => link.blackhole(),
    }
    if !late {
        standing.go();
    }
    standing.ends_within(AWAY).await;
    link.heal();
    let first = standing.end().await;
    command.complete(&mover, &first).await
}

/// Servers of its own, whose streams come back as soon as they can, not only after seconds.
async fn cluster() -> Result<TestCluster> {
    let test = cluster_with_tables()?.instances(3).shards(3).own_servers().start().await?;
    for name in test.servers().names() {
        let admin = test.admin(name).await?;
        let retry = "ALTER SYSTEM SET wal_retrieve_retry_interval = '50ms'";
        admin.batch_execute(retry).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
    Ok(test)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_link_may_be_lost_at_any_step() -> Result<()> {
    let mut random = Random::of_this_run();
    let mut all = Vec::new();
    for link in Link::ALL {
        all.extend(Point::all().into_iter().map(|point| (point, link)));
    }
    let test = cluster().await?;
    let network = Network::lay(&test).await?;
    let load = Load::start(&test, 4).await?;
    for chosen in random.sample(&all, 5) {
        let fault = [Fault::Cut, Fault::Silent][random.below(2)];
        let late = random.below(2) == 1;
        eprintln!("{chosen:?}: {fault:?}{}", if late { ", late" } else { "" });
        let home = test.cluster().await?.shard(shard())?.home()?.instance().clone();
        move_and_cut(&network, &other_instance(&home), chosen, fault, late).await?;
        assert_eq!(leftovers(&test).await?, Vec::<String>::new(), "{chosen:?}");
    }
    load.go_on_for(Duration::from_millis(200)).await;
    let ledger = load.stop().await;
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert!(ledger.written.len() > 50, "{}", ledger.written.len());
    Ok(())
}
