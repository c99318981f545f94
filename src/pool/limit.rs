//! The time that the server gives each statement of a session: told when it changes, and not with every statement.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// In milliseconds, as PostgreSQL counts them.
#[derive(Debug)]
pub(super) struct Limit {
    /// What the configuration says; nobody gets more.
    most: u32,
    wanted: AtomicU32,
    /// What the server was told last.
    told: AtomicU32,
}

impl Limit {
    pub(super) fn new(most: Duration) -> Self {
        let most = millis(most);
        Self { most, wanted: AtomicU32::new(most), told: AtomicU32::new(most) }
    }

    /// For the statements from now on.
    pub(super) fn want(&self, limit: Duration) {
        self.wanted.store(millis(limit).min(self.most), Relaxed);
    }

    /// For whoever comes next.
    pub(super) fn reset(&self) {
        self.wanted.store(self.most, Relaxed);
    }

    /// Whether the server knows another one.
    pub(super) fn is_changed(&self) -> bool {
        self.wanted.load(Relaxed) != self.told.load(Relaxed)
    }

    /// What the server should be told.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted.load(Relaxed)
    }

    /// The server knows.
    pub(super) fn was_told(&self, limit: u32) {
        self.told.store(limit, Relaxed);
    }

    /// What a transaction has to say for itself alone, where the server knows another one.
    pub(super) fn of_a_transaction(&self) -> Option<u32> {
        self.is_changed().then(|| self.wanted())
    }
}

/// 0 would be no limit to the server.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_told_once_and_never_of_more_than_the_most_or_of_none() {
        let limit = Limit::new(Duration::from_secs(30));
        assert!(!limit.is_changed() && limit.of_a_transaction().is_none());
        limit.want(Duration::from_millis(300));
        assert!(limit.is_changed());
        assert_eq!(limit.of_a_transaction(), Some(300));
        limit.was_told(limit.wanted());
        assert!(!limit.is_changed());
        limit.reset();
        assert_eq!((limit.is_changed(), limit.of_a_transaction()), (true, Some(30_000)));
        assert_eq!(limit.wanted(), 30_000);
        limit.want(Duration::ZERO);
        assert_eq!(limit.wanted(), 1);
    }
}
