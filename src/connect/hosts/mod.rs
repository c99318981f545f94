//! The servers of one instance, as this process sees them: which is the primary, and how far the replicas are.
//!
//! Connections go to the primary wherever it is. Of two that say they are, the one that was promoted later counts, and an
//! older one is not accepted again. Where an instance has several hosts, each is looked at once a second; when another
//! primary is found, all connections to the old one are closed, and whoever waits for an answer there waits no longer.

mod history;
mod precision;
mod replicas;
mod sight;
mod watch;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch as channel};
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use super::seek::{Attempt, no_primary, seek};
use super::standing::{Reign, Standing};
use super::{Connector, Generation, Identity, Link, in_time};
use crate::config::Dsn;
use crate::error::Kind;
use crate::observe;
use crate::shard::InstanceName;
use crate::{Error, Result};
use history::History;
use precision::Precision;
use sight::Sight;

/// How long a host that said nothing when it was last looked at is waited for, where another may be the primary.
const SILENT: Duration = Duration::from_secs(1);

/// The servers of one instance. Dropped, it looks at them no more; connections stay.
#[derive(Debug)]
pub(crate) struct Hosts {
    seen: Arc<Seen>,
    watching: OnceLock<Vec<AbortHandle>>,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.watching.get().into_iter().flatten().for_each(AbortHandle::abort);
    }
}

/// What is known of them.
#[derive(Debug)]
struct Seen {
    connector: Connector,
    identity: Identity,
    /// The lowest generation that is accepted; the identity's, until the catalog raised it.
    lowest: AtomicI64,
    dsn: Dsn,
    hosts: Box<[Host]>,
    throne: Mutex<Throne>,
    /// How often each is looked at.
    precision: Precision,
}

#[derive(Debug)]
struct Host {
    target: Dsn,
    sight: channel::Sender<Sight>,
    /// How many wait for it to come further.
    awaited: AtomicUsize,
    wake: Notify,
}

/// Who the primary is.
#[derive(Debug, Default)]
struct Throne {
    reign: Option<Reign>,
    /// The latest of all that a host has claimed, crowned or not.
    heard: Option<Reign>,
    host: Option<usize>,
    /// The connections to it.
    links: Vec<AbortHandle>,
    history: History,
}

impl Hosts {
    /// Connects to nothing yet.
    pub(crate) fn new(connector: Connector, identity: Identity, dsn: Dsn) -> Self {
        let host = |(name, port): (String, u16)| Host {
            // An address of one of its own hosts is an address.
            target: dsn.with_host(&name, port).unwrap_or_else(|_| dsn.clone()),
            sight: channel::Sender::new(Sight::Unseen),
            awaited: AtomicUsize::new(0),
            wake: Notify::new(),
        };
        let seen = Seen {
            hosts: dsn.hosts().map(host).collect(),
            connector,
            lowest: AtomicI64::new(identity.generation.0),
            identity,
            dsn,
            throne: Mutex::default(),
            precision: Precision::default(),
        };
        Self { seen: Arc::new(seen), watching: OnceLock::new() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.seen.hosts.len()
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> &InstanceName {
        &self.seen.identity.instance
    }

    /// Whether they are who they must be from now on, but for a generation that was raised: connections made before have to
    /// [prove](Self::prove) themselves then.
    pub(crate) fn are(&self, identity: &Identity) -> bool {
        let Identity { cluster, instance, generation, layout } = identity;
        let known = &self.seen.identity;
        let same = (cluster, instance, layout) == (&known.cluster, &known.instance, &known.layout);
        same && self.seen.lowest.fetch_max(generation.0, Ordering::AcqRel) <= generation.0
    }

    /// The lowest generation that a server may have.
    pub(crate) fn lowest(&self) -> Generation {
        Generation(self.seen.lowest.load(Ordering::Acquire))
    }

    /// Whether a connection made earlier leads to a server that is who it must be now.
    ///
    /// # Errors
    ///
    /// When it does not, or cannot be asked.
    pub(crate) async fn prove(&self, client: &Client) -> Result<()> {
        self.seen.identity().greet(client, "").await.map(drop)
    }

    /// The address of all.
    pub(crate) fn dsn(&self) -> &Dsn {
        &self.seen.dsn
    }

    /// The address of one.
    pub(crate) fn target(&self, host: usize) -> &Dsn {
        &self.seen.hosts[host].target
    }

    /// Logs in to the primary, and tells the session the greeting.
    ///
    /// # Errors
    ///
    /// When there is none, with what each host had to say. Nothing was executed.
    pub(crate) async fn connect(&self, greeting: &str) -> Result<Link> {
        self.watch();
        let seen = &*self.seen;
        let known = seen.throne().host;
        let favourite = known.unwrap_or(0);
        let attempt = |host| seen.attempt(host, greeting);
        let others = (0..self.count()).filter(|host| *host != favourite).map(attempt);
        // Who begins has to hear everybody: the first host may be a primary that was replaced.
        let found = if known.is_some() {
            seek(Some(attempt(favourite)), others).await
        } else {
            seek(None, std::iter::once(attempt(favourite)).chain(others)).await
        };
        let (host, reign, link) = found.map_err(|failures| no_primary(&seen.dsn, failures))?;
        let driven = link.driven.abort_handle();
        seen.throne().crown(&seen.hosts, host, reign, &seen.identity)?.push(driven);
        Ok(link)
    }

    /// Closes all connections to the primary.
    pub(crate) fn cut(&self) {
        self.seen.throne().links.drain(..).for_each(|link| link.abort());
    }

    /// Looks at all hosts from now on, if there is more than one.
    pub(crate) fn watch(&self) {
        if self.count() > 1 {
            self.watching.get_or_init(|| {
                let watch = |host| tokio::spawn(watch::run(self.seen.clone(), host));
                (0..self.count()).map(|host| watch(host).abort_handle()).collect()
            });
        }
    }
}

impl Seen {
    /// A log-in that ends well at a primary, and at none that was replaced.
    fn attempt<'a>(&'a self, host: usize, greeting: &'a str) -> Attempt<'a, (usize, Reign, Link)> {
        Box::pin(async move {
            let mut limit = self.connect_timeout();
            if matches!(*self.hosts[host].sight.borrow(), Sight::Silent) {
                limit = limit.min(SILENT);
            }
            let (link, standing) = self.greet(host, greeting, limit).await?;
            let reign = standing.of_a_primary(&self.hosts[host].target)?;
            self.throne().admits(reign, &self.hosts[host].target)?;
            Ok((reign, (host, reign, link)))
        })
    }

    /// Logs in to a host and looks whether it is who it should be.
    async fn greet(
        &self,
        host: usize,
        greeting: &str,
        limit: Duration,
    ) -> Result<(Link, Standing)> {
        let target = &self.hosts[host].target;
        let link = self.connector.log_in(target, limit, self.hosts.len() == 1).await?;
        let identity = self.identity();
        let greeted = identity.greet(&link.client, greeting);
        let standing = in_time(target, limit, greeted).await?;
        Ok((link, standing))
    }

    /// Who their servers must be.
    fn identity(&self) -> Identity {
        let generation = Generation(self.lowest.load(Ordering::Acquire));
        Identity { generation, ..self.identity.clone() }
    }

    fn connect_timeout(&self) -> Duration {
        self.connector.settings().pool.connect_timeout
    }

    fn throne(&self) -> MutexGuard<'_, Throne> {
        // Nothing in here panics half-way through a change.
        self.throne.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Throne {
    /// # Errors
    ///
    /// When the primary of this reign was replaced by a promotion.
    fn admits(&self, reign: Reign, target: &Dsn) -> Result<()> {
        match [self.reign, self.heard]
            .into_iter()
            .flatten()
            .find(|known| known.is_later_than(reign))
        {
            Some(known) => {
                let text = format!(
                    "{target} is a primary of timeline {}, and has been replaced by one of timeline {}",
                    reign.timeline, known.timeline
                );
                Err(Error::new(Kind::WrongServer, text)
                    .hint("stop it; if it was restored on purpose, restart this program"))
            }
            None => Ok(()),
        }
    }

    fn hear(&mut self, reign: Reign) {
        if self.heard.is_none_or(|heard| reign.is_later_than(heard)) {
            self.heard = Some(reign);
        }
    }

    /// Takes a host for the primary, and closes all connections to one that it has replaced. Returns those to itself.
    fn crown(
        &mut self,
        hosts: &[Host],
        host: usize,
        reign: Reign,
        identity: &Identity,
    ) -> Result<&mut Vec<AbortHandle>> {
        self.admits(reign, &hosts[host].target)?;
        if self.reign != Some(reign) {
            if self.reign.is_some() {
                observe::primary(&identity.instance, &hosts[host].target);
            }
            self.depose();
            self.reign = Some(reign);
        }
        self.host = Some(host);
        self.links.retain(|link| !link.is_finished());
        Ok(&mut self.links)
    }

    /// Closes all connections to the primary, which is none any more.
    fn depose(&mut self) {
        self.host = None;
        self.links.drain(..).for_each(|link| link.abort());
        self.history.clear();
    }
}
