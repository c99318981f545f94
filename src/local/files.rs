//! Files that are there in full or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Error, Result};

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
pub(super) async fn remove_folder(folder: &Path) -> Result<()> {
    let owned = folder.to_owned();
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(owned)).await;
    match removed.map_err(io::Error::other).flatten() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("cannot delete {}", folder.display())).because(error))
        }
        _ => Ok(()),
    }
}
