//! The shards' schemas: how they are made, how they are brought from one version to the next, and the lock that keeps
//! changes to one shard apart.

mod catalog_move;
mod furnish;
mod init;
mod instances;
pub(crate) mod lock;
mod migrate;
mod moving;
mod plan;
mod preflight;
mod roles;

pub use catalog_move::{CatalogMove, CatalogMoveStep, CatalogMoved};
pub use init::{Init, InitReport};
pub use instances::{Instances, NewInstance};
pub use migrate::{
    MigrationProgress, MigrationReport, MigrationVersion, Migrations, ShardMigration,
};
