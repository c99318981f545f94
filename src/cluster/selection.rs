//! The shards that something is done on.

use std::collections::BTreeSet;

use crate::shard::{ShardId, ShardMap};

/// All shards, unless some were named; naming none of them is no way to say all.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection(Option<BTreeSet<ShardId>>);

impl Selection {
    /// These as well as those that were named before.
    pub(super) fn add(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        self.0.get_or_insert_default().extend(shards);
    }

    /// Each once, in their order. That they exist has still to be seen.
    pub(super) fn of(&self, map: &ShardMap) -> Vec<ShardId> {
        match &self.0 {
            Some(named) => named.iter().copied().collect(),
            None => map.count().iter().collect(),
        }
    }
}
