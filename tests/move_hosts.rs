//! A shard leaves its home only when every host of the new one has all of it.
#![cfg(test)]

mod moving;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use howdah::{
    Config, Id, InstanceName, MoveNews, MovePhase, MoveStep, Mover, Result, ShardId, Statement,
};
use moving::fault::{Command, Point, Standing};
use moving::{Load, cluster_with_tables, shard};
use tokio::task::block_in_place;
use tokio::time::sleep;

/// It changes all users of a shard.
const WRITE: Statement = Statement::new("UPDATE {shard}.users SET n = n + 1");

/// The standby replays commits later than the cutover waits for it. So each attempt is taken back, and what the standby shows
/// while the next one waits is the opening of the attempt before: the right name, without the last rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_was_taken_back_is_not_taken_for_the_next() -> Result<()> {
    let test = cluster_with_tables()?.replicas(1).start().await?;
    let delay = async |length: &str| {
        let standby = test.admin("pg1-r1").await.unwrap();
        let set = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{length}'");
        standby.batch_execute(&set).await.unwrap();
        standby.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    delay("1500ms").await;
    let opened = Arc::new(AtomicU32::new(0));
    let count = opened.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        if event.step == MoveStep::RenameTarget && matches!(event.what, MoveNews::Done) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let load = Load::start(&test, 3).await?;
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    while opened.load(Ordering::Relaxed) < 3 {
        assert!(
            !moving.is_finished(),
            "it left before the standby had its rows: {:?}",
            moving.await
        );
        sleep(Duration::from_millis(10)).await;
    }
    let ledger = load.stop().await;
    delay("0").await;
    moving.await.unwrap()?;

    let standby = test.admin("pg1-r1").await?;
    let rows = standby.query("SELECT id FROM shard_0001_e2.photos", &[]).await.unwrap();
    let there: HashSet<Id> = rows.iter().map(|row| row.get(0)).collect();
    assert!(ledger.written.iter().all(|id| there.contains(id)), "whoever is promoted has all");
    ledger.check(&test.cluster().await?.shard(shard())?).await
}

/// The new home fails over to a standby that has all rows and does not know yet that it may serve. The move has not come to rest
/// before: the same command opens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_home_that_fails_over_while_it_is_opened_is_opened_again() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let load = Load::start(&test, 3).await?;
    let mover = Mover::new(&test.config())?;
    let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;
    let ledger = load.stop().await;

    let back = Command::RollBack(moved.id);
    let unsealing = Point::back(MoveStep::UnsealTarget);
    let standing = Standing::at(unsealing, &test.config(), &back).await?;
    // From now on the standby hears nothing more.
    let standby = test.admin("pg2-r1").await?;
    standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    standby.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let hears = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    while standby.query_one(hears, &[]).await.unwrap().get(0) {
        sleep(Duration::from_millis(10)).await;
    }
    standing.go();
    let lives = async || -> Result<InstanceName> {
        Ok(test.cluster().await?.shard(shard())?.home()?.instance().clone())
    };
    while lives().await?.as_str() != "pg2" {
        sleep(Duration::from_millis(10)).await;
    }
    standing.stop().await;
    test.kill("pg2").await?;
    test.promote("pg2-r1").await?;
    // Whoever replaces a host takes the old one out of the address.
    let port = test.servers().server("pg2-r1")?.port();
    let dsn = format!("postgres://howdah_app@127.0.0.1:{port}/{}", test.servers().database());
    let change = "UPDATE howdah.instance SET dsn = $1 WHERE name = 'pg2'";
    test.admin("pg1").await?.execute(change, &[&dsn]).await.unwrap();
    let promoted = test.admin("pg2-r1").await?;
    let sealed = "DELETE FROM shard_0001_e3.users WHERE false";
    assert_eq!(promoted.batch_execute(sealed).await.unwrap_err().code().unwrap().code(), "HW002");

    assert_eq!(mover.rollback(moved.id).await?.phase, MovePhase::RolledBack);

    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    shard.reserve_ids(1).await?;
    let write = Statement::new("UPDATE {shard}.users SET id = id");
    assert_eq!(shard.execute(&write, &[]).await?, 20);
    Ok(())
}

/// A mover that stands still once, until it is let go.
struct Halted {
    mover: Mover,
    let_go: mpsc::Sender<()>,
    /// What it has told, and that it stands.
    notes: Arc<Mutex<Vec<String>>>,
}

/// It stands when a step begins, or is done.
fn halted(config: &Config, step: MoveStep, done: bool) -> Result<Halted> {
    let (let_go, gone_on) = mpsc::channel::<()>();
    let gone_on = Mutex::new(Some(gone_on));
    let notes = Arc::new(Mutex::new(Vec::new()));
    let told = notes.clone();
    let mover = Mover::new(config)?.on_event(move |event| {
        if let MoveNews::Note(note) = &event.what {
            told.lock().unwrap().push(format!("{}: {note}", event.step));
        }
        let is_there = event.step == step && matches!(event.what, MoveNews::Done) == done;
        if is_there && let Some(gone_on) = gone_on.lock().unwrap().take() {
            told.lock().unwrap().push("halted".to_owned());
            block_in_place(|| gone_on.recv().unwrap());
        }
    });
    Ok(Halted { mover, let_go, notes })
}

async fn until_told(notes: &Mutex<Vec<String>>, what: &str) {
    howdah::testing::until(what, async || {
        notes.lock().unwrap().iter().any(|note| note.contains(what))
    })
    .await;
}

/// A host that goes after it was looked at, while others have their turn, leaves no shard closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_goes_before_the_fence_is_waited_for_with_the_shard_open() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let Halted { mover, let_go, notes } = halted(&test.config(), MoveStep::CheckHosts, true)?;
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    until_told(&notes, "halted").await;
    test.kill("pg2-r1").await?;
    let_go.send(()).unwrap();
    until_told(&notes, "has still to follow closely").await;
    let was_closed = |note: &String| note.contains(MoveStep::AwaitSourceHosts.as_str());
    assert!(!notes.lock().unwrap().iter().any(was_closed));
    let cluster = test.cluster().await?;
    assert_eq!(cluster.shard(shard())?.execute(&WRITE, &[]).await?, 20);
    assert_eq!(cluster.shard(shard())?.home()?.instance().as_str(), "pg2");
    test.start_server("pg2-r1").await?;
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::Reversible);
    Ok(())
}

/// Of two that take writes, one would never learn that the shard has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_primary_does_not_count_as_following() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let Halted { mover, let_go, notes } = halted(&test.config(), MoveStep::CheckHosts, false)?;
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    until_told(&notes, "halted").await;
    test.promote("pg2-r1").await?;
    let_go.send(()).unwrap();
    while !notes.lock().unwrap().iter().any(|note| note.contains("it is another primary")) {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        sleep(Duration::from_millis(10)).await;
    }
    moving.abort();
    assert!(moving.await.unwrap_err().is_cancelled());
    Ok(())
}

/// A target whose commits hang holds up nobody who writes at home.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_behind_the_fence_is_given_up() -> Result<()> {
    let test = cluster_with_tables()?.own_servers().start().await?;
    let target = test.admin("pg2").await?;
    let wait_for = async |standbys: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
        target.batch_execute(&set).await.unwrap();
        target.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    // From the instance with the catalog to the other one.
    let first = ShardId::new(0)?;
    let Halted { mover, let_go, notes } = halted(&test.config(), MoveStep::CheckHosts, false)?;
    let moving = tokio::spawn(async move { mover.run(first, &InstanceName::new("pg2")?).await });
    until_told(&notes, "halted").await;
    wait_for("nobody").await;
    let_go.send(()).unwrap();
    let hangs = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    while !target.query_one(hangs, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(test.cluster().await?.shard(first)?.execute(&WRITE, &[]).await?, 20);
    until_told(&notes, "what follows the fence took more than").await;
    until_told(&notes, "pg2 is to give the copy its old name back").await;
    wait_for("").await;
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::Reversible);
    Ok(())
}

/// Nor does it fill the source's disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_holds_back_no_more_wal_than_a_copy() -> Result<()> {
    const STOP: &str = "SET synchronous_commit = local; DO $$ BEGIN EXECUTE (SELECT \
        format('ALTER SUBSCRIPTION %I DISABLE', subname) FROM pg_subscription WHERE subname LIKE 'howdah%'); END $$";
    const WRITE: &str = "INSERT INTO shard_0000_e1.events (what) SELECT repeat('x', 1000) FROM generate_series(1, 4000)";

    let test = cluster_with_tables()?.own_servers().start().await?;
    let target = test.admin("pg2").await?;
    let wait_for = async |standbys: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
        target.batch_execute(&set).await.unwrap();
        target.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    let Halted { mover, let_go, notes } =
        halted(&test.config(), MoveStep::RecheckTimelines, false)?;
    let mover = mover.max_wal(1 << 20);
    let first = ShardId::new(0)?;
    let moving = tokio::spawn(async move { mover.run(first, &InstanceName::new("pg2")?).await });
    until_told(&notes, "halted").await;
    wait_for("nobody").await;
    test.admin("pg2").await?.batch_execute(STOP).await.unwrap();
    // By then the attempt has taken longer than it may, and what it renamed is to be taken back.
    sleep(Duration::from_secs(3)).await;
    let_go.send(()).unwrap();
    until_told(&notes, "pg2 is to give the copy its old name back").await;
    let source = test.admin("pg1").await?;
    let slots = "SELECT FROM pg_replication_slots WHERE slot_type = 'logical'";
    howdah::testing::until("the WAL is let go", async || {
        source.batch_execute(WRITE).await.unwrap();
        source.query(slots, &[]).await.unwrap().is_empty()
    })
    .await;
    assert!(!moving.is_finished(), "{:?}", moving.await);
    wait_for("").await;
    let error = moving.await.unwrap().unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("bytes of WAL"), "{error}");
    Ok(())
}
