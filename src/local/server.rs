//! One server: what it is and where it is.

use std::fs;
use std::path::{Path, PathBuf};

use super::state::Remembered;
use super::{Account, process};
use crate::{Error, Result};

/// A PostgreSQL server of a [`LocalCluster`](super::LocalCluster).
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) bin: PathBuf,
    pub(super) follows: Option<String>,
    pub(super) folder: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) durable: bool,
    pub(super) account: Account,
}

/// What a server does in its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerRole {
    /// It takes writes.
    Primary,
    /// It follows a primary, and answers reads.
    Replica,
}

impl Server {
    /// Its name, such as `pg1`; a replica of it is `pg1-r1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it has to say.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The folder of its programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// Whether it is a primary or a replica, running or not; a replica that was promoted is a primary.
    #[must_use]
    pub fn role(&self) -> ServerRole {
        if self.data_dir().join("standby.signal").exists() {
            ServerRole::Replica
        } else {
            ServerRole::Primary
        }
    }

    /// The instance that it belongs to: the name of the server that it was made a replica of, or else its own.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.follows.as_deref().unwrap_or(&self.name)
    }

    /// The name of the server whose replica it is.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.follows.as_deref().filter(|_| self.role() == ServerRole::Replica)
    }

    /// The number of its first process, when it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        process::postmaster(&self.data_dir()).map(|running| running.pid.as_raw().unsigned_abs())
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Its major version, such as 18; nothing when its data folder is damaged.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        fs::read_to_string(self.data_dir().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// The address of its database `howdah` for a role, as a `postgres://` URL without a password: local
    /// connections are trusted. Every server has `howdah_owner`, `howdah_mover` (a superuser), `howdah_app`
    /// and the superuser `postgres`.
    #[must_use]
    pub fn dsn(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/howdah", self.port)
    }

    pub(super) fn remember(&self) -> Remembered {
        Remembered {
            name: self.name.clone(),
            port: self.port,
            bin: self.bin.clone(),
            follows: self.follows.clone(),
        }
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// A server's name becomes a folder and an `application_name`.
pub(super) fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if (1..=63).contains(&name.len()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(Error::input(format!("{name:?} is not a server's name"))
            .hint("use up to 63 of a-z, 0-9, _ and -"))
    }
}
