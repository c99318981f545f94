//! Files that are there in full or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{Error, Result};

/// How long the children of an interrupted program may take to end: they do when they next read from it.
const ORPHANS_PATIENCE: Duration = Duration::from_secs(10);

/// How often a folder is deleted that somebody still writes to.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Puts a text into a file's place, so that nobody ever reads half of it, not even after a power failure. Says
/// whether it was another text before.
pub(super) fn replace(path: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    let making = path.with_extension("new");
    let replaced = || -> io::Result<()> {
        let mut file = File::create(&making)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&making, path)
    };
    replaced().map_err(|error| {
        Error::system(format!("cannot write {}", path.display())).because(error)
    })?;
    Ok(true)
}

/// Makes a folder that the servers' account can pass through, whatever our umask says; unless it is there.
pub(crate) fn make_open(folder: &Path) -> Result<()> {
    let made = match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)),
    };
    made.map_err(|error| Error::system(format!("cannot make {}", folder.display())).because(error))
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
