//! Pipelines: connections that carry many reads at once.
//!
//! A single read needs no connection of its own: its request can follow others on the same connection without waiting
//! for their answers. A few connections so carry what would take many, and a shard that keeps to its own pipeline has
//! its statements prepared once and its tables known to one server process.
//!
//! What makes it safe is that a pipeline only ever answers, or does not: whatever fails here is done again on a connection of
//! its own, which has the last word. So only statements go here that are [provably single
//! reads](Statement::is_single_read), and the server holds the session to that: it is read only. A read that is slow or
//! waits for a lock would hold up others, so it is ended after a short time, and its statement is kept off the pipelines for a
//! while. Reads that travel together [share](crate::connect::Wire::share) a transaction; what a function behind a view sets or
//! locks to the end of its transaction is theirs, too.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use lru::LruCache;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::line::Line;
use super::{Lent, Params};
use crate::connect::sqlstate::{is_skipped, keeps_off_pipelines};
use crate::shard::Home;
use crate::statement::Statement;
use crate::{Error, Result};

/// How long a statement that was too slow is kept off the pipelines.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// How many slow statements are remembered; an application has few.
const SLOW_STATEMENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// From this depth on a read looks for a pipeline that is less deep: past it, company costs more than a cold cache.
const SPILL: usize = 64;
/// A pipeline is no deeper, those included who did not wait for their answers; what is more queues for a connection of its own, under that queue's bound.
pub(super) const MAX_DEPTH: usize = 512;
/// The bytes of parameters under way on a pipeline from which on no read joins them; it is sent on a connection of its own. A
/// server takes in as much in a few milliseconds, and it is eight times what [`get_many`](crate::Cluster::get_many) sends at once.
pub(super) const MAX_BYTES: u64 = 4 << 20;
/// A pipeline that was not used for so long gives up its connection to whoever waits for one.
pub(super) const IDLE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Pipelines {
    slots: Box<[Slot]>,
    /// How many of the slots are used: a pool that was made small has fewer.
    width: AtomicUsize,
    slow: Mutex<LruCache<Statement, Instant>>,
    /// Whether any is: nearly never, and then nobody has to look for it.
    is_any_slow: AtomicBool,
    started: Instant,
}

/// The place of one pipeline, which may have to be opened. Every read writes to it: no two share a cache line, nor the pair of
/// them that is fetched at once.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot {
    line: ArcSwapOption<Line>,
    opening: AtomicBool,
    depth: Arc<AtomicUsize>,
    /// When it was last used, in milliseconds since the pipelines were made.
    used: AtomicU64,
}

impl Pipelines {
    pub(super) fn new(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            width: AtomicUsize::new(count as usize),
            slow: Mutex::new(LruCache::new(SLOW_STATEMENTS)),
            is_any_slow: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// Reads on a pipeline, and says how long it took; `None` when it has to be done on a connection of its own. `open` gives a
    /// connection for a new pipeline if one is free. The time is the caller's, for a look at the clock costs more than all
    /// the rest here.
    pub(super) async fn read(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
        now: Instant,
        open: impl AsyncFnOnce() -> Option<Lent>,
    ) -> Option<((Vec<Row>, u64), Duration)> {
        if self.is_slow(statement) {
            return None;
        }
        let slot = self.slot(home)?;
        let _place = Place::take(slot);
        slot.used.store(self.since_start(now), Ordering::Relaxed);
        let line = match slot.line.load_full().filter(|line| line.is_usable(now)) {
            // Those who wait for their answers hear when it has caught up; where nobody does, another takes its place.
            Some(line) if line.is_behind() => {
                if slot.depth.load(Ordering::Relaxed) > 1 {
                    return None;
                }
                Box::pin(slot.renew(None, open())).await?
            }
            Some(line) if line.is_proven() => line,
            // Boxed because it is rare, and large.
            line => Box::pin(slot.renew(line, open())).await?,
        };
        let mut answer = line.read(statement, home, params).await;
        if is_of(&answer, is_skipped) {
            // Whoever was at fault is done elsewhere now. Boxed because it is rare, and large.
            answer = Box::pin(line.read(statement, home, params)).await;
        }
        if is_of(&answer, keeps_off_pipelines) {
            self.keep_off(statement);
        }
        answer.ok().map(|answer| (answer, line.count(now)))
    }

    /// Closes so many pipelines at most that nobody uses, so that their connections can be lent.
    pub(super) fn give_up_idle_ones(&self, most: usize) {
        let now = self.since_start(Instant::now());
        let width = self.width();
        let is_idle = |(number, slot): &(usize, &Slot)| {
            let unused = now.saturating_sub(slot.used.load(Ordering::Relaxed));
            // One that was being opened as the pipelines became fewer may be there still.
            let is_used = *number < width && Duration::from_millis(unused) <= IDLE;
            slot.depth.load(Ordering::Relaxed) == 0 && !is_used && slot.line.load().is_some()
        };
        let idle = self.slots.iter().enumerate().filter(is_idle);
        idle.take(most).for_each(|(_, slot)| slot.line.store(None));
    }

    /// Closes all; each ends with its last read.
    pub(super) fn give_up(&self) {
        for slot in &self.slots {
            slot.line.store(None);
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.line.load().is_some()).count()
    }

    /// Uses no more than so many from now on; those above end with their last read.
    pub(super) fn narrow(&self, count: usize) {
        let width = count.min(self.slots.len());
        self.width.store(width, Ordering::Relaxed);
        for slot in &self.slots[width..] {
            slot.line.store(None);
        }
    }

    fn width(&self) -> usize {
        self.width.load(Ordering::Relaxed)
    }

    /// The shard's own, or the least deep one where that is deep.
    fn slot(&self, home: &Home) -> Option<&Slot> {
        let used = &self.slots[..self.width()];
        // Shards are dealt out to instances in turn, so those of one have numbers with much in common: mixed first, or half of
        // the pipelines would have none.
        let mixed = home.shard().index().wrapping_mul(0x9e37_79b1) >> 16;
        let own = used.get(mixed % used.len().max(1))?;
        let depth = |slot: &&Slot| slot.depth.load(Ordering::Relaxed);
        if depth(&own) < SPILL {
            return Some(own);
        }
        used.iter().min_by_key(depth).filter(|slot| depth(slot) < MAX_DEPTH)
    }

    fn keep_off(&self, statement: &Statement) {
        let mut slow = self.slow();
        slow.put(statement.clone(), Instant::now());
        self.is_any_slow.store(true, Ordering::Relaxed);
    }

    fn is_slow(&self, statement: &Statement) -> bool {
        if !self.is_any_slow.load(Ordering::Relaxed) {
            return false;
        }
        let mut slow = self.slow();
        let is_slow = slow.peek(statement).map(|since| since.elapsed() < SLOW_FOR);
        if is_slow == Some(false) {
            slow.pop(statement);
            self.is_any_slow.store(!slow.is_empty(), Ordering::Relaxed);
        }
        is_slow == Some(true)
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, LruCache<Statement, Instant>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Slot {
    /// Proves the pipeline, or opens another.
    async fn renew(
        &self,
        line: Option<Arc<Line>>,
        open: impl Future<Output = Option<Lent>>,
    ) -> Option<Arc<Line>> {
        match line {
            Some(line) if line.prove().await => Some(line),
            _ => self.open(open).await,
        }
    }

    /// Opens the pipeline, unless somebody is at it already.
    async fn open(&self, open: impl Future<Output = Option<Lent>>) -> Option<Arc<Line>> {
        let _opening = Opening::begin(&self.opening)?;
        // The old one is closed when its last read is done.
        self.line.store(None);
        let line = Line::open(open.await?, self.depth.clone()).await?;
        self.line.store(Some(line.clone()));
        Some(line)
    }
}

/// Whether a read has failed with a SQLSTATE of these.
fn is_of<T>(answer: &Result<T>, these: impl FnOnce(&SqlState) -> bool) -> bool {
    answer.as_ref().err().and_then(Error::code).is_some_and(these)
}

/// A read that counts to its pipeline's depth for as long as somebody waits for it.
struct Place<'a>(&'a Slot);

impl<'a> Place<'a> {
    fn take(slot: &'a Slot) -> Self {
        slot.depth.fetch_add(1, Ordering::Relaxed);
        Self(slot)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to open a pipeline, which ends however opening it does.
struct Opening<'a>(&'a AtomicBool);

impl<'a> Opening<'a> {
    fn begin(flag: &'a AtomicBool) -> Option<Self> {
        flag.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Self(flag))
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_statement_is_kept_off_and_no_other_is() {
        const SLOW: Statement = Statement::new("SELECT n FROM {shard}.slow");
        const QUICK: Statement = Statement::new("SELECT n FROM {shard}.quick");

        let pipelines = Pipelines::new(1);
        assert!(!pipelines.is_slow(&SLOW));
        pipelines.keep_off(&SLOW);
        assert!(pipelines.is_slow(&SLOW) && !pipelines.is_slow(&QUICK));
        let long_ago = Instant::now().checked_sub(SLOW_FOR).unwrap();
        pipelines.slow().put(SLOW, long_ago);
        assert!(!pipelines.is_slow(&SLOW));
        assert!(!pipelines.is_any_slow.load(Ordering::Relaxed), "the last one was forgotten");
    }
}
