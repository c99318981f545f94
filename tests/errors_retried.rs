//! What is done again by itself, provoked on real servers: only what was certainly not executed.
#![cfg(test)]

mod cutover;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cutover::cut_over;
use howdah::postgres::{Client, IsolationLevel};
use howdah::testing::{TestCluster, until};
use howdah::{
    Cluster, Error, Migrations, Outcome, Result, Shard, ShardId, Statement, TransactionOptions,
};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text UNIQUE, n int DEFAULT 0);
    CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper($1);
    CREATE SEQUENCE own MAXVALUE 2;
    CREATE SEQUENCE attempts;
    CREATE FUNCTION attempt() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM nextval((TG_TABLE_SCHEMA || '.attempts')::regclass); RETURN NULL; END $$;
    CREATE TRIGGER attempt BEFORE INSERT ON notes EXECUTE FUNCTION attempt()";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes WHERE text = $1");
const SHOUT: Statement = Statement::new("SELECT {shard}.shout($1)");
const SUM: Statement = Statement::new("SELECT sum(n) FROM {shard}.notes");
const SET: Statement = Statement::new("UPDATE {shard}.notes SET n = $2 WHERE text = $1");

struct Place {
    test: TestCluster,
    cluster: Cluster,
    shard: Shard,
    /// A superuser on the server where the shard lives, which has the catalog too.
    server: Client,
}

impl Place {
    async fn new() -> Result<Self> {
        let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
        let test = TestCluster::builder().instances(1).shards(2).migrations(notes).start().await?;
        let cluster = test.cluster().await?;
        let shard = cluster.shard(ShardId::new(0)?)?;
        let server = test.admin("pg1").await?;
        Ok(Self { test, cluster, shard, server })
    }

    async fn sql(&self, sql: &str) {
        self.server.batch_execute(sql).await.unwrap();
    }

    /// How often a row was to be added: a sequence counts what was refused, too.
    async fn attempts(&self) -> i64 {
        let sql = "SELECT coalesce(pg_sequence_last_value('shard_0000_e1.attempts'), 0)";
        self.server.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn count(&self, text: &str) -> Result<i64> {
        Ok(self.shard.query_one(&COUNT, &[&text]).await?.get(0))
    }
}

fn code(error: &Error) -> &str {
    error.code().map_or("", |code| code.code())
}

#[tokio::test]
async fn a_table_in_a_schema_that_is_gone_is_looked_for_at_the_new_home() -> Result<()> {
    let place = Place::new().await?;
    cut_over(&place.test, 0).await;
    assert_eq!(place.shard.execute(&ADD, &[&"42P01"]).await?, 1);
    cut_over(&place.test, 0).await;
    assert_eq!(place.count("42P01").await?, 1);
    assert_eq!(place.shard.home()?.epoch().get(), 3);
    Ok(())
}

#[tokio::test]
async fn a_function_in_a_schema_that_is_gone_is_looked_for_at_the_new_home() -> Result<()> {
    let place = Place::new().await?;
    let gone = format!("SELECT {}.shout('x')", place.shard.home()?.schema());
    cut_over(&place.test, 0).await;
    let refused = place.server.query_one(&gone, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "3F000");
    let row = place.shard.query_one(&SHOUT, &[&"light"]).await?;
    assert_eq!(row.get::<_, &str>(0), "LIGHT");
    Ok(())
}

/// Runs a write while something refuses it, and takes that away once it has refused.
async fn while_refused(place: &Place, refuse: &str, allow: &str) -> Result<u64> {
    place.sql(refuse).await;
    let before = place.attempts().await;
    let (written, ()) =
        tokio::join!(async { place.shard.execute(&ADD, &[&"note"]).await }, async {
            // The second attempt says that the first was refused.
            until("it is tried again", async || place.attempts().await >= before + 2).await;
            place.sql(allow).await;
        });
    written
}

const GUARD: &str = "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'this copy of the shard is not its home' USING ERRCODE = 'HW002'; END $$;
    CREATE TRIGGER guard BEFORE INSERT ON shard_0000_e1.notes EXECUTE FUNCTION guard()";
const FENCE: &str =
    "DO $$ BEGIN EXECUTE format('ALTER SEQUENCE shard_0000_e1.howdah_id MAXVALUE %s',
    (SELECT last_value FROM shard_0000_e1.howdah_id)); END $$";

#[tokio::test]
async fn a_copy_that_is_not_the_home_is_asked_again_until_it_is() -> Result<()> {
    let place = Place::new().await?;
    let allowed = while_refused(&place, GUARD, "DROP TRIGGER guard ON shard_0000_e1.notes").await?;
    assert_eq!((allowed, place.count("note").await?), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_fenced_is_asked_again_until_it_runs() -> Result<()> {
    let place = Place::new().await?;
    // The first id of a block is drawn before the sequence has come to it.
    place.shard.execute(&ADD, &[&"before"]).await?;
    let run = "ALTER SEQUENCE shard_0000_e1.howdah_id NO MAXVALUE";
    let allowed = while_refused(&place, FENCE, run).await?;
    assert_eq!((allowed, place.count("note").await?), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_shard_without_a_home_is_given_up_in_time_with_nothing_executed() -> Result<()> {
    let place = Place::new().await?;
    place.sql(GUARD).await;
    let hurried = place.shard.clone().timeout(Duration::from_millis(300));
    // Where the time is over while an attempt is under way, as happens, that one's outcome is not known.
    until("it is given up between two attempts", async || {
        let error = hurried.execute(&ADD, &[&"x"]).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        (error.outcome() == Outcome::NotExecuted, error)
    })
    .await;

    // Without a limit of the caller's there is one all the same.
    let error = place.shard.execute(&ADD, &[&"x"]).await.unwrap_err();
    assert_eq!((code(&error), error.outcome()), ("HW002", Outcome::NotExecuted), "{error:?}");
    assert!(error.to_string().contains("howdah status"), "{error}");
    assert_eq!(place.count("x").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_sequence_of_ones_own_that_has_ended_is_no_fence() -> Result<()> {
    const NEXT: Statement = Statement::new("SELECT nextval('{shard}.own')");

    let place = Place::new().await?;
    for _ in 0..2 {
        place.shard.query_one(&NEXT, &[]).await?;
    }
    let error = place.shard.query_one(&NEXT, &[]).await.unwrap_err();
    assert_eq!((code(&error), error.outcome()), ("2200H", Outcome::Failed), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_serialization_failure_runs_a_closure_again_and_no_guard() -> Result<()> {
    let place = Place::new().await?;
    for text in ["a", "b"] {
        place.shard.execute(&ADD, &[&text]).await?;
    }
    let options = TransactionOptions::new().isolation_level(IsolationLevel::Serializable);
    let meeting = tokio::sync::Barrier::new(2);
    let runs = AtomicU32::new(0);
    // Each reads what the other writes: no order of the two explains both.
    let add_up = async |text: &str| {
        place
            .shard
            .transaction_with(&options, async |tx| {
                let sum: i64 = tx.query_one(&SUM, &[]).await?.get(0);
                let sum = i32::try_from(sum).unwrap() + 1;
                if runs.fetch_add(1, Ordering::SeqCst) < 2 {
                    meeting.wait().await;
                }
                tx.execute(&SET, &[&text, &sum]).await
            })
            .await
    };
    let (one, other) = tokio::join!(add_up("a"), add_up("b"));
    assert_eq!((one?, other?), (1, 1));
    assert!(runs.load(Ordering::SeqCst) > 2, "one had to run again");
    let sum: i64 = place.shard.query_one(&SUM, &[]).await?.get(0);
    assert_eq!(sum, 1 + 2, "as if one had run after the other");

    let (one, other) =
        (place.shard.begin_with(&options).await?, place.shard.begin_with(&options).await?);
    for (tx, text) in [(&one, "a"), (&other, "b")] {
        tx.query_one(&SUM, &[]).await?;
        tx.execute(&SET, &[&text, &7]).await?;
    }
    one.commit().await?;
    let error = other.commit().await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_closure_that_always_loses_is_run_as_often_as_allowed() -> Result<()> {
    const LOSE: Statement = Statement::new(
        "DO $$ BEGIN PERFORM '{shard}'; RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$",
    );

    let place = Place::new().await?;
    let runs = AtomicU32::new(0);
    let error = place
        .shard
        .transaction_with(&TransactionOptions::new().max_runs(4), async |tx| {
            runs.fetch_add(1, Ordering::SeqCst);
            tx.execute(&LOSE, &[]).await
        })
        .await
        .unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    Ok(())
}

#[tokio::test]
async fn options_reach_the_server() -> Result<()> {
    const MODE: Statement = Statement::new(
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'),
                current_setting('transaction_deferrable') FROM (SELECT '{shard}') any_shard",
    );

    let place = Place::new().await?;
    let options = TransactionOptions::new()
        .isolation_level(IsolationLevel::Serializable)
        .read_only(true)
        .deferrable(true);
    let mode = async |tx: howdah::Tx| {
        let row = tx.query_one(&MODE, &[]).await?;
        Ok((0..3).map(|column| row.get::<_, String>(column)).collect::<Vec<_>>())
    };
    let with = place.shard.transaction_with(&options, mode).await?;
    assert_eq!(with, ["serializable", "on", "on"]);
    let without = place.shard.transaction(mode).await?;
    assert_eq!(without, ["read committed", "off", "off"]);

    let write = async |tx: howdah::Tx| tx.execute(&ADD, &[&"x"]).await;
    let error = place.shard.transaction_with(&options, write).await.unwrap_err();
    assert_eq!((code(&error), error.outcome()), ("25006", Outcome::Failed), "{error:?}");
    assert!(!error.is_unavailable(), "the statement is at fault");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_refused_is_an_error_at_once_with_nothing_executed() -> Result<()> {
    let place = Place::new().await?;
    // Nobody listens on port 1.
    place.sql("UPDATE howdah.instance SET dsn = 'postgres://howdah_app@127.0.0.1:1/nowhere'").await;
    let cluster = place.test.cluster().await?;
    let began = Instant::now();
    let shard = cluster.shard(ShardId::new(0)?)?;
    let error = shard.execute(&ADD, &[&"x"]).await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_timeout(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "nobody waits for what is refused");
    drop(place.cluster);
    Ok(())
}

#[tokio::test]
async fn an_instance_with_a_new_address_is_found_although_nobody_was_told() -> Result<()> {
    let place = Place::new().await?;
    let right: String =
        place.server.query_one("SELECT dsn FROM howdah.instance", &[]).await.unwrap().get(0);
    place.sql("UPDATE howdah.instance SET dsn = 'postgres://howdah_app@127.0.0.1:1/nowhere'").await;
    let cluster = place.test.cluster().await?;
    place.sql(&format!("UPDATE howdah.instance SET dsn = '{right}'")).await;
    assert_eq!(cluster.shard(ShardId::new(0)?)?.execute(&ADD, &[&"found"]).await?, 1);
    Ok(())
}
