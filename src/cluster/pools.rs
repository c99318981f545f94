//! One pool for each instance of the map, as it is now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    /// The version of the map that the pools follow.
    followed: Mutex<Option<MapVersion>>,
}

impl Pools {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, by_name: ArcSwap::default(), followed: Mutex::default() }
    }

    /// Makes connections that are no pool's.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
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
    /// there are closed when they come back.
    ///
    /// # Errors
    ///
    /// When the budget over all instances leaves some without a connection.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> Result<()> {
        let settings = self.connector.settings().pool;
        // The budget is shared out evenly, so that no instance's load can starve another's.
        let count = u32::try_from(snapshot.instances.len()).unwrap_or(u32::MAX);
        let share = settings.total_max_size / count.max(1);
        if share == 0 {
            return Err(Error::config(format!(
                "total_max_size is {}, and there are {count} instances",
                settings.total_max_size
            ))
            .hint("allow at least one connection to each"));
        }
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if *followed > Some(snapshot.map.version()) {
            // Somebody held an old map for long.
            return Ok(());
        }
        *followed = Some(snapshot.map.version());
        let size = settings.max_size.min(share);
        let known = self.by_name.load();
        let mut next = ByName::new();
        for (name, record) in &snapshot.instances {
            let identity = snapshot.identity(name, record);
            let pool = match known.get(name) {
                Some(pool)
                    if *pool.identity() == identity
                        && *pool.dsn() == record.dsn
                        && pool.size() == size =>
                {
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
}
