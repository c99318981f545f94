//! `howdah move`, `moves`, `verify`: a shard goes there and back, and what is refused.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use howdah::testing::TestCluster;
use howdah::{Migrations, ShardId, Statement};
use serde_json::json;

use crate::program::Folder;

/// On pg1 alone an index on it takes for ever.
const SLOW: &str = "
    CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            IF current_setting('cluster_name') = 'pg1' THEN PERFORM pg_sleep(3600); END IF;
            RETURN n;
        END $$;
    CREATE TABLE t (n int PRIMARY KEY);
    CREATE INDEX ON t (slow(n));";

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_moves_is_compared_and_comes_back() {
    let test = TestCluster::builder().shards(2).start().await.unwrap();
    let folder = Folder::of(&test);

    let moved = folder.json(["move", "1", "--to", "pg1"]);
    let report = &moved[0];
    assert_eq!(report["phase"], "reversible");
    let wanted = json!(["m1", 1, "pg2", "pg1", true, true, null]);
    let keys = ["move", "shard", "from", "to", "verified", "reverse", "error"];
    assert_eq!(json!(keys.map(|key| &report[key])), wanted);
    assert!(report["fence_ms"].as_f64().unwrap() > 0.0 && report["copy_ms"].is_number());
    assert_eq!(folder.json(["locate", "--shard", "1"])["schema"], "shard_0001_e2");
    assert_eq!(folder.json(["status"])["moves"][0]["move"], "m1");
    assert_eq!(folder.json(["verify", "1"])["verified"], true);
    assert!(folder.run(["moves", "list"]).stdout.contains("m1  shard 1 pg2 -> pg1  reversible"));

    let ran = folder.run(["moves", "finish", "1", "--lost", "pg2"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("pg2 is not lost"), "{}", ran.stderr);

    assert_eq!(folder.json(["moves", "rollback", "1"])["phase"], "rolled_back");
    assert_eq!(folder.json(["moves", "show", "m1"])["phase"], "rolled_back");
    assert_eq!(folder.json(["status"])["moves"], json!([]));
    assert_eq!(folder.json(["locate", "--shard", "1"])["instance"], "pg2");

    let events = folder.run(["--json", "move", "0", "--to", "pg2", "--no-reverse"]);
    assert_eq!(events.status, 0, "{}", events.stderr);
    let event: serde_json::Value =
        serde_json::from_str(events.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&event["step"], &event["event"]), (&json!("drop copy"), &json!("done")));

    for (arguments, status, said) in [
        (vec!["move", "1", "--to", "pg2"], 2, "lives on pg2 already"),
        (vec!["move", "1", "--to", "pg9"], 2, "no instance pg9"),
        (vec!["move", "7", "--to", "pg2"], 2, "no shard 7"),
        (vec!["moves", "finish", "1"], 2, "no open move"),
        (vec!["moves", "finish", "m9"], 2, "no move m9"),
        (vec!["moves", "abort", "m1"], 3, "has ended"),
        (vec!["verify", "1"], 3, "one copy"),
    ] {
        let ran = folder.run(&arguments);
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
        assert!(ran.error().contains(said), "{arguments:?}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_what_the_servers_do_too_and_so_does_a_death() {
    let slow = Migrations::new([("0001_slow.sql", SLOW)]).unwrap();
    let test = TestCluster::builder().shards(2).migrations(slow).start().await.unwrap();
    let folder = Folder::of(&test);
    let shard = test.cluster().await.unwrap().shard(ShardId::new(1).unwrap()).unwrap();
    shard.execute(&Statement::new("INSERT INTO {shard}.t VALUES (1)"), &[]).await.unwrap();
    let target = test.admin("pg1").await.unwrap();
    let until_built = async |wanted: bool| {
        let builds = "SELECT FROM pg_stat_activity \
                      WHERE datname = current_database() AND wait_event = 'PgSleep'";
        let patience = Instant::now() + Duration::from_secs(120);
        while target.query_opt(builds, &[]).await.unwrap().is_some() != wanted {
            assert!(Instant::now() < patience, "an index is being built: {}", !wanted);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let start =
        |arguments: &[&str]| folder.command(arguments).stderr(Stdio::piped()).spawn().unwrap();

    let mut killed = start(&["move", "1", "--to", "pg1"]);
    until_built(true).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    until_built(false).await;
    let resumed = start(&["moves", "resume", "1"]);
    until_built(true).await;
    let interrupt = ["-INT", &resumed.id().to_string()];
    assert!(Command::new("kill").args(interrupt).status().unwrap().success());
    let output = resumed.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped; nothing is half done"), "{said}");
    assert_eq!(folder.json(["moves", "show", "m1"])["phase"], "aborted");
    assert_eq!(folder.json(["locate", "--shard", "1"])["schema"], "shard_0001_e1");
}
