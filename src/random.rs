//! Chance, good enough to keep apart what would otherwise happen at the same moment everywhere.

use std::hash::{BuildHasher as _, RandomState};

/// A number from 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "rounding does not matter to a random number")]
pub(crate) fn fraction() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}
