//! PostgreSQL's own programs on this machine: `pg_dump` and `psql`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::{Error, Result};

/// Folders of distributions; `*` stands for any characters.
const DISTRIBUTIONS: [&str; 4] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];

/// A folder with both programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The first that are not older than the server: in the folder given, the folders given besides, `PATH`, or those
    /// of the distribution.
    pub(super) async fn find(
        named: Option<&Path>,
        besides: Option<PathBuf>,
        server_major: i32,
    ) -> Result<Self> {
        let mut folders: Vec<PathBuf> = Vec::new();
        match named {
            Some(folder) => folders.push(folder.to_owned()),
            None => {
                folders.extend(besides);
                let path = std::env::var_os("PATH").unwrap_or_default();
                folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
                folders.extend(DISTRIBUTIONS.iter().flat_map(|pattern| matches(pattern)));
            }
        }
        let mut seen = BTreeSet::new();
        let mut looked = Vec::new();
        for folder in folders.into_iter().filter(|folder| seen.insert(folder.clone())) {
            let program = folder.join("pg_dump");
            if !program.is_file() {
                continue;
            }
            if !folder.join("psql").is_file() {
                looked.push(format!("{} has no psql beside it", program.display()));
                continue;
            }
            match major_of(&program).await {
                Some(major) if major >= server_major => return Ok(Self { folder }),
                Some(major) => looked.push(format!("{} is {major}", program.display())),
                None => looked.push(format!("{} does not run", program.display())),
            }
        }
        if looked.is_empty() {
            looked.push("there is none".into());
        }
        Err(Error::config(format!(
            "moving a shard from PostgreSQL {server_major} takes a pg_dump that is not older: {}",
            looked.join(", ")
        ))
        .hint("install the client programs of that version, or name their folder in HOWDAH_PG_BIN"))
    }

    pub(super) fn pg_dump(&self) -> PathBuf {
        self.folder.join("pg_dump")
    }

    pub(super) fn psql(&self) -> PathBuf {
        self.folder.join("psql")
    }
}

async fn major_of(program: &Path) -> Option<i32> {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = version.output().await.ok().filter(|output| output.status.success())?;
    // pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let said = String::from_utf8(output.stdout).ok()?;
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folders that match a pattern with one `*`, in no order that matters.
fn matches(pattern: &str) -> Vec<PathBuf> {
    let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found = names.filter(|name| name.starts_with(prefix));
    found.map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_pg_dump_that_is_older_than_the_server_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        for name in ["pg_dump", "psql"] {
            let program = folder.path().join(name);
            let says =
                format!("#!/bin/sh\necho '{name} (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)'\n");
            fs::write(&program, says).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert!(Programs::find(Some(folder.path()), None, 15).await.is_ok());
        let error = Programs::find(Some(folder.path()), None, 18).await.unwrap_err();
        assert!(error.is_config(), "{error:?}");
        let (said, pg_dump) = (error.to_string(), folder.path().join("pg_dump"));
        let why = format!(
            "from PostgreSQL 18 takes a pg_dump that is not older: {} is 15",
            pg_dump.display()
        );
        assert!(said.contains(&why) && said.contains("HOWDAH_PG_BIN"), "{said}");
    }
}
