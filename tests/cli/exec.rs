//! `howdah exec`: one statement on many shards, read only unless that is said otherwise.

use howdah::Migrations;
use howdah::testing::TestCluster;
use serde_json::json;

use crate::program::{Folder, Ran};

async fn cluster() -> TestCluster {
    let table = "CREATE TABLE t (n int, text text)";
    let migrations = Migrations::new([("0001_t.sql", table)]).unwrap();
    TestCluster::builder().migrations(migrations).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_with_their_shard() {
    let test = cluster().await;
    let folder = Folder::of(&test);
    let write = "INSERT INTO {shard}.t VALUES (1, 'a b'), (2, NULL)";
    let wrote = folder.run(["exec", write, "--write", "--shards", "2,4-5"]);
    assert_eq!(
        (wrote.status, wrote.stdout.as_str()),
        (0, "shard  rows\n2      2\n4      2\n5      2\n")
    );

    let read = folder.run(["exec", "SELECT * FROM {shard}.t ORDER BY n", "--shards", "1-2"]);
    assert_eq!(read.stdout, "shard  n  text\n2      1  a b\n2      2\n");
    let document = folder.json(["exec", "SELECT * FROM {shard}.t ORDER BY n", "--shards", "2,1"]);
    assert_eq!(
        document,
        json!({ "shards": [
            { "shard": 1, "rows": [], "affected": 0, "error": null },
            { "shard": 2, "rows": [{ "n": "1", "text": "a b" }, { "n": "2", "text": null }],
              "affected": 2, "error": null },
        ]})
    );
    let twice = "SELECT count(*), 1 AS count_2, count(n), sum(n) AS count FROM {shard}.t";
    let document = folder.json(["exec", twice, "--shards", "2"]);
    assert_eq!(
        document["shards"][0]["rows"],
        json!([{ "count": "2", "count_2": "1", "count_3": "2", "count_4": "3" }])
    );
    let all = folder.json(["exec", "SELECT count(*) FROM {shard}.t", "--parallel", "3"]);
    assert_eq!(all["shards"].as_array().unwrap().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_unless_that_is_said() {
    let test = cluster().await;
    let folder = Folder::of(&test);
    for sql in [
        "INSERT INTO {shard}.t VALUES (1)",
        "WITH w AS (INSERT INTO {shard}.t VALUES (1) RETURNING n) SELECT * FROM w",
        "SELECT 1 FROM {shard}.t; COMMIT; INSERT INTO {shard}.t VALUES (1)",
        "DO $$ BEGIN INSERT INTO {shard}.t VALUES (1); END $$",
    ] {
        let ran = folder.run(["exec", sql, "--shards", "1"]);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{sql}");
        assert!(ran.stderr.starts_with("error: shard 1: pg2: "), "{}", ran.stderr);
    }
    let count = folder.json(["exec", "SELECT count(*) FROM {shard}.t", "--shards", "1"]);
    assert_eq!(count["shards"][0]["rows"], json!([{ "count": "0" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_fails_does_not_stop_the_rest() {
    let test = cluster().await;
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute("DROP TABLE shard_0006_e1.t").await.unwrap();
    let folder = Folder::of(&test);
    let ran = Ran::of(folder.command(["exec", "SELECT n FROM {shard}.t"]).arg("--json"));
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("error: shard 6: pg1: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 of 8 shards failed"), "{}", ran.stderr);
    let failed: Vec<_> = ran.document()["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| !shard["error"].is_null())
        .collect();
    assert_eq!(failed, (0..8).map(|shard| shard == 6).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_has_status_two() {
    let test = cluster().await;
    let folder = Folder::of(&test);
    let sql = "SELECT FROM {shard}.t";
    for args in [
        vec!["SELECT 1"],
        vec![sql, "--shards", "8"],
        vec![sql, "--shards", "3-1"],
        vec![sql, "--shards", "a"],
        vec![sql, "--parallel", "0"],
    ] {
        let ran = folder.run(["exec"].into_iter().chain(args.iter().copied()));
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        ran.error();
    }
}
