//! The tests' own servers: shared, with fresh databases, of every supported version.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever it likes")]

use std::collections::HashSet;

use howdah::testing::TestServers;

async fn text(client: &tokio_postgres::Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_test_has_databases_of_its_own_on_the_same_servers() {
    let (one, other) = tokio::join!(TestServers::start(2), TestServers::start(1));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.database(), other.database());
    assert_eq!(one.server("pg1").unwrap().pid(), other.server("pg1").unwrap().pid());
    assert_ne!(one.server("pg1").unwrap().port(), one.server("pg2").unwrap().port());

    one.admin("pg1").await.unwrap().batch_execute("CREATE TABLE t ()").await.unwrap();
    other.admin("pg1").await.unwrap().batch_execute("CREATE TABLE t ()").await.unwrap();
    assert!(other.admin("pg2").await.is_err(), "it asked for one server");
}

#[tokio::test]
async fn the_oldest_and_the_newest_version_run_side_by_side() {
    for version in [15, 18] {
        let servers = TestServers::builder().servers(1).postgres(version).start().await.unwrap();
        let client = servers.admin("pg1").await.unwrap();
        let said = text(&client, "SHOW server_version").await;
        assert!(said.starts_with(&version.to_string()), "{said}");
        assert_eq!(text(&client, "SHOW wal_level").await, "logical");
    }
}

#[tokio::test]
async fn the_roles_are_there_and_the_owner_owns_the_database() {
    let servers = TestServers::start(1).await.unwrap();
    let owner = servers.client("pg1", "howdah_owner").await.unwrap();
    owner.batch_execute("CREATE SCHEMA s; CREATE TABLE s.t (a int)").await.unwrap();
    let mover = servers.client("pg1", "howdah_mover").await.unwrap();
    assert_eq!(text(&mover, "SHOW is_superuser").await, "on");
    let app = servers.client("pg1", "howdah_app").await.unwrap();
    assert!(app.batch_execute("CREATE SCHEMA mine").await.is_err());
    assert!(app.query("SELECT * FROM s.t", &[]).await.is_err());
}

#[tokio::test]
async fn a_database_vanishes_with_its_test() {
    let servers = TestServers::start(1).await.unwrap();
    let watcher = TestServers::start(1).await.unwrap();
    let name = servers.database().to_owned();
    let client = watcher.admin("pg1").await.unwrap();
    let there = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let count = async || client.query_one(there, &[&name]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 1);
    drop(servers);
    assert_eq!(count().await, 0);
}

#[tokio::test]
async fn shared_servers_cannot_be_killed() {
    let mut servers = TestServers::start(1).await.unwrap();
    assert!(servers.kill("pg1").await.unwrap_err().is_refused());
    assert!(servers.admin("pg1").await.is_ok());
}

#[tokio::test]
async fn own_servers_can_be_killed_and_keep_their_data() {
    let mut servers = TestServers::builder().servers(2).own_servers().start().await.unwrap();
    let client = servers.admin("pg1").await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 42 AS a").await.unwrap();
    let port = servers.server("pg1").unwrap().port();

    servers.kill("pg1").await.unwrap();
    assert!(servers.admin("pg1").await.is_err());
    assert!(servers.admin("pg2").await.is_ok(), "the other one is left alone");

    servers.start_server("pg1").await.unwrap();
    assert_eq!(servers.server("pg1").unwrap().port(), port);
    let client = servers.admin("pg1").await.unwrap();
    assert_eq!(client.query_one("SELECT a FROM t", &[]).await.unwrap().get::<_, i32>(0), 42);

    let folder = servers.server("pg1").unwrap().data_dir();
    drop(servers);
    assert!(!folder.exists());
}

#[tokio::test]
async fn different_servers_have_different_identities() {
    let servers = TestServers::start(2).await.unwrap();
    let mut identities = HashSet::new();
    for name in servers.names() {
        let client = servers.admin(name).await.unwrap();
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        identities.insert(text(&client, sql).await);
    }
    assert_eq!(identities.len(), 2);
}
