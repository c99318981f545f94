//! Where a cluster's files lie: in its folder, and in an annex where that will not do.
//!
//! Two things can stand against the folder itself. Its path may be too long for a Unix socket, and where root
//! lends the servers another account, that account may be unable to enter it (below a home of mode 0700, say).
//! Then sockets, or data and sockets, go to an annex in `/var/tmp` whose name follows from the folder's path.
//! So an annex is found again even when the folder was deleted without a word, and is cleared then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::{Account, folders};
use crate::{Error, Result};

/// The longest path of a Unix socket: 107 bytes on Linux, 103 on macOS.
const SOCKET_PATH_MAX_BYTES: usize = 103;

/// The longest name of a server's socket, with its slash.
const SOCKET_NAME: &str = "/.s.PGSQL.65535";

/// A folder outside the cluster's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Annex {
    pub(super) path: PathBuf,
    /// Whether it holds the data too, not the sockets alone.
    pub(super) data: bool,
}

/// The folders of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    annex: Option<Annex>,
}

impl Place {
    /// The place of a cluster that remembers where it is.
    pub(super) fn remembered(dir: &Path, annex: Option<Annex>) -> Self {
        Self { dir: dir.to_owned(), annex }
    }

    /// Decides where the files of a new cluster go.
    pub(super) async fn choose(dir: &Path, account: &Account) -> Self {
        let data = !account.enters(dir).await;
        let too_long =
            dir.join("run").as_os_str().len() + SOCKET_NAME.len() > SOCKET_PATH_MAX_BYTES;
        let annex = (data || too_long).then(|| Annex { path: annex_of(dir), data });
        Self::remembered(dir, annex)
    }

    pub(super) fn annex(&self) -> Option<&Annex> {
        self.annex.as_ref()
    }

    /// The folder with a folder for each server.
    pub(super) fn servers(&self) -> PathBuf {
        match &self.annex {
            Some(annex) if annex.data => annex.path.join("servers"),
            _ => self.dir.join("servers"),
        }
    }

    /// The folder of the servers' sockets.
    pub(super) fn sockets(&self) -> PathBuf {
        self.annex.as_ref().map_or(self.dir.as_path(), |annex| &annex.path).join("run")
    }

    /// Where a copy of brought binaries goes that the servers' account cannot reach where they are.
    pub(super) fn binaries(&self, major: u32) -> PathBuf {
        self.servers().with_file_name(format!("postgres-{major}"))
    }

    /// Makes the folders that are missing.
    pub(super) fn prepare(&self, account: &Account) -> Result<()> {
        if let Some(annex) = &self.annex {
            folders::make_open(&annex.path)?;
            refuse_if_foreign(&annex.path)?;
        }
        folders::make_open(&self.servers())?;
        account.make_folder(&self.sockets(), 0o755)
    }
}

/// Where the annex of a folder is or would be.
pub(super) fn annex_of(dir: &Path) -> PathBuf {
    // FNV-1a: the name must be the same in every version of howdah.
    let hash =
        dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    PathBuf::from(format!("/var/tmp/howdah-{hash:016x}"))
}

/// Everybody may write to /var/tmp: what lies there under our name is used only if it is ours.
pub(super) fn refuse_if_foreign(annex: &Path) -> Result<()> {
    match fs::symlink_metadata(annex) {
        Ok(there) if !there.is_dir() || there.uid() != geteuid().as_raw() => {
            Err(Error::refused(format!("{} is in the way and is not ours", annex.display()))
                .hint("delete it, or put the cluster into another folder"))
        }
        _ => Ok(()),
    }
}

/// Makes a cluster's folder, and gives its one true path.
pub(super) fn make_dir(dir: &Path) -> Result<PathBuf> {
    let failed = |error| Error::system(format!("cannot make {}", dir.display())).because(error);
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    folders::make_open(dir)?;
    let dir = dir.canonicalize().map_err(failed)?;
    match dir.to_str() {
        // The path stands in settings files, and in a command line that pg_ctl hands to a shell.
        Some(text) if !text.contains(|c: char| c.is_control() || "\"$`\\".contains(c)) => Ok(dir),
        _ => Err(Error::config(format!("PostgreSQL cannot live in {}", dir.display())).hint(
            "choose a folder whose path is UTF-8 without control characters, \", $, ` and \\",
        )),
    }
}
