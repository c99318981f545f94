//! `howdah init`, `status` and `locate`: what is made, what is where, and how that is said.

use howdah::testing::{TestCluster, TestServers};
use serde_json::json;

use crate::program::{Folder, Ran};

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_where() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    let status = folder.json(["status"]);
    assert_eq!(status["cluster"].as_str().unwrap().len(), 36);
    assert_eq!(
        (&status["map_version"], &status["shards"], &status["moves"]),
        (&json!(1), &json!(8), &json!([]))
    );
    let instances = status["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2);
    for (instance, name) in instances.iter().zip(["pg1", "pg2"]) {
        let server = test.servers().server(name).unwrap();
        assert_eq!(instance["name"], name);
        assert_eq!(instance["state"], "active");
        assert_eq!(instance["shards"], 4);
        assert!(instance["dsn"].as_str().unwrap().starts_with("postgres://howdah_app@"));
        assert!(instance["server_version"].as_str().unwrap().starts_with("18."));
        assert!(instance["bytes"].as_u64().unwrap() > 1_000_000);
        assert_eq!(
            instance["hosts"],
            json!([{ "host": "127.0.0.1", "port": server.port(), "role": "primary", "lag_bytes": 0 }])
        );
    }
    let picture = folder.run(["status"]);
    assert_eq!(picture.status, 0);
    assert!(picture.stdout.contains("█") && picture.stdout.contains("pg2  active, PostgreSQL 18."));
    assert!(!picture.stdout.contains('\x1b'), "colours belong on a terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_replicas_and_what_is_down() {
    let mut test = TestCluster::builder().instances(1).replicas(1).start().await.unwrap();
    let folder = Folder::of(&test);
    let hosts = |folder: &Folder| folder.json(["status"])["instances"][0]["hosts"].clone();
    let up = hosts(&folder);
    assert_eq!(up[0]["role"], "primary");
    assert_eq!(up[1]["role"], "replica");
    assert!(up[1]["lag_bytes"].is_u64(), "{up}");

    test.kill("pg1-r1").await.unwrap();
    let down = hosts(&folder);
    assert_eq!((&down[0]["role"], &down[1]["role"]), (&json!("primary"), &json!("unreachable")));
    assert_eq!(down[1]["lag_bytes"], json!(null));
    assert!(folder.run(["status"]).stdout.contains("unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn locate_asks_the_map() {
    let test = TestCluster::builder().shards(64).start().await.unwrap();
    let folder = Folder::of(&test);
    let alice = json!({ "shard": 61, "instance": "pg2", "epoch": 1, "schema": "shard_0061_e1" });
    assert_eq!(folder.json(["locate", "--key", "alice"]), alice);
    assert_eq!(folder.json(["locate", "--shard", "61"]), alice);
    assert_eq!(folder.json(["locate", "--key-int", "31341"])["shard"], 16);
    assert_eq!(folder.json(["locate", "--key-int", "-1"])["shard"], 10);
    assert_eq!(folder.json(["locate", "--key", ""])["shard"], 45);

    let id = folder.json(["id", "encode", "--shard", "61", "--time", "2021-11-26T16:48:40Z"]);
    assert_eq!(folder.json(["locate", "--id", id["id"].as_str().unwrap()]), alice);
    assert_eq!(folder.json(["locate", "--id", id["text"].as_str().unwrap()]), alice);

    for args in [["--shard", "64"], ["--id", "11637205501278089"], ["--id", "-5"], ["--shard", "x"]]
    {
        let ran = folder.run(["locate"].into_iter().chain(args));
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        ran.error();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_a_cluster_once_and_refuses_what_is_foreign() {
    let servers = TestServers::start(2).await.unwrap();
    let folder = Folder::empty();
    let dsn = |name: &str| servers.dsn(name, "howdah_app").unwrap();
    let init = |catalog: &str, args: &[&str]| {
        let mut command = folder.command(["init", "--json", "--shards"]);
        Ran::of(command.args(args).env("HOWDAH_CATALOG_DSN", dsn(catalog)))
    };
    let (one, two) = (format!("pg1={}", dsn("pg1")), format!("pg2={}", dsn("pg2")));
    let instances = ["6", "--instance", &one, "--instance", &two];
    let made = init("pg1", &instances);
    assert_eq!(made.status, 0, "{}", made.stderr);
    let first = made.document();
    assert_eq!(
        (&first["created"], &first["shards"], &first["instances"]),
        (&json!(true), &json!(6), &json!(2))
    );

    let again = init("pg1", &instances).document();
    assert_eq!((&again["created"], &again["cluster"]), (&json!(false), &first["cluster"]));

    for (catalog, args) in [
        ("pg1", vec!["7", "--instance", &one, "--instance", &two]),
        ("pg1", vec!["6", "--layout", "epoch=2025-01-01T00:00:00Z"]),
        ("pg2", vec!["6", "--instance", &one]),
    ] {
        let ran = init(catalog, &args);
        assert_eq!(ran.status, 3, "{args:?}: {}", ran.stderr);
        ran.error();
    }
}
