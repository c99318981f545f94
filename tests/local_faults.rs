//! Servers that stop, die and take over.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever it likes")]

use std::fs;
use std::time::Duration;

use howdah::local::{LocalCluster, ServerRole, UpOptions};
use howdah::testing::TestDir;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

async fn connect(cluster: &LocalCluster, name: &str) -> Result<Client, tokio_postgres::Error> {
    let dsn = cluster.server(name).unwrap().dsn("howdah_owner");
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn value(cluster: &LocalCluster, name: &str) -> Option<i32> {
    let client = connect(cluster, name).await.ok()?;
    client.query_one("SELECT a FROM t", &[]).await.ok().map(|row| row.get(0))
}

async fn replicated(cluster: &LocalCluster, name: &str) -> Option<i32> {
    for _ in 0..500 {
        if let Some(value) = value(cluster, name).await {
            return Some(value);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

const WRITE: &str = "CREATE TABLE t AS SELECT 42 AS a";

#[tokio::test]
async fn a_killed_server_keeps_what_was_committed() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&UpOptions::default().instances(1)).await.unwrap();
    let client = connect(&cluster, "pg1").await.unwrap();
    client.batch_execute(WRITE).await.unwrap();
    let fsync: String = client.query_one("SHOW fsync", &[]).await.unwrap().get(0);
    assert_eq!(fsync, "on");

    cluster.kill("pg1").await.unwrap();
    assert!(!cluster.server("pg1").unwrap().is_running());
    assert!(client.batch_execute("SELECT 1").await.is_err());
    assert!(connect(&cluster, "pg1").await.is_err());

    let port = cluster.server("pg1").unwrap().port();
    cluster.start(Some("pg1")).await.unwrap();
    assert_eq!(cluster.server("pg1").unwrap().port(), port);
    assert_eq!(value(&cluster, "pg1").await, Some(42));
}

/// Whoever works on when its server's first process is dead holds on to the memory that they shared.
#[tokio::test]
async fn a_server_whose_sessions_outlive_it_waits_for_them_to_end() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    let client = connect(&cluster, "pg1").await.unwrap();
    client.batch_execute(WRITE).await.unwrap();
    let _busy = tokio::spawn(async move {
        client.batch_execute("SELECT count(*) FROM generate_series(1, 4000000) AS n, t").await
    });
    let watcher = connect(&cluster, "pg1").await.unwrap();
    while watcher
        .query("SELECT FROM pg_stat_activity WHERE query LIKE '%generate%' AND pid <> pg_backend_pid()", &[])
        .await
        .unwrap()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }

    let first = cluster.server("pg1").unwrap().pid().unwrap();
    let killed = Command::new("kill").args(["-KILL", &first.to_string()]).status().await;
    assert!(killed.unwrap().success());
    // The signal is on its way.
    while cluster.server("pg1").unwrap().is_running() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.start(Some("pg1")).await.unwrap();
    assert_eq!(value(&cluster, "pg1").await, Some(42));
}

#[tokio::test]
async fn stopped_servers_start_again_with_their_ports_and_data() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    connect(&cluster, "pg1").await.unwrap().batch_execute(WRITE).await.unwrap();
    let port = cluster.server("pg1").unwrap().port();

    cluster.stop().await.unwrap();
    cluster.stop().await.unwrap();
    assert!(cluster.servers().iter().all(|server| !server.is_running()));

    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.start(None).await.unwrap();
    assert_eq!(cluster.server("pg1").unwrap().port(), port);
    assert_eq!(value(&cluster, "pg1").await, Some(42));
}

#[tokio::test]
async fn a_stale_pid_that_is_somebody_elses_now_is_no_server() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    cluster.kill("pg1").await.unwrap();
    let file = cluster.server("pg1").unwrap().data_dir().join("postmaster.pid");
    let left = fs::read_to_string(&file).unwrap();
    let (_, rest) = left.split_once('\n').unwrap();
    fs::write(&file, format!("{}\n{rest}", std::process::id())).unwrap();

    assert!(!cluster.server("pg1").unwrap().is_running());
    cluster.stop().await.unwrap();
    cluster.kill("pg1").await.unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    assert!(connect(&cluster, "pg1").await.is_ok());
}

#[tokio::test]
async fn a_replica_follows_and_takes_over() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1).replicas(1)).await.unwrap();
    let replica = cluster.server("pg1-r1").unwrap();
    assert_eq!((replica.role(), replica.upstream()), (ServerRole::Replica, Some("pg1")));
    connect(&cluster, "pg1").await.unwrap().batch_execute(WRITE).await.unwrap();
    assert_eq!(replicated(&cluster, "pg1-r1").await, Some(42));
    let client = connect(&cluster, "pg1-r1").await.unwrap();
    assert!(client.batch_execute("DROP TABLE t").await.is_err(), "a replica takes no writes");

    cluster.kill("pg1").await.unwrap();
    cluster.promote("pg1-r1").await.unwrap();
    let server = cluster.server("pg1-r1").unwrap();
    assert_eq!((server.role(), server.upstream()), (ServerRole::Primary, None));
    let client = connect(&cluster, "pg1-r1").await.unwrap();
    client.batch_execute("UPDATE t SET a = a + 1").await.unwrap();

    assert!(cluster.promote("pg1-r1").await.unwrap_err().is_refused());
    assert!(cluster.promote("pg3").await.unwrap_err().is_invalid_input());
}

#[tokio::test]
async fn a_folder_without_a_cluster_is_told_apart() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    for error in [
        cluster.start(None).await.unwrap_err(),
        cluster.stop().await.unwrap_err(),
        cluster.kill("pg1").await.unwrap_err(),
        cluster.add("pg1", None).await.unwrap_err(),
    ] {
        assert!(error.is_config() && error.to_string().contains("howdah local up"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "asking leaves no trace");
}
