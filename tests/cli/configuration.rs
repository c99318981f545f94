//! Usage and configuration: what is wrong is said in one line, with the right exit status and no password.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use howdah::testing::{TestCluster, until};

use crate::program::{Folder, Ran};

/// What a command's help lists as the commands below it.
fn below(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // The first word of a line; the rest of a long description has none there.
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !["", "help"].contains(name)).collect()
}

#[test]
fn help_has_examples_everywhere() {
    let folder = Folder::empty();
    let (mut commands, mut leaves) = (vec![String::new()], 0);
    while let Some(command) = commands.pop() {
        let ran = folder.run(command.split_whitespace().chain(["--help"]));
        assert_eq!(ran.status, 0, "{command}");
        assert!(ran.stdout.contains("--json"), "{command}: {}", ran.stdout);
        let below = below(&ran.stdout);
        if below.is_empty() || command.is_empty() {
            assert!(ran.stdout.contains("Example"), "{command}: {}", ran.stdout);
        }
        leaves += usize::from(below.is_empty());
        commands.extend(below.into_iter().map(|name| format!("{command} {name}")));
    }
    assert!(leaves >= 33, "{leaves} commands were found");
}

#[test]
fn wrong_usage_has_status_two_and_one_line() {
    let folder = Folder::empty();
    for args in [
        "nothing",
        "status --nothing",
        "locate",
        "locate --id 1 --shard 2",
        "locate --key-int x",
        "init --instance pg1=x",
        "init --shards 4 --instance pg1",
        "init --shards many",
        "exec",
        "migrate up --parallel few",
        "local kill",
        "status --watch --json",
        "--json status --watch",
        "init --shards 4 --instance pg1=postgres://a:hunter2@h/d",
        "init --shards 4 --instance pg1=postgres://a@h/d?password=hunter2",
        "init pg1=postgres://a:hunter2@h/d",
        "init --shards 4 --instance postgres://a:hunter2@h/d?options=x",
        "instance add pg1 --dsn a:hunter2",
        "instance add pg1 --dsn=postgres://a:x/hunter2@h/d",
        "instance add pg1 --dsn postgres://a@h/d --peer-dsn hunter2",
        "instance add pg1 postgres://a:hunter2@h/d",
        "postgres://a:hunter2@h/d",
    ] {
        let ran = folder.run(args.split_whitespace());
        assert_eq!(ran.status, 2, "{args}: {}", ran.stderr);
        assert!(!ran.error().contains("hunter2"), "{args}: {}", ran.stderr);
    }
    for dsn in ["postgres://a:hunter2 hunter2@h/d", "host=h user=a password = 'x hunter2'"] {
        let ran = folder.run(["instance", "add", "pg1", "--dsn", dsn]);
        assert_eq!(ran.status, 2, "{dsn}: {}", ran.stderr);
        assert!(
            !ran.error().contains("hunter2") && ran.error().contains("--dsn"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_configuration_that_is_missing_or_wrong_has_status_two() {
    let folder = Folder::empty();
    let none = folder.run(["status"]);
    assert_eq!(none.status, 2);
    assert!(none.error().contains("--config"), "{}", none.stderr);

    for (toml, named) in [
        ("[catalog]\ndsn = \"postgres://a@h/d\"\nmapcache = 1", "line 3"),
        ("[catalog]\n", "dsn is missing"),
        ("[catalog]\ndsn = \"postgres://a:hunter2@h/d\"", "password"),
        ("[catalog]\ndsn = \"postgres://a@h/d\"\n[auth]\npassword = \"hunter2\"", "line 4"),
        ("[catalog]\ndsn = \"postgres://a@h/d\"\n[pool]\nmax_size = 0", "max_size"),
    ] {
        folder.write("other.toml", toml);
        let ran = folder.run(["status", "--config", "other.toml"]);
        assert_eq!(ran.status, 2, "{toml}");
        assert!(
            ran.error().contains(named) && ran.error().contains("other.toml"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("hunter2"));
    }
    let ran = Ran::of(folder.command(["status"]).env("HOWDAH_CONFIG", "absent.toml"));
    assert!(ran.status == 2 && ran.error().contains("absent.toml"), "{}", ran.stderr);
    let ran = Ran::of(
        folder
            .command(["status"])
            .env("HOWDAH_POOL_MAXSIZE", "1")
            .env("HOWDAH_CATALOG_DSN", "postgres://a@h/d"),
    );
    assert!(ran.status == 2 && ran.error().contains("HOWDAH_POOL_MAXSIZE"), "{}", ran.stderr);
}

#[test]
fn what_is_not_utf_8_in_the_environment_is_an_error_only_where_it_is_ours() {
    let folder = Folder::empty();
    let run = |variable| {
        let broken = OsStr::from_bytes(b"\xff");
        let dsn = "postgres://a@127.0.0.1:1/d";
        let mut status = folder.command(["status"]);
        Ran::of(status.env("HOWDAH_CATALOG_DSN", dsn).env(variable, broken))
    };
    let foreign = run("MUSIC_FOLDER");
    assert!(foreign.status == 1 && foreign.error().contains("127.0.0.1:1"), "{}", foreign.stderr);
    let ours = run("HOWDAH_AUTH_OWNER");
    assert!(ours.status == 2 && ours.error().contains("HOWDAH_AUTH_OWNER"), "{}", ours.stderr);
}

#[test]
fn a_host_that_is_not_there_has_status_one() {
    let folder = Folder::empty();
    let mut status = folder.command(["status"]);
    status.env("HOWDAH_CATALOG_DSN", "postgres://a@127.0.0.1:1/d");
    let ran = Ran::of(&mut status);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.error().contains("127.0.0.1:1"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_cluster_is_told_apart() {
    let servers = howdah::testing::TestServers::start(1).await.unwrap();
    let folder = Folder::empty();
    let dsn = servers.dsn("pg1", "howdah_app").unwrap();
    let ran = Ran::of(folder.command(["status"]).env("HOWDAH_CATALOG_DSN", dsn));
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.error().contains("howdah init"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_their_sources_and_go_nowhere() {
    let test = TestCluster::builder().instances(1).own_servers().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    let hba = test.servers().server("pg1").unwrap().data_dir().join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("host all howdah_app all scram-sha-256\n{rules}")).unwrap();
    let sql = "ALTER ROLE howdah_app PASSWORD 'right'; SELECT pg_reload_conf()";
    admin.batch_execute(sql).await.unwrap();
    // The server rereads its rules by and by.
    let folder = Folder::of(&test);
    let refused = async || Some(folder.run(["status"])).filter(|ran| ran.status != 0);
    let none = until("nobody is let in without a password", refused).await;
    assert_eq!(none.status, 2, "{}", none.stderr);
    assert!(none.error().contains("HOWDAH_PASSWORD"), "{}", none.stderr);

    let wrong = Ran::of(folder.command(["status", "-v"]).env("HOWDAH_PASSWORD", "hunter2"));
    assert_eq!(wrong.status, 2, "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("hunter2"), "{}", wrong.stderr);

    let right = Ran::of(folder.command(["status"]).env("HOWDAH_PASSWORD", "right"));
    assert_eq!(right.status, 0, "{}", right.stderr);

    folder.write("passfile", "*:*:*:howdah_app:right\n");
    let with_passfile =
        || folder.command(["status"]).env("HOWDAH_AUTH_PASSFILE", "passfile").output();
    let passfile = folder.path().join("passfile");
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    let open = with_passfile().unwrap();
    assert_eq!(open.status.code(), Some(2));
    assert!(String::from_utf8(open.stderr).unwrap().contains("chmod 600"));
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with_passfile().unwrap().status.code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let folder = Folder::empty();
    let mut command = folder.command(["id", "decode", "1"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
