//! Behind a real PgBouncer in transaction mode, where each transaction may be on another server connection.
#![cfg(test)]

use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use howdah::postgres::types::{FromSql, Kind, ToSql, Type, private::BytesMut};
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Migrations, Outcome, Result, Shard, ShardId, Statement};

type Fault = Box<dyn std::error::Error + Sync + Send>;

const MOODS: &str = "CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE DOMAIN mark AS int CHECK (VALUE BETWEEN 1 AND 6);
    CREATE TYPE place AS (name text, mood mood);
    CREATE TABLE moods (id bigint PRIMARY KEY DEFAULT next_id(), mood mood, mark mark, place place, moods mood[])";
const ADD: Statement = Statement::new(
    "INSERT INTO {shard}.moods (mood, mark, place, moods) VALUES ($1::{shard}.mood, $2::int, ROW('den', $1), ARRAY[$1::{shard}.mood])
     RETURNING mood, mark",
);
const ALL: Statement = Statement::new("SELECT mood, mark, moods FROM {shard}.moods");
const PLACES: Statement = Statement::new("SELECT (place).name, place, mood FROM {shard}.moods");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.moods");
const KEPT: Statement =
    Statement::new("SELECT count(*), pg_backend_pid(), '{shard}' FROM pg_prepared_statements");

/// Server connections that PgBouncer takes in turn.
const SERVERS: usize = 3;

/// Ended when dropped.
struct PgBouncer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    async fn before(server: u16, database: &str) -> Self {
        // Somebody else may take the port first; then it ends at once.
        for _ in 0..10 {
            let mut started = Self::start(server, database);
            let listens = until("it listens, or has ended", async || {
                let ended = started.child.try_wait().unwrap().is_some();
                let listens = TcpStream::connect(("127.0.0.1", started.port)).is_ok();
                (ended || listens).then_some(!ended)
            });
            if listens.await {
                return started;
            }
        }
        panic!("PgBouncer does not start");
    }

    fn start(server: u16, database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n{database} = host=127.0.0.1 port={server} user=howdah_app\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\nserver_round_robin = 1\n\
             default_pool_size = {SERVERS}\nmin_pool_size = {SERVERS}\n"
        );
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(program());
        // As root it refuses to serve, but for an account that it changes to.
        if folder.path().metadata().unwrap().uid() == 0 {
            use std::os::unix::fs::PermissionsExt as _;
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), open).unwrap();
            command.args(["--user", "nobody"]);
        }
        let child = command.arg("--quiet").arg(file).stdin(Stdio::null()).spawn().unwrap();
        Self { child, port, _folder: folder }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of those that no system hands out to outgoing connections: of these, one that is free now may be taken in a moment.
fn free_port() -> u16 {
    let anywhere = RandomState::new().hash_one(std::process::id()) % 12_000;
    let mut ports =
        (0..12_000).map(|step| 20_000 + u16::try_from((anywhere + step) % 12_000).unwrap());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Brought into the build folder where the machine has none.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let test = std::env::current_exe().unwrap();
    let build = test.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap();
    let folder = build.join("pgbouncer");
    let brought =
        Command::new(root.join("tools/pgbouncer")).arg(&folder).stdout(Stdio::null()).status();
    assert!(brought.unwrap().success(), "there is no PgBouncer, and none can be brought");
    folder.join("bin/pgbouncer")
}

/// A cluster whose one instance is reached through PgBouncer; the catalog is not, for it is listened to.
async fn pooled(shards: u16) -> Result<(TestCluster, PgBouncer, Cluster)> {
    let moods = Migrations::new([("0001_moods.sql", MOODS)])?;
    let builder = TestCluster::builder().instances(1).shards(shards).migrations(moods);
    let test = builder.start().await?;
    let database = test.servers().database();
    let bouncer = PgBouncer::before(test.servers().server("pg1")?.port(), database).await;
    let dsn = format!("postgres://howdah_app@127.0.0.1:{}/{database}", bouncer.port);
    let admin = test.admin("pg1").await?;
    admin.batch_execute(&format!("UPDATE howdah.instance SET dsn = '{dsn}'")).await.unwrap();
    let config = test.config().max_size(4).prepared(false);
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    until("it serves", async || shard.query(&COUNT, &[]).await).await;
    // So many at once make it open all of its server connections.
    let mut open = Vec::new();
    for _ in 0..SERVERS {
        open.push(shard.begin().await?);
    }
    for tx in open {
        tx.rollback().await?;
    }
    Ok((test, bouncer, cluster))
}

fn shards(cluster: &Cluster) -> Vec<Shard> {
    cluster.map().count().iter().map(|shard| cluster.shard(shard).unwrap()).collect()
}

/// An enum of the tests' own, as an application would have it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Calm,
    Wild,
}

impl ToSql for Mood {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<howdah::postgres::types::IsNull, Fault> {
        assert!(matches!(of.kind(), Kind::Enum(labels) if labels.len() == 2), "{of:?}");
        match self {
            Self::Calm => "calm".to_sql(&Type::TEXT, out),
            Self::Wild => "wild".to_sql(&Type::TEXT, out),
        }
    }

    fn accepts(of: &Type) -> bool {
        of.name() == "mood"
    }

    howdah::postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Fault> {
        Ok(if raw == b"wild" { Self::Wild } else { Self::Calm })
    }

    fn accepts(of: &Type) -> bool {
        of.name() == "mood"
    }
}

#[tokio::test]
async fn types_of_ones_own_are_known_on_every_server_connection() -> Result<()> {
    let (_test, _bouncer, cluster) = pooled(4).await?;
    for round in 1..=5 {
        for shard in shards(&cluster) {
            let row = shard.query_one(&ADD, &[&Mood::Wild, &3_i32]).await?;
            assert_eq!((row.get::<_, Mood>(0), row.get::<_, i32>(1)), (Mood::Wild, 3));
            let rows = shard.query(&ALL, &[]).await?;
            assert_eq!(rows.len(), round);
            assert_eq!(rows[0].get::<_, Vec<Mood>>(2), [Mood::Wild]);
            assert_eq!(shard.query(&PLACES, &[]).await?[0].get::<_, &str>(0), "den");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_on_any_server_connection() -> Result<()> {
    let (_test, _bouncer, cluster) = pooled(2).await?;
    for shard in shards(&cluster) {
        shard.query_one(&ADD, &[&Mood::Calm, &1_i32]).await?;
        shard
            .transaction(async |tx| {
                tx.query_one(&ADD, &[&Mood::Calm, &2_i32]).await?;
                tx.query(&PLACES, &[]).await
            })
            .await?;
        let wrong = shard.query_one(&ADD, &[&Mood::Calm, &7_i32]).await.unwrap_err();
        assert_eq!(wrong.outcome(), Outcome::Failed, "{wrong:?}");
        let wrong = shard.query_one(&ADD, &[&Mood::Calm, &"one"]).await.unwrap_err();
        assert!(wrong.is_invalid_input(), "{wrong:?}");
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for shard in shards(&cluster) {
            let row = shard.query_one(&KEPT, &[]).await?;
            assert_eq!(row.get::<_, i64>(0), 0);
            seen.insert(row.get::<_, i32>(1));
        }
    }
    assert_eq!(seen.len(), SERVERS, "the test has seen all server connections");
    Ok(())
}

#[tokio::test]
async fn cursors_of_many_shards_leave_nothing_behind() -> Result<()> {
    const MARKS: Statement = Statement::new(
        "SELECT mark::int, mood FROM {shard}.moods WHERE mood = $1::{shard}.mood ORDER BY 1",
    );

    let (_test, _bouncer, cluster) = pooled(8).await?;
    for (shard, mark) in shards(&cluster).iter().zip([3, 1, 4, 1, 5, 2, 6, 5]) {
        shard.query_one(&ADD, &[&Mood::Wild, &mark]).await?;
    }
    for _ in 0..5 {
        let all = cluster.scatter(&MARKS).all(&[&Mood::Wild]);
        let mut merged = all.merge(100, |row| row.get::<_, i32>(0));
        let mut marks = Vec::new();
        while let Some(row) = merged.next().await {
            marks.push(row?.get::<_, i32>(0));
        }
        assert_eq!(marks, [1, 1, 2, 3, 4, 5, 5, 6]);
        let kept: i64 = shards(&cluster)[0].query_one(&KEPT, &[]).await?.get(0);
        assert_eq!(kept, 0);
    }
    Ok(())
}

/// What a connection first hears of a type may be an answer in text, whose driver has to learn it all the same.
#[tokio::test]
async fn answers_in_text_leave_nothing_behind() -> Result<()> {
    let (_test, _bouncer, cluster) = pooled(8).await?;
    for _ in 0..5 {
        for answer in cluster.exec(&ALL).run(|_| {}).await? {
            answer.result?;
        }
        for shard in shards(&cluster) {
            assert_eq!(shard.query_one(&KEPT, &[]).await?.get::<_, i64>(0), 0);
            assert!(shard.query(&ALL, &[]).await?.is_empty());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_column_that_changes_its_type_is_read_and_is_never_written_twice() -> Result<()> {
    const CHANGE: &str = "CREATE TYPE shard_0000_e1.other AS ENUM ('calm', 'wild');
        ALTER TABLE shard_0000_e1.moods ALTER mark TYPE shard_0000_e1.other USING 'calm'";
    const BLANK: Statement =
        Statement::new("INSERT INTO {shard}.moods (mood) VALUES ($1::{shard}.mood) RETURNING mark");

    let (test, _bouncer, cluster) = pooled(1).await?;
    let shard = shards(&cluster).remove(0);
    shard.query_one(&ADD, &[&Mood::Wild, &3_i32]).await?;
    // Each connection knows both.
    for _ in 0..8 {
        shard.query_one(&BLANK, &[&Mood::Wild]).await?;
    }
    for _ in 0..8 {
        shard.query(&ALL, &[]).await?;
    }
    test.admin("pg1").await?.batch_execute(CHANGE).await.unwrap();
    let error = shard.query_one(&BLANK, &[&Mood::Wild]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!(shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0), 10);
    assert_eq!(shard.query(&ALL, &[]).await?[0].columns()[1].type_().name(), "other");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_keep_apart() -> Result<()> {
    let (_test, _bouncer, cluster) = pooled(4).await?;
    let tasks: Vec<_> = (0..200_usize)
        .map(|task| {
            let shard = shards(&cluster).remove(task % 4);
            tokio::spawn(async move {
                let mood = if task % 2 == 0 { Mood::Calm } else { Mood::Wild };
                let row = shard.query_one(&ADD, &[&mood, &1_i32]).await?;
                assert_eq!(row.get::<_, Mood>(0), mood);
                Ok::<_, howdah::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap()?;
    }
    let mut total = 0;
    for shard in shards(&cluster) {
        total += shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0);
    }
    assert_eq!(total, 200);
    Ok(())
}
