//! What is told and never done again: the caller's own mistakes, and whatever may have happened.
#![cfg(test)]

mod pooler;

use howdah::postgres::Client;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Error, Migrations, Outcome, Result, Shard, ShardId, Statement};
use pooler::Pooler;

const NOTES: &str =
    "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text UNIQUE);
    CREATE TABLE log (text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const LOG: Statement = Statement::new("SELECT count(*) FROM {shard}.log");

async fn shard_with_notes() -> Result<(TestCluster, Cluster, Shard, Client)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(2).migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    let server = test.admin("pg1").await?;
    Ok((test, cluster, shard, server))
}

fn told(error: &Error) -> (&str, Outcome) {
    (error.code().map_or("", |code| code.code()), error.outcome())
}

#[tokio::test]
async fn the_callers_own_mistakes_are_the_callers() -> Result<()> {
    let (_test, _cluster, shard, _server) = shard_with_notes().await?;
    for (sql, code) in [
        ("SELECT * FROM {shard}.ntoes", "42P01"),
        ("SELECT * FROM {shard}.notes, no_such_schema.notes", "42P01"),
        ("SELECT no_such_schema.shout(text) FROM {shard}.notes", "3F000"),
        ("SELECT {shard}.no_such_function()", "42883"),
        ("SELECT no_such_column FROM {shard}.notes", "42703"),
        ("SELEKT {shard}", "42601"),
        ("SELECT 1 / 0 FROM (SELECT '{shard}') any_shard", "22012"),
        ("DROP TABLE {shard}.notes", "42501"),
    ] {
        let error = shard.query(&Statement::parse(sql)?, &[]).await.unwrap_err();
        assert_eq!(told(&error), (code, Outcome::Failed), "{error:?}");
        assert!(!error.is_unavailable() && !error.is_conflict(), "{error:?}");
    }
    let error = shard.query(&ADD, &[]).await.unwrap_err();
    assert_eq!(told(&error), ("", Outcome::NotExecuted), "{error:?}");
    assert!(error.to_string().contains("parameters"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_mistake_stays_certain_where_the_map_cannot_be_checked() -> Result<()> {
    let (test, ..) = shard_with_notes().await?;
    let pooler = Pooler::before(&test, "pg1", "SELECT FROM pg_namespace").await;
    let shard = test.cluster().await?.shard(ShardId::new(0)?)?;
    pooler.lose_the_next();
    const WRONG: Statement = Statement::new("DELETE FROM {shard}.ntoes");
    let error = shard.execute(&WRONG, &[]).await.unwrap_err();
    assert_eq!(told(&error), ("42P01", Outcome::Failed), "{error:?}");
    assert!(error.to_string().contains("the server was lost"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_constraint_fails_once() -> Result<()> {
    let (_test, _cluster, shard, _server) = shard_with_notes().await?;
    shard.execute(&ADD, &[&"taken"]).await?;
    let error = shard.execute(&ADD, &[&"taken"]).await.unwrap_err();
    assert_eq!(told(&error), ("23505", Outcome::Failed), "{error:?}");
    assert!(error.is_unique_violation());
    Ok(())
}

#[tokio::test]
async fn a_statement_that_takes_too_long_failed() -> Result<()> {
    const SLOW: Statement =
        Statement::new("INSERT INTO {shard}.notes (text) SELECT pg_sleep(60)::text");

    let (test, ..) = shard_with_notes().await?;
    let config = test.config().statement_timeout(std::time::Duration::from_secs(1));
    let cluster = Cluster::connect(config).await?;
    let error = cluster.shard(ShardId::new(0)?)?.execute(&SLOW, &[]).await.unwrap_err();
    assert_eq!(told(&error), ("57014", Outcome::Failed), "{error:?}");
    assert!(error.is_timeout());
    Ok(())
}

/// A write that never ends, and leaves a mark outside of any transaction for each time that it began: a sequence.
const ONCE: Statement = Statement::new(
    "INSERT INTO {shard}.notes (text) SELECT nextval('{shard}.runs') || pg_sleep(60)::text",
);

/// Runs [`ONCE`] and ends its session once it sleeps.
async fn ended_by(shard: &Shard, server: &Client, end: &str) -> Result<Error> {
    let schema = shard.home()?.schema();
    let runs = format!(
        "CREATE SEQUENCE IF NOT EXISTS {schema}.runs; GRANT USAGE ON SEQUENCE {schema}.runs TO howdah_app"
    );
    server.batch_execute(&runs).await.unwrap();
    let sleeps = format!(
        "SELECT {end} FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    );
    let ending = until("it sleeps", async || server.query_opt(&sleeps, &[]).await.unwrap());
    let (written, _) = tokio::join!(async { shard.execute(&ONCE, &[]).await }, ending);
    Ok(written.unwrap_err())
}

async fn runs(shard: &Shard, server: &Client) -> Result<i64> {
    let sql = format!("SELECT last_value FROM {}.runs", shard.home()?.schema());
    Ok(server.query_one(&sql, &[]).await.unwrap().get(0))
}

#[tokio::test]
async fn a_write_whose_session_was_shut_down_is_unknown_and_not_repeated() -> Result<()> {
    let (_test, _cluster, shard, server) = shard_with_notes().await?;
    let error = ended_by(&shard, &server, "pg_terminate_backend(pid)").await?;
    assert_eq!(told(&error), ("57P01", Outcome::Unknown), "{error:?}");
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(runs(&shard, &server).await?, 1);
    // The next one is as if nothing had been.
    assert_eq!(shard.execute(&ADD, &[&"next"]).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_write_that_was_still_being_prepared_was_not_executed() -> Result<()> {
    let (test, _cluster, shard, server) = shard_with_notes().await?;
    let owner = test.admin("pg1").await?;
    let lock = format!("BEGIN; LOCK TABLE {}.notes", shard.home()?.schema());
    let waits = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // It waits for the table: the first time to be prepared, the next time to be executed.
    for outcome in [Outcome::NotExecuted, Outcome::Unknown] {
        owner.batch_execute(&lock).await.unwrap();
        let ending = until("it waits", async || server.query_opt(waits, &[]).await.unwrap());
        let (written, _) = tokio::join!(async { shard.execute(&ADD, &[&"never"]).await }, ending);
        let error = written.unwrap_err();
        assert_eq!(told(&error), ("57P01", outcome), "{error:?}");
        owner.batch_execute("COMMIT").await.unwrap();
        shard.execute(&ADD, &[&format!("after {outcome:?}")]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_lost_before_its_commit_on_one_of_many_shards_was_not_executed() -> Result<()> {
    const SLOW: Statement = Statement::new("INSERT INTO {shard}.log SELECT pg_sleep(60)::text");

    let (_test, cluster, shard, server) = shard_with_notes().await?;
    let sleeps = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let ending = until("it sleeps", async || server.query_opt(sleeps, &[]).await.unwrap());
    let there = async { cluster.exec(&SLOW).shards([shard.id()]).write(true).run(|_| {}).await };
    let (answers, _) = tokio::join!(there, ending);
    let error = answers?.remove(0).result.unwrap_err();
    assert_eq!(told(&error), ("57P01", Outcome::NotExecuted), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_write_that_was_cancelled_from_outside_failed_and_is_not_repeated() -> Result<()> {
    let (_test, _cluster, shard, server) = shard_with_notes().await?;
    let error = ended_by(&shard, &server, "pg_cancel_backend(pid)").await?;
    assert_eq!(told(&error), ("57014", Outcome::Failed), "{error:?}");
    assert_eq!(runs(&shard, &server).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_write_under_a_server_that_dies_is_unknown_and_not_repeated() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).shards(1).own_servers();
    let mut test = builder.migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    const SLOW: Statement = Statement::new("INSERT INTO {shard}.log SELECT pg_sleep(60)::text");
    let server = test.admin("pg1").await?;
    let sleeps = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let (written, ()) = tokio::join!(async { shard.execute(&SLOW, &[]).await }, async {
        until("it sleeps", async || server.query_opt(sleeps, &[]).await.unwrap()).await;
        test.kill("pg1").await.unwrap();
    });
    let error = written.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    let error = shard.execute(&ADD, &[&"x"]).await.unwrap_err();
    assert_eq!(
        error.outcome(),
        Outcome::NotExecuted,
        "refused before anything was sent: {error:?}"
    );
    test.start_server("pg1").await?;
    let log = until("it is served again", async || shard.query_one(&LOG, &[]).await).await;
    assert_eq!(log.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn a_transaction_whose_commit_was_refused_left_nothing() -> Result<()> {
    let (_test, _cluster, shard, server) = shard_with_notes().await?;
    let schema = shard.home()?.schema();
    let defer = format!(
        "ALTER TABLE {schema}.notes ADD CONSTRAINT late UNIQUE (text) DEFERRABLE INITIALLY DEFERRED;
         ALTER TABLE {schema}.notes DROP CONSTRAINT notes_text_key"
    );
    server.batch_execute(&defer).await.unwrap();
    let error = shard
        .transaction(async |tx| {
            tx.execute(&ADD, &[&"twice"]).await?;
            tx.execute(&ADD, &[&"twice"]).await
        })
        .await
        .unwrap_err();
    assert_eq!(told(&error), ("23505", Outcome::Failed), "{error:?}");
    Ok(())
}
