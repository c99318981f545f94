//! Finding PostgreSQL's programs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::process::run;
use super::{Account, folders};
use crate::{Error, Result};

/// The major versions of PostgreSQL that howdah supports.
pub(crate) const SUPPORTED: RangeInclusive<u32> = 15..=18;

/// What a folder must hold for us to make and run servers with it.
const NEEDED: [&str; 4] = ["postgres", "initdb", "pg_ctl", "pg_basebackup"];

/// Folders of distributions; `*` stands for any characters. The newest version among the matches goes first.
const DISTRIBUTIONS: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql*/bin",
];

/// In a folder beside `bin`: all that these programs need is below it, so that it can be copied elsewhere.
const MARKER: &str = "brought-by-howdah";

/// The programs of one PostgreSQL installation, of a version that howdah supports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// Finds PostgreSQL 15 to 18: in the folder given and nowhere else; without one on `PATH`, in the
    /// distribution's folders (the newest supported version first), then among what was brought into the
    /// cluster's folder (`DIR/postgres/bin`).
    ///
    /// # Errors
    ///
    /// When there are none; the error names what was looked at, what was wrong with it, and the next step.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> howdah::Result<()> {
    /// use howdah::local::Binaries;
    ///
    /// let binaries = Binaries::find(None, ".howdah".as_ref()).await?;
    /// println!("PostgreSQL {} in {}", binaries.major(), binaries.folder().display());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn find(pg_bin: Option<&Path>, dir: &Path) -> Result<Self> {
        match pg_bin {
            Some(folder) => Self::first([folder.to_owned()], |_| true).await.map_err(|looked| {
                Error::config(looked).hint("name a folder that holds the programs of PostgreSQL 15 to 18")
            }),
            None => Self::first(usual_folders(dir), |_| true).await.map_err(|looked| {
                Error::config(format!("no PostgreSQL 15 to 18 found: {looked}")).hint(
                    "install it (Debian: apt-get install postgresql), or name the folder of its programs",
                )
            }),
        }
    }

    /// Finds one major version, first in the folders given, then wherever [`Binaries::find`] looks.
    pub(crate) async fn find_major(major: u32, first: &[PathBuf]) -> Result<Self> {
        let folders = first.iter().cloned().chain(usual_folders(Path::new("")));
        Self::first(folders, |found| found.major == major).await.map_err(|looked| {
            Error::config(format!("no PostgreSQL {major} found: {looked}"))
                .hint(format!("install it (Debian: apt-get install postgresql-{major})"))
        })
    }

    /// The folder of the programs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The major version, such as 18.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The same programs where the servers' account can run them: here, or in a copy made at `copy`. Whoever
    /// calls it holds a lock.
    pub(crate) async fn within_reach(self, account: &Account, copy: &Path) -> Result<Self> {
        if account.enters(&self.folder).await {
            return Ok(self);
        }
        let unreachable = || {
            Error::config(format!(
                "the account of the servers cannot enter {}",
                self.folder.display()
            ))
        };
        let whole = self.folder.parent().filter(|whole| whole.join(MARKER).exists());
        let whole = whole.ok_or_else(|| {
            unreachable()
                .hint("run as an ordinary user, or use an installation that everybody can read")
        })?;
        if !copy.exists() {
            let making = copy.with_extension("new");
            folders::remove_folder(&making).await?;
            let (from, to) = (whole.as_os_str(), making.as_os_str());
            // Whatever our umask says.
            let steps: [(&str, &[&OsStr]); 2] = [
                ("cp", &["-R".as_ref(), from, to]),
                ("chmod", &["-R".as_ref(), "a+rX".as_ref(), to]),
            ];
            for (program, arguments) in steps {
                let mut step = Command::new(program);
                step.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
                run(step).await.map_err(|reason| unreachable().because(reason))?;
            }
            fs::rename(&making, copy).map_err(|error| unreachable().because(error))?;
        }
        Ok(Self { folder: copy.join("bin"), ..self })
    }

    /// The first acceptable of some folders, or all that was wrong with them.
    async fn first(
        folders: impl IntoIterator<Item = PathBuf>,
        acceptable: impl Fn(&Self) -> bool,
    ) -> Result<Self, String> {
        let mut seen = BTreeSet::new();
        let mut looked = Vec::new();
        for folder in folders {
            if !seen.insert(folder.clone()) {
                continue;
            }
            match Self::inspect(&folder).await {
                Ok(found) if acceptable(&found) => return Ok(found),
                Ok(found) => looked.push(format!("{} is {}", folder.display(), found.major)),
                Err(reason) => looked.push(format!("{} {reason}", folder.display())),
            }
        }
        if looked.is_empty() {
            looked.push(format!("nothing on PATH, nor in {}", DISTRIBUTIONS.join(", ")));
        }
        Err(looked.join(", "))
    }

    /// The programs of one folder, or what is wrong with it.
    async fn inspect(folder: &Path) -> Result<Self, String> {
        // A lone link, as in /usr/local/bin, leads to the folder that has all the programs.
        let all_of = |folder: &Path| NEEDED.iter().all(|name| folder.join(name).is_file());
        let linked =
            || fs::canonicalize(folder.join("postgres")).ok()?.parent().map(Path::to_owned);
        let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
        let folder = Some(folder).filter(|folder| all_of(folder)).or_else(linked);
        let folder = folder
            .filter(|folder| all_of(folder))
            .ok_or_else(|| format!("has not all of {}", NEEDED.join(", ")))?;

        let mut postgres = Command::new(folder.join("postgres"));
        postgres.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let said = run(postgres).await.map_err(|reason| format!("does not run ({reason})"))?;
        let major = major_version(&said).ok_or_else(|| format!("says {:?}", said.trim()))?;
        if SUPPORTED.contains(&major) {
            Ok(Self { folder, major })
        } else {
            Err(format!("is {major}, which howdah does not support"))
        }
    }
}

/// The number in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Where PostgreSQL's programs are looked for: folders that have at least the server.
fn usual_folders(dir: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(DISTRIBUTIONS.iter().flat_map(|pattern| matches(pattern)));
    folders.push(dir.join("postgres/bin"));
    folders.retain(|folder| folder.is_absolute() || folder.starts_with(dir));
    folders.retain(|folder| folder.join("postgres").is_file());
    folders
}

/// The folders that match a pattern with one `*`, those with the highest number first.
fn matches(pattern: &str) -> Vec<PathBuf> {
    let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    found.sort_by_key(|name| name[prefix.len()..].parse::<u32>().unwrap_or(0));
    found.iter().rev().map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_say() {
        for (said, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18.6\n", Some(18)),
            ("postgres (PostgreSQL) 19devel\n", Some(19)),
            ("pyenv: postgres: command not found\n", None),
        ] {
            assert_eq!(major_version(said), major, "{said}");
        }
    }

    #[test]
    fn the_newest_of_a_distribution_goes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "18", "17"] {
            fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let found = matches(&format!("{}/*/bin", root.path().display()));
        let wanted = ["18", "17", "15", "9.6"].map(|v| root.path().join(v).join("bin"));
        assert_eq!(found, wanted);
    }
}
