//! The ids that the database makes: unique and increasing in bulk and from many sessions, accurate, and of the
//! shard whose schema makes them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

mod clock;

use clock::{
    SCHEMA, SHARD, VERSIONS, app, lead_ms, next_id, number, one_instance, refusal, set_the_clock,
    take_the_clock, with_layout,
};
use futures_util::future::join_all;
use howdah::postgres::SimpleQueryMessage;
use howdah::testing::until;
use howdah::{Id, Layout};

#[tokio::test]
async fn three_million_from_one_statement_are_distinct() {
    let test = one_instance().start().await.unwrap();
    let sql = format!(
        "SELECT count(DISTINCT id) FROM (SELECT {SCHEMA}.next_id() AS id FROM generate_series(1, 3000000)) made"
    );
    let client = app(&test).await;
    client.batch_execute("SET work_mem = '200MB'").await.unwrap();
    assert_eq!(number(&client, &sql).await, 3_000_000);
}

#[tokio::test]
async fn three_million_from_four_sessions_at_once_are_distinct() {
    let test = one_instance().start().await.unwrap();
    let sql = format!("INSERT INTO {SCHEMA}.ids SELECT FROM generate_series(1, 750000)");
    let sessions = join_all((0..4).map(|_| app(&test))).await;
    for added in join_all(sessions.iter().map(|session| session.execute(&sql, &[]))).await {
        assert_eq!(added.unwrap(), 750_000);
    }
    sessions[0].batch_execute("SET work_mem = '200MB'").await.unwrap();
    let distinct = format!("SELECT count(DISTINCT id) FROM {SCHEMA}.ids");
    assert_eq!(number(&sessions[0], &distinct).await, 3_000_000);
}

#[tokio::test]
async fn an_id_carries_its_shard_and_the_time() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let client = app(&test).await;
        let mut last = None;
        for _ in 0..50 {
            let id = next_id(&client).await;
            assert!(Some(id) > last, "increasing");
            assert_eq!(Layout::default().shard_of(id).get(), SHARD);
            assert!((-1000..=50).contains(&lead_ms(id)), "{} ms off", lead_ms(id));
            last = Some(id);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let lead =
            number(&client, &format!("SELECT howdah.clock_lead_ms('{SCHEMA}.howdah_block')")).await;
        assert!((-1000..=1).contains(&lead), "{lead}");
    }
}

/// However ids are asked for, they come in order, and a roll-back gives none back.
#[tokio::test]
async fn they_work_as_defaults_in_bulk_and_in_subtransactions() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let mut client = app(&test).await;
        let before = next_id(&client).await;
        let tx = client.transaction().await.unwrap();
        tx.batch_execute(&format!(
            "INSERT INTO {SCHEMA}.ids (session) VALUES (1);
             INSERT INTO {SCHEMA}.ids (session) SELECT 2 FROM generate_series(1, 5000);
             SAVEPOINT here;
             INSERT INTO {SCHEMA}.ids (session) VALUES (3);
             ROLLBACK TO here;
             INSERT INTO {SCHEMA}.ids (session) VALUES (4);"
        ))
        .await
        .unwrap();
        let copy = format!("COPY {SCHEMA}.ids (session) FROM STDIN");
        let sink = tx.copy_in::<_, bytes::Bytes>(&copy).await.unwrap();
        futures_util::pin_mut!(sink);
        futures_util::SinkExt::send(&mut sink, "5\n".repeat(5000).into()).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 5000);
        tx.commit().await.unwrap();

        let sql = format!(
            "SELECT count(*) FROM (SELECT id > lag(id) OVER (ORDER BY ctid) AND session >= lag(session) OVER (ORDER BY ctid)
                                          AND id > {before} AS fine FROM {SCHEMA}.ids) _ WHERE fine"
        );
        assert_eq!(number(&client, &sql).await, 5000 + 5000 + 2 - 1);
    }
}

#[tokio::test]
async fn a_table_refuses_the_id_of_another_shard() {
    let test = one_instance().start().await.unwrap();
    let client = app(&test).await;
    let foreign = number(&client, "SELECT shard_0000_e1.next_id()").await;
    for wrong in [foreign, -1, i64::MIN + 1024] {
        let sql = format!("INSERT INTO {SCHEMA}.ids (id) VALUES ({wrong})");
        assert_eq!(refusal(&client, &sql).await, "23514", "{wrong}");
    }
    // No id is SQL's NULL, which the column refuses, and not the check.
    assert_eq!(
        refusal(&client, &format!("INSERT INTO {SCHEMA}.ids (id) VALUES (NULL)")).await,
        "23502"
    );
}

/// PostgreSQL puts all functions in place of their calls: none costs one, but where a block is to be opened.
#[tokio::test]
async fn the_shards_functions_are_inlined() {
    let test = one_instance().start().await.unwrap();
    let sql = format!(
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT {SCHEMA}.next_id(), {SCHEMA}.is_local(n) FROM generate_series(1::bigint, 2) n"
    );
    let plan: String = app(&test)
        .await
        .simple_query(&sql)
        .await
        .unwrap()
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert!(plan.contains("nextval('shard_0001_e1.howdah_id'"), "{plan}");
    let calls = ["next_id(", "clock()", "allowance", "pg_backend_pid", "is_local"];
    assert!(!calls.iter().any(|call| plan.contains(call)), "{plan}");
}

/// The whole argument rests on this order. It is seen where the reading has to wait: nothing was drawn yet.
#[tokio::test]
async fn which_block_is_open_is_read_before_the_draw() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let owner = test.servers().client("pg1", "howdah_owner").await.unwrap();
        let client = app(&test).await;
        let drawn = next_id(&client).await;
        owner
            .batch_execute(&format!("BEGIN; ALTER SEQUENCE {SCHEMA}.howdah_block CACHE 1"))
            .await
            .unwrap();
        let drawing = tokio::spawn(async move { next_id(&client).await });
        let waiting = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{SCHEMA}.howdah_block'::regclass"
        );
        until("the caller waits for the reading", async || number(&owner, &waiting).await == 1)
            .await;
        let last = format!("SELECT pg_sequence_last_value('{SCHEMA}.howdah_id')");
        assert_eq!(number(&owner, &last).await, drawn.get(), "{version}");
        owner.batch_execute("COMMIT").await.unwrap();
        assert!(drawing.await.unwrap() > drawn);
    }
}

#[tokio::test]
async fn every_layout_is_baked_in() {
    for text in ["epoch=2025-01-01T00:00:00Z,shard=11", "shard=1,sequence=20", "sequence=1"] {
        let layout: Layout = text.parse().unwrap();
        let (servers, client) = with_layout(layout).await;
        let ids = client
            .query(&format!("SELECT {SCHEMA}.next_id() FROM generate_series(1, 3000)"), &[])
            .await
            .unwrap();
        let ids: Vec<Id> = ids.iter().map(|row| row.get(0)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{text}");
        assert!(ids.iter().all(|id| layout.shard_of(*id).get() == SHARD), "{text}");
        let off = layout.decode(ids[0]).time() - chrono::Utc::now();
        assert!(off.abs() < chrono::TimeDelta::seconds(5), "{text}: {off}");
        drop(servers);
    }
}

/// The day on which the layout ends: an error, and no id that is negative or starts again.
#[tokio::test]
async fn a_layout_ends_with_an_error() {
    let test = one_instance().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    let left = Layout::default().ends_at() - chrono::Utc::now();
    take_the_clock(&admin).await;
    let client = app(&test).await;
    set_the_clock(&admin, left.num_milliseconds() - 2_000).await;

    let mut last = next_id(&client).await;
    let error = loop {
        match client.query_one(&format!("SELECT {SCHEMA}.next_id()"), &[]).await {
            Ok(row) => assert!(row.get::<_, Id>(0) > std::mem::replace(&mut last, row.get(0))),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code().unwrap().code(), "22003", "{error}");
    assert_eq!(refusal(&client, &format!("SELECT {SCHEMA}.next_id()")).await, "22003");
}
