//! How many connections there are: no more than were allowed over all instances, and none that nobody wants.
#![cfg(test)]

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use howdah::testing::{TestCluster, TestServers, until};
use howdah::{
    Cluster, Config, Dsn, Init, InstanceName, Instances, NewInstance, Result, Shard, ShardCount,
    ShardId, Statement, Transaction,
};

const NAMES: [&str; 3] = ["pg1", "pg2", "pg3"];
/// What no session of the catalog's does.
const IS_LOCAL: Statement = Statement::new("SELECT {shard}.is_local($1)");
const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), {shard}.is_local(1)");

/// The sessions of the pools on each server: those whose last statement was one on a shard.
async fn sessions(servers: &TestServers) -> Vec<i64> {
    const COUNT: &str = "SELECT count(*) FILTER (WHERE query ~ 'shard_[0-9]'), count(*)
        FROM pg_stat_activity WHERE datname = current_database() AND usename = 'howdah_app'";
    let (mut counts, mut all) = (Vec::new(), 0);
    for name in NAMES {
        let admin = servers.admin(name).await.unwrap();
        let row = admin.query_one(COUNT, &[]).await.unwrap();
        counts.push(row.get(0));
        all += row.get::<_, i64>(1);
    }
    // Besides, two read and watch the map.
    assert!(
        all <= counts.iter().sum::<i64>() + 2,
        "{all} sessions in all, {counts:?} of them known"
    );
    counts
}

fn dsn(servers: &TestServers, name: &str) -> Dsn {
    servers.dsn(name, "howdah_app").unwrap().parse().unwrap()
}

fn sizes(cluster: &Cluster) -> Vec<u32> {
    cluster.stats().iter().map(|pool| pool.size).collect()
}

/// As many transactions as can be had, on the first shard of each instance.
async fn take_all(cluster: &Cluster) -> Result<Vec<Transaction>> {
    let mut taken = Vec::new();
    for (instance, pool) in cluster.instances().iter().zip(cluster.stats()) {
        let Some(first) = instance.shards().first().copied() else { continue };
        let shard = cluster.shard(first)?;
        taken.extend(try_join_all((0..pool.size).map(|_| shard.begin())).await?);
        let one_more = shard.queue_timeout(Duration::from_millis(20)).begin().await;
        assert!(one_more.unwrap_err().is_timeout(), "there is one more");
    }
    for tx in &taken {
        tx.query(&IS_LOCAL, &[&1_i64]).await?;
    }
    Ok(taken)
}

#[tokio::test]
async fn all_instances_together_have_no_more_than_the_total_and_share_it_with_a_new_one()
-> Result<()> {
    let servers = TestServers::start(3).await?;
    let mut init = Init::new(ShardCount::new(4)?);
    for name in &NAMES[..2] {
        init = init.instance(InstanceName::new(name)?, dsn(&servers, name));
    }
    let config = Config::new(servers.dsn("pg1", "howdah_app")?).min_idle(0).pipelines(0);
    let config = config.max_size(5).total_max_size(7);
    init.run(&config).await?;
    let cluster = Cluster::connect(config.clone()).await?;
    assert_eq!(sizes(&cluster), [3, 3], "seven by two");
    let taken = take_all(&cluster).await?;
    assert_eq!(sessions(&servers).await, [3, 3, 0]);

    let third = NewInstance::new(InstanceName::new("pg3")?, dsn(&servers, "pg3"));
    Instances::open(&config).await?.add(&third).await?;
    until("it is shared anew", async || {
        let sizes = sizes(&cluster);
        (sizes == [2, 2, 2], sizes)
    })
    .await;
    // Those that are lent stay until they come back, and are closed then.
    for tx in taken {
        tx.query(&IS_LOCAL, &[&1_i64]).await?;
        tx.commit().await?;
    }
    let taken = take_all(&cluster).await?;
    assert_eq!(sessions(&servers).await, [2, 2, 0], "what was too many has closed");
    drop(taken);

    // Nobody is given what the others have.
    let pg1 = cluster.instance(&InstanceName::new("pg1")?)?;
    assert!(pg1.resize(4).unwrap_err().is_invalid_input());
    pg1.resize(3)?;
    assert_eq!(sizes(&cluster), [3, 2, 2]);
    let _taken = take_all(&cluster).await?;
    assert_eq!(sessions(&servers).await, [3, 2, 0]);
    Ok(())
}

#[tokio::test]
async fn a_total_that_leaves_an_instance_without_any_is_refused() -> Result<()> {
    let test = TestCluster::builder().instances(2).shards(2).start().await?;
    let error = Cluster::connect(test.config().max_size(1).total_max_size(1)).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("total_max_size"), "{error:?}");
    Ok(())
}

async fn one() -> Result<TestCluster> {
    TestCluster::builder().instances(1).shards(1).start().await
}

async fn first(config: Config) -> Result<(Cluster, Shard)> {
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    Ok((cluster, shard))
}

async fn backend(shard: &Shard) -> Result<i32> {
    Ok(shard.query_one(&BACKEND, &[]).await?.get(0))
}

#[tokio::test]
async fn connections_that_are_idle_for_too_long_are_closed_down_to_the_minimum() -> Result<()> {
    let test = one().await?;
    let config = test.config().max_size(4).min_idle(1).pipelines(0);
    let (cluster, shard) = first(config.idle_timeout(Duration::from_millis(300))).await?;
    let taken = try_join_all((0..4).map(|_| shard.begin())).await?;
    for tx in taken {
        tx.rollback().await?;
    }
    until("one is left", async || {
        let pool = cluster.stats().remove(0);
        (pool.idle == 1 && pool.active == 0, pool)
    })
    .await;
    let admin = test.admin("pg1").await?;
    until("the server has ended the others", async || {
        // Two read and watch the map.
        let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND usename = 'howdah_app'";
        let count: i64 = admin.query_one(count, &[]).await.unwrap().get(0);
        (count <= 1 + 2, count)
    })
    .await;
    backend(&shard).await?;
    Ok(())
}

/// How many connections serve one call after the other.
async fn who_answers(shard: &Shard) -> Result<usize> {
    let mut backends = HashSet::new();
    for _ in 0..20 {
        backends.insert(backend(shard).await?);
    }
    Ok(backends.len())
}

/// They take turns, so none of them is ever idle for long.
#[tokio::test]
async fn connections_that_a_light_load_does_not_need_are_closed_while_it_goes_on() -> Result<()> {
    let test = one().await?;
    // Longer than a busy machine may hold up a call: a connection that lies idle for so long is replaced.
    for (timeout, left) in [(Duration::from_secs(600), 5), (Duration::from_secs(2), 2)] {
        let config = test.config().max_size(8).min_idle(1).pipelines(0).idle_timeout(timeout);
        let (cluster, shard) = first(config).await?;
        let taken = try_join_all((0..4).map(|_| shard.begin())).await?;
        until("there is one for the next", async || {
            let pool = cluster.stats().remove(0);
            (pool.idle == 1, pool)
        })
        .await;
        for tx in taken {
            tx.rollback().await?;
        }
        until("what is needed is left", async || {
            backend(&shard).await.unwrap();
            let pool = cluster.stats().remove(0);
            (pool.idle + pool.active == left, pool)
        })
        .await;
        assert_eq!(who_answers(&shard).await?, left);
        assert_eq!(cluster.stats()[0].connects, 5, "none is opened anew for one that was closed");
    }
    Ok(())
}

/// A server that hangs says nothing to who sends: only a question finds it out.
#[tokio::test]
async fn a_connection_that_is_lost_while_idle_is_not_lent_after_the_delay() -> Result<()> {
    let builder = TestCluster::builder().instances(1).shards(1).proxies();
    let test = builder.start().await?;
    let delay = Duration::from_millis(200);
    let config = test.config().max_size(1).min_idle(0).pipelines(0).check_delay(delay);
    let (cluster, shard) = first(config).await?;
    let before = backend(&shard).await?;
    // What is under way there is lost without a word, and new connections are made as ever.
    test.proxy("pg1")?.blackhole();
    tokio::time::sleep(2 * delay).await;
    let answer = tokio::spawn({
        let shard = shard.clone();
        async move { backend(&shard).await }
    });
    until("it was found out", async || {
        let pool = cluster.stats().remove(0);
        (pool.idle == 0 && pool.active == 0, pool)
    })
    .await;
    test.proxy("pg1")?.heal();
    assert_ne!(answer.await.unwrap()?, before);
    Ok(())
}
