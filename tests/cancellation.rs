//! A call that is dropped, wherever it waits, leaves the pools as they were, and every shard whole.
#![cfg(test)]

mod polls;

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::poll;
use howdah::postgres::types::Type;
use howdah::postgres::{Client, Row};
use howdah::testing::{TestCluster, TestClusterBuilder, until};
use howdah::{
    Cluster, Config, Error, Id, Instance, Migrations, ReadFrom, Result, Shard, ShardId, Statement,
};
use polls::{dropped, everywhere};
use tokio::time::timeout;

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text);
    INSERT INTO notes (text) SELECT 'old' FROM generate_series(1, 3)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const ALL: Statement = Statement::new("SELECT id, text FROM {shard}.notes");
const NEWEST: Statement = Statement::new("SELECT id FROM {shard}.notes ORDER BY id DESC");
const PAGE: Statement =
    Statement::new("SELECT id FROM {shard}.notes WHERE id < $1 ORDER BY id DESC LIMIT $2");
const BY_IDS: Statement = Statement::new("SELECT id FROM {shard}.notes WHERE id = ANY($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");
const LOAD: Statement = Statement::new("COPY {shard}.notes (text) FROM STDIN (FORMAT binary)");
const DUMP: Statement = Statement::new("COPY {shard}.notes TO STDOUT");
/// What is asked comes back, on a pipeline where there are any.
const OWN: Statement = Statement::new("SELECT $1::int8 FROM {shard}.notes LIMIT 1");
/// The same on a connection that is lent, with what the session should know nothing of.
const ECHO: Statement = Statement::new(
    "SELECT $1::int8, current_setting('statement_timeout'), current_setting('search_path')
     FROM {shard}.notes LIMIT 1",
);
const PAIRS: Statement =
    Statement::new("SELECT count(*) % 2 FROM {shard}.notes WHERE text = 'pair'");

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions of the application that do anything or hold anything, and what is prepared.
const BUSY: &str = "SELECT coalesce(string_agg(what, '; '), '') FROM (
    SELECT concat_ws(' ', state, locktype, query) AS what
    FROM pg_stat_activity LEFT JOIN pg_locks USING (pid)
    WHERE datname = current_database() AND usename = 'howdah_app' AND backend_type = 'client backend'
    AND (state IS DISTINCT FROM 'idle' OR locktype IS NOT NULL)
    UNION SELECT gid FROM pg_prepared_xacts WHERE database = current_database()) AS busy";
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'howdah_app'";

struct Herd {
    test: TestCluster,
    cluster: Cluster,
    admins: Vec<Client>,
    asked: AtomicI64,
}

impl Herd {
    async fn start(
        build: impl FnOnce(TestClusterBuilder) -> TestClusterBuilder,
        config: impl FnOnce(Config) -> Config,
    ) -> Result<Self> {
        let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
        let test = build(TestCluster::builder().migrations(notes)).start().await?;
        let cluster = Cluster::connect(config(test.config()).queue_timeout(PATIENCE)).await?;
        let mut admins = Vec::new();
        for instance in cluster.instances() {
            admins.push(test.admin(instance.name().as_str()).await?);
        }
        Ok(Self { test, cluster, admins, asked: AtomicI64::new(0) })
    }

    fn shard(&self, number: u16) -> Shard {
        self.cluster.shard(ShardId::new(number).unwrap()).unwrap()
    }

    fn shards(&self) -> Vec<Shard> {
        self.cluster.map().count().iter().map(|id| self.cluster.shard(id).unwrap()).collect()
    }

    /// Drops a call at each point where it waits, until it is done by itself, and looks at what it leaves.
    async fn survives<T>(&self, what: &str, call: impl AsyncFn() -> Result<T>) -> Result<()> {
        for (drops, at) in everywhere().enumerate() {
            let done = timeout(PATIENCE, dropped(at, call())).await;
            let done = done.unwrap_or_else(|_| panic!("{what} hangs, to be dropped at {at:?}"));
            timeout(PATIENCE, self.is_whole())
                .await
                .unwrap_or_else(|_| panic!("lost by {what}, dropped at {at:?}"))?;
            if let Some(done) = done {
                done?;
                assert!(drops > 1, "{what} was dropped {drops} times only");
                return Ok(());
            }
        }
        unreachable!("there is no end to these")
    }

    async fn is_whole(&self) -> Result<()> {
        self.nothing_goes_on().await;
        for shard in self.shards() {
            self.own(async |number| shard.query_one(&OWN, &[&number]).await).await?;
            assert_eq!(shard.query_one(&PAIRS, &[]).await?.get::<_, i64>(0), 0, "half of it");
        }
        // As many can be lent at once as there are connections, to each of the instances.
        for instance in self.cluster.instances() {
            let shard = self.cluster.shard(instance.shards()[0])?;
            let size = self.pool(&instance).size;
            let lent = try_join_all((0..size).map(|_| shard.begin())).await?;
            for tx in &lent {
                self.echo(async |number| tx.query_one(&ECHO, &[&number]).await).await?;
            }
            assert_eq!(self.pool(&instance).active, usize::try_from(size).unwrap());
            for tx in lent {
                tx.rollback().await?;
            }
        }
        Ok(())
    }

    fn pool(&self, instance: &Instance) -> howdah::PoolStats {
        let pools = self.cluster.stats();
        pools.into_iter().find(|pool| pool.instance == *instance.name()).unwrap()
    }

    /// Every answer is that to its question.
    async fn own(&self, ask: impl AsyncFnOnce(i64) -> Result<Row>) -> Result<Row> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let row = ask(number).await?;
        assert_eq!(row.get::<_, i64>(0), number, "somebody else's rows");
        Ok(row)
    }

    /// And the session is as it was.
    async fn echo(&self, ask: impl AsyncFnOnce(i64) -> Result<Row>) -> Result<()> {
        let row = self.own(ask).await?;
        let limit = row.get::<_, &str>(1);
        assert!(["30s", "0"].contains(&limit), "somebody else's limit: {limit}");
        assert_ne!(row.get::<_, &str>(2), "nowhere", "somebody else's path");
        Ok(())
    }

    async fn nothing_goes_on(&self) {
        until("all is lent back, and nobody waits", async || {
            let pools = self.cluster.stats();
            (pools.iter().all(|pool| pool.active == 0 && pool.waiting == 0), pools)
        })
        .await;
        for admin in &self.admins {
            until("no session does or holds anything, and nothing is prepared", async || {
                let busy: String = admin.query_one(BUSY, &[]).await.unwrap().get(0);
                (busy.is_empty(), busy)
            })
            .await;
        }
    }
}

/// Reads, on whatever connection they are done.
async fn reads(herd: &Herd) -> Result<()> {
    let (cluster, shard) = (&herd.cluster, herd.shard(0));
    let ids: Vec<Id> = shard.query(&ALL, &[]).await?.iter().map(|row| row.get(0)).collect();
    herd.survives("query", async || shard.query(&ALL, &[]).await).await?;
    let unlimited = async || shard.clone().timeout(PATIENCE).query(&ALL, &[]).await;
    herd.survives("query within a time", unlimited).await?;
    herd.survives("get_many", async || cluster.get_many(&BY_IDS, &ids).await).await?;
    herd.survives("rows", async || cluster.scatter(&ALL).all(&[]).rows().await).await?;
    herd.survives("page", async || cluster.scatter(&PAGE).all(&[]).page("id", None, 5).await)
        .await?;
    herd.survives("count", async || cluster.scatter(&COUNT).all(&[]).count().await).await
}

/// Everything else.
async fn writes(herd: &Herd) -> Result<()> {
    let (cluster, shard) = (&herd.cluster, herd.shard(0));
    herd.survives("execute", async || shard.execute(&ADD, &[&"one"]).await).await?;
    let hurried = shard.clone().statement_timeout(Duration::from_secs(7));
    herd.survives("execute of its own limit", async || hurried.execute(&ADD, &[&"one"]).await)
        .await?;
    herd.survives("begin to commit", async || {
        let tx = hurried.begin().await?;
        tx.execute(&ADD, &[&"pair"]).await?;
        tx.execute(&ADD, &[&"pair"]).await?;
        tx.commit().await
    })
    .await?;
    herd.survives("begin to rollback", async || {
        let tx = shard.begin().await?;
        tx.execute(&ADD, &[&"pair"]).await?;
        tx.query(&ALL, &[]).await?;
        tx.rollback().await
    })
    .await?;
    herd.survives("transaction", async || {
        shard
            .transaction(async |tx| {
                tx.execute(&ADD, &[&"pair"]).await?;
                tx.execute(&ADD, &[&"pair"]).await
            })
            .await
    })
    .await?;
    herd.survives("transaction that gives up", async || {
        let work = shard.transaction(async |tx| {
            tx.execute(&ADD, &[&"pair"]).await?;
            Err::<(), _>(Error::abort("enough"))
        });
        Ok(work.await.unwrap_err())
    })
    .await?;
    herd.survives("exec", async || cluster.exec(&ALL).run(|_| {}).await).await?;
    herd.survives("token", async || shard.token().await).await?;
    herd.survives("reserve_ids", async || shard.reserve_ids(5).await).await?;
    herd.survives("merge", async || {
        let mut rows = cluster.scatter(&NEWEST).all(&[]).merge(9, |row| -row.get::<_, i64>(0));
        while let Some(row) = rows.next().await {
            row?;
        }
        Ok(())
    })
    .await?;
    herd.survives("a job", async || {
        let jobs = cluster.jobs().parallel(1);
        jobs.for_each_shard(async |shard| shard.execute(&ADD, &[&"one"]).await).await
    })
    .await?;
    herd.survives("copy_in", async || {
        // A chunk on the way, and one at the end.
        let mut load = cluster.copy_in(&LOAD, &[Type::TEXT]).memory(1_000);
        for _ in 0..20 {
            load.row(ShardId::new(0)?, &[&"x".repeat(100)]).await?;
        }
        load.finish().await
    })
    .await?;
    herd.survives("copy_out", async || {
        let mut rows = cluster.copy_out(&DUMP).stream();
        while let Some(row) = rows.next().await {
            row?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_on_a_connection_of_its_own() -> Result<()> {
    let of_their_own = |config: Config| config.max_size(2).pipelines(0);
    let herd = Herd::start(|build| build.shards(2), of_their_own).await?;
    Box::pin(reads(&herd)).await
}

#[tokio::test]
async fn a_read_on_a_pipeline() -> Result<()> {
    let along = |config: Config| config.max_size(2).pipelines(1);
    let herd = Herd::start(|build| build.shards(2), along).await?;
    Box::pin(reads(&herd)).await?;
    assert!(herd.cluster.stats().iter().all(|pool| pool.pipelined > 0));
    Ok(())
}

#[tokio::test]
async fn a_write_and_a_transaction() -> Result<()> {
    let of_their_own = |config: Config| config.max_size(2).pipelines(0);
    let herd = Herd::start(|build| build.shards(2), of_their_own).await?;
    Box::pin(writes(&herd)).await
}

#[tokio::test]
async fn a_call_that_sends_its_statements_whole() -> Result<()> {
    let whole = |config: Config| config.max_size(2).prepared(false);
    let herd = Herd::start(|build| build.instances(1).shards(2), whole).await?;
    Box::pin(reads(&herd)).await?;
    Box::pin(writes(&herd)).await
}

#[tokio::test]
async fn a_read_of_a_replica_and_one_of_the_own_writes() -> Result<()> {
    for (size, pipelines) in [(1, 0), (2, 1)] {
        let few = |config: Config| config.max_size(size).pipelines(pipelines);
        let herd = Herd::start(|build| build.instances(1).shards(1).replicas(1), few).await?;
        let shard = herd.shard(0);
        let any = || ReadFrom::Replica { max_lag: Duration::MAX };
        let there = || shard.read(any()).replicas_only();
        until("the replica answers", async || there().query(&ALL, &[]).await).await;
        herd.survives("a read of a replica", async || there().query(&ALL, &[]).await).await?;
        // A connection that was lost there would be the only one.
        herd.own(async |number| there().query_one(&OWN, &[&number]).await).await?;
        shard.execute(&ADD, &[&"one"]).await?;
        let token = shard.token().await?;
        let own = async || shard.read(ReadFrom::AtLeast(token.clone())).query(&ALL, &[]).await;
        herd.survives("a read of what was written", own).await?;
        herd.own(async |number| there().query_one(&OWN, &[&number]).await).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_for_a_connection_and_for_an_empty_pool() -> Result<()> {
    let one = |config: Config| config.max_size(1).pipelines(0);
    let herd = Herd::start(|build| build.instances(1).shards(1), one).await?;
    let (shard, instance) = (herd.shard(0), herd.cluster.instances().remove(0));
    herd.survives("a wait in the queue", async || {
        let held = shard.begin().await?;
        let mut waiting = pin!(async { shard.execute(&ADD, &[&"one"]).await });
        assert!(poll!(&mut waiting).is_pending());
        held.rollback().await?;
        waiting.await
    })
    .await?;
    herd.survives("a raw client", async || {
        let client = instance.client().await?;
        let _ = client.batch_execute("BEGIN; SET search_path = nowhere").await;
        Ok(())
    })
    .await?;
    for at in everywhere() {
        let held = shard.begin().await?;
        let pausing = async { tokio::join!(instance.pause(), held.rollback()) };
        let done = dropped(at, pausing).await;
        instance.resume()?;
        herd.is_whole().await?;
        if done.is_some() {
            return Ok(());
        }
    }
    unreachable!("there is no end to these")
}

#[tokio::test]
async fn the_making_of_a_cluster_and_its_first_read() -> Result<()> {
    let along = |config: Config| config.max_size(2).pipelines(1);
    let herd = Herd::start(|build| build.instances(1).shards(1), along).await?;
    let sessions = async || herd.admins[0].query_one(SESSIONS, &[]).await.unwrap().get::<_, i64>(0);
    let before = sessions().await;
    for at in everywhere() {
        let call = async {
            let cluster = Cluster::connect(along(herd.test.config())).await?;
            cluster.shard(ShardId::new(0)?)?.query(&ALL, &[]).await
        };
        let done = timeout(PATIENCE, dropped(at, call)).await.expect("it hangs");
        until("its sessions are gone", async || {
            let now = sessions().await;
            (now <= before, now)
        })
        .await;
        herd.nothing_goes_on().await;
        if let Some(done) = done {
            done?;
            return Ok(());
        }
    }
    unreachable!("there is no end to these")
}

#[tokio::test]
async fn a_read_that_opens_its_pipeline_leaves_no_session_that_cannot_write() -> Result<()> {
    let along = |config: Config| config.max_size(2).pipelines(1);
    let herd = Herd::start(|build| build.instances(1).shards(1), along).await?;
    for at in everywhere() {
        let cluster = Cluster::connect(along(herd.test.config())).await?;
        let shard = cluster.shard(ShardId::new(0)?)?;
        let done = dropped(at, shard.query(&ALL, &[])).await;
        // Whichever connections these get, they may write.
        let write = async |_| shard.execute(&ADD, &[&"one"]).await;
        for written in try_join_all((0..4).map(write)).await? {
            assert_eq!(written, 1);
        }
        if let Some(done) = done {
            done?;
            return Ok(());
        }
    }
    unreachable!("there is no end to these")
}
