//! Moving shards live from one instance to another.

mod step;

pub use step::{MovePhase, MoveStep};
