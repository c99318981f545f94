//! Where passwords come from, and how they stay hidden.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folders in which PostgreSQL puts its socket; a passfile knows them as `localhost`.
const SOCKET_FOLDERS: [&str; 3] = ["/tmp", "/run/postgresql", "/var/run/postgresql"];

/// A password that no formatting shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn new(password: String) -> Self {
        Self(password)
    }

    /// The secret itself, for the driver alone.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The sources of passwords. Files are read at each connect, so a new password needs no restart.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    given: Option<Password>,
    file: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl Passwords {
    pub(crate) fn new(
        given: Option<Password>,
        file: Option<PathBuf>,
        passfile: Option<PathBuf>,
    ) -> Self {
        Self { given, file, passfile }
    }

    /// The password for one log-in, if there is one; `host` is the folder's path for a Unix socket.
    ///
    /// # Errors
    ///
    /// When a file that was named cannot be read, or a passfile is open to others.
    pub(crate) fn password_for(
        &self,
        host: &str,
        port: u16,
        database: &str,
        user: &str,
    ) -> Result<Option<Password>> {
        if let Some(password) = &self.given {
            return Ok(Some(password.clone()));
        }
        if let Some(path) = &self.file {
            // Its mode is not checked: secrets that an orchestrator mounts are usually readable by the group.
            let text = read("password_file", path)?;
            return Ok(Some(Password::new(text.trim_end_matches(['\r', '\n']).to_owned())));
        }
        let Some(path) = &self.passfile else { return Ok(None) };
        refuse_if_open_to_others(path)?;
        let wanted = [host, &port.to_string(), database, user];
        Ok(read("passfile", path)?.lines().find_map(|line| matching_password(line, wanted)))
    }
}

fn read(key: &str, path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| cannot_read(key, path, error))
}

fn cannot_read(key: &str, path: &Path, error: std::io::Error) -> Error {
    Error::config(format!("the {key} {} cannot be read", path.display())).because(error)
}

/// libpq skips such a passfile with a warning; a library has nobody to warn.
fn refuse_if_open_to_others(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|error| cannot_read("passfile", path, error))?;
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::config(format!("the passfile {} is open to other users", path.display()))
        .hint(format!("run chmod 600 {}", path.display())))
}

/// The password of a passfile's line, when its first four fields match.
fn matching_password(line: &str, wanted: [&str; 4]) -> Option<Password> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for (i, wanted) in wanted.into_iter().enumerate() {
        let (field, after) = split_field(rest)?;
        let is_socket = i == 0 && SOCKET_FOLDERS.contains(&wanted);
        let matches = field == "*"
            || unescaped(field) == wanted
            || is_socket && unescaped(field) == "localhost";
        if !matches {
            return None;
        }
        rest = after;
    }
    Some(Password::new(unescaped(rest)))
}

/// Cuts a line at its first colon that no backslash escapes.
fn split_field(line: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let colon = line.bytes().position(|byte| {
        let ends = byte == b':' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&line[..colon], &line[colon + 1..]))
}

fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        let wanted = ["db1", "5432", "app", "howdah_app"];
        matching_password(line, wanted).map(|password| password.reveal().to_owned())
    }

    #[test]
    fn a_line_matches_field_by_field() {
        assert_eq!(found("db1:5432:app:howdah_app:secret").as_deref(), Some("secret"));
        assert_eq!(found("*:*:*:*:secret").as_deref(), Some("secret"));
        assert_eq!(found("db1:*:app:*:with:colons").as_deref(), Some("with:colons"));
        for other in [
            "db2:5432:app:howdah_app:secret",
            "db1:5433:app:howdah_app:secret",
            "db1:5432:other:howdah_app:secret",
            "db1:5432:app:howdah_owner:secret",
            "#db1:5432:app:howdah_app:secret",
            "db1:5432:app",
            "",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn backslashes_escape_colons_and_themselves() {
        let wanted = ["::1", "5432", r"a\b", "u"];
        let line = r"\:\:1:5432:a\\b:u:p\:a\\ss";
        assert_eq!(matching_password(line, wanted).unwrap().reveal(), r"p:a\ss");
    }

    #[test]
    fn a_socket_in_its_usual_folder_is_localhost() {
        let line = "localhost:5432:app:u:secret";
        assert!(matching_password(line, ["/run/postgresql", "5432", "app", "u"]).is_some());
        assert!(matching_password(line, ["/srv/sockets", "5432", "app", "u"]).is_none());
    }

    /// A passfile with one line, readable as `mode` says.
    fn passfile(folder: &Path, mode: u32) -> Passwords {
        let path = folder.join("passfile");
        fs::write(&path, "db1:5432:app:howdah_app:hunter2\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Passwords::new(None, None, Some(path))
    }

    #[test]
    fn a_passfile_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ask =
            |mode| passfile(folder.path(), mode).password_for("db1", 5432, "app", "howdah_app");
        assert_eq!(ask(0o600).unwrap().unwrap().reveal(), "hunter2");
        for mode in [0o640, 0o604] {
            let error = ask(mode).unwrap_err();
            assert!(error.is_config() && error.to_string().contains("chmod 600"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_password_file_is_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let passwords = Passwords::new(None, Some(path.clone()), None);
        let ask = || passwords.password_for("db1", 5432, "app", "howdah_app");
        assert!(ask().unwrap_err().to_string().contains("password_file"));
        for password in ["first", "second"] {
            fs::write(&path, format!("{password}\n")).unwrap();
            assert_eq!(ask().unwrap().unwrap().reveal(), password);
        }
    }
}
