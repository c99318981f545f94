//! Transactions commit or leave nothing, and never leave anything to the next borrower of a connection.
#![cfg(test)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use howdah::testing::{TestCluster, until};
use howdah::{
    Cluster, Error, Id, Migrations, Outcome, Result, Shard, ShardId, Statement, TransactionOptions,
};
use tokio::time::timeout;

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text UNIQUE, n int DEFAULT 0)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1) RETURNING id");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes WHERE text = $1");
const RAISE: Statement = Statement::new("UPDATE {shard}.notes SET n = n + 1 WHERE text = $1");

/// A reason of the application's own.
#[derive(Debug, PartialEq)]
struct Full(u32);

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} notes are enough", self.0)
    }
}

impl std::error::Error for Full {}

async fn shard_with_notes() -> Result<(TestCluster, Cluster, Shard)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(2).migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    Ok((test, cluster, shard))
}

async fn count(shard: &Shard, text: &str) -> Result<i64> {
    Ok(shard.query_one(&COUNT, &[&text]).await?.get(0))
}

#[tokio::test]
async fn ok_commits_and_err_rolls_back() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    shard.transaction(async |tx| tx.execute(&ADD, &[&"kept"]).await).await?;
    let error = shard
        .transaction(async |tx| {
            tx.execute(&ADD, &[&"dropped"]).await?;
            tx.execute(&ADD, &[&"kept"]).await
        })
        .await
        .unwrap_err();
    assert!(error.is_unique_violation(), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);
    assert_eq!((count(&shard, "kept").await?, count(&shard, "dropped").await?), (1, 0));
    Ok(())
}

#[tokio::test]
async fn an_error_that_the_closure_swallows_still_fails_the_commit() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    shard.execute(&ADD, &[&"taken"]).await?;
    let error = shard
        .transaction(async |tx| {
            tx.execute(&ADD, &[&"beside"]).await?;
            let _ = tx.execute(&ADD, &[&"taken"]).await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(error.is_unique_violation(), "{error}");
    assert_eq!(count(&shard, "beside").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_wrong_number_of_rows_fails_the_commit_too() -> Result<()> {
    const RENAME: Statement =
        Statement::new("UPDATE {shard}.notes SET n = 7 WHERE text LIKE $1 RETURNING id");

    let (_test, _, shard) = shard_with_notes().await?;
    for text in ["one", "two"] {
        shard.execute(&ADD, &[&text]).await?;
    }
    let run = async |only: bool, pattern: &str| {
        let run = shard.transaction(async |tx| {
            tx.execute(&ADD, &[&"beside"]).await?;
            let _ = match only {
                true => tx.query_one(&RENAME, &[&pattern]).await.map(Some),
                false => tx.query_opt(&RENAME, &[&pattern]).await,
            };
            Ok(())
        });
        run.await
    };
    for (only, pattern) in [(true, "nobody"), (true, "%o%"), (false, "%o%")] {
        let error = run(only, pattern).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
        assert!(error.to_string().contains("one was expected"), "{error}");
        assert_eq!(count(&shard, "beside").await?, 0);
    }
    run(false, "nobody").await?;
    assert_eq!(count(&shard, "beside").await?, 1);
    // Without a transaction, what was written stays.
    let error = shard.query_one(&RENAME, &[&"%o%"]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_closure_that_gives_up_is_rolled_back_and_not_run_again() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    let runs = AtomicU32::new(0);
    let error = shard
        .transaction(async |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.execute(&ADD, &[&"dropped"]).await?;
            Err::<(), _>(Error::abort(Full(3)))
        })
        .await
        .unwrap_err();
    assert!(error.is_aborted() && error.downcast_ref() == Some(&Full(3)), "{error:?}");
    assert_eq!((error.outcome(), runs.load(Ordering::Relaxed)), (Outcome::Failed, 1));
    assert_eq!(error.to_string(), "the transaction was given up: 3 notes are enough");
    assert_eq!(count(&shard, "dropped").await?, 0);
    Ok(())
}

#[tokio::test]
async fn who_gives_up_over_a_conflict_is_not_run_again() -> Result<()> {
    let (test, _, shard) = shard_with_notes().await?;
    let client = test.cluster().await?.instances()[0].client().await?;
    for code in ["40001", "3F000", "HW002"] {
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$");
        let runs = AtomicU32::new(0);
        let error = shard
            .transaction(async |tx| {
                runs.fetch_add(1, Ordering::Relaxed);
                tx.execute(&ADD, &[&"dropped"]).await?;
                client.batch_execute(&raise).await.map_err(Error::abort)
            })
            .await
            .unwrap_err();
        assert!(error.is_aborted() && error.instance().is_none(), "{error:?}");
        assert_eq!(runs.load(Ordering::Relaxed), 1, "{code}");
    }
    assert_eq!(count(&shard, "dropped").await?, 0);
    Ok(())
}

#[tokio::test]
async fn errors_of_the_driver_are_judged_as_those_of_statements() -> Result<()> {
    let (test, _, shard) = shard_with_notes().await?;
    let client = test.cluster().await?.instances()[0].client().await?;
    let runs = AtomicU32::new(0);
    let error = shard
        .transaction(async |_| {
            runs.fetch_add(1, Ordering::Relaxed);
            let lose = "DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$";
            Ok(client.batch_execute(lose).await?)
        })
        .await
        .unwrap_err();
    // What it was sent in is not howdah's to run again.
    assert!(!error.is_conflict() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    assert_eq!((error.code().unwrap().code(), runs.load(Ordering::Relaxed)), ("40001", 1));

    let error = Error::from(client.execute("SELECT 1 / 0", &[]).await.unwrap_err());
    assert_eq!((error.code().unwrap().code(), error.outcome()), ("22012", Outcome::Failed));
    let error = Error::from(client.execute("SELECT $1::int", &[&"text"]).await.unwrap_err());
    assert!(error.is_invalid_input(), "{error:?}");
    let error = Error::from(client.query_one("SELECT WHERE false", &[]).await.unwrap_err());
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");

    // A row tells nothing of what its statement did. In a transaction, it is undone.
    let row = shard.query_one(&ADD, &[&"kept"]).await?;
    let error = Error::from(row.try_get::<_, i32>("id").unwrap_err());
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert!(!error.is_unavailable(), "{error:?}");
    let error = shard
        .transaction(async |tx| {
            Ok(tx.query_one(&ADD, &[&"dropped"]).await?.try_get::<_, Id>("no such column")?)
        })
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
    assert_eq!((count(&shard, "kept").await?, count(&shard, "dropped").await?), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_dropped_guard_is_rolled_back_and_its_connection_lent_again() -> Result<()> {
    let (test, _, _) = shard_with_notes().await?;
    // With one connection, whoever comes next gets the one that the guard had.
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    for round in 0..5 {
        let tx = shard.begin().await?;
        tx.execute(&ADD, &[&format!("{round}")]).await?;
        drop(tx);
        assert_eq!(count(&shard, &format!("{round}")).await?, 0);
    }
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&"kept"]).await?;
    tx.commit().await?;
    assert_eq!(count(&shard, "kept").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_handle_is_of_no_use_after_its_transaction() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    let escaped = shard.transaction(async |tx| Ok(tx)).await?;
    let error = escaped.execute(&ADD, &[&"late"]).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error}");
    assert_eq!(count(&shard, "late").await?, 0);
    Ok(())
}

#[tokio::test]
async fn two_that_deadlock_both_end_well() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    for text in ["a", "b"] {
        shard.execute(&ADD, &[&text]).await?;
    }
    let barrier = tokio::sync::Barrier::new(2);
    let both_in = AtomicU32::new(0);
    let raise = async |first: &str, second: &str| {
        shard
            .transaction(async |tx| {
                tx.execute(&RAISE, &[&first]).await?;
                // The first run of each meets the other here; a run after the deadlock goes on alone.
                if both_in.fetch_add(1, Ordering::SeqCst) < 2 {
                    barrier.wait().await;
                }
                tx.execute(&RAISE, &[&second]).await
            })
            .await
    };
    let (one, other) = tokio::join!(raise("a", "b"), raise("b", "a"));
    assert_eq!((one?, other?), (1, 1));
    const SUM: Statement = Statement::new("SELECT sum(n) FROM {shard}.notes");
    assert_eq!(shard.query_one(&SUM, &[]).await?.get::<_, i64>(0), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_runs_in_a_spawned_task() -> Result<()> {
    let (_test, cluster, _) = shard_with_notes().await?;
    let name = String::from("alice");
    let id = tokio::spawn(async move {
        let shard = cluster.shard_for_key(&name);
        let text: &str = &name;
        shard.transaction(async |tx| Ok(tx.query_one(&ADD, &[&text]).await?.get::<_, Id>(0))).await
    })
    .await
    .unwrap()?;
    assert!(id.get() > 0);
    Ok(())
}

#[tokio::test]
async fn a_connection_lost_in_a_transaction_leaves_nothing() -> Result<()> {
    let (test, _, shard) = shard_with_notes().await?;
    const ME: Statement = Statement::new("SELECT pg_backend_pid() FROM {shard}.notes");
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&"lost"]).await?;
    let backend: i32 = tx.query_one(&ME, &[]).await?.get(0);
    let kill = "SELECT pg_terminate_backend($1, 5000)";
    test.admin("pg1").await?.execute(kill, &[&backend]).await.unwrap();
    let error = tx.execute(&ADD, &[&"lost too"]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert!(tx.commit().await.is_err());
    assert_eq!(count(&shard, "lost").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_write_whose_connection_is_lost_has_an_unknown_outcome() -> Result<()> {
    const SLOW: Statement =
        Statement::new("INSERT INTO {shard}.notes (text) SELECT pg_sleep(60)::text");

    let (test, _, shard) = shard_with_notes().await?;
    let admin = test.admin("pg1").await?;
    let killer = async {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND wait_event = 'PgSleep'";
        until("it sleeps", async || admin.query_opt(kill, &[]).await.unwrap()).await
    };
    let (written, _) = tokio::join!(async { shard.execute(&SLOW, &[]).await }, killer);
    let error = written.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(error.to_string().contains("unknown"), "{error}");
    assert!(error.to_string().starts_with("pg1: cannot run \"INSERT"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_statement_that_was_dropped_fails_the_commit() -> Result<()> {
    const SLOW: Statement =
        Statement::new("INSERT INTO {shard}.notes (text) SELECT pg_sleep(1)::text");

    let (_test, _, shard) = shard_with_notes().await?;
    let error = shard
        .transaction(async |tx| {
            tx.execute(&ADD, &[&"debit"]).await?;
            let credit = async { tx.execute(&SLOW, &[]).await };
            let _ = timeout(Duration::from_millis(50), credit).await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert_eq!(count(&shard, "debit").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_clone_does_not_keep_a_transaction_open() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    let transaction = shard.begin().await?;
    let clone = transaction.tx();
    clone.execute(&ADD, &[&"note"]).await?;
    drop(transaction);
    assert!(clone.execute(&ADD, &[&"late"]).await.unwrap_err().is_invalid_input());
    // The row is free, so nobody holds it in an open transaction.
    assert_eq!(shard.execute(&ADD, &[&"note"]).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_guard_that_is_dropped_under_a_clones_statement_is_rolled_back_when_that_ends()
-> Result<()> {
    static SLEEP: Statement = Statement::new("SELECT pg_sleep(1), '{shard}'");

    let (test, ..) = shard_with_notes().await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    let tx = shard.begin().await?;
    let clone = tx.tx();
    tx.execute(&ADD, &[&"beside"]).await?;
    let mut sleeping = Box::pin(clone.query(&SLEEP, &[]));
    assert!(futures_util::poll!(&mut sleeping).is_pending());
    drop(tx);
    sleeping.await?;
    // The clone is still there, and the only connection is free.
    shard.clone().queue_timeout(Duration::from_secs(20)).execute(&ADD, &[&"beside"]).await?;
    assert_eq!(clone.query(&SLEEP, &[]).await.unwrap_err().outcome(), Outcome::NotExecuted);
    Ok(())
}

#[tokio::test]
async fn a_rollback_does_not_wait_for_a_statement_that_was_dropped() -> Result<()> {
    const SLEEP: Statement = Statement::new("SELECT pg_sleep(25), '{shard}'");

    let (_test, _, shard) = shard_with_notes().await?;
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&"beside"]).await?;
    let sleeping = timeout(Duration::from_secs(2), tx.query(&SLEEP, &[])).await;
    sleeping.expect_err("it sleeps");
    timeout(Duration::from_secs(15), tx.rollback()).await.expect("it waits")?;
    shard.execute(&ADD, &[&"beside"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_write_in_a_transaction_that_only_reads_costs_no_connection() -> Result<()> {
    let (test, ..) = shard_with_notes().await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    let reading = TransactionOptions::new().read_only(true);
    for _ in 0..3 {
        let written = shard
            .transaction_with(&reading, async |tx| tx.execute(&ADD, &[&"never"]).await)
            .await
            .unwrap_err();
        assert_eq!(written.code().map(|code| code.code()), Some("25006"), "{written:?}");
    }
    assert_eq!(cluster.stats()[0].connects, 1);
    Ok(())
}

#[tokio::test]
async fn a_transaction_without_a_statement_is_nothing_to_the_server() -> Result<()> {
    let (test, _, _) = shard_with_notes().await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    shard.execute(&ADD, &[&"before"]).await?;
    let open = async || -> i64 {
        const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        test.admin("pg1").await.unwrap().query_one(OPEN, &[]).await.unwrap().get(0)
    };
    for commits in [true, false] {
        let tx = shard.begin().await?;
        assert_eq!(open().await, 0);
        if commits {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        // What comes next on the connection is no part of it.
        shard.execute(&ADD, &[&format!("after {commits}")]).await?;
        assert_eq!(count(&shard, &format!("after {commits}")).await?, 1);
    }
    let tx = shard.begin().await?;
    tx.query(&COUNT, &[&"before"]).await?;
    assert_eq!(open().await, 1);
    tx.commit().await
}

#[tokio::test]
async fn after_its_first_statement_has_failed_a_transaction_takes_no_other() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    shard.execute(&ADD, &[&"taken"]).await?;
    let tx = shard.begin().await?;
    let error = tx.execute(&ADD, &[&"taken"]).await.unwrap_err();
    assert!(error.is_unique_violation(), "{error}");
    let error = tx.execute(&ADD, &[&"next"]).await.unwrap_err();
    assert!(error.is_unique_violation(), "{error}");
    assert!(error.to_string().contains("an earlier statement had failed"), "{error}");
    assert!(tx.commit().await.is_err());
    assert_eq!(count(&shard, "next").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_was_sent_and_abandoned_is_rolled_back_with_its_transaction() -> Result<()> {
    let (test, _, _) = shard_with_notes().await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    // Prepared on the only connection, it is sent as soon as it is asked for.
    shard.execute(&ADD, &[&"before"]).await?;
    for round in 0..20 {
        let name = format!("{round}");
        let tx = shard.begin().await?;
        assert!(tx.execute(&ADD, &[&name]).now_or_never().is_none());
        if round % 2 == 0 {
            let _ = tx.rollback().await;
        } else {
            assert!(tx.commit().await.is_err());
        }
        assert_eq!(count(&shard, &name).await?, 0);
        shard.execute(&ADD, &[&format!("after {round}")]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn statements_asked_for_at_once_are_all_in_the_transaction() -> Result<()> {
    let (_test, _, shard) = shard_with_notes().await?;
    for round in 0..20 {
        let tx = shard.begin().await?;
        let names: Vec<_> = (0..5).map(|i| format!("{round} {i}")).collect();
        let add = names.iter().map(async |name| tx.execute(&ADD, &[name]).await);
        futures_util::future::try_join_all(add).await?;
        tx.rollback().await?;
        for name in &names {
            assert_eq!(count(&shard, name).await?, 0);
        }
    }
    Ok(())
}
