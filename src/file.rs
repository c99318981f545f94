//! Files that are there in full or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::{Error, Result};

/// Puts a text into a file's place, so that nobody ever reads half of it, not even after a power failure. Says
/// whether it was another text before. It is written to a file of another extension first, which no two may use at once.
pub(crate) fn replace(path: &Path, beside: &str, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    let making = path.with_extension(beside);
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
