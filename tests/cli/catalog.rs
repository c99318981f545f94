//! `howdah catalog`: the catalog goes to another server, and what is to be changed is said.

use howdah::testing::TestCluster;
use serde_json::json;

use crate::program::Folder;

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_moved_and_the_configuration_is_said_to_be_out_of_date() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    let [pg1, pg2] = ["pg1", "pg2"].map(|name| test.servers().dsn(name, "howdah_app").unwrap());
    let status = folder.json(["status"]);
    assert_eq!(status["catalog"], json!({ "dsn": pg1, "moved": false }));
    let version = status["map_version"].as_i64().unwrap();

    let moved = folder.json(["catalog", "move", "--to", "pg2"]);
    let expected = json!({ "instance": "pg2", "dsn": pg2, "moved": true, "configured": false, "map_version": version + 1 });
    assert_eq!(moved, expected);
    let again = folder.run(["catalog", "move", "--to", "pg2"]);
    assert_eq!(again.status, 0, "{}", again.stderr);
    assert!(again.stdout.contains(&format!("[catalog]\ndsn = \"{pg2}\"")), "{}", again.stdout);

    assert_eq!(folder.json(["status"])["catalog"], json!({ "dsn": pg2, "moved": true }));
    let picture = folder.run(["status"]).stdout;
    assert!(
        picture.contains(&format!("out of date: write [catalog] dsn = \"{pg2}\"")),
        "{picture}"
    );
    folder.json(["instance", "drain", "pg1"]);
    let ran = folder.run(["instance", "remove", "pg1"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("write [catalog] dsn"), "{}", ran.stderr);

    folder.write("howdah.toml", &format!("[catalog]\ndsn = \"{pg2}\"\n"));
    assert_eq!(folder.json(["status"])["catalog"], json!({ "dsn": pg2, "moved": false }));
    let ran = folder.run(["catalog", "move", "--to", "pg2"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "the catalog is on pg2\n"));
    let ran = folder.run(["catalog", "move", "--to", "pg1"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains("pg1 is draining"), "{}", ran.stderr);
    assert_eq!(folder.json(["instance", "remove", "pg1"]), json!({ "name": "pg1" }));
    assert_eq!(folder.json(["instance", "list"]).as_array().unwrap().len(), 1);
    for args in [vec!["catalog", "move"], vec!["catalog", "move", "--to", "pg1"], vec!["catalog"]] {
        assert_eq!(folder.run(&args).status, 2, "{args:?}");
    }
    assert!(
        folder.run(["catalog", "move", "--help"]).stdout.contains("howdah catalog move --to pg2")
    );
}
