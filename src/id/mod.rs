//! 64-bit, time-ordered ids that carry the number of their shard.

mod layout;
mod sql;
mod text;
mod types;

pub use layout::{IdParts, Layout};
pub(crate) use sql::{clock_sql, shard_sql};
pub use types::Id;
