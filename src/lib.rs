//! Sit on many PostgreSQL servers as if they were one.

mod config;
mod error;
mod id;
mod schema;
mod shard;
mod statement;

pub use config::{Config, Dsn, SslMode};
pub use error::{Error, Outcome, Result};
pub use id::{Id, IdParts, Layout};
pub use schema::{MigrationVersion, Migrations};
pub use shard::{Epoch, Home, InstanceName, MapVersion, ShardCount, ShardId, ShardKey, ShardMap};
pub use statement::Statement;
