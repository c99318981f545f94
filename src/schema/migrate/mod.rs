//! Migrations: numbered SQL files that run on every shard, each shard in its own time.

mod scan;
mod set;

pub use set::{MigrationVersion, Migrations};
