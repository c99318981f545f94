//! 64-bit, time-ordered ids that carry the number of their shard.
//!
//! Everything here is pure: the time is an argument, and the database's clock for ids is SQL text that other modules run.
//! How ids are used is told in docs/ids.md.

mod generator;
mod greatest;
mod layout;
mod millisecond;
mod period;
mod sql;
mod text;
mod types;

use std::sync::atomic::AtomicU64;

pub use generator::{Generator, NoId};
pub use layout::{IdParts, Layout};
pub(crate) use sql::{clock_sql, shard_sql};
pub use types::Id;

/// Holds the code of the page on ids to what it says.
#[cfg(doctest)]
#[doc = include_str!("../../docs/ids.md")]
struct Page;
