//! Ids in advance: blocks from a shard's own clock, for rows that are not written yet.

use std::fmt;
use std::time::{Duration, Instant};

use super::Shard;
use crate::id::Id;
use crate::statement::Statement;
use crate::{Error, Result};

/// The most ids in one block: a second's worth of the default layout.
const MAX_BLOCK: u32 = 1 << 20;

/// How old a block may get by default.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Draws ids, and writes a record of WAL, so that the commit waits until the disk has what the clock has counted: ids
/// that only a client has seen would otherwise be forgotten in a crash.
const RESERVE: Statement = Statement::new(
    "SELECT array_agg(id), pg_logical_emit_message(true, 'howdah', '') IS NULL
     FROM (SELECT {shard}.next_id() AS id FROM generate_series(1, $1)) drawn",
);

/// A block of ids that nobody else will be given, in increasing order; from [`Shard::reserve_ids`].
///
/// Whoever reads the newest rows page by page expects that none appears behind him. So a block has an age at
/// which it gives no more: [`next`](Iterator::next) is `None` then, as at its end, and [`try_next`](ReservedIds::try_next)
/// tells the two apart. An id that was taken, such as one of those that were collected, has no age: use it at once. Ids that
/// were not taken are lost, which hurts nobody.
pub struct ReservedIds {
    ids: std::vec::IntoIter<Id>,
    reserved_at: Instant,
    max_age: Duration,
    /// It had ids left when it grew too old.
    is_stale: bool,
}

impl Shard {
    /// Reserves ids for rows that are not written yet, or are written in several places: one round trip.
    ///
    /// They come from the shard's own clock, as the defaults of its columns do, so they are unique among those. A
    /// block keeps for a minute; see [`ReservedIds::max_age`].
    ///
    /// # Errors
    ///
    /// When more than 1,048,576 are asked for at once, or the database cannot be asked.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(shard: howdah::Shard) -> howdah::Result<()> {
    /// let mut ids = shard.reserve_ids(100).await?;
    /// let first = ids.try_next()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reserve_ids(&self, count: u32) -> Result<ReservedIds> {
        let count = i32::try_from(count).ok().filter(|count| count.unsigned_abs() <= MAX_BLOCK);
        let count =
            count.ok_or_else(|| Error::input(format!("a block has {MAX_BLOCK} ids at most")))?;
        let reserved_at = Instant::now();
        let row = self.query_one(&RESERVE, &[&count]).await?;
        // No ids are SQL's NULL, not an empty array.
        let ids = row.get::<_, Option<Vec<Id>>>(0).unwrap_or_default().into_iter();
        Ok(ReservedIds { ids, reserved_at, max_age: MAX_AGE, is_stale: false })
    }
}

impl ReservedIds {
    /// How long after it was asked for the block may be used. Default: one minute.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// The next id; where there is none, why.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused) when the block has grown too old; [invalid input](Error::is_invalid_input) when all its ids
    /// are taken.
    pub fn try_next(&mut self) -> Result<Id> {
        let next = self.next();
        next.ok_or_else(|| match self.is_stale {
            true => Error::refused(format!("the ids were reserved {:?} ago or more", self.max_age))
                .hint("reserve others, or let them keep for longer (max_age)"),
            false => Error::input("all ids of the block are taken").hint("reserve more"),
        })
    }
}

impl Iterator for ReservedIds {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        if !self.ids.as_slice().is_empty() && self.reserved_at.elapsed() > self.max_age {
            self.ids = Vec::new().into_iter();
            self.is_stale = true;
        }
        self.ids.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Any of them may grow too old.
        (0, Some(self.ids.len()))
    }
}

impl std::iter::FusedIterator for ReservedIds {}

impl fmt::Debug for ReservedIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservedIds")
            .field("left", &self.ids.len())
            .field("age", &self.reserved_at.elapsed())
            .field("max_age", &self.max_age)
            .finish()
    }
}
