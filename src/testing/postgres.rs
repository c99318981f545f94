//! The binaries that tests run with: found, or brought into the build folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::local::{Account, Binaries, Lock, SUPPORTED};
use crate::{Error, Result};

/// The tool that brings them, as this crate ships it.
const TOOL: &str = include_str!("../../tools/postgres");

/// The folder of the programs of a major version, where the servers' account can run them.
pub(super) async fn programs(major: u32, shared: &Path) -> Result<PathBuf> {
    if !SUPPORTED.contains(&major) {
        return Err(Error::input(format!("howdah does not support PostgreSQL {major}")));
    }
    // Several tests at once want them first.
    let _lock = Lock::take(&shared.join("binaries.lock")).await?;
    let brought = build_folder().unwrap_or_else(|| shared.to_owned()).join("postgres");
    let brought = brought.join(major.to_string());
    let first = [brought.join("bin")];
    let found = match Binaries::find_major(major, &first).await {
        Ok(found) => found,
        Err(not_found) => {
            bring(major, &brought).await.map_err(|reason| not_found.hint(reason))?;
            Binaries::find_major(major, &first).await?
        }
    };
    let account = Account::for_servers()?;
    let copy = shared.join(format!("postgres-{major}"));
    Ok(found.within_reach(&account, &copy).await?.folder().to_owned())
}

async fn bring(major: u32, folder: &Path) -> Result<(), String> {
    let mut python = Command::new("python3");
    python.arg("-").arg(major.to_string()).arg(folder).kill_on_drop(true);
    python.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = async {
        let mut child = python.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(TOOL.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = output.await.map_err(|error| format!("to bring it takes python3: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
    }
}

/// Cargo's build folder: the one this very program was built into; for a doc test, which is built elsewhere,
/// that of its package or workspace.
fn build_folder() -> Option<PathBuf> {
    let marked = |folder: &Path| folder.join("CACHEDIR.TAG").is_file();
    let program = std::env::current_exe().ok()?;
    if let Some(folder) = program.ancestors().find(|folder| marked(folder)) {
        return Some(folder.to_owned());
    }
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    package.ancestors().map(|folder| folder.join("target")).find(|folder| marked(folder))
}
