//! What is told of work that failed in the middle of something, and what is left then.
#![cfg(test)]

use std::time::Duration;

use howdah::postgres::Client;
use howdah::testing::TestCluster;
use howdah::{Cluster, Migrations, Outcome, ReadFrom, Result, Shard, ShardId, Statement};
use tokio::time::{sleep, timeout};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1) RETURNING *");
const ALL: Statement = Statement::new("SELECT * FROM {shard}.notes");
const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), '{shard}'");

struct Place {
    cluster: Cluster,
    shard: Shard,
    server: Client,
    test: TestCluster,
}

/// One connection, so that every call meets what the one before it left there.
async fn place() -> Result<Place> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(4).migrations(notes).start().await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    let server = test.admin("pg1").await?;
    Ok(Place { cluster, shard, server, test })
}

#[tokio::test]
async fn a_procedure_that_has_committed_is_not_called_again() -> Result<()> {
    const CALL: Statement = Statement::new("CALL {shard}.add_and_fail($1)");

    let place = place().await?;
    let Place { shard, server, .. } = &place;
    let procedure = "CREATE PROCEDURE shard_0000_e1.add_and_fail(code text) LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO shard_0000_e1.notes (text) VALUES (code);
            COMMIT;
            RAISE EXCEPTION 'in the middle' USING ERRCODE = code;
        END $$";
    server.batch_execute(procedure).await.unwrap();
    // A shard on the move, a conflict, a name that is not there, and an error of any other kind.
    for code in ["HW002", "40001", "3F000", "23505"] {
        let error = shard.execute(&CALL, &[&code]).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
        let notes = shard.query(&ALL, &[]).await?;
        let found = notes.iter().filter(|row| row.get::<_, &str>("text") == code).count();
        assert_eq!(found, 1, "{code}");
    }
    // What cannot even be prepared has done nothing.
    const ELSEWHERE: Statement = Statement::new("CALL {shard}.no_such_procedure()");
    assert_eq!(shard.execute(&ELSEWHERE, &[]).await.unwrap_err().outcome(), Outcome::Failed);
    Ok(())
}

#[tokio::test]
async fn a_table_that_was_changed_goes_unnoticed_in_transactions_too() -> Result<()> {
    let place = place().await?;
    let Place { shard, server, .. } = &place;
    let add = async || shard.transaction(async |tx| tx.query_one(&ADD, &[&"note"]).await).await;
    assert_eq!(add().await?.len(), 2);
    let change = "ALTER TABLE shard_0000_e1.notes ADD likes int DEFAULT 7";
    server.batch_execute(change).await.unwrap();
    assert_eq!(add().await?.get::<_, i32>("likes"), 7);

    server.batch_execute("ALTER TABLE shard_0000_e1.notes ADD more int").await.unwrap();
    let tx = shard.begin().await?;
    let error = tx.query_one(&ADD, &[&"note"]).await.unwrap_err();
    // Whoever has the control is told to do it again; and then it goes well.
    assert!(error.is_conflict() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    drop(tx);
    let tx = shard.begin().await?;
    assert_eq!(tx.query_one(&ADD, &[&"note"]).await?.len(), 4);
    tx.commit().await?;
    assert_eq!(shard.query(&ALL, &[]).await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_never_sent_has_failed() -> Result<()> {
    let place = place().await?;
    let Place { shard, server, .. } = &place;
    let tx = shard.begin().await?;
    tx.query_one(&ADD, &[&"never"]).await?;
    let backend: i32 = tx.query_one(&BACKEND, &[]).await?.get(0);
    server.execute("SELECT pg_terminate_backend($1)", &[&backend]).await.unwrap();
    let there = "SELECT FROM pg_stat_activity WHERE pid = $1";
    while server.query_opt(there, &[&backend]).await.unwrap().is_some() {
        sleep(Duration::from_millis(10)).await;
    }
    // The server's farewell has arrived: the driver reads it when it gets to work.
    sleep(Duration::from_millis(200)).await;
    let error = tx.commit().await.unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::Failed, "{error:?}");
    assert!(shard.query(&ALL, &[]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_error_is_the_last_item_of_a_stream() -> Result<()> {
    let place = place().await?;
    let Place { cluster, server, .. } = &place;
    for shard in cluster.map().count().iter() {
        cluster.shard(shard)?.query_one(&ADD, &[&"1"]).await?;
    }
    server.batch_execute("UPDATE shard_0000_e1.notes SET text = 'no number'").await.unwrap();
    const NUMBERS: Statement = Statement::new("SELECT text::int FROM {shard}.notes");
    let mut stream = cluster.scatter(&NUMBERS).all(&[]).stream();
    while stream.next().await.is_some_and(|row| row.is_ok()) {}
    assert!(stream.next().await.is_none());
    // Its connection, the only one, is free again before the stream is dropped.
    let shard = cluster.shard(ShardId::new(1)?)?;
    let waiting = timeout(Duration::from_secs(60), async { shard.query(&ALL, &[]).await });
    assert_eq!(waiting.await.expect("the stream keeps its connection")?.len(), 1);
    drop(stream);
    Ok(())
}

#[tokio::test]
async fn what_many_shards_are_asked_changes_no_session_for_others() -> Result<()> {
    const SET: Statement = Statement::new("SET search_path TO {shard}");
    const CONFIG: Statement =
        Statement::new("SELECT set_config('search_path', '{shard}', false) FROM {shard}.notes");
    const PATH: Statement = Statement::new("SELECT current_setting('search_path'), '{shard}'");

    let place = place().await?;
    let Place { cluster, shard, .. } = &place;
    shard.query_one(&ADD, &[&"one"]).await?;
    let path = async || shard.query_one(&PATH, &[]).await.map(|row| row.get::<_, String>(0));
    let before = path().await?;
    for answer in cluster.exec(&SET).run(|_| {}).await? {
        answer.result?;
    }
    assert_eq!(path().await?, before);
    let mut stream = cluster.scatter(&CONFIG).all(&[]).stream();
    while let Some(row) = stream.next().await {
        row?;
    }
    assert_eq!(path().await?, before);
    Ok(())
}

#[tokio::test]
async fn a_shards_limits_hold_wherever_its_statements_run() -> Result<()> {
    const LIMIT: Statement = Statement::new(
        "SELECT setting FROM pg_settings, (SELECT '{shard}') AS here \
            WHERE name = 'statement_timeout'",
    );

    let place = place().await?;
    let Place { test, .. } = &place;
    let cluster = test.cluster().await?;
    let limit = Duration::from_millis(300);
    let shard = cluster.shard(ShardId::new(0)?)?;
    let said = async |shard: &Shard| -> Result<String> {
        Ok(shard.query_one(&LIMIT, &[]).await?.get("setting"))
    };
    assert_eq!(said(&shard).await?, "500", "on a pipeline");
    let short = shard.clone().statement_timeout(limit);
    assert_eq!(said(&short).await?, "300");
    let read = short.read(ReadFrom::Replica { max_lag: Duration::MAX });
    assert_eq!(read.query_one(&LIMIT, &[]).await?.get::<_, &str>("setting"), "300");
    let over_shards = cluster
        .transaction(async |tx| {
            tx.on(&short).await?.query_one(&LIMIT, &[]).await.map(|row| row.get::<_, String>(0))
        })
        .await?;
    assert_eq!(over_shards, "300");
    Ok(())
}
