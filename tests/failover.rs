//! A primary dies or hangs and a replica takes over: no acknowledged write is lost, every error tells its outcome, and
//! nothing has to be restarted.
#![cfg(test)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{Error, HostRole, Migrations, Outcome, ReadFrom, Result, Shard, ShardId, Statement};
use tokio::time::timeout;

const NOTES: &str = "CREATE TABLE notes (n bigint PRIMARY KEY);
    CREATE VIEW here AS SELECT pg_is_in_recovery() AS replica";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES ($1)");
const ALL: Statement = Statement::new("SELECT n FROM {shard}.notes");
const HERE: Statement = Statement::new("SELECT replica FROM {shard}.here");

/// Far longer than the operating guide says, for a machine with much to do.
const BACK_WITHIN: Duration = Duration::from_secs(60);

async fn one_instance_with_a_replica() -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).replicas(1).shards(2);
    builder.migrations(notes).start().await
}

/// Commits wait from now on until the replica has them.
async fn replicate_synchronously(test: &TestCluster) {
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("commits wait for the replica", async || {
        let sync = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'";
        admin.query_opt(sync, &[]).await.unwrap().is_some()
    })
    .await;
}

/// Writes, on one or the other shard, by itself or in a transaction.
async fn add(shards: &[Shard], n: i64) -> Result<()> {
    let shard = &shards[usize::try_from(n / 2 % 2).unwrap()];
    if n % 2 == 0 {
        return shard.execute(&ADD, &[&n]).await.map(drop);
    }
    shard.transaction(async |tx| tx.execute(&ADD, &[&n]).await).await.map(drop)
}

async fn all(shards: &[Shard]) -> Result<BTreeSet<i64>> {
    let mut found = BTreeSet::new();
    for shard in shards {
        let rows = shard.query(&ALL, &[]).await?;
        found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    Ok(found)
}

async fn shards(test: &TestCluster) -> Result<Vec<Shard>> {
    let cluster = test.cluster().await?;
    (0..2).map(|number| cluster.shard(ShardId::new(number)?)).collect()
}

#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<i64>,
    errors: Vec<(i64, Error)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_loses_no_acknowledged_write() -> Result<()> {
    let mut test = one_instance_with_a_replica().await?;
    replicate_synchronously(&test).await;
    let shards = shards(&test).await?;
    let next = Arc::new(AtomicI64::new(0));
    let told = Arc::new(Mutex::new(Told::default()));
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (shards, next, told, over) =
                (shards.clone(), next.clone(), told.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let answer = add(&shards, n).await;
                    let is_error = answer.is_err();
                    match answer {
                        Ok(()) => drop(told.lock().unwrap().acknowledged.insert(n)),
                        Err(error) => told.lock().unwrap().errors.push((n, error)),
                    }
                    if is_error {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();
    let acknowledged = || told.lock().unwrap().acknowledged.len();
    until("a load", async || (acknowledged() > 500, acknowledged())).await;

    test.kill("pg1").await?;
    test.promote("pg1-r1").await?;
    let promoted = Instant::now();
    let before = acknowledged();
    until("a write after the promotion", async || acknowledged() > before).await;
    eprintln!("the first write was acknowledged {:?} after the promotion", promoted.elapsed());
    let more = async || (acknowledged() > before + 500, acknowledged());
    until("many more", more).await;
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }

    let written = all(&shards).await?;
    let told = told.lock().unwrap();
    let lost: Vec<_> = told.acknowledged.difference(&written).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let outcomes = |outcome| told.errors.iter().filter(move |(_, e)| e.outcome() == outcome);
    for (n, error) in &told.errors {
        assert!(error.is_unavailable(), "{error:?}");
        assert_eq!(error.instance(), Some("pg1"), "{error:?}");
        let is_written = written.contains(n);
        assert!(error.outcome() == Outcome::Unknown || !is_written, "{n} was written: {error:?}");
    }
    eprintln!(
        "{} acknowledged, {} not executed, {} failed, {} unknown",
        told.acknowledged.len(),
        outcomes(Outcome::NotExecuted).count(),
        outcomes(Outcome::Failed).count(),
        outcomes(Outcome::Unknown).count()
    );
    Ok(())
}

#[tokio::test]
async fn a_primary_that_was_replaced_is_never_written_to_again() -> Result<()> {
    let mut test = one_instance_with_a_replica().await?;
    let shards = shards(&test).await?;
    add(&shards, 0).await?;
    test.replicated("pg1").await?;
    test.kill("pg1").await?;
    test.promote("pg1-r1").await?;
    until("the replica takes writes", async || add(&shards, 1).await).await;

    // Somebody starts it again by mistake: now two servers say that they are the primary.
    test.start_server("pg1").await?;
    for n in 2..100 {
        add(&shards, n).await?;
    }
    // Nor does a program go there that has known neither.
    let fresh = self::shards(&test).await?;
    for n in 100..110 {
        add(&fresh, n).await?;
    }
    assert_eq!(all(&shards).await?.len(), 110);
    let status = test.cluster().await?.status().await;
    let roles: Vec<_> = status.instances[0].hosts.iter().map(|host| host.role).collect();
    assert_eq!(roles, [HostRole::Unreachable, HostRole::Primary]);

    // And not even where it is the only one left.
    test.kill("pg1-r1").await?;
    until("it is told that the old primary has been replaced", async || {
        let error = add(&shards, 200).await.unwrap_err();
        let told = error.to_string().contains("has been replaced");
        (told && error.outcome() == Outcome::NotExecuted, error)
    })
    .await;
    let old = test.admin("pg1").await?;
    let count = "SELECT count(*) FROM shard_0000_e1.notes";
    let count: i64 = old.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
    Ok(())
}

#[tokio::test]
async fn a_program_that_starts_hears_everybody_also_a_primary_that_is_far_away() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).replicas(1).shards(2).proxies();
    let mut test = builder.migrations(notes).start().await?;
    test.kill("pg1").await?;
    test.promote("pg1-r1").await?;
    let before = shards(&test).await?;
    until("the replica takes writes", async || add(&before, 0).await).await;
    test.start_server("pg1").await?;
    // The old one answers at once, and the one that has replaced it only after those who ask next.
    test.proxy("pg1-r1")?.delay(Duration::from_millis(10));
    for program in 1..6 {
        if program == 4 {
            test.proxy("pg1-r1")?.heal();
            test.proxy("pg1")?.delay(Duration::from_millis(10));
        }
        let shards = shards(&test).await?;
        let adding = (0..8).map(async |n| {
            tokio::time::sleep(Duration::from_millis(6 * n)).await;
            add(&shards, program * 100 + i64::try_from(n).unwrap()).await
        });
        futures_util::future::try_join_all(adding).await?;
    }
    let old = test.admin("pg1").await?;
    for shard in 0..2 {
        let rows = format!("SELECT FROM shard_000{shard}_e1.notes");
        assert!(old.query(&rows, &[]).await.unwrap().is_empty(), "written to a primary of before");
    }
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_primary_that_hangs_is_told_when_another_is_promoted() -> Result<()> {
    let mut test = one_instance_with_a_replica().await?;
    let shards = shards(&test).await?;
    add(&shards, 0).await?;
    test.replicated("pg1").await?;
    test.suspend("pg1").await?;
    let waiting = tokio::spawn({
        let shards = shards.clone();
        async move { add(&shards, 1).await }
    });
    test.promote("pg1-r1").await?;
    let promoted = Instant::now();
    // The server would answer it never, and its connection is as sound as any.
    let error = timeout(BACK_WITHIN, waiting).await.expect("it waits on").unwrap().unwrap_err();
    assert_ne!(error.outcome(), Outcome::Failed, "{error:?}");
    until("the replica takes writes", async || add(&shards, 2).await).await;
    eprintln!("the first write was acknowledged {:?} after the promotion", promoted.elapsed());

    test.resume("pg1").await?;
    for n in 3..50 {
        add(&shards, n).await?;
    }
    let written = all(&shards).await?;
    assert_eq!(written, std::iter::once(0).chain(2..50).collect());
    Ok(())
}

#[tokio::test]
async fn without_a_primary_writes_fail_at_once_and_reads_go_on() -> Result<()> {
    let mut test = one_instance_with_a_replica().await?;
    let shards = shards(&test).await?;
    add(&shards, 0).await?;
    test.replicated("pg1").await?;
    let patient = shards[0].read(ReadFrom::Replica { max_lag: Duration::from_secs(600) });
    let on_replica = async || patient.query_one(&HERE, &[]).await.is_ok_and(|row| row.get(0));
    until("the replica is read", on_replica).await;

    test.kill("pg1").await?;
    until("it is told that there is no primary", async || {
        let error = add(&shards, 1).await.unwrap_err();
        assert!(error.is_unavailable() && !error.is_timeout(), "{error:?}");
        let text = error.to_string();
        let told = text.contains("no primary") && text.contains("is a replica");
        (told && error.outcome() == Outcome::NotExecuted, error)
    })
    .await;
    for _ in 0..50 {
        assert!(patient.query_one(&HERE, &[]).await?.get::<_, bool>(0));
        assert_eq!(patient.query(&ALL, &[]).await?.len(), 1);
    }
    // Who is not content with what may be old by now has to hear that there is nothing newer.
    let strict = shards[0].read(ReadFrom::Replica { max_lag: Duration::from_millis(400) });
    until("the replica is too old", async || strict.query(&ALL, &[]).await.is_err()).await;

    test.promote("pg1-r1").await?;
    until("the replica takes writes", async || add(&shards, 1).await).await;
    assert_eq!(strict.query(&ALL, &[]).await?.len(), 2);
    assert!(!patient.query_one(&HERE, &[]).await?.get::<_, bool>(0));
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_left_at_once_and_says_so() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).own_servers().shards(2);
    let test = builder.migrations(notes).start().await?;
    let shards = shards(&test).await?;
    add(&shards, 0).await?;
    let admin = test.admin("pg1").await?;
    let set = async |read_only: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {read_only}");
        // The setting forbids its own change.
        admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        admin.batch_execute(&set).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    set("on").await;
    // A connection from before answers 25006, and is closed; no new one is to be had.
    let mut codes = BTreeSet::new();
    let mut n = 0;
    until("it is told that the server takes no writes", async || {
        n += 1;
        let Err(error) = add(&shards, n).await else { return false };
        assert!(error.is_unavailable() && error.outcome() == Outcome::NotExecuted, "{error:?}");
        codes.extend(error.code().map(|code| code.code().to_owned()));
        error.to_string().contains("set to take no writes")
    })
    .await;
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["25006"]);
    set("off").await;
    until("it takes writes again", async || add(&shards, n).await).await;
    Ok(())
}

#[tokio::test]
async fn a_primary_of_an_older_generation_is_refused_by_who_has_seen_no_other() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(2).replicas(1).shards(4);
    let mut test = builder.migrations(notes).start().await?;
    // On the second instance; the catalog is on the first.
    let on_pg2 = async |test: &TestCluster| test.cluster().await?.shard(ShardId::new(1)?);
    let shard = on_pg2(&test).await?;
    shard.execute(&ADD, &[&0_i64]).await?;
    test.replicated("pg2").await?;
    test.kill("pg2").await?;
    test.promote("pg2-r1").await?;
    until("the replica takes writes", async || shard.execute(&ADD, &[&1_i64]).await).await;

    // What the operating guide says to do where the old primary may come back.
    let raise = "UPDATE howdah.identity SET generation = generation + 1 RETURNING generation";
    let promoted = test.admin("pg2-r1").await?;
    let generation: i64 = promoted.query_one(raise, &[]).await.unwrap().get(0);
    let lowest = "UPDATE howdah.instance SET generation = $1 WHERE name = 'pg2'";
    let catalog = test.admin("pg1").await?;
    catalog.execute(lowest, &[&generation]).await.unwrap();
    catalog.batch_execute("NOTIFY howdah_map").await.unwrap();
    for n in 2..20_i64 {
        shard.execute(&ADD, &[&n]).await?;
    }

    test.start_server("pg2").await?;
    test.kill("pg2-r1").await?;
    for shard in [on_pg2(&test).await?, shard] {
        until("the old primary is refused", async || {
            let error = shard.execute(&ADD, &[&20_i64]).await.unwrap_err();
            let text = error.to_string();
            let refused = text.contains("of generation 1") || text.contains("has been replaced");
            (refused && error.outcome() == Outcome::NotExecuted, error)
        })
        .await;
    }
    Ok(())
}
