//! The `howdah.toml` in a folder of servers: ours to write again as long as its first line says so, else its user's.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use howdah::Config;
use howdah::local::LocalCluster;

use super::cannot;
use super::members::address;
use crate::failure::{Failure, Result};

/// The first line of a configuration that is ours to write again and to delete.
const OURS: &str =
    "# Written by `howdah local up`, which writes it again as long as this line is here.";

/// Where it is.
pub(super) fn file_in(dir: &Path) -> PathBuf {
    dir.join("howdah.toml")
}

/// Refuses a file that somebody else wrote and that leads to other servers: a cluster would be made there.
pub(super) fn refuse_elsewhere(local: &LocalCluster) -> Result<()> {
    let file = file_in(local.dir());
    match fs::read_to_string(&file) {
        Ok(text) if text.is_empty() || text.starts_with(OURS) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // What cannot be read is told by who tries again.
        _ => local_only(Config::from_file_alone(&file)?, &file, local).map(|_| ()),
    }
}

/// The configuration that leads to these servers, as the folder has it; written where it has none, or one of ours that is
/// out of date. The environment has no say in which cluster is made here.
pub(super) fn of(local: &LocalCluster) -> Result<Config> {
    let file = file_in(local.dir());
    let text = fs::read_to_string(&file);
    let is_missing = match &text {
        Ok(text) => text.is_empty(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    if is_missing {
        return write(local, &file);
    }
    let config = Config::from_file_alone(&file)?;
    let is_ours = text.is_ok_and(|text| text.starts_with(OURS));
    if is_ours && !(is_here(&config, local)? && names_the_first(&config, local)?) {
        return write(local, &file);
    }
    local_only(config, &file, local)
}

/// Deletes the file if it is ours.
pub(super) fn delete(dir: &Path) -> Result<()> {
    let file = file_in(dir);
    if fs::read_to_string(&file).is_ok_and(|text| text.starts_with(OURS)) {
        fs::remove_file(&file).map_err(|error| cannot("delete", &file, &error))?;
    }
    Ok(())
}

fn write(local: &LocalCluster, file: &Path) -> Result<Config> {
    let dsn = address(local, "pg1")?;
    let toml = format!(
        "{OURS}\n[catalog]\ndsn = \"{dsn}\"\n\n[auth]\nsslmode = \"disable\"\nowner = \"howdah_owner\"\n\
         mover = \"howdah_mover\"\n"
    );
    // In one piece: a reader finds all of it or nothing.
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, &toml)
        .and_then(|()| fs::rename(&beside, file))
        .map_err(|error| cannot("write", file, &error))?;
    Ok(Config::from_file_alone(file)?)
}

fn local_only(config: Config, file: &Path, local: &LocalCluster) -> Result<Config> {
    if is_here(&config, local)? {
        return Ok(config);
    }
    Err(Failure::refused(format!(
        "{} leads to {}, which is not one of the servers in {}; delete it, or choose another folder with --dir",
        file.display(),
        config.catalog()?,
        local.dir().display()
    )))
}

/// Whether every host that it names is one of these servers.
fn is_here(config: &Config, local: &LocalCluster) -> Result<bool> {
    let is_server = |(host, port): (String, u16)| {
        let is_loopback = ["127.0.0.1", "localhost"].contains(&host.as_str());
        local.servers().iter().any(|server| {
            server.port() == port && (is_loopback || server.socket_dir() == Path::new(&host))
        })
    };
    Ok(config.catalog()?.hosts().all(is_server))
}

/// Whether it names the server that gets the catalog, where that listens now.
fn names_the_first(config: &Config, local: &LocalCluster) -> Result<bool> {
    let port = local.server("pg1")?.port();
    Ok(config.catalog()?.hosts().any(|(_, named)| named == port))
}
