//! A shard moves from PostgreSQL 15 to 18 and back while it is written to: so a cluster's major version changes one shard
//! at a time.
#![cfg(test)]

mod moving;

use std::time::Duration;

use howdah::local::LocalCluster;
use howdah::testing::{TestDir, TestServers};
use howdah::{
    Cluster, Config, Init, InstanceName, Migrations, MovePhase, Mover, Result, ShardCount,
};
use moving::{Load, TABLES, shard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_to_a_newer_version_and_back() -> Result<()> {
    let dir = TestDir::new().await?;
    let old = TestServers::builder().postgres(15).servers(1).start().await?;
    let new = TestServers::builder().postgres(18).servers(1).start().await?;
    let (old, new) = (old.server("pg1")?.bin_dir(), new.server("pg1")?.bin_dir());
    let mut servers = LocalCluster::open(dir.path().join("both"))?;
    servers.up(&dir.up_options().instances(1).pg_bin(old)).await?;
    servers.add("pg2", Some(new)).await?;
    let dsn = |name: &str| -> Result<String> { Ok(servers.server(name)?.dsn("howdah_app")) };
    let (pg1, pg2) = (InstanceName::new("pg1")?, InstanceName::new("pg2")?);
    let config = Config::new(dsn("pg1")?);
    Init::new(ShardCount::new(2)?)
        .instance(pg2.clone(), dsn("pg2")?.parse()?)
        .instance(pg1.clone(), dsn("pg1")?.parse()?)
        .run(&config)
        .await?;
    let tables = Migrations::new([("0001_tables.sql", TABLES)])?;
    assert_eq!(tables.up(&config, 2, |_| {}).await?.failed().count(), 0);

    let load = Load::begin(&config, 4).await?;
    let mover = Mover::new(&config)?;
    for to in [&pg2, &pg1] {
        load.go_on_for(Duration::from_millis(200)).await;
        let moved = mover.run(shard(), to).await?;
        assert_eq!((moved.phase, moved.verified), (MovePhase::Reversible, true));
        load.go_on_for(Duration::from_millis(200)).await;
        mover.verify(shard()).await?;
    }
    let ledger = load.stop().await;
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard(shard())?;
    assert_eq!(*shard.home()?.instance(), pg1);
    ledger.check(&shard).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    let open = mover.open_move(shard.id()).await?.unwrap();
    mover.finish(open.id).await?;
    servers.destroy().await
}
