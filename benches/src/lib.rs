//! Shared harness of the benchmarks: interleaved pairs of ours and a peer's, and one JSON file a bench.
//!
//! Machines are noisy and drift. So nothing is measured alone: each figure of ours is taken right beside one of the
//! peer's, in alternating order, and what is reported is the median of the pairs' ratios, with the least and the
//! greatest. A ratio above 1 always means that howdah is ahead.
//!
//! Where it is a matter of hundredths, a full run takes 45 pairs, and shorter ones.
//!
//! `QUICK=1` takes 3 pairs instead of 9 and asks the benches for less work in each. A word on the command line measures
//! the cases alone whose names contain it: `cargo bench -p howdah-benches --bench id -- process`.

mod latencies;
mod machine;
mod report;
mod sample;
mod servers;

pub use latencies::Latencies;
pub use report::{Bench, Unit};
pub use sample::Sample;
pub use servers::{fill, fill_unsharded, servers, servers_with};

/// What a benchmark ends with when something it needs fails.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Whether less is asked for: `QUICK=1`.
#[must_use]
pub fn is_quick() -> bool {
    std::env::var_os("QUICK").is_some_and(|value| value == "1")
}

/// The first number in a full run, the second in a quick one.
#[must_use]
pub fn full_or_quick<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}
