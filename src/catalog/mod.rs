//! The catalog: the shard map and what belongs to it, in one PostgreSQL database.
//!
//! Clients hold a [`Snapshot`] in memory and [`watch`] for the next one. Nothing here knows of pools: a client
//! needs the catalog to start and to hear of changes, and for nothing else.

mod cache;
mod snapshot;
mod watch;

use tokio_postgres::Client;

use crate::connect::{Connector, Role, is_absent, statement_failure};
use crate::error::Kind;
use crate::{Error, Outcome, Result};

pub use snapshot::InstanceState;
pub(crate) use snapshot::{CATALOG_VERSION, InstanceRecord, Snapshot, layout};
pub(crate) use watch::Watch;

/// The channel on which a change of the map is announced.
pub(crate) const CHANNEL: &str = "howdah_map";

/// Access to the catalog's database, over one connection that is made when it is needed.
#[derive(Debug)]
pub(crate) struct Catalog {
    connector: Connector,
    client: Option<Client>,
}

impl Catalog {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, client: None }
    }

    /// Reads the whole map.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be reached, is none, is half made, or is of a version that this library does not know.
    pub(crate) async fn load(&mut self) -> Result<Snapshot> {
        match self.read().await {
            // The connection from last time was dead, and nobody had noticed.
            Err(error) if error.outcome() == Outcome::Unknown => self.read().await,
            read => read,
        }
    }

    async fn read(&mut self) -> Result<Snapshot> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connector.connect(&self.connector.settings().catalog, Role::App).await?,
        };
        let answer = client.query_opt(include_str!("../../sql/map.sql"), &[]).await;
        // One that never answered is not asked again: this future was dropped then.
        self.client = Some(client);
        match answer {
            Ok(Some(row)) => Snapshot::from_row(&row),
            Ok(None) => Err(no_catalog()),
            Err(error) if is_absent(&error) => Err(no_catalog()),
            Err(error) => Err(statement_failure(error, "cannot read the shard map")),
        }
    }
}

fn no_catalog() -> Error {
    Error::new(Kind::Config, "the catalog's database holds no cluster")
        .hint("check [catalog] dsn, or make a cluster with `howdah init`")
}
