//! `howdah instance` and `howdah rebalance`: what is changed, and what is refused.

use howdah::testing::{TestCluster, TestServers};
use howdah::{Init, InstanceName, ShardCount};
use serde_json::json;

use crate::program::Folder;

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_added_listed_and_removed() {
    let servers = TestServers::start(2).await.unwrap();
    let dsn = |name: &str| servers.dsn(name, "howdah_app").unwrap();
    let config = howdah::Config::new(dsn("pg1"));
    let pg1 = InstanceName::new("pg1").unwrap();
    let init = Init::new(ShardCount::new(4).unwrap()).instance(pg1, dsn("pg1").parse().unwrap());
    init.run(&config).await.unwrap();
    let folder = Folder::empty();
    folder.write("howdah.toml", &format!("[catalog]\ndsn = \"{}\"\n", dsn("pg1")));

    let added = folder.json(["instance", "add", "pg2", "--dsn", &dsn("pg2")]);
    assert_eq!(added, json!({ "name": "pg2", "dsn": dsn("pg2") }));
    let list = folder.json(["instance", "list"]);
    assert_eq!(list[1]["hosts"], folder.json(["status"])["instances"][1]["hosts"]);
    assert_eq!((&list[1]["name"], &list[1]["shards"]), (&json!("pg2"), &json!(0)));
    assert!(folder.run(["instance", "list"]).stdout.contains("pg2  active"));

    let plan = folder.json(["rebalance", "plan", "--by", "shards"]);
    assert_eq!(plan["moves"].as_array().unwrap().len(), 2);
    assert_eq!(plan["balanced"], true);
    assert_eq!(
        (&plan["moves"][0]["from"], &plan["moves"][0]["to"]),
        (&json!("pg1"), &json!("pg2"))
    );
    let picture = folder.run(["rebalance", "plan", "--by", "shards"]).stdout;
    assert!(picture.contains("pg1 -> pg2") && picture.contains("2 moves"), "{picture}");

    let moves = folder.json(["rebalance", "apply", "--by", "shards"]);
    let moves = moves.as_array().unwrap();
    assert!(
        moves.len() == 2 && moves.iter().all(|moved| moved["phase"] == "finished"),
        "{moves:?}"
    );
    assert_eq!(folder.json(["instance", "list"])[1]["shards"], 2);
    assert_eq!(folder.json(["rebalance", "apply", "--by", "shards"]), json!([]));

    // The way back is kept until the server is to be empty.
    let moved = folder.json(["move", "1", "--to", "pg2"]);
    assert_eq!(moved[0]["phase"], "reversible");
    folder.json(["instance", "drain", "pg2"]);
    let ran = folder.run(["instance", "drain", "pg1"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    ran.error();
    assert_eq!(folder.json(["instance", "list"])[0]["shards"], 4);

    let ran = folder.run(["instance", "remove", "pg1"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("the catalog is there"), "{}", ran.stderr);
    assert_eq!(folder.json(["instance", "remove", "pg2"]), json!({ "name": "pg2" }));
    assert_eq!(folder.json(["instance", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_wrongly_is_said() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    for args in [
        vec!["instance", "add", "PG 3", "--dsn", "postgres://a@b/c"],
        vec!["instance", "add", "pg3"],
        vec!["instance", "add", "pg3", "--dsn", "postgres://a:secret@b/c"],
        vec!["instance", "add", "pg3", "--dsn", "postgres://a@127.0.0.1/c", "--capacity", "0"],
        vec!["instance", "remove", "pg9"],
        vec!["instance", "drain", "pg9"],
        vec!["rebalance", "plan", "--by", "rows"],
        vec!["rebalance", "plan", "--tolerance", "2"],
    ] {
        let ran = folder.run(&args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(!ran.error().contains("secret"));
    }
}
