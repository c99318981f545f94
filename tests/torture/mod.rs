//! What the fault runs share: the seed of their faults, and whether they take all of them or a few.
//!
//! `HOWDAH_SEED` repeats a run, as far as the machine allows; `HOWDAH_TORTURE`, set to anything, makes it a long one.
//! `make torture` sets both.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::env;
use std::time::SystemTime;

/// Numbers without a pattern, the same ones from the same seed: Marsaglia's xorshift64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From a given seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Small seeds that follow each other would begin alike, and 0 would stay 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From the seed of this run, which a failure shows.
    pub(crate) fn of_this_run() -> Self {
        let given = env::var("HOWDAH_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
        eprintln!("HOWDAH_SEED={seed}");
        Self::new(seed)
    }

    /// The next number below a bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % bound as u64).unwrap()
    }

    /// All of them in a long run; otherwise a few, drawn from parts of equal length.
    pub(crate) fn sample<T: Copy>(&mut self, all: &[T], few: usize) -> Vec<T> {
        if is_long() {
            return all.to_vec();
        }
        all.chunks(all.len().div_ceil(few)).map(|part| part[self.below(part.len())]).collect()
    }
}

/// Whether this run may take as long as it likes.
pub(crate) fn is_long() -> bool {
    env::var_os("HOWDAH_TORTURE").is_some()
}
