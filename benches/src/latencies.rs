//! How long requests took.

use std::time::Duration;

/// How long each of some requests took.
#[derive(Debug)]
pub struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    /// From the times in any order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sorted.iter().sum()
    }

    /// What so many in a thousand stayed below, in microseconds: 500 is the middle, 1000 the worst.
    #[must_use]
    pub fn us(&self, per_mille: usize) -> f64 {
        let rank = (self.sorted.len() * per_mille / 1000).min(self.sorted.len().saturating_sub(1));
        self.sorted.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}
