//! What the tests of moves share: a shard with all sorts of things in it, clients that never rest, and a ledger of
//! everything that was acknowledged.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod fault;
pub(crate) mod network;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use howdah::Statement;
use howdah::testing::{TestCluster, TestClusterBuilder};
use howdah::{Cluster, Config, Id, InstanceName, Migrations, Outcome, Result, Shard, ShardId};
use tokio::task::JoinHandle;

/// Two tables that transactions span, one with an identity column, a text key, a view, an index, a trigger, a function
/// with a search_path and one that names the schema, a CHECK and a foreign key.
pub(crate) const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('fine', 'better');
    CREATE TABLE users (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, touched bigint NOT NULL DEFAULT 0);
    CREATE TABLE photos (
        id bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
        user_id int NOT NULL REFERENCES users,
        caption text NOT NULL,
        mood mood NOT NULL DEFAULT 'fine',
        length int GENERATED ALWAYS AS (length(caption)) STORED
    );
    CREATE INDEX photos_by_user ON photos (user_id, id DESC);
    CREATE TABLE events (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
    CREATE TABLE tags (tag text, photo bigint REFERENCES photos ON DELETE CASCADE, PRIMARY KEY (tag, photo));
    CREATE VIEW captions AS SELECT id, caption FROM photos;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END $$;
    CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE FUNCTION note_by_path() RETURNS text LANGUAGE sql SET search_path FROM CURRENT AS $$
        INSERT INTO events (what) VALUES ('by path')
            RETURNING (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = events.tableoid) $$;
    DO $do$ BEGIN EXECUTE format('CREATE FUNCTION note_by_name() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO %1$I.events (what) VALUES (''by name'');
        RETURN (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = ''%1$I.events''::regclass); END $$',
        current_schema()); END $do$;
    INSERT INTO users (id) SELECT generate_series(1, 20);
";

const INSERT: Statement = Statement::new(
    "INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, 'single') RETURNING id",
);
const INSERT_IN_TX: Statement = Statement::new(
    "INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, 'transaction') RETURNING id",
);
const COUNT_UP: Statement = Statement::new("UPDATE {shard}.users SET n = n + 1 WHERE id = $1");
const EVENT: Statement =
    Statement::new("INSERT INTO {shard}.events (what) VALUES ('x') RETURNING n");
const READ: Statement = Statement::new("SELECT count(*) FROM {shard}.users WHERE id <= 20");
const ALL: Statement = Statement::new("SELECT id FROM {shard}.photos");
const USERS: Statement = Statement::new("SELECT id, n, touched FROM {shard}.users");

/// The shard that is moved.
pub(crate) fn shard() -> ShardId {
    ShardId::new(1).unwrap()
}

/// A cluster of two instances with a few shards, `shard()` among them, which lives on pg2.
pub(crate) fn cluster_with_tables() -> Result<TestClusterBuilder> {
    let migrations = Migrations::new([("0001_tables.sql", TABLES)])?;
    Ok(TestCluster::builder().shards(2).migrations(migrations))
}

/// Where the shard goes next in a cluster of three: to and fro between those that do not have the catalog.
pub(crate) fn other_instance(home: &InstanceName) -> InstanceName {
    InstanceName::new(if home.as_str() == "pg2" { "pg3" } else { "pg2" }).unwrap()
}

/// How long sessions may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// Everything that was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Ids of photos that were written.
    pub(crate) written: Vec<Id>,
    /// Ids that were drawn and not written.
    pub(crate) drawn: Vec<Id>,
    /// Numbers of events.
    pub(crate) events: Vec<i64>,
    /// How often each user was counted up: certainly, and perhaps beside.
    pub(crate) counted: BTreeMap<i32, (i64, i64)>,
    /// Errors that clients saw.
    pub(crate) errors: Vec<String>,
    pub(crate) longest_stall: Duration,
    pub(crate) reads: u64,
}

/// Clients that never rest.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// So many writers, a third of which span two tables in each transaction and a third of which use an identity column,
    /// and two clients that only draw ids.
    pub(crate) async fn start(test: &TestCluster, writers: usize) -> Result<Self> {
        Self::begin(&test.config(), writers).await
    }

    pub(crate) async fn begin(config: &Config, writers: usize) -> Result<Self> {
        let cluster = Cluster::connect(config.clone().max_size(16)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..writers + 3)
            .map(|number| {
                let (shard, stop) = (cluster.shard(shard()).unwrap(), stop.clone());
                tokio::spawn(async move {
                    let mut ledger = Ledger::default();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let done = match number.checked_sub(writers) {
                            None => write(&shard, number, &mut ledger).await,
                            Some(2) => read(&shard, &mut ledger).await,
                            Some(_) => draw(&shard, &mut ledger).await,
                        };
                        if let Err(error) = done {
                            ledger.errors.push(format!("{:?} {error}", error.outcome()));
                        }
                        if number < writers {
                            ledger.longest_stall = ledger.longest_stall.max(began.elapsed());
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    ledger
                })
            })
            .collect();
        Ok(Self { stop, clients })
    }

    /// Waits until something more has been done by all of them.
    pub(crate) async fn go_on_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends them and collects what they have been told.
    pub(crate) async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for client in self.clients {
            let one = client.await.unwrap();
            all.written.extend(one.written);
            all.drawn.extend(one.drawn);
            all.events.extend(one.events);
            for (user, (certain, perhaps)) in one.counted {
                let sum = all.counted.entry(user).or_default();
                sum.0 += certain;
                sum.1 += perhaps;
            }
            all.errors.extend(one.errors);
            all.longest_stall = all.longest_stall.max(one.longest_stall);
            all.reads += one.reads;
        }
        all
    }
}

async fn write(shard: &Shard, number: usize, ledger: &mut Ledger) -> Result<()> {
    let user =
        i32::try_from(number * 7 + ledger.written.len() + ledger.events.len()).unwrap() % 20 + 1;
    match number % 3 {
        0 => ledger.written.push(shard.query_one(&INSERT, &[&user]).await?.get(0)),
        1 => {
            let done = shard
                .transaction(async |tx| {
                    let id: Id = tx.query_one(&INSERT_IN_TX, &[&user]).await?.get(0);
                    tx.execute(&COUNT_UP, &[&user]).await?;
                    Ok(id)
                })
                .await;
            let counted = ledger.counted.entry(user).or_default();
            match done {
                Ok(id) => {
                    counted.0 += 1;
                    ledger.written.push(id);
                }
                Err(error) => {
                    counted.1 += i64::from(error.outcome() == Outcome::Unknown);
                    return Err(error);
                }
            }
        }
        _ => ledger.events.push(shard.query_one(&EVENT, &[]).await?.get(0)),
    }
    Ok(())
}

async fn draw(shard: &Shard, ledger: &mut Ledger) -> Result<()> {
    ledger.drawn.extend(shard.reserve_ids(500).await?);
    Ok(())
}

async fn read(shard: &Shard, ledger: &mut Ledger) -> Result<()> {
    let users: i64 = shard.query_one(&READ, &[]).await?.get(0);
    assert_eq!(users, 20);
    ledger.reads += 1;
    Ok(())
}

impl Ledger {
    /// Nothing that was acknowledged is missing at home, nothing was done twice, and no id was issued twice.
    pub(crate) async fn check(&self, shard: &Shard) -> Result<()> {
        let rows = shard.query(&ALL, &[]).await?;
        let there: HashSet<Id> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = self.written.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "{} writes of {} lost: {lost:?}", lost.len(), self.written.len());
        let mut issued = HashSet::new();
        let twice: Vec<_> =
            self.written.iter().chain(&self.drawn).filter(|id| !issued.insert(**id)).collect();
        assert!(twice.is_empty(), "{} ids issued twice: {twice:?}", twice.len());
        let mut events = HashSet::new();
        assert!(self.events.iter().all(|n| events.insert(*n)), "an event's number was given twice");
        for row in shard.query(&USERS, &[]).await? {
            let (user, n, touched): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let (certain, perhaps) = self.counted.get(&user).copied().unwrap_or_default();
            assert!((certain..=certain + perhaps).contains(&n), "user {user}: {n}, not {certain}");
            assert_eq!(touched, n, "a trigger ran twice, or not at all");
        }
        Ok(())
    }
}

/// Whatever of moves is on the servers of a test, in words.
pub(crate) async fn leftovers(test: &TestCluster) -> Result<Vec<String>> {
    leftovers_on(test, test.servers().names()).await
}

/// The same on some servers, replicas that were promoted included.
pub(crate) async fn leftovers_on(
    test: &TestCluster,
    names: impl IntoIterator<Item = &str>,
) -> Result<Vec<String>> {
    const LEFT: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database() \
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
        UNION ALL SELECT 'subscription ' || subname FROM pg_subscription \
            WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
        UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgname = 'howdah_guard' \
        UNION ALL SELECT 'table ' || oid::regclass FROM pg_class WHERE relname = 'howdah_move' \
        UNION ALL SELECT 'comment on ' || nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE 'howdah%' \
        UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts WHERE database = current_database() \
        UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' AND objid < 8192 \
            AND classid = 1752135524 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut admins = Vec::new();
    for name in names {
        admins.push((name, test.admin(name).await?));
    }
    let began = Instant::now();
    loop {
        let mut left = Vec::new();
        for (name, admin) in &admins {
            for row in admin.query(LEFT, &[]).await.unwrap() {
                left.push(format!("{name}: {}", row.get::<_, String>(0)));
            }
        }
        // A mover's sessions end after it, and with them their locks.
        if left.is_empty() || began.elapsed() > ENDING {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The schemas of the shard that is moved, on each instance.
pub(crate) async fn schemas(test: &TestCluster) -> Result<Vec<String>> {
    let mut schemas = Vec::new();
    for name in test.servers().names() {
        let admin = test.admin(name).await?;
        let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'shard\\_0001\\_e%' ORDER BY 1";
        for row in admin.query(sql, &[]).await.unwrap() {
            schemas.push(format!("{name} {}", row.get::<_, String>(0)));
        }
    }
    Ok(schemas)
}
