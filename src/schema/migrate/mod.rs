//! Migrations: numbered SQL files that run on every shard, each shard in its own time.
//!
//! A shard that fails stops at its last good version and hinders no other. Whoever runs the same again carries on
//! from there: what was applied is in the shard's own ledger, written in the same transaction.

mod ledger;
mod report;
mod scan;
mod set;
mod shard;
mod sweep;

use crate::Result;
use crate::config::Config;

pub use report::{MigrationProgress, MigrationReport, ShardMigration};
pub use set::{MigrationVersion, Migrations};
use shard::Job;
use sweep::sweep;

impl Migrations {
    /// Applies to every shard what it still lacks, on up to `parallel` connections (1 to 64) to each instance.
    ///
    /// Logs in as [`Config::owner`]. It may be run again, interrupted at any point, and run twice at once. A migration
    /// waits for the locks of running transactions only briefly and then steps back, so that traffic does not queue
    /// up behind it; after about a minute of that the shard counts as failed.
    ///
    /// # Errors
    ///
    /// When nothing could be tried: the configuration is wrong, or the catalog is not to be had. What goes wrong on
    /// a shard is in the report.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> howdah::Result<()> {
    /// use howdah::{Config, Migrations};
    ///
    /// let migrations = Migrations::from_dir("migrations")?;
    /// let report = migrations.up(&Config::load()?, 4, |_| {}).await?;
    /// for shard in report.failed() {
    ///     eprintln!("shard {}: {:?}", shard.home().shard(), shard.error());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn up(
        &self,
        config: &Config,
        parallel: usize,
        on_progress: impl FnMut(MigrationProgress<'_>) + Send,
    ) -> Result<MigrationReport> {
        let shards = sweep(config, parallel, Job::Up(self), on_progress).await?;
        Ok(MigrationReport::new(self.latest(), shards))
    }

    /// Asks every shard at which version it is, and whether its ledger fits these files. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Migrations::up`].
    pub async fn status(
        &self,
        config: &Config,
        parallel: usize,
        on_progress: impl FnMut(MigrationProgress<'_>) + Send,
    ) -> Result<MigrationReport> {
        let shards = sweep(config, parallel, Job::Status(self), on_progress).await?;
        Ok(MigrationReport::new(self.latest(), shards))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if an application may migrate within `tokio::spawn`.
    #[test]
    fn futures_are_send() {
        fn is_send(_: impl Send) {}
        let migrations = Migrations::new([("0001_a.sql", "SELECT 1")]).unwrap();
        let config = Config::new("postgres://a@localhost/d");
        let mut seen = 0;
        is_send(migrations.up(&config, 1, |progress| seen += progress.done));
        is_send(migrations.status(&config, 1, |_| {}));
    }
}
