//! Who the servers run as. PostgreSQL refuses to run as root, so root lends them an unprivileged account.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::unistd::{User, geteuid};
use tokio::process::Command;

use crate::program::undirect;
use crate::{Error, Result};

/// The account of the servers: ours, or another one where we are root.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    other: Option<User>,
}

impl Account {
    /// Our own account; for root that of `postgres`, or else `nobody`, which every system has.
    pub(crate) fn for_servers() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let named = |name| User::from_name(name).ok().flatten();
        match named("postgres").or_else(|| named("nobody")) {
            Some(user) => Ok(Self { other: Some(user) }),
            None => {
                Err(Error::system("PostgreSQL does not run as root, and there is no other account")
                    .hint("add one (useradd --system postgres), or run as an ordinary user"))
            }
        }
    }

    /// Whether the servers run under another account than we do.
    pub(super) fn is_other(&self) -> bool {
        self.other.is_some()
    }

    /// A program to be run in this account, in a folder that it can enter; it ends when its future is dropped.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        undirect(&mut command);
        command.env("LC_ALL", "C");
        if let Some(user) = &self.other {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Whether the account can enter a folder: asked of the system itself, which knows every kind of permission.
    pub(super) async fn enters(&self, folder: &Path) -> bool {
        !self.is_other()
            || self.command("true", folder).status().await.is_ok_and(|status| status.success())
    }

    /// Makes a folder that belongs to the account, with these permissions whatever our umask says.
    pub(crate) fn make_folder(&self, folder: &Path, mode: u32) -> Result<()> {
        match fs::DirBuilder::new().mode(mode).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => open_folder(folder).and_then(|open| {
                open.set_permissions(fs::Permissions::from_mode(mode))?;
                self.give(&open)
            }),
        }
        .map_err(|error| Error::system(format!("cannot make {}", folder.display())).because(error))
    }

    /// Hands an open file of ours over to the account: what its path leads to may be another one by now.
    pub(super) fn give(&self, file: &File) -> io::Result<()> {
        match &self.other {
            Some(user) => fchown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
            None => Ok(()),
        }
    }
}

/// A folder itself, and no other one to which a link in its place leads.
fn open_folder(folder: &Path) -> io::Result<File> {
    let itself = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    File::options().read(true).custom_flags(itself.bits()).open(folder)
}
