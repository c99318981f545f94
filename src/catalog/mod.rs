//! The catalog: the shard map and what belongs to it, in one PostgreSQL database.
//!
//! Clients hold a [`Snapshot`] in memory and [`watch`] for the next one. Nothing here knows of pools: a client
//! needs the catalog to start and to hear of changes, and for nothing else.

mod cache;
mod place;
mod snapshot;
mod watch;

use tokio_postgres::Client;

use crate::config::Dsn;
use crate::connect::{Connector, Role, is_absent, statement_failure};
use crate::error::Kind;
use crate::{Error, Outcome, Result};

pub(crate) use place::{MOST_SIGNPOSTS, Place, Signpost};
pub use snapshot::InstanceState;
pub(crate) use snapshot::{CATALOG_VERSION, InstanceRecord, Snapshot, layout};
pub(crate) use watch::Watch;

/// The channel on which a change of the map is announced.
pub(crate) const CHANNEL: &str = "howdah_map";

/// Access to the catalog, over one connection that is made when it is needed.
#[derive(Debug)]
pub(crate) struct Catalog {
    connector: Connector,
    client: Option<Client>,
    /// Where it was found last.
    found: Option<Dsn>,
    /// Where it was when this process ran before: for want of anything better.
    remembered: Option<Dsn>,
}

impl Catalog {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, client: None, found: None, remembered: None }
    }

    /// One that may have moved to where a copy of the map says, while the configuration's place is out of reach.
    pub(crate) fn remembering(connector: Connector, place: Option<Dsn>) -> Self {
        Self { remembered: place, ..Self::new(connector) }
    }

    /// Reads the whole map.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be reached, is none, is half made, or is of a version that this library does not know.
    pub(crate) async fn load(&mut self) -> Result<Snapshot> {
        // Not kept where it never answers and this future is dropped.
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            match read(&client, false).await {
                Ok(Some(snapshot)) => {
                    self.client = Some(client);
                    return Ok(self.placed(snapshot));
                }
                // It was moved away.
                Ok(None) => {}
                // The connection from last time was dead, and nobody had noticed.
                Err(error) if error.outcome() == Outcome::Unknown => {}
                Err(error) => {
                    self.client = Some(client);
                    return Err(error);
                }
            }
        }
        self.find().await
    }

    /// Looks for the catalog wherever it may be; what is wrong at the first place is told.
    async fn find(&mut self) -> Result<Snapshot> {
        let mut places: Vec<Dsn> = Vec::new();
        let configured = Some(self.connector.settings().catalog.clone());
        for place in [&self.found, &configured, &self.remembered].into_iter().flatten() {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        let mut told = None;
        for place in &places {
            match self.look(place).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => told = told.or(Some(error)),
            }
        }
        Err(told.unwrap_or_else(no_catalog))
    }

    /// Reads the map from where a place leads to.
    async fn look(&mut self, from: &Dsn) -> Result<Snapshot> {
        // Once more where it was moved between two questions.
        for _ in 0..2 {
            let place = Place::find_from(&self.connector, from, Role::App).await?;
            let is_closed = place.closed.is_some();
            if let Some(snapshot) = read(&place.client, is_closed).await? {
                self.found = Some(place.dsn);
                // What is read past a signpost is found anew each time.
                self.client = Some(place.client).filter(|_| !is_closed);
                return Ok(self.placed(snapshot));
            }
        }
        Err(no_catalog())
    }

    /// What was read, with where it was read.
    fn placed(&self, mut snapshot: Snapshot) -> Snapshot {
        let configured = &self.connector.settings().catalog;
        snapshot.moved_to = self.found.clone().filter(|found| found != configured);
        snapshot
    }
}

/// Reads the map; none where it is elsewhere. `despite_signpost`: we were led here by another.
pub(crate) async fn read(client: &Client, despite_signpost: bool) -> Result<Option<Snapshot>> {
    match client.query_opt(include_str!("../../sql/map.sql"), &[]).await {
        Ok(Some(row)) if row.get("has_signpost") && !despite_signpost => Ok(None),
        Ok(Some(row)) => Snapshot::from_row(&row).map(Some),
        Ok(None) => Ok(None),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(statement_failure(error, "cannot read the shard map")),
    }
}

fn no_catalog() -> Error {
    Error::new(Kind::Config, "the catalog's database holds no cluster")
        .hint("check [catalog] dsn, or make a cluster with `howdah init`")
}
