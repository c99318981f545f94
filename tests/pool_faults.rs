//! Where no connection can be made: everybody is told why, with the phase and the instance, and nothing has to be restarted when
//! it can be again.
#![cfg(test)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use howdah::postgres::Client;
use howdah::testing::{TestCluster, until};
use howdah::{
    Cluster, Error, Migrations, Outcome, Phase, PoolStats, Result, Shard, ShardId, Statement,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), '{shard}'");

async fn own_server() -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().instances(1).shards(1).migrations(notes).own_servers().start().await
}

fn first(cluster: &Cluster) -> Result<Shard> {
    cluster.shard(ShardId::new(0)?)
}

fn stats(cluster: &Cluster) -> PoolStats {
    cluster.stats().remove(0)
}

async fn recovers(shard: &Shard) {
    until("it is served again", async || shard.execute(&ADD, &[&"back"]).await).await;
}

fn is_of_connecting(error: &Error) {
    assert_eq!(error.phase(), Some(Phase::Connect), "{error:?}");
    assert_eq!(error.instance(), Some("pg1"), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
}

/// How many may connect to the test's database.
async fn limit_connections(test: &TestCluster, admin: &Client, limit: i32) {
    let database = test.servers().database();
    let sql = format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}");
    admin.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_server_without_room_says_so_and_is_asked_seldom() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let shard = first(&cluster)?;
    let admin = test.admin("pg1").await?;
    limit_connections(&test, &admin, 0).await;
    for _ in 0..1000 {
        let error = shard.execute(&ADD, &[&"never"]).await.unwrap_err();
        is_of_connecting(&error);
        assert!(error.is_unavailable() && !error.is_timeout(), "{error:?}");
        assert_eq!(error.code().map(|code| code.code()), Some("53300"), "{error:?}");
    }
    let asked = stats(&cluster).connect_failures;
    assert!(asked < 100, "a thousand tasks asked {asked} times");
    assert!(stats(&cluster).trouble.is_some());
    limit_connections(&test, &admin, -1).await;
    recovers(&shard).await;
    assert!(stats(&cluster).trouble.is_none());
    Ok(())
}

#[tokio::test]
async fn with_room_for_one_connection_alone_everybody_shares_it() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let cluster = Cluster::connect(test.config().max_size(4).pipelines(0)).await?;
    let shard = first(&cluster)?;
    shard.execute(&ADD, &[&"the first has it"]).await?;
    let admin = test.admin("pg1").await?;
    limit_connections(&test, &admin, 0).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let shard = shard.clone();
            tokio::spawn(async move { shard.execute(&ADD, &[&"note"]).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap()?, 1);
    }
    assert_eq!(stats(&cluster).connects, 1);
    Ok(())
}

#[tokio::test]
async fn when_there_is_room_again_all_who_wait_get_connections() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let cluster = Cluster::connect(test.config().max_size(5).pipelines(0)).await?;
    let shard = first(&cluster)?;
    let kept = shard.begin().await?;
    kept.execute(&ADD, &[&"long"]).await?;
    let admin = test.admin("pg1").await?;
    limit_connections(&test, &admin, 0).await;
    // None of them gives its connection back before the last has one.
    let all_there = Arc::new(Barrier::new(3));
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let (shard, all_there) = (shard.clone(), all_there.clone());
            tokio::spawn(async move {
                let tx = shard.begin().await?;
                tx.execute(&ADD, &[&"note"]).await?;
                all_there.wait().await;
                tx.commit().await
            })
        })
        .collect();
    until("they have been refused", async || stats(&cluster).connect_failures >= 3).await;
    limit_connections(&test, &admin, -1).await;
    for task in tasks {
        task.await.unwrap()?;
    }
    kept.commit().await
}

/// Has the server ask the application for a password.
async fn demand_passwords(admin: &Client, password: &str) {
    // The first line that fits decides.
    let script = "{ echo host all howdah_app all scram-sha-256; cat pg_hba.conf; } > hba.new && mv hba.new pg_hba.conf";
    admin
        .batch_execute(&format!("COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; {script}$$"))
        .await
        .unwrap();
    set_password(admin, password).await;
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

async fn set_password(admin: &Client, password: &str) {
    admin.batch_execute(&format!("ALTER ROLE howdah_app PASSWORD '{password}'")).await.unwrap();
}

/// A file of the test's own.
fn file(test: &TestCluster, name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("howdah-{}-{name}", test.servers().database()))
}

/// Waits until the server lets nobody in with this password.
async fn refused(test: &TestCluster, password: &str) {
    until("nobody is let in", async || {
        let entered = Cluster::connect(test.config().password(password)).await;
        entered.err().filter(|error| error.code().is_some())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_a_rotated_one_is_picked_up() -> Result<()> {
    let test = own_server().await?;
    let admin = test.admin("pg1").await?;
    demand_passwords(&admin, "first").await;
    refused(&test, "wrong").await;

    let path = file(&test, "password");
    std::fs::write(&path, "first\n").unwrap();
    let config = test.config().max_size(2).pipelines(0).password_file(&path);
    let cluster = Cluster::connect(config).await?;
    let shard = first(&cluster)?;
    shard.execute(&ADD, &[&"note"]).await?;

    // Rotated on the server, not yet in the file: who has a connection keeps it, a new one is refused.
    set_password(&admin, "second").await;
    let held = shard.begin().await?;
    let error = shard.begin().await.unwrap_err();
    drop(held);
    assert!(error.is_timeout() || error.is_config(), "{error:?}");
    first(&cluster)?.execute(&ADD, &[&"note"]).await?;
    cluster.instances()[0].reconnect()?;
    let write = async || shard.execute(&ADD, &[&"note"]).await.err();
    let error = until("a new connection is refused", write).await;
    is_of_connecting(&error);
    assert!(error.is_config(), "{error:?}");
    assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error:?}");
    assert!(!error.to_string().contains("first"), "{error}");

    std::fs::write(&path, "second\n").unwrap();
    recovers(&shard).await;
    std::fs::remove_file(path).unwrap();
    Ok(())
}

#[tokio::test]
async fn a_passfile_is_read_anew_for_each_connection() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let test = own_server().await?;
    let admin = test.admin("pg1").await?;
    demand_passwords(&admin, "first").await;
    refused(&test, "wrong").await;
    let path = file(&test, "passfile");
    let write = |password: &str| {
        std::fs::write(&path, format!("*:*:*:howdah_app:{password}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("first");
    let config = test.config().max_size(1).pipelines(0).passfile(&path);
    let cluster = Cluster::connect(config).await?;
    let shard = first(&cluster)?;
    let before: i32 = shard.query_one(&BACKEND, &[]).await?.get(0);
    set_password(&admin, "second").await;
    write("second");
    cluster.instances()[0].reconnect()?;
    let after: i32 = shard.query_one(&BACKEND, &[]).await?.get(0);
    assert_ne!(before, after);
    std::fs::remove_file(path).unwrap();
    Ok(())
}

/// A way to a server that lets everybody in and, until it is opened, says nothing.
struct Wall {
    port: u16,
    open: Arc<AtomicBool>,
    /// Who has come so far.
    came: Arc<AtomicUsize>,
}

impl Wall {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let wall = Self { port, open: open.clone(), came: came.clone() };
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut client, _)) = listener.accept().await {
                came.fetch_add(1, Ordering::Relaxed);
                if open.load(Ordering::Relaxed) {
                    tokio::spawn(async move {
                        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                } else {
                    silent.push(client);
                }
            }
        });
        wall
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_waited_for_twice_and_no_more() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(1).migrations(notes).start().await?;
    let wall = Wall::before(test.servers().server("pg1")?.port()).await;
    let admin = test.admin("pg1").await?;
    let dsn =
        format!("postgres://howdah_app@127.0.0.1:{}/{}", wall.port, test.servers().database());
    admin.batch_execute(&format!("UPDATE howdah.instance SET dsn = '{dsn}'")).await.unwrap();

    let config = test.config().connect_timeout(Duration::from_secs(2));
    let cluster = Cluster::connect(config).await?;
    let shard = first(&cluster)?;
    let error = shard.execute(&ADD, &[&"never"]).await.unwrap_err();
    is_of_connecting(&error);
    assert!(error.is_timeout() && error.to_string().contains("2s"), "{error:?}");
    for _ in 0..1000 {
        let error = shard.execute(&ADD, &[&"never"]).await.unwrap_err();
        is_of_connecting(&error);
    }
    let came = wall.came.load(Ordering::Relaxed);
    assert!(came < 20, "{came} connections to a server that does not answer");
    wall.open.store(true, Ordering::Relaxed);
    recovers(&shard).await;
    Ok(())
}

#[test]
fn the_last_handles_may_be_dropped_outside_of_the_runtime() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test = runtime.block_on(own_server())?;
    let (cluster, tx, client) = runtime.block_on(async {
        let cluster = Cluster::connect(test.config().max_size(3).min_idle(2)).await?;
        let tx = first(&cluster)?.begin().await?;
        tx.execute(&ADD, &[&"never"]).await?;
        let client = cluster.instances()[0].client().await?;
        Ok::<_, Error>((cluster, tx, client))
    })?;
    drop(client);
    drop(tx);
    // The transaction was rolled back, and its connection is lent again.
    runtime.block_on(async { first(&cluster)?.execute(&ADD, &[&"note"]).await })?;
    drop(cluster);
    drop(runtime);
    Ok(())
}
