//! The shard map: all homes, with one version number.

use std::fmt;
use std::sync::Arc;

use super::{Home, InstanceName, ShardCount, ShardId, ShardKey};
use crate::{Error, Result};

/// The version of a [`ShardMap`]; every change to any home raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapVersion(i64);

impl MapVersion {
    /// A version, as the catalog holds it.
    pub(crate) const fn new(version: i64) -> Self {
        Self(version)
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for MapVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All homes of one cluster's shards: complete, and immutable; a change is a new map. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    version: MapVersion,
    count: ShardCount,
    homes: Arc<[Home]>,
}

impl ShardMap {
    /// A map of the homes given, which may come in any order.
    ///
    /// # Errors
    ///
    /// When there is not exactly one home for every shard from 0 on.
    pub(crate) fn new(version: MapVersion, mut homes: Vec<Home>) -> Result<Self> {
        homes.sort_by_key(Home::shard);
        let count = u16::try_from(homes.len()).unwrap_or(u16::MAX);
        let count = ShardCount::new(count)?;
        match homes.iter().zip(count.iter()).find(|(home, shard)| home.shard() != *shard) {
            None => Ok(Self { version, count, homes: homes.into() }),
            Some((home, shard)) => Err(Error::input(format!(
                "the map is not whole: shard {shard} is where shard {} should be",
                home.shard()
            ))),
        }
    }

    /// The version of the map.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// How many shards there are.
    #[must_use]
    pub fn count(&self) -> ShardCount {
        self.count
    }

    /// Where a shard lives.
    ///
    /// # Errors
    ///
    /// When the cluster has no such shard.
    #[inline]
    pub fn home(&self, shard: ShardId) -> Result<&Home> {
        self.count.check(shard)?;
        Ok(&self.homes[shard.index()])
    }

    /// All homes, in the order of the shards.
    pub fn homes(&self) -> impl ExactSizeIterator<Item = &Home> {
        self.homes.iter()
    }

    /// The shards that live on an instance, in order.
    pub fn shards_on<'a>(
        &'a self,
        instance: &'a InstanceName,
    ) -> impl Iterator<Item = ShardId> + 'a {
        self.homes.iter().filter(move |home| home.instance() == instance).map(Home::shard)
    }

    /// The shard of a key, by the frozen hash; see [`ShardKey`].
    pub fn shard_for_key<'a>(&self, key: impl Into<ShardKey<'a>>) -> ShardId {
        key.into().shard(self.count)
    }
}
