//! What clients do goes on while their shard is moved and brought back: they wait for a moment, and see no error. What goes by
//! an old name or to the wrong copy is refused by the database, whoever it is.
#![cfg(test)]

mod moving;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use howdah::postgres::types::Type;
use howdah::testing::TestCluster;
use howdah::{
    Cluster, Config, Id, InstanceName, Migrations, MoveNews, MovePhase, MoveStep, Mover, Outcome,
    ReadFrom, Result, Shard, ShardId, Statement,
};
use moving::{Load, cluster_with_tables, leftovers, shard};
use tokio::sync::oneshot;

const NOTES: &str = "
    CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)), n bigint NOT NULL);
    CREATE TABLE accounts (name text PRIMARY KEY, points bigint NOT NULL);
    INSERT INTO accounts VALUES ('shared', 1000)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES (0) RETURNING id");
const LOAD: Statement = Statement::new("COPY {shard}.notes (n) FROM STDIN (FORMAT binary)");
const DUMP: Statement = Statement::new("COPY {shard}.notes TO STDOUT");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");
const BY_ID: Statement = Statement::new("SELECT n FROM {shard}.notes WHERE id = $1");
const GIVE: Statement = Statement::new("UPDATE {shard}.accounts SET points = points + $1");
const POINTS: Statement = Statement::new("SELECT sum(points)::bigint FROM {shard}.accounts");

/// Everybody at work, and what they have been told.
struct Work {
    cluster: Cluster,
    stop: AtomicBool,
    added: AtomicU64,
    rounds: [AtomicU64; 6],
}

impl Work {
    fn moving_shard(&self) -> Result<Shard> {
        self.cluster.shard(shard())
    }

    async fn again(&self, who: usize, mut work: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            work().await?;
            self.rounds[who].fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Each of them has done something more, and some of it on the shard's present home.
    async fn go_on(&self) {
        let rounds = || self.rounds.each_ref().map(|rounds| rounds.load(Ordering::Relaxed));
        let before = rounds();
        let all_did = |now: [u64; 6]| now.iter().zip(before).all(|(now, before)| *now > before + 1);
        while !all_did(rounds()) && !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Two shards' points, in two phases where they live on two servers.
    async fn transfer(&self) -> Result<()> {
        let [one, other] = [self.cluster.shard(ShardId::new(0)?)?, self.moving_shard()?];
        self.again(0, async || {
            let given = self.cluster.transaction(async |tx| {
                tx.on(&one).await?.execute(&GIVE, &[&-1_i64]).await?;
                tx.on(&other).await?.execute(&GIVE, &[&1_i64]).await
            });
            given.await.map(drop)
        })
        .await
    }

    async fn load(&self) -> Result<()> {
        self.again(1, async || {
            let mut load = self.cluster.copy_in(&LOAD, &[Type::INT8]).memory(200);
            for n in 0..50_i64 {
                load.row(shard(), &[&n]).await?;
            }
            self.added.fetch_add(load.finish().await?, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn dump(&self) -> Result<()> {
        self.again(2, async || {
            let least = self.added.load(Ordering::Relaxed);
            let mut dump = self.cluster.copy_out(&DUMP).shards([shard()]).stream();
            let mut rows = 0;
            while let Some(row) = dump.next().await {
                row?;
                rows += 1;
            }
            assert!(rows >= least, "{rows} of {least}");
            Ok(())
        })
        .await
    }

    /// Somebody who sees at once what he has written, wherever he reads it.
    async fn session(&self) -> Result<()> {
        let shard = self.moving_shard()?;
        self.again(3, async || {
            let id: Id = shard.query_one(&ADD, &[]).await?.get(0);
            self.added.fetch_add(1, Ordering::Relaxed);
            let from = ReadFrom::AtLeast(shard.token().await?);
            assert!(shard.read(from).query_opt(&BY_ID, &[&id]).await?.is_some(), "{id}");
            Ok(())
        })
        .await
    }

    async fn replica(&self) -> Result<()> {
        let shard = self.moving_shard()?;
        let mut seen = 0;
        self.again(4, async || {
            let from = ReadFrom::Replica { max_lag: Duration::from_secs(60) };
            let row = shard.read(from).query_one(&COUNT, &[]).await?;
            seen = seen.max(row.get::<_, i64>(0));
            Ok(())
        })
        .await?;
        assert!(seen > 0);
        Ok(())
    }

    /// Who holds a transaction in his hands is told that nothing of it is left.
    async fn by_hand(&self) -> Result<()> {
        let shard = self.moving_shard()?;
        self.again(5, async || {
            let done = async {
                let tx = shard.begin().await?;
                tx.query_one(&ADD, &[]).await?;
                tx.query_one(&ADD, &[]).await?;
                tx.commit().await
            };
            match done.await {
                Ok(()) => _ = self.added.fetch_add(2, Ordering::Relaxed),
                Err(error) => assert_ne!(error.outcome(), Outcome::Unknown, "{error:?}"),
            }
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_there_and_back() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().shards(2).replicas(1).migrations(notes).start().await?;
    let work = Work {
        cluster: test.cluster().await?,
        stop: AtomicBool::new(false),
        added: AtomicU64::new(0),
        rounds: Default::default(),
    };
    let moving = async {
        let mover = Mover::new(&test.config())?;
        let moved = async {
            work.go_on().await;
            let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;
            work.go_on().await;
            let back = mover.rollback(moved.id).await?;
            work.go_on().await;
            assert_eq!(back.phase, MovePhase::RolledBack);
            Ok::<_, howdah::Error>(())
        };
        let moved = moved.await;
        work.stop.store(true, Ordering::Relaxed);
        moved
    };
    let ended = async |done: Result<()>| {
        work.stop.store(true, Ordering::Relaxed);
        done
    };
    tokio::try_join!(
        moving,
        async { ended(work.transfer().await).await },
        async { ended(work.load().await).await },
        async { ended(work.dump().await).await },
        async { ended(work.session().await).await },
        async { ended(work.replica().await).await },
        async { ended(work.by_hand().await).await },
    )?;
    let count: i64 = work.moving_shard()?.query_one(&COUNT, &[]).await?.get(0);
    assert_eq!(count.cast_unsigned(), work.added.load(Ordering::Relaxed));
    let points = work.cluster.scatter(&POINTS).all(&[]).rows().await?;
    assert_eq!(points.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>(), 2000);
    assert!(work.cluster.in_doubt().await.parts.is_empty());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_ids_that_are_being_reserved_are_nobody_elses() -> Result<()> {
    const RESERVING: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
        AND state = 'active' AND query LIKE 'SELECT array_agg(id)%' AND pid <> pg_backend_pid())";

    let test = cluster_with_tables()?.start().await?;
    let (reached, at_fence) = oneshot::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let meeting = Mutex::new(Some((reached, told)));
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        let is_there = event.step == MoveStep::CheckHosts && matches!(event.what, MoveNews::Done);
        if is_there && let Some((reached, told)) = meeting.lock().unwrap().take() {
            let _ = reached.send(());
            tokio::task::block_in_place(|| told.recv().unwrap());
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    at_fence.await.unwrap();
    let reserving = test.cluster().await?.shard(shard())?;
    let million = tokio::spawn(async move { reserving.reserve_ids(1_000_000).await });
    let admin = test.admin("pg2").await?;
    while !admin.query_one(RESERVING, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(!million.is_finished());
    }
    // Two of these draw ids too.
    let load = Load::start(&test, 1).await?;
    go_on.send(()).unwrap();
    let mut ids: Vec<Id> = million.await.unwrap()?.collect();
    assert_eq!(ids.len(), 1_000_000);
    moving.await.unwrap()?;
    let cluster = test.cluster().await?;
    ids.extend(cluster.shard(shard())?.reserve_ids(100_000).await?);
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&cluster.shard(shard())?).await?;
    let mut issued = HashSet::new();
    let all = ids.iter().chain(&ledger.drawn).chain(&ledger.written);
    assert_eq!(all.filter(|id| !issued.insert(**id)).count(), 0, "issued twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_there_before_the_move_is_refused_after_it() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let admin = test.admin("pg2").await?;
    // By the names that an application without the library would use: outside of the schema, with plans in their caches.
    admin
        .batch_execute(
            "CREATE SCHEMA elsewhere;
             CREATE FUNCTION elsewhere.cached() RETURNS void LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO shard_0001_e1.events (what) VALUES ('cached'); END $$;
             CREATE FUNCTION elsewhere.path() RETURNS void LANGUAGE sql SET search_path = shard_0001_e1 AS
                 $$ INSERT INTO events (what) VALUES ('path') $$;
             GRANT USAGE ON SCHEMA elsewhere TO howdah_app;
             GRANT UPDATE ON shard_0001_e1.captions TO howdah_app",
        )
        .await
        .unwrap();
    let old = test.servers().client("pg2", "howdah_app").await?;
    let writes = [
        "INSERT INTO shard_0001_e1.events (what) VALUES ('by name')",
        "UPDATE shard_0001_e1.captions SET caption = 'by a view'",
        "SELECT elsewhere.cached()",
        "SELECT elsewhere.path()",
        "WITH gone AS (DELETE FROM shard_0001_e1.tags RETURNING photo) SELECT count(*) FROM gone",
        "COPY shard_0001_e1.users (id) FROM STDIN",
    ];
    let mut prepared = Vec::new();
    for sql in &writes[..5] {
        let statement = old.prepare(sql).await.unwrap();
        for _ in 0..7 {
            // Often enough for a generic plan.
            old.query(&statement, &[]).await.unwrap();
        }
        prepared.push(statement);
    }
    let mover = Mover::new(&test.config())?;
    let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;

    let is_refused = |error: howdah::postgres::Error, sql: &str| {
        let code = error.code().unwrap().code().to_owned();
        assert!(["42P01", "3F000"].contains(&&*code), "{code}: {sql}");
    };
    for (sql, statement) in writes.iter().zip(&prepared) {
        is_refused(old.query(statement, &[]).await.unwrap_err(), sql);
    }
    for sql in writes {
        is_refused(old.batch_execute(sql).await.unwrap_err(), sql);
    }
    // By its new name, the copy that is not home.
    for sql in [
        "UPDATE shard_0001_e2.captions SET caption = 'by a view'",
        "INSERT INTO shard_0001_e2.events (what) VALUES ('by name')",
        "COPY shard_0001_e2.users (id) FROM STDIN",
    ] {
        let error = match sql.starts_with("COPY") {
            true => {
                let sink = old.copy_in::<_, &[u8]>(sql).await;
                match sink {
                    Err(error) => error,
                    Ok(sink) => std::pin::pin!(sink).as_mut().finish().await.unwrap_err(),
                }
            }
            false => old.batch_execute(sql).await.unwrap_err(),
        };
        assert_eq!(error.code().unwrap().code(), "HW002", "{sql}");
    }
    admin.batch_execute("DROP SCHEMA elsewhere CASCADE").await.unwrap();
    mover.verify(shard()).await?;
    mover.finish(moved.id).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// What the stopped process is told its cluster by.
const DSN: &str = "HOWDAH_TEST_DSN";
const NOTE: Statement = Statement::new("INSERT INTO {shard}.events (what) VALUES ($1)");

#[tokio::test]
#[ignore = "the process that the next test stops"]
async fn a_process_that_is_stopped() -> Result<()> {
    // Whoever asks for the ignored tests has nothing to stop.
    let Ok(dsn) = std::env::var(DSN) else { return Ok(()) };
    let cluster = Cluster::connect(Config::new(&dsn)).await?;
    let shard = cluster.shard(shard())?;
    shard.execute(&NOTE, &[&"before"]).await?;
    println!("\nit has written");
    // Nothing else runs in this process before the line comes, so nothing tells it of the move.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let known = shard.home()?.schema();
    shard.execute(&NOTE, &[&"after"]).await?;
    println!("from {known} to {}", shard.home()?.schema());
    Ok(())
}

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_slept_through_the_move_is_led_to_the_new_home() -> Result<()> {
    const WRITTEN: Statement = Statement::new("SELECT what FROM {shard}.events ORDER BY n");

    let test = cluster_with_tables()?.start().await?;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_that_is_stopped", "--ignored", "--nocapture"]);
    command.env(DSN, test.servers().dsn("pg1", "howdah_app")?);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Process);
    let Process(process) = process.as_mut().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut says =
        |what: &str| lines.find_map(|line| line.ok().filter(|line| line.starts_with(what)));
    assert!(says("it has written").is_some());
    let pid = process.id().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    let mover = Mover::new(&test.config())?;
    let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;
    mover.finish(moved.id).await?;
    process.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    signal("-CONT");
    assert_eq!(says("from").as_deref(), Some("from shard_0001_e1 to shard_0001_e2"));
    assert!(process.wait().unwrap().success());

    let rows = test.cluster().await?.shard(shard())?.query(&WRITTEN, &[]).await?;
    let written: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(written, ["before", "after"]);
    Ok(())
}
