//! `TestCluster`: what a test of an application gets.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever it likes")]

use howdah::testing::{TestCluster, until};
use howdah::{InstanceName, Migrations, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

fn notes() -> Migrations {
    Migrations::new([("0001_notes.sql", NOTES)]).unwrap()
}

#[tokio::test]
async fn a_test_gets_two_instances_and_eight_empty_shards() {
    let test = TestCluster::start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    assert_eq!(cluster.map().count().get(), 8);
    let names: Vec<_> = cluster.instances().iter().map(|i| i.name().to_string()).collect();
    assert_eq!(names, ["pg1", "pg2"]);
}

#[tokio::test]
async fn two_clusters_share_servers_and_no_rows() {
    let (one, other) = tokio::join!(
        TestCluster::builder().migrations(notes()).start(),
        TestCluster::builder().migrations(notes()).instances(1).shards(4).start(),
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    let first = ShardId::new(0).unwrap();
    let written = one.cluster().await.unwrap().shard(first).unwrap();
    assert_eq!(written.execute(&ADD, &[&"seen by one alone"]).await.unwrap(), 1);
    let read = other.cluster().await.unwrap().shard(first).unwrap();
    assert_eq!(read.query_one(&COUNT, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_migration_that_fails_fails_the_start() {
    let broken = Migrations::new([("0001_broken.sql", "CREATE TABLE t (a nonsense)")]).unwrap();
    let error = TestCluster::builder().migrations(broken).start().await.unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[tokio::test]
async fn an_instance_of_its_own_can_be_killed_and_comes_back() {
    let mut test = TestCluster::builder().own_servers().migrations(notes()).start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    let of = |name: &str| {
        let name = InstanceName::new(name).unwrap();
        let home = cluster.map().homes().find(|h| *h.instance() == name).cloned();
        cluster.shard(home.unwrap().shard()).unwrap()
    };
    of("pg2").execute(&ADD, &[&"kept"]).await.unwrap();

    test.kill("pg2").await.unwrap();
    assert!(of("pg2").query_one(&COUNT, &[]).await.unwrap_err().is_unavailable());
    of("pg1").query_one(&COUNT, &[]).await.unwrap();

    test.start_server("pg2").await.unwrap();
    let lost = of("pg2");
    let count = until("it is back", async || lost.query_one(&COUNT, &[]).await).await;
    assert_eq!(count.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn the_oldest_version_will_do() {
    let test = TestCluster::builder().postgres(15).migrations(notes()).start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    cluster.shard_for_key("alice").execute(&ADD, &[&"on 15"]).await.unwrap();
}

#[tokio::test]
async fn an_instance_with_a_replica_lives_on_when_its_primary_dies() {
    let builder = TestCluster::builder().instances(1).shards(1).replicas(1);
    let mut test = builder.migrations(notes()).start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    let shard = cluster.shard(ShardId::new(0).unwrap()).unwrap();
    let written = shard.execute(&ADD, &[&"replicated"]).await.unwrap();
    assert_eq!(written, 1);

    // Asynchronous replication: what the replica has not received yet would be lost.
    test.replicated("pg1").await.unwrap();
    test.kill("pg1").await.unwrap();
    test.promote("pg1-r1").await.unwrap();
    let count = until("it lives on", async || shard.query_one(&COUNT, &[]).await).await;
    assert_eq!(count.get::<_, i64>(0), 1);
}
