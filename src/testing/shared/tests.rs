//! The guardian at work, in folders apart from the one that the other tests share.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::testing::postgres::programs;

/// Set in the process that a test starts to be a user of this folder.
const FOLDER: &str = "HOWDAH_TESTING_A_USER_OF";

/// Shorter than in earnest, so that nobody has to wait.
const GRACE: Duration = Duration::from_millis(400);

fn new_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/howdah-guardian-{}", unique_name()))
}

/// Joins, and has a server run there.
async fn be_a_user(folder: &Path) -> (Shared, u32) {
    be_a_user_with(folder, GRACE).await
}

async fn be_a_user_with(folder: &Path, grace: Duration) -> (Shared, u32) {
    let shared = Shared::join_at(folder.to_owned(), grace).await.unwrap();
    let options = shared.up_options().instances(1);
    let mut cluster = LocalCluster::open(folder.join("pg18")).unwrap();
    cluster.up(&options.pg_bin(programs(18, folder).await.unwrap())).await.unwrap();
    let pid = cluster.servers()[0].pid().unwrap();
    (shared, pid)
}

async fn becomes(what: impl Fn() -> bool) -> bool {
    for _ in 0..1500 {
        if what() {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

fn serves(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

fn guardian_of(folder: &Path) -> Option<Pid> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).find(
        |pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = command.split(|byte| *byte == 0);
            arguments.any(|argument| argument == b"howdah-guardian")
                && arguments.next() == Some(folder)
        },
    )
}

#[tokio::test]
async fn nothing_is_left_when_the_last_user_is_killed() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let _user = be_a_user(Path::new(&folder)).await;
        std::future::pending::<()>().await;
    }
    let folder = new_folder();
    let mut user = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "testing::shared::tests::nothing_is_left_when_the_last_user_is_killed"])
        .env(FOLDER, &folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let data = folder.join("pg18/servers/pg1/data/postmaster.pid");
    let ready = || fs::read_to_string(&data).is_ok_and(|file| file.contains("ready"));
    assert!(becomes(ready).await);
    let pid = fs::read_to_string(&data).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(serves(pid));

    user.kill().unwrap();
    user.wait().unwrap();
    assert!(becomes(|| !folder.exists() && !serves(pid)).await);
    assert!(becomes(|| left_of(&folder).is_empty()).await, "{:?}", left_of(&folder));
}

/// What the guardian has moved away and not deleted yet.
fn left_of(folder: &Path) -> Vec<PathBuf> {
    let name = folder.file_name().unwrap().as_encoded_bytes();
    let entries = fs::read_dir("/tmp").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(name))
        .map(|entry| entry.path())
        .collect()
}

#[tokio::test]
async fn whoever_comes_before_the_grace_is_over_finds_the_same_servers() {
    // So long that a busy machine comes in time.
    let grace = Duration::from_secs(5);
    let folder = new_folder();
    let (first, pid) = be_a_user_with(&folder, grace).await;
    drop(first);
    sleep(grace / 20).await;
    let (second, same) = be_a_user_with(&folder, grace).await;
    assert_eq!(same, pid);
    sleep(grace + GRACE).await;
    assert!(serves(pid), "the grace is over, and somebody is there");
    drop(second);
    assert!(becomes(|| left_of(&folder).is_empty() && !serves(pid)).await);
}

#[tokio::test]
async fn newcomers_and_the_guardians_end_may_meet_at_any_moment() {
    let folder = new_folder();
    // Most of all around the end of the grace.
    for wait_ms in [340, 370, 390, 400, 405, 410, 420, 450] {
        let shared = Shared::join_at(folder.clone(), GRACE).await.unwrap();
        assert!(folder.join("users").exists());
        drop(shared);
        sleep(Duration::from_millis(wait_ms)).await;
    }
    let shared = Shared::join_at(folder.clone(), GRACE).await.unwrap();
    sleep(GRACE * 3).await;
    assert!(folder.join("users").exists(), "who has joined is not left alone");
    drop(shared);
    assert!(becomes(|| left_of(&folder).is_empty()).await);
}

#[tokio::test]
async fn a_guardian_that_was_killed_is_replaced_and_spares_the_servers_in_use() {
    let folder = new_folder();
    let (first, pid) = be_a_user(&folder).await;
    kill(guardian_of(&folder).unwrap(), Signal::SIGKILL).unwrap();
    assert!(becomes(|| guardian_of(&folder).is_none()).await);

    let (second, same) = be_a_user(&folder).await;
    assert_eq!(same, pid);
    drop(second);
    sleep(GRACE * 3).await;
    assert!(serves(pid), "the first is still there");
    drop(first);
    assert!(becomes(|| left_of(&folder).is_empty() && !serves(pid)).await);
}

#[tokio::test]
async fn what_a_dead_run_left_is_cleared() {
    let folder = new_folder();
    fs::create_dir_all(folder.join("pg18/servers/pg1/data")).unwrap();
    fs::write(folder.join("pg18/cluster.json"), "half a").unwrap();
    mkfifo(&folder.join("users"), Mode::S_IRWXU).unwrap();
    let (shared, _) = be_a_user(&folder).await;
    drop(shared);
    assert!(becomes(|| left_of(&folder).is_empty()).await);
}
