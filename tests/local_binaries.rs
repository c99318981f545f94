//! Which binaries are used, and what is said when there are none that will do.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever it likes")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use howdah::local::{Binaries, LocalCluster, UpOptions};
use howdah::testing::{TestDir, TestServers};
use tokio_postgres::NoTls;

/// A folder of programs that say they are of some version.
fn pretend(dir: &Path, version: &str) -> PathBuf {
    let folder = dir.join(version).join("bin");
    fs::create_dir_all(&folder).unwrap();
    for name in ["postgres", "initdb", "pg_ctl", "pg_basebackup"] {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n"))
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

#[tokio::test]
async fn a_version_that_is_not_supported_is_named() {
    let dir = TestDir::new().await.unwrap();
    for version in ["14.13", "19devel"] {
        let folder = pretend(dir.path(), version);
        let error = Binaries::find(Some(&folder), dir.path()).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_config(), "{text}");
        assert!(
            text.contains(&folder.display().to_string()) && text.contains(&version[..2]),
            "{text}"
        );
        assert!(text.contains("15 to 18"), "{text}");

        let mut cluster = LocalCluster::open(dir.path().join("cluster")).unwrap();
        let error = cluster.up(&UpOptions::default().pg_bin(&folder)).await.unwrap_err();
        assert!(error.is_config(), "{error}");
        assert!(cluster.servers().is_empty());
    }
    let found = Binaries::find(Some(&pretend(dir.path(), "17.2")), dir.path()).await.unwrap();
    assert_eq!(found.major(), 17);
}

#[tokio::test]
async fn a_folder_without_programs_is_named() {
    let dir = TestDir::new().await.unwrap();
    let error = Binaries::find(Some(dir.path()), dir.path()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("postgres") && text.contains(&dir.path().display().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn one_cluster_may_have_servers_of_several_versions() {
    let dir = TestDir::new().await.unwrap();
    let mut cluster = LocalCluster::open(dir.path()).unwrap();
    let options = dir.up_options().instances(1);
    cluster.up(&options.pg_bin(programs(18).await)).await.unwrap();
    cluster.add("old", Some(&programs(15).await)).await.unwrap();
    assert!(cluster.add("old", None).await.unwrap_err().is_refused());
    assert!(cluster.add("../old", None).await.unwrap_err().is_invalid_input());

    for (name, version) in [("pg1", 18), ("old", 15)] {
        let server = cluster.server(name).unwrap();
        assert_eq!(server.version(), Some(version));
        let (client, connection) =
            tokio_postgres::connect(&server.dsn("howdah_mover"), NoTls).await.unwrap();
        tokio::spawn(connection);
        let said: String = client.query_one("SHOW server_version", &[]).await.unwrap().get(0);
        assert!(said.starts_with(&version.to_string()), "{said}");
    }
}

async fn programs(version: u32) -> PathBuf {
    let servers = TestServers::builder().servers(1).postgres(version).start().await.unwrap();
    servers.server("pg1").unwrap().bin_dir().to_owned()
}
