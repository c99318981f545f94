//! What a cluster's folder remembers: `cluster.json`.
//!
//! Only what cannot be read off the servers themselves. Whether one runs, as what, and of which version are
//! facts that its data folder tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::Annex;
use crate::{Error, Result, file};

/// The one format of the file so far.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// Whether the servers keep their data through a power failure; fixed when the cluster is made.
    pub(super) durable: bool,
    pub(super) annex: Option<Annex>,
    pub(super) servers: Vec<Remembered>,
}

/// A server whose data folder is complete.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remembered {
    pub(super) name: String,
    pub(super) port: u16,
    /// The folder of its programs.
    pub(super) bin: PathBuf,
    /// The server whose replica it was made as.
    pub(super) follows: Option<String>,
}

impl State {
    pub(super) fn new(durable: bool, annex: Option<Annex>, servers: Vec<Remembered>) -> Self {
        Self { format: FORMAT, durable, annex, servers }
    }

    /// Reads a folder's state, where it has one.
    pub(super) fn load(path: &Path) -> Result<Option<Self>> {
        let failed = || Error::config(format!("cannot read {}", path.display()));
        match fs::read_to_string(path) {
            Ok(text) => {
                let state: Self =
                    serde_json::from_str(&text).map_err(|error| failed().because(error))?;
                if state.format == FORMAT {
                    Ok(Some(state))
                } else {
                    Err(failed().because(format!("its format is {}, not {FORMAT}", state.format)))
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed().because(error)),
        }
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::system("cannot write down the cluster").because(error))?;
        file::replace(path, "new", &format!("{text}\n")).map(drop)
    }
}
