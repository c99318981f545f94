//! One at a time: an exclusive lock on a file, between processes and within one.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{Error, Result};

/// How long somebody else may be at work: making a replica of a large server takes a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often we try.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Held until it is dropped, or its process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, when whoever has it lets go of it.
    pub(crate) async fn take(path: &Path) -> Result<Self> {
        let failed =
            |error| Error::system(format!("cannot lock {}", path.display())).because(error);
        let start = Instant::now();
        loop {
            let file = File::options().create(true).append(true).open(path).map_err(failed)?;
            match file.try_lock() {
                // The one who had it may have deleted the file, and then we hold what nobody else can see.
                Ok(()) if is_at(&file, path) => return Ok(Self { _file: file }),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::system(format!(
                        "{} has been locked for {} s",
                        path.display(),
                        PATIENCE.as_secs()
                    ))
                    .hint("another howdah is at work on this folder"));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            sleep(TRY_AGAIN).await;
        }
    }
}

/// Whether an open file is still the one that the path leads to.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
