//! The ids of a moment or a period: "since yesterday" is a range of the primary key.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};

use super::{Id, IdParts, Layout};
use crate::shard::ShardId;
use crate::{Error, Result};

impl Layout {
    /// The least id that a shard can make of a moment: where the rows begin whose ids say that they are of it or later.
    ///
    /// What an id says may be up to 12 milliseconds behind the clock, and after a burst up to a second ahead of it; and a row
    /// is seen when its transaction commits, which may be after rows with greater ids. So who polls for what is new begins a
    /// little further back than he got, by that and by as long as a transaction may take, and leaves out what he has seen.
    ///
    /// # Errors
    ///
    /// As [`Layout::encode`].
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeZone, Utc};
    /// use howdah::{Layout, ShardId};
    ///
    /// let midnight = Utc.with_ymd_and_hms(2021, 11, 26, 0, 0, 0).unwrap();
    /// let since = Layout::default().first_id(ShardId::new(465)?, midnight)?;   // … WHERE id >= $1
    /// assert_eq!(since.to_string(), "2715096948389921792");
    /// # Ok::<(), howdah::Error>(())
    /// ```
    pub fn first_id(&self, shard: ShardId, at: DateTime<Utc>) -> Result<Id> {
        self.encode(IdParts::at(at, shard, 0))
    }

    /// The ids of a shard that say that they were made from one moment to another, both included. How far that is from the
    /// clock, see [`Layout::first_id`]. The ids of other shards in between do not matter where a table holds one shard's alone.
    ///
    /// # Errors
    ///
    /// As [`Layout::encode`]; also when the period is empty.
    pub fn range(
        &self,
        shard: ShardId,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<RangeInclusive<Id>> {
        if from > to {
            return Err(Error::input(format!("the period is empty: {from} is after {to}")));
        }
        Ok(self.first_id(shard, from)?
            ..=self.encode(IdParts::at(to, shard, self.ids_per_ms() - 1))?)
    }

    /// The ids of all shards that say so, both moments included, and no others; see [`Layout::range`].
    ///
    /// # Errors
    ///
    /// As [`Layout::range`].
    pub fn range_all(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<RangeInclusive<Id>> {
        let first = ShardId::from_masked(0);
        let last = ShardId::from_masked(self.max_shards() - 1);
        Ok(*self.range(first, from, to)?.start()..=*self.range(last, from, to)?.end())
    }
}
