//! Files that are there in full or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::{Error, Result};

/// Puts a text into a file's place, so that nobody ever reads half of it, not even after a power failure. Says
/// whether it was another text before. It is written to a file of another extension first, which no two may use at once.
pub(crate) fn replace(path: &Path, beside: &str, text: &str) -> Result<bool> {
    replace_as(path, beside, text, |_| Ok(()))
}

/// The same with a file that is given to somebody before it takes its place.
pub(crate) fn replace_as(
    path: &Path,
    beside: &str,
    text: &str,
    give: impl FnOnce(&File) -> io::Result<()>,
) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    let making = path.with_extension(beside);
    let replaced = || -> io::Result<()> {
        let mut file = create(&making)?;
        give(&file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&making, path)
    };
    replaced().map_err(|error| {
        Error::system(format!("cannot write {}", path.display())).because(error)
    })?;
    Ok(true)
}

/// A new file in the place of what is left there. Where others may put links, it follows none.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_left_of_an_interruption_is_no_matter_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("precious"), "as it was").unwrap();
        symlink(path("precious"), path("settings.new")).unwrap();
        assert!(replace(&path("settings.conf"), "new", "text").unwrap());
        assert!(!replace(&path("settings.conf"), "new", "text").unwrap());
        assert_eq!(fs::read_to_string(path("precious")).unwrap(), "as it was");
        assert!(!path("settings.new").exists());

        fs::write(path("settings.new"), "half").unwrap();
        assert!(replace(&path("settings.conf"), "new", "other").unwrap());
        assert_eq!(fs::read_to_string(path("settings.conf")).unwrap(), "other");
    }
}
