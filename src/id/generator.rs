//! Ids made in the process, for whoever owns a shard's ids alone.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::greatest::Greatest;
use super::millisecond::unix_ms;
use super::{Id, IdParts, Layout};
use crate::shard::ShardId;
use crate::{Error, Result};

/// How far a generator runs ahead of the clock before it makes its callers wait.
const MAX_LEAD_MS: u64 = 1000;

/// Makes the ids of one shard in this process, at the price of reading the clock.
///
/// **Only for the one owner of a shard's ids**: a bulk load into a shard that nobody else writes to, a test, a
/// system without a database. Generators know nothing of each other, nor of the database's own `next_id()`: two
/// sources for one shard repeat each other's ids. Everybody else takes `next_id()` as a column's default or
/// reserves a block of ids from the shard.
///
/// It follows the rule of the database's clock: an id is made of the clock's time, or is the one after the last where the
/// clock has not moved on. So ids are unique and strictly increasing whatever the clock does; a burst runs ahead
/// of it, for a second at most. It has no lock, and is shared between threads by reference.
///
/// # Examples
///
/// ```
/// use std::time::SystemTime;
/// use howdah::{Generator, Layout, ShardId};
///
/// let ids = Generator::for_sole_owner(Layout::default(), ShardId::new(42)?)?;
/// let first = ids.next_id(SystemTime::now())?;
/// let second = ids.next_id(SystemTime::now())?;
/// assert!(first < second);
///
/// // After a restart, go on behind the last id that was made: also if the clock was set back meanwhile.
/// let resumed = Generator::resume(Layout::default(), ids.last());
/// assert!(resumed.next_id(SystemTime::now())? > second);
/// # Ok::<(), howdah::Error>(())
/// ```
// Half a cache line: a process may have thousands, and draws from them in turn.
#[repr(align(32))]
pub struct Generator {
    /// The bits of the last id.
    last: Greatest,
    rule: Rule,
}

/// A layout and a shard, worked out for what is done for every id.
struct Rule {
    epoch_ms: u64,
    /// The shard, where it stands in an id.
    shard_in_place: u32,
    sequence_mask: u32,
    /// What stands below the time.
    low_mask: u32,
    low_bits: u8,
    shard: ShardId,
}

/// Why a [`Generator`] has no id to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoId {
    /// It is a second ahead of the clock, after a burst or because the clock was set back: ask again after this
    /// time.
    Wait(Duration),
    /// The last id of the layout was given; see [`Layout::ends_at`].
    Ended,
}

impl Generator {
    /// A generator for a shard that has no ids yet, or none later than now. The caller sees to it that nothing
    /// else makes ids of this shard.
    ///
    /// # Errors
    ///
    /// When the layout has no room for the shard.
    pub fn for_sole_owner(layout: Layout, shard: ShardId) -> Result<Self> {
        let start = IdParts { shard, sequence: 0, unix_ms: layout.epoch_ms() };
        Ok(Self::resume(layout, layout.encode(start)?))
    }

    /// A generator that continues after an id, on its shard.
    #[must_use]
    pub fn resume(layout: Layout, last: Id) -> Self {
        let rule = Rule::new(layout, layout.shard_of(last));
        Self { last: Greatest::after(last.bits()), rule }
    }

    /// The next id, given the time: greater than every one before.
    ///
    /// # Errors
    ///
    /// When the generator is a second ahead of that time, or the layout has ended; no id is lost by it.
    #[inline]
    pub fn next_id(&self, now: SystemTime) -> Result<Id, NoId> {
        let rule = &self.rule;
        let clock_ms = rule.ms_since_epoch(now);
        self.last.draw(|last| rule.next(last, clock_ms)).map(Id::from_masked)
    }

    /// The greatest id made so far, to be kept for [`Generator::resume`]; before the first, the one to start after.
    #[must_use]
    pub fn last(&self) -> Id {
        Id::from_masked(self.last.last())
    }

    /// The shard whose ids it makes.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.rule.shard
    }
}

impl Rule {
    fn new(layout: Layout, shard: ShardId) -> Self {
        let low_bits = layout.shard_bits() + layout.sequence_bits();
        Self {
            epoch_ms: layout.epoch_ms().unsigned_abs(),
            shard_in_place: u32::from(shard.get()) << layout.sequence_bits(),
            sequence_mask: layout.ids_per_ms() - 1,
            low_mask: (1 << low_bits) - 1,
            low_bits,
            shard,
        }
    }

    /// The layout's time: that of its first moment while that has not come, and one past its last when that is over.
    #[inline]
    fn ms_since_epoch(&self, now: SystemTime) -> u64 {
        unix_ms(now).saturating_sub(self.epoch_ms).min(self.end_ms())
    }

    /// How many milliseconds the layout has.
    #[inline]
    fn end_ms(&self) -> u64 {
        1 << (63 - u32::from(self.low_bits))
    }

    /// The first id of the clock's millisecond, or what follows the last where that is of the same or a later one.
    #[inline]
    fn next(&self, last: u64, clock_ms: u64) -> Result<u64, NoId> {
        let due = if clock_ms > last >> self.low_bits {
            clock_ms << self.low_bits | u64::from(self.shard_in_place)
        } else {
            let due = self.following(last);
            // It may be given when all ids before it are a second ahead at most.
            let begun = u64::from(due & u64::from(self.sequence_mask) != 0);
            let ahead = (due >> self.low_bits) + begun - clock_ms;
            if ahead > MAX_LEAD_MS && due <= Id::MAX.bits() {
                return Err(NoId::Wait(Duration::from_millis(ahead - MAX_LEAD_MS)));
            }
            due
        };
        if due > Id::MAX.bits() { Err(NoId::Ended) } else { Ok(due) }
    }

    /// The shard's id after another: where a millisecond's are used up, the first of the next.
    #[inline]
    fn following(&self, id: u64) -> u64 {
        let sequence_mask = u64::from(self.sequence_mask);
        if id & sequence_mask == sequence_mask {
            ((id | u64::from(self.low_mask)) + 1) | u64::from(self.shard_in_place)
        } else {
            id + 1
        }
    }
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator")
            .field("shard", &self.shard())
            .field("last", &self.last())
            .finish()
    }
}

impl fmt::Display for NoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(time) => {
                write!(f, "the ids are a second ahead of the clock; ask again in {time:?}")
            }
            Self::Ended => f.write_str("the layout of the ids has ended"),
        }
    }
}

impl std::error::Error for NoId {}

impl From<NoId> for Error {
    fn from(no_id: NoId) -> Self {
        Self::refused("no id was made").because(no_id)
    }
}
