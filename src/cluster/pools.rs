//! One pool for each instance of the map, as it is now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::catalog::Snapshot;
use crate::connect::Connector;
use crate::pool::Pool;
use crate::shard::{InstanceName, MapVersion};
use crate::{Error, Result};

type ByName = BTreeMap<InstanceName, Arc<Pool>>;

#[derive(Debug)]
pub(super) struct Pools {
    connector: Connector,
    by_name: ArcSwap<ByName>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The version of the map that the pools follow.
    followed: Option<MapVersion>,
    /// Sizes that an operator gave while the program runs.
    given: BTreeMap<InstanceName, u32>,
}

impl Pools {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, by_name: ArcSwap::default(), state: Mutex::default() }
    }

    /// Makes connections that are no pool's.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// All pools, by the names of their instances.
    pub(super) fn all(&self) -> Vec<Arc<Pool>> {
        self.by_name.load().values().cloned().collect()
    }

    /// Tells the `metrics` crate how the pools are, every second until dropped.
    #[cfg(feature = "metrics")]
    pub(super) async fn publish(&self) {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            self.all().iter().flat_map(|pool| pool.stats()).for_each(|pool| pool.publish());
        }
    }

    /// Without the feature `metrics` nobody is told.
    #[cfg(not(feature = "metrics"))]
    pub(super) async fn publish(&self) {
        std::future::pending().await
    }

    /// The pool of an instance that the snapshot names.
    pub(super) fn get(&self, name: &InstanceName, snapshot: &Snapshot) -> Result<Arc<Pool>> {
        if let Some(pool) = self.by_name.load().get(name) {
            return Ok(pool.clone());
        }
        self.follow(snapshot)?;
        let pool = self.by_name.load().get(name).cloned();
        pool.ok_or_else(|| Error::input(format!("there is no instance {name}")))
    }

    /// Makes pools for new instances, and lets go of those that are gone or changed; connections that are lent out
    /// there are closed when they come back. The others are given their share of the budget.
    ///
    /// # Errors
    ///
    /// When the budget over all instances leaves some without a connection.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> Result<()> {
        let share = self.share(snapshot.instances.len())?;
        let mut state = self.state();
        if state.followed > Some(snapshot.map.version()) {
            // Somebody held an old map for long.
            return Ok(());
        }
        state.followed = Some(snapshot.map.version());
        state.given.retain(|name, _| snapshot.instances.contains_key(name));
        let size = |state: &State, name| state.given.get(name).copied().unwrap_or(share);
        let total: u64 = snapshot.instances.keys().map(|name| u64::from(size(&state, name))).sum();
        if total > u64::from(self.connector.settings().pool.total_max_size) {
            // What was given when there were fewer instances does not fit any more.
            state.given.clear();
        }
        let known = self.by_name.load();
        let mut next = ByName::new();
        for (name, record) in &snapshot.instances {
            let identity = snapshot.identity(name, record);
            let size = size(&state, name);
            let pool = match known.get(name) {
                Some(pool) if pool.hosts().are(&identity) && *pool.dsn() == record.dsn => {
                    if pool.size() != size {
                        pool.resize(size);
                    }
                    pool.clone()
                }
                _ => {
                    Arc::new(Pool::new(self.connector.clone(), identity, record.dsn.clone(), size))
                }
            };
            next.insert(name.clone(), pool);
        }
        self.by_name.store(Arc::new(next));
        Ok(())
    }

    /// Gives an instance's pool another size than the configuration does.
    ///
    /// # Errors
    ///
    /// When it is none, or leaves the others less than they have.
    pub(super) fn resize(&self, name: &InstanceName, size: u32) -> Result<()> {
        let most = self.connector.settings().pool.total_max_size;
        let mut state = self.state();
        let pools = self.by_name.load();
        let others: u32 =
            pools.iter().filter(|(other, _)| *other != name).map(|(_, pool)| pool.size()).sum();
        let most = most.saturating_sub(others);
        if size == 0 || size > most {
            return Err(Error::input(format!("{size} connections to {name}")).hint(format!(
                "from 1 to {most} are possible, within total_max_size and beside the other instances"
            )));
        }
        if let Some(pool) = pools.get(name) {
            state.given.insert(name.clone(), size);
            pool.resize(size);
        }
        Ok(())
    }

    /// What each of so many instances may have: the budget is shared out evenly, so that no instance's load can starve
    /// another's.
    fn share(&self, count: usize) -> Result<u32> {
        let settings = self.connector.settings().pool;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let share = settings.total_max_size / count.max(1);
        if share == 0 {
            return Err(Error::config(format!(
                "total_max_size is {}, and there are {count} instances",
                settings.total_max_size
            ))
            .hint("allow at least one connection to each"));
        }
        Ok(settings.max_size.min(share))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
