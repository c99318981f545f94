//! The pool: in order, bounded, and never lending a connection that was left in the middle of something.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Migrations, Outcome, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const ALL: Statement = Statement::new("SELECT * FROM {shard}.notes");
const SLEEP: Statement = Statement::new("SELECT pg_sleep(600), count(*) FROM {shard}.notes");
const LIMIT: Statement =
    Statement::new("SELECT current_setting('statement_timeout'), count(*) FROM {shard}.notes");
const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), count(*) FROM {shard}.notes");

async fn cluster_of_one(shards: u16) -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().instances(1).shards(shards).migrations(notes).start().await
}

fn first(cluster: &Cluster) -> Result<Shard> {
    cluster.shard(ShardId::new(0)?)
}

/// Sessions of the application on the test's own database, by what they do.
async fn sessions(test: &TestCluster, which: &str) -> Result<i64> {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND usename = 'howdah_app' AND {which}"
    );
    Ok(test.admin("pg1").await?.query_one(&count, &[]).await.unwrap().get(0))
}

/// Waits until no session is left in a transaction: one that is ended is seen a moment longer.
async fn no_transaction_is_open(test: &TestCluster) {
    let idle = "state LIKE 'idle in transaction%'";
    let none = async || sessions(test, idle).await.unwrap() == 0;
    until("no transaction is open", none).await;
}

#[tokio::test]
async fn what_a_statement_sets_ends_with_it() -> Result<()> {
    const SET: Statement = Statement::new("SET search_path = {shard}");
    const BEGIN: Statement = Statement::new("BEGIN /* {shard} */");
    const SET_CONFIG: Statement = Statement::new(
        "SELECT set_config('search_path', 'nowhere', false), count(*) FROM {shard}.notes",
    );
    const PATH: Statement =
        Statement::new("SELECT current_setting('search_path'), count(*) FROM {shard}.notes");

    let test = cluster_of_one(1).await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    let before: String = shard.query_one(&PATH, &[]).await?.get(0);
    for statement in [SET, BEGIN, SET_CONFIG] {
        shard.execute(&statement, &[]).await?;
        assert_eq!(shard.query_one(&PATH, &[]).await?.get::<_, String>(0), before);
    }
    no_transaction_is_open(&test).await;
    Ok(())
}

#[tokio::test]
async fn a_statement_that_nobody_waits_for_is_cancelled() -> Result<()> {
    let test = cluster_of_one(1).await?;
    // So long that it is not the server which ends it.
    let config = test.config().statement_timeout(Duration::from_secs(600));
    let cluster = Cluster::connect(config.max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    shard.query(&ALL, &[]).await?;
    let sleeping = tokio::spawn({
        let shard = shard.clone();
        async move { shard.query(&SLEEP, &[]).await }
    });
    let asleep = async || sessions(&test, "wait_event = 'PgSleep'").await.unwrap();
    until("it sleeps", async || asleep().await == 1).await;
    sleeping.abort();
    until("it sleeps no more", async || asleep().await == 0).await;
    assert!(shard.query(&ALL, &[]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_copy_that_was_sent_as_a_statement_leaves_no_session_behind() -> Result<()> {
    const COPY: Statement = Statement::new("COPY {shard}.notes FROM STDIN");

    let test = cluster_of_one(1).await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    for _ in 0..3 {
        assert!(shard.execute(&COPY, &[]).await.is_err());
    }
    shard.execute(&ADD, &[&"note"]).await?;
    until("the server waits for no rows", async || {
        sessions(&test, "query LIKE 'COPY%'").await.unwrap() == 0
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn who_waits_too_long_is_told_that_it_was_the_queue() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let config = test.config().max_size(1).pipelines(0).queue_timeout(Duration::from_millis(200));
    let cluster = Cluster::connect(config).await?;
    let shard = first(&cluster)?;
    let held = shard.begin().await?;
    let error = shard.query(&ALL, &[]).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("in use"), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    held.rollback().await?;
    shard.query(&ALL, &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_few_connections() -> Result<()> {
    let test = cluster_of_one(4).await?;
    let config = test.config().max_size(3).queue_timeout(Duration::from_secs(60));
    let cluster = Cluster::connect(config).await?;
    let tasks: Vec<_> = (0..500_u16)
        .map(|task| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                cluster.shard(ShardId::new(task % 4)?)?.execute(&ADD, &[&task.to_string()]).await
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap()?, 1);
    }
    // Three of the pool's, and those that read and watch the map.
    assert!(sessions(&test, "true").await? <= 3 + 2);
    Ok(())
}

#[tokio::test]
async fn a_connection_keeps_no_more_statements_than_its_cap() -> Result<()> {
    const KEPT: Statement =
        Statement::new("SELECT count(*) FROM pg_prepared_statements, {shard}.notes");

    let test = cluster_of_one(8).await?;
    let config = test.config().max_size(1).pipelines(0).statement_cache(20, 1 << 20);
    let cluster = Cluster::connect(config).await?;
    let statements: Vec<_> = (0..10)
        .map(|n| Statement::parse(format!("SELECT text, {n} FROM {{shard}}.notes")))
        .collect::<Result<_>>()?;
    first(&cluster)?.execute(&ADD, &[&"one row"]).await?;
    for shard in cluster.map().count().iter() {
        for statement in &statements {
            cluster.shard(shard)?.query(statement, &[]).await?;
        }
    }
    let kept: i64 = first(&cluster)?.query_one(&KEPT, &[]).await?.get(0);
    assert!(kept <= 20 + 1, "{kept} statements are kept");
    Ok(())
}

#[tokio::test]
async fn a_changed_table_goes_unnoticed() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    shard.execute(&ADD, &[&"before"]).await?;
    assert_eq!(shard.query_one(&ALL, &[]).await?.len(), 2);
    let owner = test.admin("pg1").await?;
    owner.batch_execute("ALTER TABLE shard_0000_e1.notes ADD likes int DEFAULT 7").await.unwrap();
    // "cached plan must not change result type" is what a kept statement is answered now.
    assert_eq!(shard.query_one(&ALL, &[]).await?.get::<_, i32>("likes"), 7);
    Ok(())
}

#[tokio::test]
async fn without_prepared_statements_none_is_left_on_the_server() -> Result<()> {
    const KEPT: Statement = Statement::new(
        "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%{shard}%'",
    );

    let test = cluster_of_one(2).await?;
    let config = test.config().max_size(1).pipelines(0).prepared(false);
    let cluster = Cluster::connect(config).await?;
    for shard in cluster.map().count().iter() {
        let shard = cluster.shard(shard)?;
        for _ in 0..3 {
            assert_eq!(shard.execute(&ADD, &[&"note"]).await?, 1);
        }
        shard.transaction(async |tx| tx.execute(&ADD, &[&"note"]).await).await?;
        assert_eq!(shard.query(&ALL, &[]).await?.len(), 4);
        assert_eq!(shard.query_one(&KEPT, &[]).await?.get::<_, i64>(0), 0);
        let wrong = shard.execute(&ADD, &[&1_i32]).await.unwrap_err();
        assert!(wrong.is_invalid_input(), "{wrong:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_raw_client_leaves_nothing_of_its_settings() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let instance = cluster.instances().pop().unwrap();
    let client = instance.client().await?;
    client.batch_execute("SET search_path = nowhere; BEGIN").await.unwrap();
    drop(client);
    const PATH: Statement =
        Statement::new("SELECT current_setting('search_path') <> 'nowhere', '{shard}'");
    assert!(first(&cluster)?.query_one(&PATH, &[]).await?.get::<_, bool>(0));
    Ok(())
}

#[tokio::test]
async fn a_raw_client_has_the_configured_limit_and_transactions_of_its_own() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let config = test.config().max_size(1).pipelines(0).statement_timeout(Duration::from_secs(7));
    let cluster = Cluster::connect(config).await?;
    // Whoever had the only connection before asked for less.
    let short = first(&cluster)?.statement_timeout(Duration::from_millis(300));
    assert_eq!(short.query_one(&LIMIT, &[]).await?.get::<_, &str>(0), "300ms");

    const ADD_AND_TELL: &str = "INSERT INTO shard_0000_e1.notes (text) VALUES ('note')
        RETURNING current_setting('statement_timeout')";
    let mut client = cluster.instances()[0].client().await?;
    let tx = client.transaction().await?;
    assert_eq!(tx.query_one(ADD_AND_TELL, &[]).await?.get::<_, &str>(0), "7s");
    drop(tx);
    let tx = client.transaction().await?;
    tx.query_one(ADD_AND_TELL, &[]).await?;
    tx.commit().await?;
    drop(client);
    assert_eq!(first(&cluster)?.query(&ALL, &[]).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_parameter_of_the_wrong_type_is_the_callers_and_costs_no_connection() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let cluster = Cluster::connect(test.config().max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    let backend: i32 = shard.query_one(&BACKEND, &[]).await?.get(0);
    let wrong = shard.execute(&ADD, &[&1_i32]).await.unwrap_err();
    assert!(wrong.is_invalid_input(), "{wrong:?}");
    assert_eq!(wrong.outcome(), Outcome::NotExecuted);
    let missing = shard.execute(&ADD, &[]).await.unwrap_err();
    assert!(missing.is_invalid_input(), "{missing:?}");
    assert_eq!(shard.query_one(&BACKEND, &[]).await?.get::<_, i32>(0), backend);
    Ok(())
}

#[tokio::test]
async fn a_call_is_small_enough_to_have_many() -> Result<()> {
    let test = cluster_of_one(1).await?;
    let cluster = test.cluster().await?;
    let shard = first(&cluster)?;
    let transaction = shard.transaction(async |tx| tx.execute(&ADD, &[&"note"]).await);
    let scatter = cluster.scatter(&ALL).all(&[]).rows();
    for (call, bytes) in [
        ("query", size_of_val(&shard.query(&ALL, &[]))),
        ("begin", size_of_val(&shard.begin())),
        ("transaction", size_of_val(&transaction)),
        ("scatter", size_of_val(&scatter)),
    ] {
        assert!(bytes < 8 << 10, "{call} takes {bytes} bytes while it waits");
    }
    Ok(())
}
