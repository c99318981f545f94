//! What became of every shard.

use super::MigrationVersion;
use crate::shard::Home;
use crate::{Error, Result};

/// What [`Migrations::up`](super::Migrations::up) or [`status`](super::Migrations::status) found, shard by shard.
#[derive(Debug)]
#[must_use = "some shards may have failed"]
pub struct MigrationReport {
    latest: MigrationVersion,
    /// In the order of the shards.
    shards: Vec<ShardMigration>,
}

/// One shard in a [`MigrationReport`].
#[derive(Debug)]
pub struct ShardMigration {
    home: Home,
    pub(super) version: Option<MigrationVersion>,
    pub(super) applied: usize,
    pub(super) error: Option<Error>,
}

/// How far a run over all shards is, told after each.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MigrationProgress<'a> {
    /// The shard that is through.
    pub shard: &'a ShardMigration,
    /// How many shards are through.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

impl MigrationReport {
    pub(super) fn new(latest: MigrationVersion, mut shards: Vec<ShardMigration>) -> Self {
        shards.sort_by_key(|shard| shard.home.shard());
        Self { latest, shards }
    }

    /// The version that every shard should have.
    #[must_use]
    pub fn latest(&self) -> MigrationVersion {
        self.latest
    }

    /// All shards, in order.
    #[must_use]
    pub fn shards(&self) -> &[ShardMigration] {
        &self.shards
    }

    /// The shards on which something is wrong, in order.
    pub fn failed(&self) -> impl Iterator<Item = &ShardMigration> {
        self.shards.iter().filter(|shard| shard.error.is_some())
    }

    /// The shards that are known to lack a migration, in order.
    pub fn behind(&self) -> impl Iterator<Item = &ShardMigration> {
        self.shards.iter().filter(|shard| shard.is_known() && shard.version < Some(self.latest))
    }

    /// How many migrations were applied, over all shards.
    #[must_use]
    pub fn applied(&self) -> usize {
        self.shards.iter().map(|shard| shard.applied).sum()
    }

    /// All shards, in order, if nothing is wrong on any; else the first failure.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub fn into_result(self) -> Result<Vec<ShardMigration>> {
        let first = self.failed().find_map(ShardMigration::error).cloned();
        first.map_or(Ok(self.shards), Err)
    }
}

impl ShardMigration {
    pub(super) fn new(home: Home) -> Self {
        Self { home, version: None, applied: 0, error: None }
    }

    pub(super) fn failed(home: Home, error: Error) -> Self {
        Self { error: Some(error), ..Self::new(home) }
    }

    /// The shard and where it lives.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its version; `None` when nothing was applied yet, or it could not be asked.
    #[must_use]
    pub fn version(&self) -> Option<MigrationVersion> {
        self.version
    }

    /// How many migrations this run applied.
    #[must_use]
    pub fn applied(&self) -> usize {
        self.applied
    }

    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the version is what the shard itself said.
    fn is_known(&self) -> bool {
        self.version.is_some() || self.error.is_none()
    }
}
