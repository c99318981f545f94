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

    /// Draws what the clock says if that is greater than all before, else what follows the last; never past
    /// `limit`.
    ///
    /// # Errors
    ///
    /// The number that was due, when it is past the limit; nothing is drawn then.
    #[inline]
    pub(super) fn draw(
        &self,
        clock: u64,
        limit: u64,
        following: impl Fn(u64) -> u64,
    ) -> Result<u64, u64> {
        let mut last = self.0.load(Relaxed);
        loop {
            let due = if clock > last { clock } else { following(last) };
            if due > limit {
                return Err(due);
            }
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
