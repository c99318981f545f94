//! Folders of servers: made for all who need them, and deleted while others may still write there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{Error, Result};

/// How long the children of an interrupted program may take to end: they do when they next read from it.
const ORPHANS_PATIENCE: Duration = Duration::from_secs(10);

/// How often a folder is deleted that somebody still writes to.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Makes a folder that the servers' account can pass through, whatever our umask says; unless it is there.
pub(crate) fn make_open(folder: &Path) -> Result<()> {
    let made = match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)),
    };
    made.map_err(|error| Error::system(format!("cannot make {}", folder.display())).because(error))
}

/// Whether there is more than an empty file or folder, be it a link that leads to one.
pub(super) fn holds_something(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            fs::read_dir(path).map_or(true, |mut entries| entries.next().is_some())
        }
        Ok(there) => !there.is_file() || there.len() > 0,
        Err(_) => false,
    }
}

/// Deletes a folder and all in it; that it is not there is no error.
///
/// A program that was interrupted may leave children that write there, or tidy up, until they notice: so it is tried
/// again for a while.
pub(super) async fn remove_folder(folder: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        let owned = folder.to_owned();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(owned)).await;
        let Err(error) = removed.map_err(io::Error::other).flatten() else { return Ok(()) };
        let passes = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::NotFound];
        if !folder.exists() {
            return Ok(());
        } else if !passes.contains(&error.kind()) || start.elapsed() > ORPHANS_PATIENCE {
            let what = format!("cannot delete {}", folder.display());
            return Err(Error::system(what).because(error));
        }
        sleep(LOOK_AGAIN).await;
    }
}
