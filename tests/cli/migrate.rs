//! `howdah migrate`: what it prints and how it ends. What it does is in tests/migrate.rs.

use howdah::testing::TestCluster;
use serde_json::json;

use crate::program::Folder;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_files_reaches_every_shard() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    folder.write("migrations/0001_t.sql", "CREATE TABLE t (id bigint DEFAULT next_id())");
    folder.write("migrations/0002_u.sql", "CREATE TABLE u ()");
    folder.write("migrations/README.md", "Not a migration.");

    let status = folder.json(["migrate", "status"]);
    assert_eq!(
        (&status["latest"], &status["behind"], &status["applied"]),
        (&json!(2), &json!(8), &json!(0))
    );
    let up = folder.json(["migrate", "up"]);
    assert_eq!((&up["applied"], &up["behind"], &up["failed"]), (&json!(16), &json!(0), &json!(0)));
    let shard = json!({ "shard": 5, "instance": "pg2", "version": 2, "applied": 2, "error": null });
    assert_eq!(up["shards"][5], shard);
    let again = folder.run(["migrate", "up", "--parallel", "2"]);
    assert_eq!(
        (again.status, again.stdout.as_str(), again.stderr.as_str()),
        (0, "0002  8 shards\n", "")
    );

    folder.write("migrations/0003_v.sql", "CREATE TABLE v ()");
    let behind = folder.run(["migrate", "status"]);
    assert_eq!((behind.status, behind.stdout.as_str()), (0, "0002  8 shards, behind: 0-7\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_fail_are_named_and_the_status_says_so() {
    let test = TestCluster::start().await.unwrap();
    let admin = test.admin("pg2").await.unwrap();
    admin.batch_execute("CREATE TABLE shard_0003_e1.t ()").await.unwrap();
    let folder = Folder::of(&test);
    folder.write("db/0001_t.sql", "CREATE TABLE t ()");

    let ran = folder.run(["migrate", "up", "--dir", "db"]);
    assert_eq!(ran.status, 1);
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stderr);
    assert!(lines[0].starts_with("error: shard 3: pg2: 0001_t.sql"), "{}", ran.stderr);
    assert!(lines[1].starts_with("error: 1 of 8 shards failed"), "{}", ran.stderr);
    let document = folder.command(["migrate", "up", "--dir", "db", "--json"]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!((&document["failed"], &document["behind"]), (&json!(1), &json!(0)));
    assert!(document["shards"][3]["error"].as_str().unwrap().contains("already exists"));

    folder.write("db/0001_t.sql", "CREATE TABLE t (edited int)");
    admin.batch_execute("DROP TABLE shard_0003_e1.t").await.unwrap();
    let edited = folder.run(["migrate", "status", "--dir", "db"]);
    assert_eq!(edited.status, 1, "shard 3 has nothing that could differ");
    assert!(folder.run(["migrate", "up", "--dir", "db"]).stderr.contains("was edited"));
    let refused = folder.run(["migrate", "up", "--dir", "db"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
}

#[test]
fn files_that_make_no_sense_have_status_two() {
    let folder = Folder::empty();
    for (name, sql, said) in [
        ("0002_late.sql", "", "0001 is missing"),
        ("first.sql", "", "first.sql"),
        ("0001_a.sql", "BEGIN; SELECT 1; COMMIT", "line 1 says BEGIN"),
    ] {
        let dir = format!("dir-{name}");
        folder.write(&format!("{dir}/{name}"), sql);
        let ran = folder.run(["migrate", "up", "--dir", &dir]);
        assert_eq!(ran.status, 2);
        assert!(ran.error().contains(said), "{}", ran.stderr);
    }
    assert!(folder.run(["migrate", "up"]).error().contains("migrations"));
}
