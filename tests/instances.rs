//! Instances come and go while clients work.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::{Proxy, TestServers, until};
use howdah::{
    Cluster, Config, Dsn, Error, Init, InstanceName, InstanceState, Instances, MovePhase, Mover,
    NewInstance, Rebalance, RebalanceBy, Result, ShardCount, ShardId,
};

/// A cluster of eight shards on `pg1` and `pg2`, and `pg3` as a server of no cluster.
async fn two_of_three() -> Result<(TestServers, Config)> {
    let servers = TestServers::start(3).await?;
    let mut init = Init::new(ShardCount::new(8)?);
    for instance in ["pg1", "pg2"] {
        init = init.instance(name(instance), dsn(&servers, instance));
    }
    let config = Config::new(servers.dsn("pg1", "howdah_app")?).max_size(2).min_idle(0);
    init.run(&config).await?;
    Ok((servers, config))
}

fn name(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

fn dsn(servers: &TestServers, name: &str) -> Dsn {
    servers.dsn(name, "howdah_app").unwrap().parse().unwrap()
}

fn third(servers: &TestServers) -> NewInstance {
    NewInstance::new(name("pg3"), dsn(servers, "pg3"))
}

async fn add(config: &Config, instance: &NewInstance) -> Result<()> {
    Instances::open(config).await?.add(instance).await
}

async fn refused<T>(doing: impl Future<Output = Result<T>>) -> Error {
    let error = doing.await.err().unwrap();
    assert!(error.is_refused(), "{error:?}");
    error
}

#[tokio::test]
async fn clients_hear_of_a_new_instance_and_reach_it() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    let cluster = Cluster::connect(config.clone()).await?;
    add(&config, &third(&servers)).await?;
    until("the client has heard of it", async || cluster.instances().len() == 3).await;
    let pg3 = cluster.instance(&name("pg3"))?;
    assert_eq!((pg3.state(), pg3.shards().len()), (InstanceState::Active, 0));
    // What makes ids is there, for shards that come.
    let functions = "SELECT sign(howdah.clock_ms())::bigint";
    assert_eq!(pg3.client().await?.query_one(functions, &[]).await.unwrap().get::<_, i64>(0), 1);
    Ok(())
}

#[tokio::test]
async fn a_decision_is_kept_by_who_cannot_know_all_instances() -> Result<()> {
    const ID: &str = "11111111-1111-4111-8111-111111111111";
    let (servers, config) = two_of_three().await?;
    let catalog = Proxy::start(servers.server("pg1")?.port()).await?;
    let dsn = format!("postgres://howdah_app@127.0.0.1:{}/{}", catalog.port(), servers.database());
    let cluster = Cluster::connect(Config::new(dsn).max_size(2).min_idle(0)).await?;
    catalog.cut();
    add(&config, &third(&servers)).await?;
    // Somebody else has committed on the new instance, and died before its part was told.
    let gid = format!("howdah:{}:0:{ID}", cluster.status().await.cluster);
    let part = format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{gid}'");
    servers.client("pg3", "howdah_app").await?.batch_execute(&part).await.unwrap();
    let decider = servers.client("pg1", "howdah_app").await?;
    let decide = format!("INSERT INTO shard_0000_e1.howdah_decisions VALUES ('{ID}', true)");
    decider.batch_execute(&decide).await.unwrap();

    let swept = cluster.recover(Duration::ZERO).await;
    assert_eq!((swept.committed, swept.rolled_back), (0, 0), "{swept:?}");
    assert_eq!(cluster.instances().len(), 2);
    catalog.heal();
    let swept = until("it has found the part", async || {
        let swept = cluster.recover(Duration::ZERO).await;
        if swept.committed + swept.rolled_back > 0 { Ok(swept) } else { Err(swept) }
    });
    let swept = swept.await;
    assert_eq!((swept.committed, swept.rolled_back), (1, 0), "{swept:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_an_instance_is_refused_untouched() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    let twice = NewInstance::new(name("pg9"), dsn(&servers, "pg2"));
    let error = refused(add(&config, &twice)).await;
    assert!(error.to_string().contains("instance pg2 of this cluster"), "{error}");
    let elsewhere = NewInstance::new(name("pg2"), dsn(&servers, "pg3"));
    let error = refused(add(&config, &elsewhere)).await;
    assert!(error.to_string().contains("is known as"), "{error}");

    let own = Config::new(servers.dsn("pg3", "howdah_app")?);
    Init::new(ShardCount::new(1)?).instance(name("other"), dsn(&servers, "pg3")).run(&own).await?;
    let error = refused(add(&config, &third(&servers))).await;
    assert!(error.to_string().contains("of another cluster"), "{error}");

    assert_eq!(Cluster::connect(config.clone()).await?.instances().len(), 2);
    let wrong = third(&servers).capacity(0.0);
    assert!(add(&config, &wrong).await.unwrap_err().is_invalid_input());
    Ok(())
}

#[tokio::test]
async fn only_an_empty_instance_is_removed_and_it_may_come_again() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    add(&config, &third(&servers)).await?;
    let mut instances = Instances::open(&config).await?;
    let error = refused(instances.remove(&name("pg1"))).await.to_string();
    assert!(
        error.contains("4 shards live there") && error.contains("the catalog is there"),
        "{error}"
    );

    // A copy that a move has left there.
    let admin = servers.admin("pg3").await?;
    admin.batch_execute("CREATE SCHEMA shard_0005_e1").await.unwrap();
    let error = refused(instances.remove(&name("pg3"))).await.to_string();
    assert!(error.contains("left of moves: shard_0005_e1; end their moves"), "{error}");
    admin.batch_execute("DROP SCHEMA shard_0005_e1").await.unwrap();

    instances.remove(&name("pg3")).await?;
    assert!(instances.remove(&name("pg3")).await.unwrap_err().is_invalid_input());
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'howdah'";
    assert_eq!(admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    drop(instances);
    add(&config, &third(&servers)).await?;
    assert_eq!(Cluster::connect(config).await?.instances().len(), 3);
    Ok(())
}

#[tokio::test]
async fn one_that_comes_again_is_believed_by_who_knew_it_before() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    add(&config, &third(&servers)).await?;
    let raise = "UPDATE howdah.instance SET generation = 99 WHERE name = 'pg3'";
    servers.admin("pg1").await?.batch_execute(raise).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map");
    let remembering = config.clone().map_cache(&map);
    drop(Cluster::connect(remembering.clone()).await?);
    let kept = async || std::fs::read_to_string(&map).is_ok_and(|map| map.contains("= 99"));
    until("it is written down", kept).await;

    let mut instances = Instances::open(&config).await?;
    instances.remove(&name("pg3")).await?;
    instances.add(&third(&servers)).await?;
    let cluster = Cluster::connect(remembering).await?;
    let client = cluster.instance(&name("pg3"))?.client().await?;
    let generation = "SELECT generation FROM howdah.identity";
    assert!(client.query_one(generation, &[]).await.unwrap().get::<_, i64>(0) > 99);
    Ok(())
}

#[tokio::test]
async fn the_same_server_may_have_another_address_and_no_other_server_takes_its_place() -> Result<()>
{
    let (servers, config) = two_of_three().await?;
    let cluster = Cluster::connect(config.clone()).await?;
    let mut instances = Instances::open(&config).await?;
    let error = instances.readdress(&name("pg2"), &dsn(&servers, "pg1")).await.unwrap_err();
    assert!(error.is_wrong_server(), "{error:?}");
    assert!(instances.readdress(&name("pg2"), &dsn(&servers, "pg3")).await.is_err());
    let other: Dsn = dsn(&servers, "pg2").to_string().replace("127.0.0.1", "localhost").parse()?;
    instances.readdress(&name("pg2"), &other).await?;
    let known = async || *cluster.instance(&name("pg2")).unwrap().dsn() == other;
    until("clients have heard of it", known).await;
    cluster.shard(ShardId::new(1)?)?.reserve_ids(1).await?;
    Ok(())
}

#[tokio::test]
async fn a_draining_instance_takes_nothing_and_can_be_taken_back() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    let mut instances = Instances::open(&config).await?;
    instances.drain(&name("pg2")).await?;
    refused(instances.drain(&name("pg1"))).await;
    instances.add(&third(&servers)).await?;
    let cluster = Cluster::connect(config.clone()).await?;
    assert_eq!(cluster.instance(&name("pg2"))?.state(), InstanceState::Draining);

    let plan = Rebalance::new().away_from(name("pg2")).plan(&cluster).await?;
    let from_pg2 = plan.moves.iter().all(|planned| planned.from == name("pg2"));
    assert_eq!((plan.moves.len(), from_pg2), (4, true), "{plan:?}");
    assert!(plan.bytes() > 0, "sequences alone take a page each");

    instances.add(&NewInstance::new(name("pg2"), dsn(&servers, "pg2"))).await?;
    let plan = Rebalance::new().away_from(name("pg2")).plan(&cluster).await?;
    assert!(plan.moves.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_plan_counts_what_is_there_and_what_is_on_its_way() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    add(&config, &third(&servers).capacity(2.0)).await?;
    let cluster = Cluster::connect(config.clone()).await?;
    let rebalance = Rebalance::new().by(RebalanceBy::Shards).tolerance(0.0);
    let plan = rebalance.plan(&cluster).await?;
    let after: Vec<_> = plan.instances.iter().map(|instance| instance.shards_after).collect();
    assert_eq!((plan.moves.len(), after), (4, vec![2, 2, 4]), "{plan:?}");

    let shard = i32::from(plan.moves[0].shard.get());
    let begun = "INSERT INTO howdah.move (shard, source, target, epoch, phase, step, reverse) \
                 VALUES ($1, $2, 'pg3', 1, 'copy', 'copy rows', true)";
    let catalog = servers.admin("pg1").await?;
    catalog.execute(begun, &[&shard, &plan.moves[0].from.as_str()]).await.unwrap();
    let rest = rebalance.plan(&cluster).await?;
    assert_eq!(rest.moves.len(), 3);
    assert!(rest.moves.iter().all(|planned| i32::from(planned.shard.get()) != shard));

    // One that could still be undone is no more moved on to even things out, but where its instance is emptied.
    let rests =
        "UPDATE howdah.move SET phase = 'reversible', source = 'pg3', target = $1 WHERE shard = $2";
    catalog.execute(rests, &[&plan.moves[0].from.as_str(), &shard]).await.unwrap();
    let even = rebalance.plan(&cluster).await?;
    assert!(!even.moves.is_empty());
    assert!(even.moves.iter().all(|planned| i32::from(planned.shard.get()) != shard));
    let mut instances = Instances::open(&config).await?;
    instances.drain(&plan.moves[0].from).await?;
    let away = Rebalance::new().away_from(plan.moves[0].from.clone()).plan(&cluster).await?;
    assert_eq!(away.moves.len(), 4);

    let error = refused(instances.remove(&name("pg3"))).await.to_string();
    assert!(error.contains("m1"), "{error}");
    Ok(())
}

#[tokio::test]
async fn servers_reach_each_other_under_the_address_given_for_that() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    let mut instances = Instances::open(&config).await?;
    let pg2 = NewInstance::new(name("pg2"), dsn(&servers, "pg2"));
    let nobody = "postgres://howdah_mover@127.0.0.1:1/nobody".parse()?;
    instances.add(&pg2.clone().peer_dsn(nobody)).await?;
    let mover = Mover::new(&config)?.reverse(false);
    let shard = ShardId::new(1)?;
    let error = mover.run(shard, &name("pg1")).await.unwrap_err();
    assert!(error.to_string().contains("cannot subscribe to pg2"), "{error}");
    instances.add(&pg2.peer_dsn(servers.dsn("pg2", "howdah_mover")?.parse()?)).await?;
    let moved = mover.run(shard, &name("pg1")).await?;
    assert_eq!(moved.phase, MovePhase::Finished);
    Ok(())
}

#[tokio::test]
async fn changes_of_one_cluster_come_one_after_the_other() -> Result<()> {
    let (servers, config) = two_of_three().await?;
    let instances = Instances::open(&config).await?;
    refused(Instances::open(&config)).await;
    drop(instances);
    // The lock dies with its session, which the server notices in its own time.
    until("it is free", async || {
        let added = add(&config, &third(&servers)).await;
        added.inspect_err(|error| assert!(error.is_refused(), "{error}"))
    })
    .await;
    Ok(())
}
