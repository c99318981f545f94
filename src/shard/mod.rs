//! Logical shards: their numbers, the hash that places keys on them, and the map of their homes.
//!
//! Everything here is pure: no I/O, no clock. Lookups are an index into a slice.

mod hash;
mod home;
mod map;
mod number;

pub use hash::ShardKey;
pub use home::{Epoch, Home, InstanceName};
pub use map::{MapVersion, ShardMap};
pub use number::{ShardCount, ShardId};
