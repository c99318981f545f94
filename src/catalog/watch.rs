//! Keeps a snapshot up to date: told by NOTIFY, asking now and then in case a notification was missed, and at once
//! on evidence that the map is stale.
//!
//! However many tasks find their map stale, the catalog is asked by one at a time, and whoever waited meanwhile shares
//! the answer; asked in vain, it is asked less and less often. What is known is never taken back: see
//! [`Snapshot::updated_by`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{CHANNEL, Catalog, Snapshot, cache};
use crate::connect::Connector;
use crate::error::Kind;
use crate::observe;
use crate::shard::Home;
use crate::{Error, Result};

/// How often the catalog is asked even if nothing was heard of it.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// The pause before the connection that listens is made again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The pause before the catalog is asked again when it knew nothing new; doubled up to the maximum. The shard of whoever
/// waits is being moved: the fence of a move takes some ten milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// A server that cannot be reached is weak evidence, and may be that for hours: it makes the catalog be asked no more
/// often than this, and nobody waits longer for the answer.
const GLANCE_INTERVAL: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(250);

/// The newest snapshot that this process knows.
#[derive(Debug)]
pub(crate) struct Watch {
    current: ArcSwap<Snapshot>,
    /// Held while the catalog is asked, and while that has to wait.
    asking: Mutex<Asking>,
    /// The catalog is elsewhere than it was.
    moved: Notify,
    connector: Connector,
}

#[derive(Debug)]
struct Asking {
    catalog: Catalog,
    last: Option<Asked>,
    /// How long nobody asks after the last time.
    pause: Duration,
}

/// When the catalog was last asked, and whether it answered.
#[derive(Debug)]
struct Asked {
    began: Instant,
    ended: Instant,
    answer: Result<()>,
}

impl Watch {
    /// Loads the map, from the catalog or else from its copy on disk.
    ///
    /// # Errors
    ///
    /// When neither is to be had; the catalog's error is the one reported.
    pub(crate) async fn start(connector: Connector) -> Result<Self> {
        let copy = connector.settings().map_cache.as_deref().map(cache::read);
        let remembered = copy.as_ref().and_then(|copy| copy.as_ref().ok()?.moved_to.clone());
        let mut catalog = Catalog::remembering(connector.clone(), remembered);
        let snapshot = match (load(&mut catalog, &connector).await, copy) {
            // The catalog may have been restored from a backup that is older than the copy.
            (Ok(loaded), Some(Ok(copy))) if copy.cluster == loaded.cluster => take(&copy, loaded)?,
            (Ok(loaded), _) => loaded,
            (Err(error), Some(copy)) if error.is_unavailable() => {
                copy.map_err(|unusable| error.hint(unusable.to_string()))?
            }
            (Err(error), _) => return Err(error),
        };
        observe::map(snapshot.map.version());
        snapshot.moved_to.as_ref().inspect(|place| observe::catalog_moved(place));
        let watch = Self {
            current: ArcSwap::from_pointee(snapshot),
            asking: Mutex::new(Asking { catalog, last: None, pause: Duration::ZERO }),
            moved: Notify::new(),
            connector,
        };
        watch.save().await;
        Ok(watch)
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Looks at it without keeping it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(&self.current.load())
    }

    /// Asks the catalog, unless somebody has since: a shard was not at the home given. The answer may still have it there,
    /// and may take a while then.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read, or is that of another cluster; the known map stays.
    pub(crate) async fn refresh(&self, gone: &Home) -> Result<Arc<Snapshot>> {
        let came = Instant::now();
        let mut asking = self.asking.lock().await;
        let known = self.current();
        if known.map.home(gone.shard())? != gone {
            return Ok(known);
        }
        // Whoever waited while it was asked has the answer, also if that is an error.
        if let Some(last) = &asking.last
            && last.began >= came
        {
            return last.answer.clone().map(|()| known);
        }
        self.wait(&mut asking).await;
        self.ask(&mut asking).await
    }

    /// Asks the catalog, whatever is known.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh).
    pub(crate) async fn newest(&self) -> Result<Arc<Snapshot>> {
        self.ask(&mut *self.asking.lock().await).await
    }

    /// What the catalog says after a server could not be reached, if it is known quickly and was not asked just now.
    pub(crate) async fn glance(&self) -> Arc<Snapshot> {
        if let Ok(mut asking) = self.asking.try_lock()
            && asking.last.as_ref().is_none_or(|last| last.ended.elapsed() > GLANCE_INTERVAL)
        {
            match timeout(GLANCE, self.ask(&mut asking)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => observe::catalog_trouble(&error),
                Err(_) => asking.was_asked(Instant::now(), Err(silent(GLANCE)), false),
            }
        }
        self.current()
    }

    /// Waits until the catalog may be asked again. Whoever comes meanwhile shares the answer.
    async fn wait(&self, asking: &mut Asking) {
        let Some(last) = &asking.last else { return };
        let since = last.ended.elapsed();
        if since > 10 * MAX_PAUSE {
            asking.pause = Duration::ZERO;
        }
        sleep(asking.pause.saturating_sub(since)).await;
    }

    async fn ask(&self, asking: &mut Asking) -> Result<Arc<Snapshot>> {
        let (began, known) = (Instant::now(), self.current());
        let loaded = load(&mut asking.catalog, &self.connector).await;
        let answer = match loaded.and_then(|loaded| take(&known, loaded)) {
            Ok(newest) if newest != *known => {
                observe::map(newest.map.version());
                let is_moved = newest.moved_to != known.moved_to;
                newest
                    .moved_to
                    .as_ref()
                    .filter(|_| is_moved)
                    .inspect(|to| observe::catalog_moved(to));
                self.current.store(Arc::new(newest));
                if is_moved {
                    self.moved.notify_one();
                }
                self.save().await;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        asking.was_asked(began, answer.clone().map(|_| ()), answer.as_ref().is_ok_and(|new| *new));
        answer.map(|_| self.current())
    }

    /// Watches the catalog until dropped. `changed` is called each time that it was asked.
    pub(crate) async fn run(&self, changed: impl Fn(&Snapshot) + Send + Sync) {
        let heard = Notify::new();
        let listening = async {
            loop {
                let now = self.current();
                let catalog = now.moved_to.as_ref().unwrap_or(&self.connector.settings().catalog);
                tokio::select! {
                    // While the catalog is away nothing changes homes, and everything else goes on.
                    error = self.connector.listen(catalog, CHANNEL, || heard.notify_one()) => {
                        observe::catalog_trouble(&error);
                        sleep(RECONNECT_DELAY).await;
                    }
                    () = self.moved.notified() => {}
                }
            }
        };
        let following = async {
            loop {
                let _ = timeout(POLL_INTERVAL, heard.notified()).await;
                let asked = self.ask(&mut *self.asking.lock().await).await;
                match asked {
                    Ok(now) => changed(&now),
                    Err(error) => observe::catalog_trouble(&error),
                }
            }
        };
        tokio::join!(listening, following);
    }

    /// Writes the copy on disk, if there is to be one.
    async fn save(&self) {
        let Some(path) = self.connector.settings().map_cache.clone() else { return };
        let snapshot = self.current();
        let written = spawn_blocking(move || cache::write(&path, &snapshot)).await;
        // The copy is for a bad day; today the application runs without it.
        if let Ok(Err(error)) = written {
            observe::catalog_trouble(&error);
        }
    }
}

impl Asking {
    fn was_asked(&mut self, began: Instant, answer: Result<()>, is_new: bool) {
        self.last = Some(Asked { began, ended: Instant::now(), answer });
        let longer = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.pause = if is_new { Duration::ZERO } else { longer };
    }
}

async fn load(catalog: &mut Catalog, connector: &Connector) -> Result<Snapshot> {
    let limit = connector.settings().pool.connect_timeout * 2;
    timeout(limit, catalog.load()).await.unwrap_or_else(|_| Err(silent(limit)))
}

fn silent(limit: Duration) -> Error {
    Error::new(Kind::Timeout, format!("the catalog did not answer within {limit:?}"))
}

/// What is known after the catalog was read, if it is this cluster's.
fn take(known: &Snapshot, loaded: Snapshot) -> Result<Snapshot> {
    if loaded.cluster != known.cluster {
        return Err(Error::config("the catalog is that of another cluster now")
            .hint(format!("expected {}, found {}", known.cluster, loaded.cluster)));
    }
    let (was, is) = (known.map.version(), loaded.map.version());
    let newest = known.updated_by(loaded)?;
    if is < was {
        observe::catalog_trouble(
            &Error::config(format!(
                "the catalog was set back: its map is of version {is}, after {was}"
            ))
            .hint("see \"A catalog that was restored\" in the operations guide"),
        );
    }
    Ok(newest)
}
