//! `howdah tx`: what a process left behind is shown, and finished.

use howdah::testing::TestCluster;
use serde_json::json;

use crate::program::Folder;

const DECIDED: &str = "11111111-1111-4111-8111-111111111111";
const UNDECIDED: &str = "22222222-2222-4222-8222-222222222222";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_behind_is_shown_and_finished() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    assert_eq!(folder.json(["tx", "list"]), json!({ "transactions": [], "unreachable": [] }));

    let cluster = test.cluster().await.unwrap().status().await.cluster;
    let here = test.servers().client("pg1", "howdah_app").await.unwrap();
    let there = test.servers().client("pg2", "howdah_app").await.unwrap();
    for id in [DECIDED, UNDECIDED] {
        let part = format!(
            "BEGIN; DELETE FROM shard_0003_e1.howdah_decisions; PREPARE TRANSACTION 'howdah:{cluster}:0:{id}'"
        );
        there.batch_execute(&part).await.unwrap();
    }
    let decide = format!("INSERT INTO shard_0000_e1.howdah_decisions VALUES ('{DECIDED}', true)");
    here.batch_execute(&decide).await.unwrap();

    let listed = folder.json(["tx", "list"]);
    let parts = listed["transactions"].as_array().unwrap();
    assert_eq!(parts.len(), 2, "{listed}");
    for (part, (id, decision)) in
        parts.iter().zip([(DECIDED, json!("committed")), (UNDECIDED, json!(null))])
    {
        assert_eq!((&part["id"], &part["decision"]), (&json!(id), &decision), "{listed}");
        assert_eq!((&part["instance"], &part["shard"]), (&json!("pg2"), &json!(0)), "{listed}");
        assert_eq!(part["schemas"], json!(["shard_0003_e1"]), "{listed}");
    }
    let spared = folder.json(["tx", "recover", "--idle", "1h"]);
    let nothing = json!({ "committed": 0, "rolled_back": 0, "left": [], "unreachable": [] });
    assert_eq!(spared, nothing);

    let ran = folder.run(["tx", "recover"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "committed 1, rolled back 1\n"));
    assert_eq!(folder.json(["tx", "recover"]), nothing);
}
