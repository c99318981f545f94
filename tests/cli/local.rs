//! `howdah local`: servers on this machine, from nothing to nothing.

use std::path::PathBuf;
use std::process::Stdio;

use howdah::testing::{TestServers, until};
use serde_json::{Value, json};

use crate::program::Folder;

/// A folder with a cluster that is destroyed whatever becomes of the test.
struct Local {
    folder: Folder,
    programs: PathBuf,
}

impl Local {
    /// The tests' programs, which a machine without PostgreSQL has too.
    async fn new() -> Self {
        let servers = TestServers::start(1).await.unwrap();
        let programs = servers.server("pg1").unwrap().bin_dir().to_owned();
        Self { folder: Folder::empty(), programs }
    }

    fn up(&self, args: &[&str]) -> Value {
        let mut all = vec!["local", "up", "--pg-bin", self.programs.to_str().unwrap()];
        all.extend(args);
        self.folder.json(all)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // There is nothing left to destroy when the test itself did so.
        self.folder.run(["local", "destroy"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_become_a_cluster_and_live_through_everything() {
    let local = Local::new().await;
    let folder = &local.folder;
    let made = local.up(&["--instances", "2", "--shards", "4"]);
    let servers = made["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|server| server["running"] == true && server["role"] == "primary"));
    let toml = std::fs::read_to_string(folder.path().join(".howdah/howdah.toml")).unwrap();
    assert!(toml.contains("howdah_app@127.0.0.1") && toml.contains("sslmode = \"disable\""));

    let status = folder.json(["status"]);
    assert_eq!((&status["shards"], &status["instances"][1]["shards"]), (&json!(4), &json!(2)));

    assert_eq!(local.up(&[])["servers"], made["servers"], "again it changes nothing");
    assert_eq!(folder.json(["status"])["cluster"], status["cluster"]);
    let refused = folder.run(["local", "up", "--shards", "8"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);

    let killed = folder.json(["local", "kill", "pg2"]);
    assert_eq!(killed["servers"][1]["running"], false);
    let status = folder.json(["status"]);
    assert_eq!(status["instances"][1]["hosts"][0]["role"], "unreachable");
    assert_eq!(status["instances"][1]["bytes"], json!(null));
    let half = folder.run(["exec", "SELECT {shard}.is_local(1)"]);
    assert_eq!(half.status, 1);
    assert!(half.stderr.contains("2 of 4 shards failed"), "{}", half.stderr);

    folder.json(["local", "start", "pg2"]);
    assert_eq!(folder.json(["status"])["instances"][1]["hosts"][0]["role"], "primary");

    let added = folder.json(["local", "add", "pg3", "--pg-bin", local.programs.to_str().unwrap()]);
    assert_eq!(added["servers"][2]["name"], "pg3");
    assert_eq!(folder.json(["status"])["instances"].as_array().unwrap().len(), 2);

    let stopped = folder.json(["local", "stop"]);
    assert!(stopped["servers"].as_array().unwrap().iter().all(|server| server["running"] == false));
    assert_eq!(folder.run(["status"]).status, 1);
    assert_eq!(folder.run(["local", "start"]).status, 0);

    assert_eq!(folder.run(["local", "destroy"]).status, 0);
    assert!(!folder.path().join(".howdah").exists());
    for command in ["status", "stop", "start", "destroy"] {
        let ran = folder.run(["local", command]);
        assert_eq!(ran.status, 2, "{command}: {}", ran.stderr);
        assert!(ran.error().contains("local up"), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_is_found_without_a_change() {
    let local = Local::new().await;
    let folder = &local.folder;
    local.up(&["--instances", "1", "--replicas", "1", "--shards", "2"]);
    let hosts = || folder.json(["status"])["instances"][0]["hosts"].clone();
    let roles = |hosts: &Value| [hosts[0]["role"].clone(), hosts[1]["role"].clone()];
    // The replica says who it is as soon as it has replayed that; and what it has not, is lost when it is promoted.
    until("the replica has all", async || {
        let hosts = hosts();
        let follows = roles(&hosts) == ["primary", "replica"];
        (follows && hosts[1]["lag_bytes"] == 0, hosts)
    })
    .await;
    folder.json(["local", "kill", "pg1"]);
    folder.json(["local", "promote", "pg1-r1"]);
    assert_eq!(roles(&hosts()), ["unreachable", "primary"]);
    assert_eq!(folder.run(["exec", "SELECT {shard}.is_local(1)"]).status, 0);

    // Who was replaced stays away, and what is no instance is not counted as one.
    let up = folder.json(["local", "up"]);
    let server = |number: usize| {
        (up["servers"][number]["name"].clone(), up["servers"][number]["running"].clone())
    };
    assert_eq!(
        [server(0), server(1)],
        [("pg1".into(), false.into()), ("pg1-r1".into(), true.into())]
    );
    assert_eq!(
        (up["servers"].as_array().unwrap().len(), &up["servers"][0]["successor"]),
        (2, &"pg1-r1".into())
    );
    assert_eq!(roles(&hosts()), ["unreachable", "primary"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_and_what_listens_elsewhere_is_told_to_the_catalog() {
    let local = Local::new().await;
    let folder = &local.folder;
    let instances = || folder.json(["status"])["instances"].as_array().unwrap().clone();
    local.up(&["--instances", "1", "--shards", "2"]);
    local.up(&["--instances", "2"]);
    assert_eq!(instances().len(), 2);

    let before = folder.json(["local", "stop"]);
    let port = |document: &Value, at: usize| {
        document["servers"][at]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap()
    };
    let take = |at| std::net::TcpListener::bind(("127.0.0.1", port(&before, at))).unwrap();
    let thieves = [take(0), take(1)];
    let after = local.up(&[]);
    drop(thieves);
    for (at, instance) in instances().iter().enumerate() {
        assert_ne!(port(&after, at), port(&before, at));
        let host = &instance["hosts"][0];
        assert_eq!((&host["port"], &host["role"]), (&json!(port(&after, at)), &json!("primary")));
    }
    assert_eq!(folder.run(["exec", "SELECT {shard}.is_local(1)"]).status, 0);

    // What one has removed comes again only when that is said.
    folder.json(["instance", "remove", "pg2"]);
    local.up(&[]);
    assert_eq!(instances().len(), 1);
    local.up(&["--instances", "2"]);
    assert_eq!(instances().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_cluster() {
    let local = Local::new().await;
    let programs = local.programs.to_str().unwrap();
    let start = || {
        let up = ["local", "up", "--instances", "1", "--shards", "4", "--pg-bin", programs];
        // The environment is the applications'; which cluster is made here is not its business.
        let elsewhere = "postgres://a@127.0.0.1:1/d";
        let mut up = local.folder.command(up);
        up.env("HOWDAH_CATALOG_DSN", elsewhere).stdout(Stdio::null()).spawn().unwrap()
    };
    for mut up in [start(), start()] {
        assert!(up.wait().unwrap().success());
    }
    assert_eq!(local.folder.json(["status"])["instances"][0]["shards"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_leads_elsewhere_is_refused_untouched() {
    let local = Local::new().await;
    let folder = &local.folder;
    let file = ".howdah/howdah.toml";
    let up = || folder.run(["local", "up", "--pg-bin", local.programs.to_str().unwrap()]);
    let left = || std::fs::read(folder.path().join(file)).unwrap();

    let staging = "[catalog]\ndsn = \"postgres://app@127.0.0.1:1/staging\"\n";
    folder.write(file, staging);
    let ran = up();
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.error().contains(file), "{}", ran.stderr);
    assert_eq!(left(), staging.as_bytes());
    assert!(!folder.path().join(".howdah/cluster.json").exists());

    std::fs::write(folder.path().join(file), [0xff, b'\n']).unwrap();
    let ran = up();
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.error().contains(file), "{}", ran.stderr);
    assert_eq!(left(), [0xff, b'\n']);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_of_ones_own_that_leads_to_the_servers_is_kept() {
    let local = Local::new().await;
    let folder = &local.folder;
    let made = local.up(&["--instances", "1", "--shards", "2"]);
    let port = &made["servers"][0]["port"];
    let own = format!(
        "[catalog]\ndsn = \"postgres://howdah_app@localhost:{port}/howdah\"\nmap_cache = \"map\"\n"
    );
    let file = ".howdah/howdah.toml";
    folder.write(file, &own);
    assert_eq!(local.up(&["--instances", "1"])["servers"], made["servers"]);
    assert_eq!(std::fs::read_to_string(folder.path().join(file)).unwrap(), own);
    assert_eq!(folder.run(["local", "destroy"]).status, 0);
    assert!(folder.path().join(file).exists(), "it is not ours to delete");
    // What the file names starts from its folder.
    assert!(!folder.path().join("map").exists());
}

#[test]
fn what_is_not_there_cannot_be_done() {
    let folder = Folder::empty();
    let ran = folder.run(["local", "up", "--pg-bin", "nowhere"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.error().contains("nowhere"), "{}", ran.stderr);
    assert_eq!(folder.run(["local", "up", "--instances", "0"]).status, 2);
    assert_eq!(folder.run(["local", "kill", "pg1"]).status, 2);
}
