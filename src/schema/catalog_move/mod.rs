//! Moves the catalog to another instance's database, while applications read it.
//!
//! One commit decides: the one that closes the old place, by a signpost that leads to the new one. Before it the copy is
//! nothing, since the signpost in it leads back; after it the old place takes no change for good, and the only way is
//! forward. The new place takes changes when its own signpost is gone, and that goes only when every configured host of the
//! old place has the closing: a failover there that loses it finds a catalog that nobody has gone on without. And
//! the closing is sent only when every configured host of the new place has the copy, told by this attempt's mark.
//!
//! A run that died is finished or undone by the next one, which looks at the two signposts: none at the old place, the copy
//! is made anew; one with the mark of the copy's, the copy is opened.

mod copy;
mod facts;
mod hosts;
mod site;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::preflight::lock_catalog;
use crate::catalog::{InstanceState, Place, Signpost};
use crate::config::{Config, Dsn};
use crate::connect::{Connector, Role};
use crate::shard::{InstanceName, MapVersion};
use crate::{Error, Result};
use facts::Facts;
use hosts::Fact;
use site::{Site, Turn};

/// How long the hosts of the new place may take to get the copy. The catalog takes no changes meanwhile.
const COPY_PATIENCE: Duration = Duration::from_secs(10);
/// How long those of the old place may take to learn that it was closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

/// Moves the catalog to another instance: `howdah catalog move`.
///
/// Applications go on, and follow; moves of shards that are under way wait a moment, and follow too. A program whose
/// configuration names the old place is led on from there, as long as that server is: so write the new address into every
/// configuration.
///
/// Running it again is safe at any time: interrupted, it finishes what was decided, or begins anew. It logs in as
/// the configuration's `owner`.
///
/// # Examples
///
/// ```no_run
/// use howdah::{CatalogMove, Config, InstanceName};
///
/// # async fn example() -> howdah::Result<()> {
/// let moved = CatalogMove::new(InstanceName::new("pg2")?).run(&Config::load()?).await?;
/// println!("write into every configuration: dsn = \"{}\"", moved.dsn);
/// # Ok(())
/// # }
/// ```
pub struct CatalogMove {
    to: InstanceName,
    observer: Box<dyn Fn(CatalogMoveStep) + Send + Sync>,
}

/// What [`CatalogMove::run`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogMoved {
    /// The instance that has the catalog.
    pub instance: InstanceName,
    /// What the configuration of every program should say, as `dsn` in `[catalog]`.
    pub dsn: Dsn,
    /// Whether it was elsewhere before.
    pub moved: bool,
    /// Whether the configuration that was used says so already.
    pub configured: bool,
    /// The version of the shard map.
    pub map_version: MapVersion,
}

/// The steps of a move of the catalog, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CatalogMoveStep {
    /// Looks whether each configured host of both places is there and follows: it will have to be told.
    CheckHosts,
    /// Keeps others from changing the catalog; who tries waits.
    Fence,
    /// Makes the copy, and compares it.
    Copy,
    /// Waits until each configured host of the new place has the copy.
    AwaitCopy,
    /// Commits the signpost at the old place. *Before*: the catalog is there. *After*: it is at the new place.
    Close,
    /// Waits until each configured host of the old place has the signpost.
    AwaitClosed,
    /// Lets the new place take changes.
    Open,
    /// Turns the signposts of earlier moves to the new place, where they can be reached.
    Redirect,
}

impl CatalogMoveStep {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CheckHosts,
        Self::Fence,
        Self::Copy,
        Self::AwaitCopy,
        Self::Close,
        Self::AwaitClosed,
        Self::Open,
        Self::Redirect,
    ];
}

impl CatalogMove {
    /// To an instance's database.
    #[must_use]
    pub fn new(to: InstanceName) -> Self {
        Self { to, observer: Box::new(|_| {}) }
    }

    /// Called before each step. Default: nobody is told.
    #[must_use]
    pub fn on_step(mut self, observer: impl Fn(CatalogMoveStep) + Send + Sync + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Moves it, or finishes what was begun. Where it is there already, that is well.
    ///
    /// # Errors
    ///
    /// When the cluster has no such instance, or a server cannot be reached; [refused](Error::is_refused) while
    /// another change of the cluster is being made, or where the instance is draining. Run it again.
    pub async fn run(&self, config: &Config) -> Result<CatalogMoved> {
        let connector = Connector::new(Arc::new(config.settings()?))?;
        let Place { dsn, client, closed } = lock_catalog(&connector).await?;
        let here = Site::prepared(client, dsn).await?;
        let facts = Facts::read(&here).await?;
        match closed {
            None => self.begin(&connector, here, facts).await,
            Some(copy) => self.take_up(&connector, here, facts, &copy).await,
        }
    }

    /// From where the catalog is.
    async fn begin(&self, connector: &Connector, from: Site, facts: Facts) -> Result<CatalogMoved> {
        const MARK: &str = "SELECT gen_random_uuid()::text";

        let target = facts.instance(&self.to)?;
        if facts.is_on(&self.to) {
            let version = facts.map_version();
            let turn = Turn::Later { to: &target.dsn, version };
            self.redirect(connector, &facts, &target.dsn, turn).await;
            return Ok(self.report(connector, target.dsn.clone(), version, false));
        }
        if target.state != InstanceState::Active {
            return Err(Error::refused(format!("{} is {}", self.to, target.state)).hint(format!(
                "`howdah instance add {} --dsn {}` takes that back",
                self.to, target.dsn
            )));
        }
        let at_target = |error: Error| error.at(&self.to);
        let client = connector.connect(&target.dsn, Role::Owner).await.map_err(at_target)?;
        facts.identity(&self.to, target).greet(&client, "").await?;
        let to = Site::lock(client, target.dsn.clone()).await.map_err(at_target)?;
        to.refuse_catalog().await.map_err(at_target)?;

        self.begins(CatalogMoveStep::CheckHosts);
        follows(connector, &from, facts.place(&from.dsn).1).await?;
        follows(connector, &to, &to.dsn).await.map_err(at_target)?;
        self.begins(CatalogMoveStep::Fence);
        from.fence().await?;
        self.begins(CatalogMoveStep::Copy);
        // Others may have changed it until just now.
        let facts = Facts::read(&from).await?;
        let mark: String = from.one(MARK, &[], "cannot name the copy").await?.get(0);
        let (instance, dsn) = facts.place(&from.dsn);
        let back =
            Signpost { dsn: dsn.clone(), map_version: facts.map_version(), mark: mark.clone() };
        copy::copy(&from, &to, instance, &back).await.map_err(at_target)?;
        self.begins(CatalogMoveStep::AwaitCopy);
        hosts::all(connector, &to.dsn, Fact::HasSignpost { mark: &mark }, COPY_PATIENCE)
            .await
            .map_err(at_target)?;
        let onward = Signpost {
            dsn: to.dsn.clone(),
            map_version: MapVersion::new(facts.map_version().get() + 1),
            mark,
        };
        self.begins(CatalogMoveStep::Close);
        from.close(self.to.as_str(), &onward).await?;
        self.conclude(connector, &facts, (dsn, &to), &onward).await
    }

    /// From where a run that died has left it: closed there, not open here.
    async fn take_up(
        &self,
        connector: &Connector,
        to: Site,
        facts: Facts,
        copy: &Signpost,
    ) -> Result<CatalogMoved> {
        if !facts.is_on(&self.to) {
            let there = facts.place(&to.dsn).0.unwrap_or("another database").to_owned();
            return Err(Error::refused(format!("the catalog is being moved to {there}"))
                .hint(format!("finish that: `howdah catalog move --to {there}`")));
        }
        let client = connector.connect(&copy.dsn, Role::Owner).await?;
        let from = Site::lock(client, copy.dsn.clone()).await?;
        let onward = Signpost::read(&from.client).await?;
        let onward = onward.filter(|onward| onward.mark == copy.mark).ok_or_else(|| {
            Error::refused(format!("{} does not lead to the copy any more", copy.dsn))
                .hint("another run was at it: run this again")
        })?;
        self.conclude(connector, &facts, (&copy.dsn, &to), &onward).await
    }

    /// What follows from the closing of the old place. Sessions that hold the locks of both live on in our caller.
    async fn conclude(
        &self,
        connector: &Connector,
        facts: &Facts,
        (from, to): (&Dsn, &Site),
        onward: &Signpost,
    ) -> Result<CatalogMoved> {
        let again = |error: Error| {
            error.hint(format!(
                "the catalog takes no changes until `howdah catalog move --to {}` was run again",
                self.to
            ))
        };
        self.begins(CatalogMoveStep::AwaitClosed);
        hosts::all(connector, from, Fact::HasSignpost { mark: &onward.mark }, CLOSE_PATIENCE)
            .await
            .map_err(again)?;
        self.begins(CatalogMoveStep::Open);
        to.open().await.map_err(again)?;
        self.redirect(connector, facts, from, Turn::With(onward)).await;
        Ok(self.report(connector, to.dsn.clone(), onward.map_version, true))
    }

    /// Turns the signposts of earlier moves to where the catalog is now. Who cannot be reached leads there by way of where it
    /// was, and is turned when this is run again.
    async fn redirect(&self, connector: &Connector, facts: &Facts, from: &Dsn, turn: Turn<'_>) {
        self.begins(CatalogMoveStep::Redirect);
        let others =
            facts.instances().filter(|(name, record)| **name != self.to && record.dsn != *from);
        join_all(others.map(|(name, record)| async {
            let client = connector.connect(&record.dsn, Role::Owner).await?;
            facts.identity(name, record).greet(&client, "").await?;
            let site = Site::prepared(client, record.dsn.clone()).await?;
            site.redirect(self.to.as_str(), turn).await
        }))
        .await;
    }

    fn report(
        &self,
        connector: &Connector,
        dsn: Dsn,
        map_version: MapVersion,
        moved: bool,
    ) -> CatalogMoved {
        let configured = connector.settings().catalog == dsn;
        CatalogMoved { instance: self.to.clone(), dsn, moved, configured, map_version }
    }

    fn begins(&self, step: CatalogMoveStep) {
        (self.observer)(step);
    }
}

async fn follows(connector: &Connector, site: &Site, dsn: &Dsn) -> Result<()> {
    // A record of our own, which its commit has written to disk: what others wrote last may stay where no replica gets it
    // from, in part or in whole, until somebody commits.
    const MARK: &str = "SELECT pg_logical_emit_message(true, 'howdah', '')::text";

    let at: String = site.one(MARK, &[], "cannot mark a position").await?.get(0);
    hosts::all(connector, dsn, Fact::Follows { at: &at }, COPY_PATIENCE).await
}

impl fmt::Debug for CatalogMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogMove").field("to", &self.to).finish_non_exhaustive()
    }
}
