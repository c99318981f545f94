//! Keeps a snapshot up to date: told by NOTIFY, asking now and then in case a notification was missed, and at once
//! on evidence that the map is stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};

use super::{CHANNEL, Catalog, Snapshot, cache};
use crate::connect::Connector;
use crate::error::Kind;
use crate::observe;
use crate::shard::MapVersion;
use crate::{Error, Result};

/// How often the catalog is asked even if nothing was heard of it.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// The pause before the connection that listens is made again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The newest snapshot that this process knows.
#[derive(Debug)]
pub(crate) struct Watch {
    current: ArcSwap<Snapshot>,
    /// Held while the catalog is asked, so that a thousand tasks that find their map stale ask once.
    catalog: Mutex<Asking>,
    connector: Connector,
}

#[derive(Debug)]
struct Asking {
    catalog: Catalog,
    /// When the catalog was last asked, and whether it answered.
    last: Option<(Instant, Result<()>)>,
}

impl Watch {
    /// Loads the map, from the catalog or else from its copy on disk.
    ///
    /// # Errors
    ///
    /// When neither is to be had; the catalog's error is the one reported.
    pub(crate) async fn start(connector: Connector) -> Result<Self> {
        let mut catalog = Catalog::new(connector.clone());
        let copy = connector.settings().map_cache.as_deref();
        let snapshot = match (catalog.load().await, copy) {
            (Ok(snapshot), _) => snapshot,
            (Err(error), Some(path)) if error.is_unavailable() => {
                cache::read(path).map_err(|unusable| error.hint(unusable.to_string()))?
            }
            (Err(error), _) => return Err(error),
        };
        observe::map(snapshot.map.version());
        let watch = Self {
            current: ArcSwap::from_pointee(snapshot),
            catalog: Mutex::new(Asking { catalog, last: None }),
            connector,
        };
        watch.save();
        Ok(watch)
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Asks the catalog, unless somebody has since the version given was seen. Never goes back to an older map.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read, or is that of another cluster; the known map stays.
    pub(crate) async fn refresh(&self, seen: MapVersion) -> Result<Arc<Snapshot>> {
        let came = Instant::now();
        let mut asking = self.catalog.lock().await;
        let known = self.current();
        if known.map.version() > seen {
            return Ok(known);
        }
        // Whoever waited while it was asked has the answer, also if that is an error.
        if let Some((at, answer)) = &asking.last
            && *at >= came
        {
            return answer.clone().map(|()| known);
        }
        let began = Instant::now();
        let loaded = self.load(&mut asking.catalog).await;
        let answer = loaded.and_then(|loaded| self.take(&known, loaded));
        asking.last = Some((began, answer.clone()));
        answer.map(|()| self.current())
    }

    async fn load(&self, catalog: &mut Catalog) -> Result<Snapshot> {
        let limit = self.connector.settings().pool.connect_timeout * 2;
        tokio::time::timeout(limit, catalog.load()).await.unwrap_or_else(|_| {
            let text = format!("the catalog did not answer within {limit:?}");
            Err(Error::new(Kind::Timeout, text))
        })
    }

    /// Makes what was loaded the current map, if it is this cluster's and newer.
    fn take(&self, known: &Snapshot, loaded: Snapshot) -> Result<()> {
        if loaded.cluster != known.cluster {
            return Err(Error::config("the catalog is that of another cluster now")
                .hint(format!("expected {}, found {}", known.cluster, loaded.cluster)));
        }
        if loaded.map.version() < known.map.version() || loaded == *known {
            return Ok(());
        }
        observe::map(loaded.map.version());
        self.current.store(Arc::new(loaded));
        self.save();
        Ok(())
    }

    /// Watches the catalog until dropped. `changed` is called each time that it was asked.
    pub(crate) async fn run(&self, changed: impl Fn(&Snapshot) + Send + Sync) {
        let heard = Notify::new();
        let listening = async {
            loop {
                let catalog = &self.connector.settings().catalog;
                // While the catalog is away nothing changes homes, and everything else goes on.
                let error = self.connector.listen(catalog, CHANNEL, || heard.notify_one()).await;
                observe::catalog_trouble(&error);
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        };
        let following = async {
            loop {
                let _ = tokio::time::timeout(POLL_INTERVAL, heard.notified()).await;
                let before = self.current();
                match self.refresh(before.map.version()).await {
                    Ok(now) => changed(&now),
                    Err(error) => observe::catalog_trouble(&error),
                }
            }
        };
        tokio::join!(listening, following);
    }

    fn save(&self) {
        if let Some(path) = &self.connector.settings().map_cache {
            // The copy is for a bad day; today the application runs without it.
            if let Err(error) = cache::write(path, &self.current()) {
                observe::catalog_trouble(&error);
            }
        }
    }
}
