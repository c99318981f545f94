//! A folder for a test that makes clusters itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::finish::finish;
use super::shared::{Shared, unique_name};
use crate::Result;
use crate::local::{LocalCluster, UpOptions, make_open};

/// An empty folder for one test, which may make [local clusters](LocalCluster) in it.
///
/// Dropped, it ends all servers in it and deletes itself; should the test be killed, that happens when the last
/// test process has gone.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> howdah::Result<()> {
/// let dir = howdah::testing::TestDir::new().await?;
/// assert!(dir.path().is_dir());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
    options: UpOptions,
}

impl TestDir {
    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn new() -> Result<Self> {
        let shared = Shared::join().await?;
        let path = shared.folder().join(format!("dir-{}", unique_name()));
        make_open(&path)?;
        Ok(Self { path, options: shared.up_options() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The options for clusters that are made in it, where a test has no others in mind: they are not durable, and
    /// made more quickly than others.
    #[must_use]
    pub fn up_options(&self) -> UpOptions {
        self.options.clone()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let clusters = clusters_in(&self.path);
        finish(async {
            for cluster in clusters {
                let _ = cluster.destroy().await;
            }
        });
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The clusters in a folder, however deep.
fn clusters_in(folder: &Path) -> Vec<LocalCluster> {
    if let Ok(cluster) = LocalCluster::open(folder)
        && cluster.exists()
    {
        return vec![cluster];
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|entry| clusters_in(&entry.path())).collect()
}
