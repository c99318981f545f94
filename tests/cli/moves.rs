//! `howdah move`, `moves`, `verify`: a shard goes there and back, what is refused, and what Ctrl-C does where the servers work for
//! long. At every step it is pressed by `tests/move_signals.rs`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{Migrations, ShardId, Statement};
use serde_json::{Value, json};

use crate::program::{Folder, Ran};

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

    // What leads somebody's own clients elsewhere leads none of ours there.
    let mut command = folder.command(["move", "1", "--to", "pg1", "--json"]);
    command.envs([("PGHOSTADDR", "192.0.2.1"), ("PGSERVICE", "nowhere"), ("PGSSLCRL", "/nowhere")]);
    command.env("PGOPTIONS", "-c default_transaction_read_only=nonsense");
    let ran = Ran::of(&mut command);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let moved = ran.document();
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

    let owner = test.servers().client("pg2", "howdah_owner").await.unwrap();
    owner.batch_execute("CREATE TABLE shard_0001_e2.extra ()").await.unwrap();
    let ran = folder.run(["verify", "1"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("table extra is only in the copy"), "{}", ran.stderr);
    owner.batch_execute("DROP TABLE shard_0001_e2.extra").await.unwrap();

    let ran = folder.run(["moves", "finish", "1", "--lost", "pg2"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("pg2 is not lost"), "{}", ran.stderr);

    assert_eq!(folder.json(["moves", "rollback", "1"])["phase"], "rolled_back");
    assert_eq!(folder.json(["moves", "show", "m1"])["phase"], "rolled_back");
    assert_eq!(folder.json(["status"])["moves"], json!([]));
    assert_eq!(folder.json(["locate", "--shard", "1"])["instance"], "pg2");

    let events = folder.run(["--json", "move", "0", "--to", "pg2", "--no-reverse"]);
    assert_eq!(events.status, 0, "{}", events.stderr);
    let event: Value = serde_json::from_str(events.stderr.lines().last().unwrap()).unwrap();
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

    // Who presses it again does not want to wait, for another who has got the shard's lock meanwhile.
    let other = test.admin("pg2").await.unwrap();
    let mut resumed = start(&["moves", "resume", "1"]);
    until_built(true).await;
    let locked = tokio::spawn(async move {
        other.batch_execute("SELECT pg_advisory_lock(1752135524, 1)").await.unwrap();
        other
    });
    let source = test.admin("pg2").await.unwrap();
    until("the other waits for the lock", async || {
        let waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        source.query_opt(waits, &[]).await.unwrap().is_some()
    })
    .await;
    press_ctrl_c(&resumed);
    let mut said = BufReader::new(resumed.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("stopping: ")));
    let other = locked.await.unwrap();
    press_ctrl_c(&resumed);
    let last = said.last().unwrap().unwrap();
    assert_eq!(resumed.wait().unwrap().code(), Some(1), "{last}");
    assert!(last.contains("stopped half-way; `howdah moves list` shows what is open"), "{last}");
    drop(other);
    assert_eq!(folder.json(["moves", "show", "m1"])["phase"], "copy");
    until_built(false).await;

    let resumed = start(&["moves", "resume", "1"]);
    until_built(true).await;
    press_ctrl_c(&resumed);
    let output = resumed.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped; nothing is half done"), "{said}");
    assert_eq!(folder.json(["moves", "show", "m1"])["phase"], "aborted");
    assert_eq!(folder.json(["locate", "--shard", "1"])["schema"], "shard_0001_e1");
}

fn press_ctrl_c(program: &Child) {
    let interrupt = Command::new("kill").args(["-INT", &program.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
}

/// The same is told to a program that reads what the mover says and to one that asks the journal meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn programs_see_how_far_a_move_is() {
    const TABLE: &str = "CREATE TABLE t (n int PRIMARY KEY, what text NOT NULL)";
    const ROWS: &str =
        "INSERT INTO shard_0001_e1.t SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n";

    let migrations = Migrations::new([("0001_t.sql", TABLE)]).unwrap();
    let test = TestCluster::builder().shards(2).migrations(migrations).start().await.unwrap();
    test.admin("pg2").await.unwrap().batch_execute(ROWS).await.unwrap();
    let folder = Folder::of(&test);
    let mut moving = folder.command(["--json", "move", "1", "--to", "pg1", "--rate", "1"]);
    let mut moving = moving.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(moving.stderr.take().unwrap()).lines();
    let mut copied = lines.by_ref().filter_map(|line| {
        let told: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let progress = told["progress"].as_object()?.clone();
        assert_eq!((&told["phase"], &told["shard"]), (&json!("copy"), &json!(1)));
        Some(progress)
    });
    let first = copied.find(|progress| progress["bytes_per_second"].is_u64()).unwrap();
    let later = copied.find(|progress| progress["rows"].as_u64() > first["rows"].as_u64()).unwrap();
    assert!(later["bytes"].as_u64() > first["bytes"].as_u64());
    assert!(later["of_bytes"].as_u64() >= later["bytes"].as_u64());
    assert!(later["left_ms"].as_f64().unwrap() > 0.0);

    let shown = until("the journal has it", async || {
        let shown = folder.json(["moves", "show", "1"]);
        (shown["rows"].as_u64() > Some(0), shown)
    })
    .await;
    assert_eq!((&shown["phase"], &shown["step"]), (&json!("copy"), &json!("copy rows")));
    for key in ["bytes", "of_bytes", "bytes_per_second", "left_ms"] {
        assert!(shown[key].as_f64().unwrap() > 0.0, "{key}: {shown}");
    }
    let text = folder.run(["moves", "list"]).stdout;
    assert!(text.contains("s left"), "{text}");

    // A pipe that nobody empties holds it up.
    let rest = std::thread::spawn(move || lines.count());
    press_ctrl_c(&moving);
    assert_eq!(moving.wait().unwrap().code(), Some(1));
    rest.join().unwrap();
    assert_eq!(folder.json(["status"])["moves"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_shards_move_at_once() {
    let test = TestCluster::builder().shards(6).start().await.unwrap();
    let folder = Folder::of(&test);
    let moved = folder.json(["move", "1", "3", "5", "1", "--to", "pg1", "--parallel", "3"]);
    let mut shards: Vec<_> =
        moved.as_array().unwrap().iter().map(|report| &report["shard"]).collect();
    shards.sort_by_key(|shard| shard.as_u64());
    assert_eq!(shards, [1, 3, 5]);
    // One that fails hinders no other.
    let ran = folder.run(["--json", "move", "0", "2", "5", "--to", "pg1", "--parallel", "3"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let ran = folder.run(["--json", "move", "0", "2", "1", "--to", "pg2"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(folder.json(["locate", "--shard", "2"])["instance"], "pg2");
}
