//! What all test processes of this machine share, and who ends it.
//!
//! Test runners start a process for each test (cargo-nextest) or a thread (cargo), end them in whatever way, and
//! know nothing of our servers. So the servers live in a folder that test processes join: each holds a FIFO
//! open for writing, and a small shell script at its other end, the guardian, sees when the last has gone. The
//! kernel closes files of the dead, so no kind of death is overlooked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::local::{Account, LocalCluster, Lock, UpOptions, is_at, make_open};
use crate::{Error, Result};

const GUARDIAN: &str = include_str!("guardian.sh");

/// The folder of data folders to copy; it belongs to the servers' account.
const TEMPLATES: &str = "templates";

/// How long the servers wait for another test process.
const GRACE: Duration = Duration::from_secs(3);

/// How long the guardian may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder that this process has joined, until it ends.
#[derive(Debug)]
pub(super) struct Shared {
    folder: PathBuf,
    /// Open for writing as long as this process lives; closed on exec, so that no child keeps it open.
    _user: File,
}

impl Shared {
    /// Joins, once in a process.
    pub(super) async fn join() -> Result<&'static Self> {
        static JOINED: OnceCell<Shared> = OnceCell::const_new();
        JOINED.get_or_try_init(|| Self::join_at(shared_folder(), GRACE)).await
    }

    /// The folder, which belongs to us and which the servers' account can enter.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How servers are made in the folder: quickly, for they do not outlive it.
    pub(super) fn up_options(&self) -> UpOptions {
        UpOptions::default().durable(false).templates(self.folder.join(TEMPLATES))
    }

    async fn join_at(folder: PathBuf, grace: Duration) -> Result<Self> {
        let failed = |error| {
            Error::system(format!("cannot share servers in {}", folder.display())).because(error)
        };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            make_own(&folder)?;
            let _lock = match Lock::take(&folder.join("lock")).await {
                Ok(lock) => lock,
                // The guardian was faster: it has moved the folder away.
                Err(_) if !folder.exists() => continue,
                Err(error) => return Err(error),
            };
            let joined = match open_for_writing(&folder.join("users")) {
                Ok(user) => be_admitted(user, &folder).await,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    begin(&folder, grace).map(Some)
                }
                Err(error) if is(&error, Errno::ENXIO) => begin(&folder, grace).map(Some),
                Err(error) => Err(error),
            };
            if let Some(user) = joined.map_err(failed)? {
                return Ok(Self { folder, _user: user });
            }
        }
        Err(Error::system(format!("cannot share servers in {}", folder.display()))
            .hint("the guardian of a run before does not end; delete the folder"))
    }
}

/// In /tmp, for sockets' paths must be short; one for each user and each copy of this crate's source.
fn shared_folder() -> PathBuf {
    let source = env!("CARGO_MANIFEST_DIR");
    let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    PathBuf::from(format!("/tmp/howdah-test-{}-{hash:016x}", geteuid()))
}

/// A name that no other test of this machine has or had.
pub(super) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{since}_{}_{count}", std::process::id())
}

/// Everybody may write to /tmp: what is there under our name is used only if it is ours.
fn make_own(folder: &Path) -> Result<()> {
    make_open(folder)?;
    match fs::symlink_metadata(folder) {
        Ok(there) if !there.is_dir() || there.uid() != geteuid().as_raw() => {
            Err(Error::refused(format!("{} is in the way and is not ours", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Opens a FIFO if there is a guardian at its other end.
fn open_for_writing(users: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(users)
}

/// Waits for the guardian's answer; nothing when it ends instead.
async fn be_admitted(mut user: File, folder: &Path) -> io::Result<Option<File>> {
    let name = unique_name();
    let answer = folder.join("joined").join(&name);
    match user.write_all(format!("{name}\n").as_bytes()) {
        Err(error) if is(&error, Errno::EPIPE) => return Ok(None),
        written => written?,
    }
    let start = Instant::now();
    while !answer.exists() {
        if !is_at(&user, &folder.join("users")) {
            return Ok(None);
        }
        // It may have been killed; then nobody reads, and the next attempt begins anew.
        if start.elapsed() > Duration::from_secs(1)
            && open_for_writing(&folder.join("users")).is_err()
        {
            return Ok(None);
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other("the guardian does not answer"));
        }
        sleep(Duration::from_millis(5)).await;
    }
    fs::remove_file(answer)?;
    Ok(Some(user))
}

/// Starts a guardian, and joins as the first.
fn begin(folder: &Path, grace: Duration) -> io::Result<File> {
    // Servers that run without a guardian may still have users, who hold the same FIFO open. If none runs, all
    // that is there is left from a run that was ended altogether, or from before the machine's last start.
    if !any_server_runs(folder) {
        clear(folder)?;
    }
    let users = folder.join("users");
    match mkfifo(&users, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    fs::create_dir_all(folder.join("joined"))?;
    Account::for_servers()
        .and_then(|account| account.make_folder(&folder.join(TEMPLATES), 0o755))
        .map_err(io::Error::other)?;
    // Open both ways first, neither end waits for the other; and the guardian has its end before it begins, so
    // it cannot miss that we are gone.
    let both = OpenOptions::new().read(true).write(true).open(&users)?;
    let read = File::open(&users)?;
    let write = OpenOptions::new().write(true).open(&users)?;
    drop(both);
    // A group of its own: who ends the tests from the terminal does not end it.
    Command::new("sh")
        .args(["-c", GUARDIAN, "howdah-guardian"])
        .arg(folder)
        .arg(grace.as_secs_f32().to_string())
        .stdin(read)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    Ok(write)
}

fn any_server_runs(folder: &Path) -> bool {
    let clusters = fs::read_dir(folder).into_iter().flatten().flatten();
    clusters
        .filter_map(|entry| LocalCluster::open(entry.path()).ok())
        .any(|cluster| cluster.servers().iter().any(|server| server.is_running()))
}

/// Deletes all in the folder but the lock, which we hold.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != "lock" {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is(error: &io::Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number as i32)
}

#[cfg(test)]
mod tests;
