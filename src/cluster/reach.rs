//! How far down a page is looked for first.
//!
//! PostgreSQL reads a leaf of an index to its end: hundreds of keys, for the one or two rows that a shard adds to a page. Told
//! where to stop, it reads no further. Where that is, is guessed from the page before; a guess that is too high costs a
//! second reading, and is never taken for the answer.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// How much further than the last page reached the next one is looked for: rows do not come evenly.
const SLACK: i64 = 2;

/// What the pages of a statement have in common. Only ever a guess, so its parts need not belong together.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The greatest key seen.
    newest: AtomicI64,
    /// From the beginning of a page to where the next is looked for; 0 where nothing is known.
    span: AtomicI64,
}

impl Reach {
    /// The least key to look for on a page that begins below a position; 0 for all.
    pub(super) fn floor(&self, position: i64) -> i64 {
        match self.span.load(Relaxed) {
            0 => 0,
            span => self.beginning(position).saturating_sub(span).max(0),
        }
    }

    /// A page that began below this position was full, from its first key to its last.
    pub(super) fn learn(&self, position: i64, (first, last): (i64, i64)) {
        self.newest.fetch_max(first, Relaxed);
        let span = self.beginning(position).saturating_sub(last).max(1);
        self.span.store(span.saturating_mul(SLACK), Relaxed);
    }

    /// The guess was too high, or there is no page as full.
    pub(super) fn forget(&self) {
        self.span.store(0, Relaxed);
    }

    /// The first page begins above all keys; what it finds begins with the newest.
    fn beginning(&self, position: i64) -> i64 {
        position.min(self.newest.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_looked_for_twice_as_far_as_the_last_one_reached() {
        let reach = Reach::default();
        assert_eq!((reach.floor(i64::MAX), reach.floor(500)), (0, 0));
        reach.learn(i64::MAX, (1000, 951));
        assert_eq!(reach.floor(i64::MAX), 1000 - 2 * 49);
        assert_eq!(reach.floor(951), 951 - 2 * 49);
        assert_eq!(reach.floor(50), 0);
        reach.learn(951, (950, 941));
        assert_eq!(reach.floor(941), 941 - 2 * 10);
        reach.learn(i64::MAX, (2000, 2000));
        assert!(reach.floor(i64::MAX) < 2000, "at least one key is looked for");
        reach.learn(i64::MAX, (i64::MAX, 0));
        assert_eq!(reach.floor(i64::MAX), 0);
        reach.forget();
        assert_eq!(reach.floor(500), 0);
    }
}
