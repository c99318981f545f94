//! The generator's whole shared state: one number that only rises.
//!
//! `AtomicU64` comes from the parent module, so that `tests/id_loom.rs` can put loom's in its place and try every
//! interleaving of this very file.

use super::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The greatest number drawn so far.
///
/// Relaxed ordering is enough: a successful exchange always acts on the latest value of the one number, and
/// nothing else is published through it.
pub(super) struct Greatest(AtomicU64);

impl Greatest {
    /// Continues after a number that was drawn before.
    pub(super) fn after(last: u64) -> Self {
        Self(AtomicU64::new(last))
    }

    /// Draws what comes next by the caller's rule, which is given the last and returns a greater one.
    ///
    /// # Errors
    ///
    /// The rule's; nothing is drawn then.
    #[inline]
    pub(super) fn draw<E>(&self, next: impl Fn(u64) -> Result<u64, E>) -> Result<u64, E> {
        let mut last = self.0.load(Relaxed);
        loop {
            let due = next(last)?;
            match self.0.compare_exchange_weak(last, due, Relaxed, Relaxed) {
                Ok(_) => return Ok(due),
                Err(seen) => last = seen,
            }
        }
    }

    /// The greatest number drawn so far.
    pub(super) fn last(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
