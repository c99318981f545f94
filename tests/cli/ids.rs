//! `howdah id`: golden values, both ways, without any cluster.

use howdah::testing::TestCluster;
use serde_json::json;

use crate::program::{Folder, Ran};

#[test]
fn published_ids_say_what_they_were_published_to_say() {
    let folder = Folder::empty();
    let decoded = folder.json(["id", "decode", "11637205501278089"]);
    assert_eq!(
        decoded,
        json!({
            "id": "11637205501278089", "shard": 1341, "sequence": 905,
            "time": "2011-09-09T22:28:04.721Z", "unix_ms": 1_314_220_021_721_i64 + 1_387_263_000,
            "text": "pV_oMFPeJ",
        })
    );
    let decoded = folder.json(["id", "decode", "2715604631366879010"]);
    assert_eq!((&decoded["shard"], &decoded["sequence"]), (&json!(465), &json!(802)));
    assert_eq!(decoded["time"], "2021-11-26T16:48:40.527Z");
    let text = decoded["text"].as_str().unwrap();
    assert_eq!(folder.json(["id", "decode", text]), decoded);
}

#[test]
fn an_id_is_put_together_from_what_it_says() {
    let folder = Folder::empty();
    let args = ["--shard", "465", "--time", "2021-11-26T16:48:40.527Z", "--seq", "802"];
    let ran = folder.run(["id", "encode"].into_iter().chain(args));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "2715604631366879010\n"));
    let document = folder.json(["id", "encode"].into_iter().chain(args));
    assert_eq!(document["id"], "2715604631366879010");
    // Shards that no cluster of 64 has, other time zones, and no sequence.
    let args = ["--shard", "8191", "--time", "2021-11-26T17:48:40+01:00"];
    let document = folder.json(["id", "encode"].into_iter().chain(args));
    assert_eq!((&document["shard"], &document["sequence"]), (&json!(8191), &json!(0)));
    assert_eq!(document["time"], "2021-11-26T16:48:40Z");
}

#[test]
fn a_period_is_a_range_of_ids() {
    let folder = Folder::empty();
    let period = ["--from", "2021-11-26T16:48:40.527Z", "--to", "2021-11-26T16:48:40.527Z"];
    let range = folder.json(["id", "range", "--shard", "465"].into_iter().chain(period));
    let within = |key: &str| range[key].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(within("to") - within("from"), 1023);
    assert_eq!(within("from") + 802, 2_715_604_631_366_879_010);
}

#[test]
fn what_is_no_id_is_refused_in_one_line() {
    let folder = Folder::empty();
    let period = |from, to| vec!["id", "range", "--shard", "1", "--from", from, "--to", to];
    for args in [
        vec!["id", "decode", "-1"],
        vec!["id", "decode", "9223372036854775808"],
        vec!["id", "decode", "not an id"],
        vec!["id", "decode", ""],
        vec!["id", "decode"],
        vec!["id", "encode", "--shard", "8192", "--time", "2021-11-26T16:48:40Z"],
        vec!["id", "encode", "--shard", "1", "--time", "yesterday"],
        vec!["id", "encode", "--shard", "1", "--time", "2001-01-01T00:00:00Z"],
        vec!["id", "encode", "--shard", "1", "--time", "2021-11-26T16:48:40Z", "--seq", "1024"],
        period("2021-11-27T00:00:00Z", "2021-11-26T00:00:00Z"),
    ] {
        let ran = folder.run(&args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        ran.error();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_the_clusters_where_there_is_one() {
    let test = TestCluster::start().await.unwrap();
    let folder = Folder::of(&test);
    assert_eq!(folder.json(["id", "decode", "11637205501278089"])["shard"], 1341);

    folder.write("gone.toml", "[catalog]\ndsn = \"postgres://a@127.0.0.1:1/d\"\n");
    let named = folder.run(["id", "decode", "1", "--config", "gone.toml"]);
    assert_eq!(named.status, 1, "a cluster that was named must be there");
    named.error();

    let found = Folder::empty();
    found.write("howdah.toml", "[catalog]\ndsn = \"postgres://a@127.0.0.1:1/d\"\n");
    let ran = Ran::of(found.command(["id", "decode", "1"]).arg("--json"));
    assert_eq!((ran.status, &ran.document()["id"]), (0, &json!("1")));
    assert!(ran.stderr.contains("default layout"), "{}", ran.stderr);
}
