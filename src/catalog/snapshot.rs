//! The catalog as it was at one moment.

use std::collections::BTreeMap;
use std::fmt;

use tokio_postgres::Row;

use crate::config::Dsn;
use crate::connect::{ClusterId, Generation, Identity};
use crate::id::Layout;
use crate::shard::{Epoch, Home, InstanceName, MapVersion, ShardId, ShardMap};
use crate::{Error, Result};

/// The version of the catalog's tables that this library writes. 2 added the journal of moves.
pub(crate) const CATALOG_VERSION: i32 = 2;
/// The oldest version that it can read the map of.
const OLDEST_CATALOG: i32 = 1;

/// Everything that a client needs to know of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) cluster: ClusterId,
    pub(crate) layout: Layout,
    pub(crate) map: ShardMap,
    pub(crate) instances: BTreeMap<InstanceName, InstanceRecord>,
    /// Where it was read, if that is not where the configuration says.
    pub(crate) moved_to: Option<Dsn>,
}

/// What the catalog says of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceRecord {
    pub(crate) dsn: Dsn,
    pub(crate) state: InstanceState,
    pub(crate) generation: Generation,
}

/// Whether an instance takes new shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceState {
    /// It may.
    Active,
    /// Its shards are being moved away.
    Draining,
}

impl InstanceState {
    /// The word that the catalog and the command-line tool use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        match text {
            "active" => Ok(Self::Active),
            "draining" => Ok(Self::Draining),
            _ => Err(Error::config(format!("the catalog has an instance in state {text:?}"))
                .hint("a newer version of howdah may have written it: upgrade this one")),
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Snapshot {
    /// From the one row of sql/map.sql.
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        let version: i32 = row.get("catalog_version");
        if !(OLDEST_CATALOG..=CATALOG_VERSION).contains(&version) {
            return Err(Error::config(format!(
                "the catalog is of version {version}, and this howdah knows {OLDEST_CATALOG} to {CATALOG_VERSION}"
            ))
            .hint(if version < OLDEST_CATALOG {
                "run `howdah init` again: it upgrades what is older"
            } else {
                "upgrade this howdah"
            }));
        }
        if !row.get::<_, bool>("ready") {
            return Err(Error::config("the cluster is half made")
                .hint("run `howdah init` again: it finishes what was begun"));
        }
        let layout = layout(row)?;
        let mut instances = BTreeMap::new();
        let names = row.get::<_, Option<Vec<&str>>>("names").unwrap_or_default();
        let dsns = row.get::<_, Option<Vec<&str>>>("dsns").unwrap_or_default();
        let states = row.get::<_, Option<Vec<&str>>>("states").unwrap_or_default();
        let generations = row.get::<_, Option<Vec<i64>>>("generations").unwrap_or_default();
        for (((name, dsn), state), generation) in
            names.into_iter().zip(dsns).zip(states).zip(generations)
        {
            let record = InstanceRecord {
                dsn: dsn.parse()?,
                state: InstanceState::parse(state)?,
                generation: Generation(generation),
            };
            instances.insert(InstanceName::new(name)?, record);
        }
        let homes = row.get::<_, Option<Vec<&str>>>("instances").unwrap_or_default();
        let epochs = row.get::<_, Option<Vec<i32>>>("epochs").unwrap_or_default();
        let homes = homes.into_iter().zip(epochs);
        let version = MapVersion::new(row.get("map_version"));
        let cluster = ClusterId::new(row.get::<_, String>("cluster"));
        Self::assemble(cluster, layout, version, instances, homes)
    }

    /// Puts the parts together; homes come in the order of their shards.
    pub(super) fn assemble<'a>(
        cluster: ClusterId,
        layout: Layout,
        version: MapVersion,
        instances: BTreeMap<InstanceName, InstanceRecord>,
        homes: impl Iterator<Item = (&'a str, i32)>,
    ) -> Result<Self> {
        let home = |(number, (name, epoch)): (u16, (&str, i32))| {
            let shard = ShardId::new(number)?;
            let (instance, _) = instances.get_key_value(name).ok_or_else(|| {
                Error::config(format!("shard {shard} lives on {name:?}, which is no instance"))
            })?;
            Ok(Home::new(shard, instance.clone(), Epoch::new(epoch)?))
        };
        let homes = (0..).zip(homes).map(home).collect::<Result<_>>()?;
        let map = ShardMap::new(version, homes)?;
        Ok(Self { cluster, layout, map, instances, moved_to: None })
    }

    /// What is known once `loaded` was read after `self`: a catalog that has gone on, or that was set back, by a restored
    /// backup or a failover that lost its last commits. Of every shard the home with the later epoch counts, of every
    /// instance the higher generation: neither ever falls, whatever the version of the map says.
    ///
    /// # Errors
    ///
    /// When the two have different numbers of shards.
    pub(super) fn updated_by(&self, loaded: Self) -> Result<Self> {
        let mut instances = loaded.instances;
        for (name, known) in &self.instances {
            if let Some(record) = instances.get_mut(name) {
                record.generation = record.generation.max(known.generation);
            }
        }
        let homes = loaded.map.homes().map(|home| {
            let known = self.map.home(home.shard())?;
            if known.epoch() <= home.epoch() {
                return Ok(home.clone());
            }
            if let Some((name, record)) = self.instances.get_key_value(known.instance()) {
                instances.entry(name.clone()).or_insert_with(|| record.clone());
            }
            Ok(known.clone())
        });
        let homes = homes.collect::<Result<Vec<_>>>()?;
        let version = self.map.version().max(loaded.map.version());
        let map = ShardMap::new(version, homes)?;
        let Self { cluster, layout, moved_to, .. } = loaded;
        Ok(Self { cluster, layout, map, instances, moved_to })
    }

    /// Who the server of an instance must be.
    pub(crate) fn identity(&self, name: &InstanceName, record: &InstanceRecord) -> Identity {
        Identity {
            cluster: self.cluster.clone(),
            instance: name.clone(),
            generation: record.generation,
            layout: self.layout,
        }
    }
}

/// The layout, from a row of howdah.cluster.
pub(crate) fn layout(row: &Row) -> Result<Layout> {
    let bits = |column| u8::try_from(row.get::<_, i32>(column)).unwrap_or(u8::MAX);
    Layout::new(row.get("epoch_ms"), bits("shard_bits"), bits("sequence_bits"))
}
