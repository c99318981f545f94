//! 64-bit, time-ordered ids that carry the number of their shard.

mod layout;
mod text;
mod types;

pub use layout::{IdParts, Layout};
pub use types::Id;
