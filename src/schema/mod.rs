//! The shards' schemas: how they are brought from one version to the next.

mod migrate;

pub use migrate::{MigrationVersion, Migrations};
