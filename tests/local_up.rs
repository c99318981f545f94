//! `LocalCluster::up`: again, at once, side by side, and after every interruption.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever it likes")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use howdah::local::{LocalCluster, ServerRole, UpOptions};
use howdah::testing::{TestDir, TestServers, until};
use tokio_postgres::{Client, NoTls};

async fn connect(cluster: &LocalCluster, name: &str) -> Client {
    let dsn = cluster.server(name).unwrap().dsn("howdah_owner");
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn pids(cluster: &LocalCluster) -> Vec<Option<u32>> {
    cluster.servers().iter().map(|server| server.pid()).collect()
}

fn ports(cluster: &LocalCluster) -> Vec<u16> {
    cluster.servers().iter().map(|server| server.port()).collect()
}

#[tokio::test]
async fn again_it_changes_nothing_and_grows_when_asked() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    assert!(!cluster.exists());
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    let before = pids(&cluster);
    assert!(before[0].is_some());

    let mut other = LocalCluster::open(dir.path()).unwrap();
    other.up(&dir.up_options().instances(1)).await.unwrap();
    assert_eq!(pids(&other), before);

    other.up(&dir.up_options().instances(2)).await.unwrap();
    assert_eq!(pids(&other)[0], before[0]);
    let names: Vec<_> = other.servers().iter().map(|server| server.name()).collect();
    assert_eq!(names, ["pg1", "pg2"]);
    connect(&other, "pg2").await.batch_execute("CREATE SCHEMA s").await.unwrap();
}

#[tokio::test]
async fn started_twice_at_once_it_makes_one_cluster() {
    let dir = TestDir::new().await.unwrap();
    let mut one = LocalCluster::open(dir.path()).unwrap();
    let mut other = LocalCluster::open(dir.path()).unwrap();
    let options = dir.up_options().instances(1);
    let (first, second) = tokio::join!(one.up(&options), other.up(&options));
    first.unwrap();
    second.unwrap();
    assert_eq!(pids(&one), pids(&other));
    assert_eq!(ports(&one), ports(&other));
}

#[tokio::test]
async fn interrupted_anywhere_it_is_finished_by_the_next() {
    let dir = TestDir::new().await.unwrap();
    // Not from a template: that would be over before it can be interrupted.
    let options = UpOptions::default().instances(1).replicas(1).durable(false);
    for patience_ms in [1, 5, 20, 60, 120, 250, 500, 800, 1100, 1400, 1700] {
        let mut cluster = LocalCluster::open(dir.path()).unwrap();
        let _ =
            tokio::time::timeout(Duration::from_millis(patience_ms), cluster.up(&options)).await;
    }
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&options).await.unwrap();
    let roles: Vec<_> = cluster.servers().iter().map(|server| server.role()).collect();
    assert_eq!(roles, [ServerRole::Primary, ServerRole::Replica]);
    connect(&cluster, "pg1").await.batch_execute("CREATE SCHEMA s").await.unwrap();
}

/// What was begun to start has no number yet by which it could be stopped.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn stopped_after_an_interrupted_start_nothing_runs() {
    let dir = TestDir::new().await.unwrap();
    let options = dir.up_options().instances(1);
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&options).await.unwrap();
    cluster.stop().await.unwrap();
    let data = cluster.servers()[0].data_dir();
    for patience_ms in [4, 6, 8, 10, 12, 15, 20, 30, 50] {
        let mut cluster = LocalCluster::open(dir.path()).unwrap();
        let _ =
            tokio::time::timeout(Duration::from_millis(patience_ms), cluster.up(&options)).await;
        cluster.stop().await.unwrap();
        assert_eq!(running_on(&data), Vec::<String>::new(), "after {patience_ms} ms");
    }
}

/// The commands of all processes that name a folder.
#[cfg(target_os = "linux")]
fn running_on(folder: &Path) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|command| command.contains(folder.to_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_half_made_data_folder_is_made_anew() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    for half in ["servers/pg2/data", "servers/pg2/data.new"] {
        fs::create_dir_all(dir.path().join(half)).unwrap();
        fs::write(dir.path().join(half).join("PG_VERSION"), "18\n").unwrap();
    }
    cluster.up(&dir.up_options().instances(2)).await.unwrap();
    connect(&cluster, "pg2").await.batch_execute("CREATE SCHEMA s").await.unwrap();
}

#[tokio::test]
async fn two_clusters_run_side_by_side() {
    let dir = TestDir::new().await.unwrap();
    let mut one = LocalCluster::open(dir.path().join("one")).unwrap();
    let mut other = LocalCluster::open(dir.path().join("other")).unwrap();
    one.up(&dir.up_options().instances(1)).await.unwrap();
    other.up(&dir.up_options().instances(1)).await.unwrap();
    assert_ne!(ports(&one), ports(&other));
    one.destroy().await.unwrap();
    assert!(!dir.path().join("one").exists());
    connect(&other, "pg1").await.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_port_that_somebody_took_is_replaced_for_good() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1).replicas(1)).await.unwrap();
    let before = ports(&cluster);
    cluster.stop().await.unwrap();
    let thief = TcpListener::bind(("127.0.0.1", before[0])).unwrap();

    cluster.start(None).await.unwrap();
    drop(thief);
    let after = ports(&cluster);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    assert_eq!(ports(&LocalCluster::open(dir.path()).unwrap()), after);

    // The replica finds its primary where it is now.
    connect(&cluster, "pg1").await.batch_execute("CREATE SCHEMA found").await.unwrap();
    let replica = connect(&cluster, "pg1-r1").await;
    let found = async || replica.batch_execute("SELECT 'found'::regnamespace").await;
    until("the replica follows its primary", found).await;
}

#[tokio::test]
async fn a_stopped_cluster_may_be_moved_with_all_that_is_in_it() {
    let dir = TestDir::new().await.unwrap();
    let servers = TestServers::start(1).await.unwrap();
    let programs = servers.server("pg1").unwrap().bin_dir().parent().unwrap().to_owned();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::create_dir(&old).unwrap();
    symlink(programs, old.join("postgres")).unwrap();
    let mut cluster = LocalCluster::open(&old).unwrap();
    let options = dir.up_options().instances(1).replicas(1);
    cluster.up(&options.pg_bin(old.join("postgres/bin"))).await.unwrap();
    connect(&cluster, "pg1").await.batch_execute("CREATE SCHEMA kept").await.unwrap();
    cluster.stop().await.unwrap();

    fs::rename(&old, &new).unwrap();
    let mut cluster = LocalCluster::open(&new).unwrap();
    cluster.start(None).await.unwrap();
    let sql = "SELECT 'kept'::regnamespace";
    connect(&cluster, "pg1").await.batch_execute(sql).await.unwrap();
    // It answers before it has replayed all that it has.
    let replica = connect(&cluster, "pg1-r1").await;
    until("the replica has kept it", async || replica.batch_execute(sql).await).await;
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_will_do() {
    let dir = TestDir::new().await.unwrap();
    let long = dir.path().join("a-folder-with-quite-a-long-name".repeat(3)).join("it's here, too");
    let mut cluster = LocalCluster::open(&long).unwrap();
    cluster.up(&dir.up_options().instances(1).replicas(1)).await.unwrap();
    let server = cluster.server("pg1").unwrap();
    assert!(server.data_dir().starts_with(&long));
    let sockets = server.socket_dir().to_owned();
    assert!(!sockets.starts_with(&long));
    assert!(sockets.join(format!(".s.PGSQL.{}", server.port())).exists());
    cluster.destroy().await.unwrap();
    assert!(!long.exists());
    assert!(!sockets.exists());
}

#[tokio::test]
async fn a_folder_that_the_servers_account_cannot_enter_will_do() {
    // Below the closed home of root, that is; an ordinary user's servers are his own.
    let dir = TestDir::new().await.unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let folder = home.join(".howdah");
    let options = dir.up_options().instances(1);
    let mut cluster = LocalCluster::open(&folder).unwrap();
    cluster.up(&options).await.unwrap();
    let pid = cluster.servers()[0].pid().unwrap();
    let data = cluster.servers()[0].data_dir();

    // Somebody deletes the folder without a word, and begins anew.
    fs::remove_dir_all(&folder).unwrap();
    let mut cluster = LocalCluster::open(&folder).unwrap();
    cluster.up(&options).await.unwrap();
    assert_ne!(cluster.servers()[0].pid().unwrap(), pid);
    connect(&cluster, "pg1").await.batch_execute("CREATE SCHEMA s").await.unwrap();

    cluster.destroy().await.unwrap();
    assert!(!folder.exists());
    assert!(!data.exists());
}

#[tokio::test]
async fn destroy_leaves_alone_what_it_did_not_make() {
    let dir = TestDir::new().await.unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, "").unwrap();
    let foreign = LocalCluster::open(dir.path()).unwrap();
    let error = foreign.destroy().await.unwrap_err();
    assert!(error.to_string().contains("no local cluster"), "{error}");

    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    cluster.up(&dir.up_options().instances(1)).await.unwrap();
    let pid = cluster.servers()[0].pid().unwrap();
    cluster.destroy().await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}/cwd")).exists());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [precious]);
}

#[tokio::test]
async fn what_would_be_deleted_with_the_cluster_must_not_be_there_before() {
    let dir = TestDir::new().await.unwrap();
    for (folder, file) in [("a", "servers/precious"), ("b", "run/precious"), ("c", "lock")] {
        let folder = dir.path().join(folder);
        let file = folder.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "precious").unwrap();
        let before: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        let mut cluster = LocalCluster::open(&folder).unwrap();
        let error = cluster.up(&dir.up_options().instances(1)).await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains("in the way"), "{error}");
        let after: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!((after, fs::read_to_string(&file).unwrap()), (before, "precious".to_owned()));
    }
}
