//! Ids made in the process, for whoever owns a shard's ids alone.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::ticks::Ticks;
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
// A cache line of its own: neighbours in a slice would slow each other down.
#[repr(align(64))]
pub struct Generator {
    layout: Layout,
    shard: ShardId,
    ticks: Ticks,
}

/// Why a [`Generator`] has no id to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        Self { layout, shard: layout.shard_of(last), ticks: Ticks::after(layout.tick_of(last)) }
    }

    /// The next id, given the time: greater than every one before.
    ///
    /// # Errors
    ///
    /// When the generator is a second ahead of that time, or the layout has ended; no id is lost by it.
    #[inline]
    pub fn next_id(&self, now: SystemTime) -> Result<Id, NoId> {
        let clock = self.layout.tick_at(now);
        let lead = MAX_LEAD_MS << self.layout.sequence_bits();
        let limit = (clock + lead).min(self.layout.last_tick());
        let tick = self.ticks.draw(clock, limit).map_err(|due| self.refusal(due, clock))?;
        Ok(self.layout.id_at(tick, self.shard))
    }

    /// The greatest id made so far, to be kept for [`Generator::resume`]; before the first, the one to start after.
    #[must_use]
    pub fn last(&self) -> Id {
        self.layout.id_at(self.ticks.last(), self.shard)
    }

    /// The shard whose ids it makes.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Why a tick past the limit was refused. Where it lies within the layout, it is more than the greatest lead
    /// past the clock.
    #[cold]
    fn refusal(&self, due: u64, clock: u64) -> NoId {
        if due > self.layout.last_tick() {
            return NoId::Ended;
        }
        let ticks_per_ms = u64::from(self.layout.ids_per_ms());
        let ready_ms = due.div_ceil(ticks_per_ms) - MAX_LEAD_MS;
        NoId::Wait(Duration::from_millis(ready_ms - clock / ticks_per_ms))
    }
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("shard", &self.shard).field("last", &self.last()).finish()
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
