//! What bounds a move, and what it keeps out of the way of: WAL that piles up, a disk that fills, limits that others have set, long
//! transactions, other moves.
#![cfg(test)]

mod moving;

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{
    InstanceName, Instances, MoveNews, MovePhase, MoveStep, Mover, Result, ShardId, Statement,
};
use moving::{Load, cluster_with_tables, leftovers, leftovers_on, schemas, shard};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(60);

fn pg(number: u8) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

/// A mover that stands still before a step.
struct Paused {
    mover: Mover,
    /// Told when it is there.
    at_step: oneshot::Receiver<()>,
    go_on: mpsc::Sender<()>,
    notes: Notes,
}

/// What was waited for, or tried again.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<(MoveStep, String)>>>);

impl Notes {
    fn of(&self, step: MoveStep) -> Vec<String> {
        let notes = self.0.lock().unwrap();
        notes.iter().filter(|(of, _)| *of == step).map(|(_, note)| note.clone()).collect()
    }

    /// How often the fence was given up for the moment.
    fn retries(&self) -> usize {
        self.of(MoveStep::FenceTables).len()
    }
}

fn pausing(mover: Mover, step: MoveStep) -> Paused {
    let (reached, at_step) = oneshot::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let meeting = Mutex::new(Some((reached, told)));
    let notes = Notes::default();
    let noted = notes.clone();
    let mover = mover.on_event(move |event| {
        if let MoveNews::Note(note) = &event.what {
            noted.0.lock().unwrap().push((event.step, note.clone()));
        }
        let is_there = event.step == step && matches!(event.what, MoveNews::Begun);
        if is_there && let Some((reached, told)) = meeting.lock().unwrap().take() {
            let _ = reached.send(());
            tokio::task::block_in_place(|| told.recv().unwrap());
        }
    });
    Paused { mover, at_step, go_on, notes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_holds_back_too_much_wal_is_given_up() -> Result<()> {
    // Nobody else's WAL is held back.
    let test = cluster_with_tables()?.own_servers().start().await?;
    let mover = Mover::new(&test.config())?.max_wal(1 << 20);
    let Paused { mover, at_step, go_on, .. } = pausing(mover, MoveStep::CopyRows);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    // From now on nobody reads this table, and others are written to.
    let slow = test.admin("pg2").await?;
    slow.batch_execute("BEGIN; LOCK TABLE shard_0001_e1.photos").await.unwrap();
    go_on.send(()).unwrap();
    let written = "INSERT INTO shard_0001_e1.events (what) SELECT repeat('x', 1000) FROM generate_series(1, 4000)";
    let source = test.admin("pg2").await?;
    let slots = "SELECT FROM pg_replication_slots WHERE slot_type = 'logical'";
    let began = Instant::now();
    while !source.query(slots, &[]).await.unwrap().is_empty() {
        assert!(!moving.is_finished() && began.elapsed() < PATIENCE, "the WAL is still held back");
        // The server lets go of some now and then.
        source.batch_execute(written).await.unwrap();
    }
    slow.batch_execute("ROLLBACK").await.unwrap();
    let error = moving.await.unwrap().unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("bytes of WAL"), "{error}");

    let mover = Mover::new(&test.config())?;
    let moves = mover.list().await?;
    assert_eq!((moves.len(), moves[0].phase), (1, MovePhase::Aborted));
    assert_eq!(moves[0].error.as_deref(), Some(&*error.to_string()));
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    mover.run(shard(), &pg(1)).await?;
    Ok(())
}

/// Rows that need a file of more than 16 MiB.
const FILL: &str = "INSERT INTO shard_0001_e1.events (what) SELECT repeat('x', 1000) FROM generate_series(1, 15000)";
/// 16 MiB and half a page, in bytes.
const HALF_A_PAGE_TOO_MUCH: &str = "16781312";

/// How large a file of a server may become that sessions begin from now on: to them a disk is full then, for the last page is
/// written in part. Its WAL, in files of 16 MiB, has room.
async fn limit_files(test: &TestCluster, server: &str, bytes: &str) {
    let pid = test.servers().server(server).unwrap().pid().unwrap();
    // The account that the server runs as may do it.
    let limit =
        format!("COPY (SELECT) TO PROGRAM 'cat > /dev/null; prlimit --pid {pid} --fsize={bytes}:'");
    test.admin(server).await.unwrap().batch_execute(&limit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_disk_fills_stops_the_copy_and_the_shard_stays() -> Result<()> {
    let test = cluster_with_tables()?.postgres(15).own_servers().start().await?;
    test.admin("pg2").await?.batch_execute(FILL).await.unwrap();
    let load = Load::start(&test, 3).await?;
    limit_files(&test, "pg1", HALF_A_PAGE_TOO_MUCH).await;
    let mover = Mover::new(&test.config())?;
    let error = mover.run(shard(), &pg(1)).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("53100"), "{error:?}");
    assert_eq!(error.instance(), Some("pg1"), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("cannot copy the rows of shard_0001_e1.\"events\""), "{said}");
    assert!(said.contains("could not extend file"), "{said}");
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    let open = mover.open_move(shard()).await?.unwrap();
    assert_eq!(open.error.as_deref(), Some(&*said));
    assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());

    // With room again, the command that met the full disk goes on.
    assert!(mover.run(shard(), &pg(1)).await.is_err());
    limit_files(&test, "pg1", "unlimited").await;
    let moved = Mover::new(&test.config())?.run(shard(), &pg(1)).await?;
    assert_eq!((moved.phase, moved.verified), (MovePhase::Reversible, true));
    assert_eq!(mover.finish(moved.id).await?.phase, MovePhase::Finished);
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// What clients write meanwhile finds no room there; they notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_disk_fills_under_the_stream_holds_up_the_move_until_there_is_room()
-> Result<()> {
    const ANEW: &str =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_subscription WHERE pid IS NOT NULL";

    let test = cluster_with_tables()?.postgres(15).own_servers().start().await?;
    let load = Load::start(&test, 3).await?;
    let Paused { mover, at_step, go_on, notes } =
        pausing(Mover::new(&test.config())?, MoveStep::Verify);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    limit_files(&test, "pg1", HALF_A_PAGE_TOO_MUCH).await;
    test.admin("pg1").await?.batch_execute(ANEW).await.unwrap();
    test.admin("pg2").await?.batch_execute(FILL).await.unwrap();
    go_on.send(()).unwrap();
    let told = until("it is told", async || notes.of(MoveStep::Verify).pop()).await;
    assert!(told.contains("had errors: the log of pg1"), "{told}");
    assert!(!moving.is_finished());
    let home = test.cluster().await?.shard(shard())?.home()?;
    assert_eq!(home.instance(), &pg(2));
    limit_files(&test, "pg1", "unlimited").await;
    let moved = moving.await.unwrap()?;
    assert_eq!((moved.phase, moved.verified), (MovePhase::Reversible, true));
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&test.cluster().await?.shard(shard())?).await
}

/// Also when it waits for a host, with nothing left to copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_waits_before_its_fence_holds_back_no_more_wal_than_a_copy() -> Result<()> {
    const STOP: &str = "DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname) \
        FROM pg_subscription WHERE subname LIKE 'howdah%'); END $$";

    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let mover = Mover::new(&test.config())?.max_wal(1 << 20);
    let Paused { mover, at_step, go_on, .. } = pausing(mover, MoveStep::CheckHosts);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    test.kill("pg2-r1").await?;
    test.admin("pg1").await?.batch_execute(STOP).await.unwrap();
    go_on.send(()).unwrap();
    let source = test.admin("pg2").await?;
    let written = "INSERT INTO shard_0001_e1.events (what) SELECT repeat('x', 1000) FROM generate_series(1, 4000)";
    until("it is given up", async || {
        source.batch_execute(written).await.unwrap();
        moving.is_finished()
    })
    .await;
    let error = moving.await.unwrap().unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("bytes of WAL"), "{error}");
    assert_eq!(leftovers_on(&test, ["pg1", "pg2"]).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_are_set_for_others_end_no_move() -> Result<()> {
    const WAITING: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity \
        WHERE datname = current_database() AND query LIKE 'CREATE_REPLICATION_SLOT%' \
          AND clock_timestamp() - query_start > interval '1200 ms')";

    let test = cluster_with_tables()?.start().await?;
    let database = test.servers().database();
    let admins = [test.admin("pg1").await?, test.admin("pg2").await?];
    let set = async |what: &str| {
        for admin in &admins {
            admin.batch_execute(&format!("ALTER {what}")).await.unwrap();
        }
    };
    let writer = test.admin("pg2").await?;
    for limit in [
        "statement_timeout = '1s'",
        "lock_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '300ms'",
        "idle_session_timeout = '1s'",
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
        "search_path = nowhere",
        "\"DateStyle\" = 'SQL, DMY'",
    ] {
        set(&format!("DATABASE {database} SET {limit}")).await;
    }
    let told = Arc::new(Mutex::new(String::new()));
    let notes = told.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        if let (MoveStep::Publish, MoveNews::Note(note)) = (event.step, &event.what) {
            notes.lock().unwrap().push_str(note);
        }
    });
    // Making a slot waits for whoever writes, for longer than any of these limits.
    writer.batch_execute("BEGIN; UPDATE shard_0001_e1.users SET n = 0 WHERE id = 1").await.unwrap();
    let moving = tokio::spawn(async move {
        let moved = mover.run(shard(), &pg(1)).await?;
        mover.verify(shard()).await?;
        mover.rollback(moved.id).await
    });
    while !admins[1].query_one(WAITING, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("it is told for whom it waits", async || {
        told.lock().unwrap().contains("pg2 waits for the ")
    })
    .await;
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::RolledBack);
    for admin in &admins {
        let reset = format!("ALTER DATABASE {database} RESET ALL");
        admin.batch_execute(&reset).await.unwrap();
    }
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// The fence needs every transaction to end that writes. Until then it is tried, and others write on in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_is_waited_for_and_others_write_on() -> Result<()> {
    const LONG: Statement = Statement::new("SELECT FROM {shard}.events WHERE what = 'long'");

    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let Paused { mover, at_step, go_on, notes } = pausing(mover, MoveStep::CheckHosts);
    let load = Load::start(&test, 3).await?;
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    let long = test.servers().client("pg2", "howdah_app").await?;
    let held = "BEGIN; INSERT INTO shard_0001_e1.events (what) VALUES ('long')";
    long.batch_execute(held).await.unwrap();
    go_on.send(()).unwrap();
    let count = test.admin("pg2").await?;
    let events = async || {
        let row = count.query_one("SELECT count(*) FROM shard_0001_e1.events", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let before = events().await;
    while notes.retries() < 3 || events().await < before + 20 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    long.batch_execute("COMMIT").await.unwrap();
    moving.await.unwrap()?;
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    let shard = test.cluster().await?.shard(shard())?;
    ledger.check(&shard).await?;
    assert_eq!(shard.query(&LONG, &[]).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn movers_of_one_shard_come_one_after_the_other() -> Result<()> {
    let test = cluster_with_tables()?.instances(3).shards(3).start().await?;
    let mover = || Mover::new(&test.config());

    // To one place: whoever comes second finds it done.
    let (to, [one, other]) = (pg(1), [mover()?, mover()?]);
    let (first, second) = tokio::try_join!(one.run(shard(), &to), other.run(shard(), &to))?;
    assert_eq!((first.id, first.phase), (second.id, second.phase));
    mover()?.finish(first.id).await?;

    // To two places: it goes to both, in whatever order, or who comes second is told of the other.
    let [one, other] = [mover()?.reverse(false), mover()?.reverse(false)];
    let (here, there) = (pg(2), pg(3));
    let (first, second) = tokio::join!(one.run(shard(), &here), other.run(shard(), &there));
    let moved = [first, second];
    assert!(moved.iter().any(Result::is_ok), "{moved:?}");
    for error in moved.iter().filter_map(|moved| moved.as_ref().err()) {
        assert!(error.is_refused(), "{error}");
    }
    assert!(mover()?.list().await?.iter().all(|report| report.phase == MovePhase::Finished));
    assert_eq!(schemas(&test).await?.len(), 1);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_shards_move_at_once_in_both_directions() -> Result<()> {
    let test = cluster_with_tables()?.shards(6).start().await?;
    let load = Load::start(&test, 3).await?;
    let mover = Mover::new(&test.config())?;
    let moving = (0..6).map(|number| {
        let to = pg(if number % 2 == 0 { 2 } else { 1 });
        let mover = &mover;
        async move { mover.run(ShardId::new(number)?, &to).await }
    });
    for moved in futures_util::future::join_all(moving).await {
        let moved = moved?;
        assert_eq!((moved.phase, moved.verified), (MovePhase::Reversible, true));
        mover.finish(moved.id).await?;
    }
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

/// A move that waits, for its target or when its shard has left, lets others have their fences.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_waits_keeps_no_other_from_its_fence() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let stand = async |stands: bool| {
        let to = if stands { "DISABLE" } else { "ENABLE" };
        let all = format!(
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I {to}', subname) FROM pg_subscription \
             WHERE subname LIKE 'howdah%' AND subname !~ '_r$' AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())); END $$"
        );
        test.admin("pg1").await.unwrap().batch_execute(&all).await.unwrap();
    };
    let shards = [ShardId::new(0)?, shard()];
    for waits_at in [MoveStep::CheckHosts, MoveStep::AwaitSourceHosts] {
        let mut meetings = Vec::new();
        let mut stops = Vec::new();
        for (shard, step) in shards.into_iter().zip([MoveStep::CheckHosts, waits_at]) {
            let (reached, at_step) = oneshot::channel();
            let (go_on, told) = mpsc::channel::<()>();
            stops.push((at_step, go_on));
            meetings.push((shard, step, Mutex::new(Some((reached, told)))));
        }
        let mover = Mover::new(&test.config())?.on_event(move |event| {
            let begun = matches!(event.what, MoveNews::Begun);
            for (shard, step, meeting) in &meetings {
                if begun
                    && (event.shard, event.step) == (*shard, *step)
                    && let Some((reached, told)) = meeting.lock().unwrap().take()
                {
                    let _ = reached.send(());
                    tokio::task::block_in_place(|| told.recv().unwrap());
                }
            }
        });
        let mover = Arc::new(mover);
        let mut moving = Vec::new();
        let mut let_go = Vec::new();
        for ((shard, to), (at_step, go_on)) in shards.into_iter().zip([pg(2), pg(1)]).zip(stops) {
            let mover = mover.clone();
            moving.push(tokio::spawn(async move { mover.run(shard, &to).await }));
            at_step.await.unwrap();
            let_go.push(go_on);
        }
        let stands_still = waits_at == MoveStep::CheckHosts;
        if stands_still {
            stand(true).await;
            let_go[1].send(()).unwrap();
            // It is at it.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let_go[0].send(()).unwrap();
        let [other, waiting] = moving.try_into().unwrap();
        let other = tokio::time::timeout(PATIENCE, other).await;
        let other = other.expect("the other has its fence").unwrap()?;
        assert!(!waiting.is_finished(), "{:?}", waiting.await);
        if stands_still {
            stand(false).await;
        } else {
            let_go[1].send(()).unwrap();
        }
        for id in [waiting.await.unwrap()?.id, other.id] {
            assert_eq!(mover.rollback(id).await?.phase, MovePhase::RolledBack);
        }
    }
    Ok(())
}

/// Once a shard has left its home, it has none until the catalog is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_not_closed_while_others_hold_what_the_catalog_says_of_it() -> Result<()> {
    const HOLD: &str = "BEGIN; SELECT FROM howdah.home WHERE shard = 1 FOR UPDATE";
    const WRITE: Statement = Statement::new("UPDATE {shard}.users SET n = n + 1");

    let test = cluster_with_tables()?.start().await?;
    let holder = test.admin("pg1").await?;
    let Paused { mover, at_step, go_on, notes } =
        pausing(Mover::new(&test.config())?, MoveStep::CheckHosts);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    holder.batch_execute(HOLD).await.unwrap();
    go_on.send(()).unwrap();
    until("it was tried in vain", async || notes.retries() > 1).await;
    assert!(schemas(&test).await?.contains(&"pg2 shard_0001_e1".to_owned()));
    assert_eq!(test.cluster().await?.shard(shard())?.execute(&WRITE, &[]).await?, 20);
    holder.batch_execute("COMMIT").await.unwrap();
    let moved = moving.await.unwrap()?;
    assert_eq!(moved.phase, MovePhase::Reversible);
    Mover::new(&test.config())?.rollback(moved.id).await?;

    // Who comes later is waited for, and that is told.
    let told = Arc::new(Mutex::new(String::new()));
    let notes = told.clone();
    let (reached, at_step) = oneshot::channel();
    let (go_on, let_go) = mpsc::channel::<()>();
    let meeting = Mutex::new(Some((reached, let_go)));
    let mover = Mover::new(&test.config())?.on_event(move |event| match &event.what {
        MoveNews::Note(note) if event.step == MoveStep::ChangeHome => {
            notes.lock().unwrap().push_str(note);
        }
        MoveNews::Begun if event.step == MoveStep::AwaitSourceHosts => {
            if let Some((reached, let_go)) = meeting.lock().unwrap().take() {
                let _ = reached.send(());
                tokio::task::block_in_place(|| let_go.recv().unwrap());
            }
        }
        _ => {}
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(1)).await });
    at_step.await.unwrap();
    holder.batch_execute(HOLD).await.unwrap();
    go_on.send(()).unwrap();
    until("it is told what is waited for", async || {
        told.lock().unwrap().contains("pg_stat_activity of the catalog's database")
    })
    .await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(moving.await.unwrap()?.phase, MovePhase::Reversible);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_goes_takes_no_moves() -> Result<()> {
    let test = cluster_with_tables()?.instances(3).shards(2).start().await?;
    let mover = Mover::new(&test.config())?;
    let Paused { mover, at_step, go_on, .. } = pausing(mover, MoveStep::Preflight);
    let moving = tokio::spawn(async move { mover.run(shard(), &pg(3)).await });
    at_step.await.unwrap();
    Instances::open(&test.config()).await?.remove(&pg(3)).await?;
    go_on.send(()).unwrap();
    let error = moving.await.unwrap().unwrap_err();
    assert!(error.is_refused() || error.is_invalid_input(), "{error}");
    assert!(Mover::new(&test.config())?.list().await?.is_empty());
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    Ok(())
}
