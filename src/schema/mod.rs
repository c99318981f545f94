//! The shards' schemas: how they are brought from one version to the next.

mod init;
mod migrate;
mod preflight;

pub use init::{Init, InitReport};
pub use migrate::{MigrationVersion, Migrations};
