//! A copy of the map on disk, so that an application starts and runs while the catalog is down.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{InstanceRecord, InstanceState, Snapshot};
use crate::connect::{ClusterId, Generation};
use crate::file;
use crate::id::Layout;
use crate::shard::{InstanceName, MapVersion};
use crate::{Error, Result};

/// The format of the file; a file of another one is refused.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    cluster: ClusterId,
    map_version: i64,
    epoch_ms: i64,
    shard_bits: u8,
    sequence_bits: u8,
    /// Where the catalog is, if that is not where the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<String>,
    /// For each shard in order, the number of its instance in `instances` below, and the epoch.
    homes: Vec<(usize, i32)>,
    instances: Vec<Instance>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    name: String,
    dsn: String,
    state: String,
    generation: i64,
}

/// Writes the copy in one piece: a reader finds the old one or the new one. Waits for the disk.
pub(super) fn write(path: &Path, snapshot: &Snapshot) -> Result<()> {
    let text = toml::to_string(&File::of(snapshot))
        .map_err(|error| Error::system("cannot encode the map").because(error))?;
    file::replace(path, &format!("{}.new", std::process::id()), &text).map(drop)
}

/// Reads the copy.
pub(super) fn read(path: &Path) -> Result<Snapshot> {
    let unusable = || Error::config(format!("the copy of the map {} is unusable", path.display()));
    let text = fs::read_to_string(path).map_err(|error| unusable().because(error))?;
    let file: File = toml::from_str(&text).map_err(|error| unusable().because(error))?;
    if file.format != FORMAT {
        return Err(unusable().because(format!("its format is {}, not {FORMAT}", file.format)));
    }
    file.into_snapshot()
}

impl File {
    fn of(snapshot: &Snapshot) -> Self {
        let names: BTreeMap<_, _> = snapshot.instances.keys().zip(0_usize..).collect();
        let home = |home: &crate::shard::Home| {
            let epoch = i32::try_from(home.epoch().get()).unwrap_or(i32::MAX);
            (names[home.instance()], epoch)
        };
        let instance = |(name, record): (&InstanceName, &InstanceRecord)| Instance {
            name: name.to_string(),
            dsn: record.dsn.to_string(),
            state: record.state.to_string(),
            generation: record.generation.0,
        };
        Self {
            format: FORMAT,
            cluster: snapshot.cluster.clone(),
            map_version: snapshot.map.version().get(),
            epoch_ms: snapshot.layout.epoch_ms(),
            shard_bits: snapshot.layout.shard_bits(),
            sequence_bits: snapshot.layout.sequence_bits(),
            catalog: snapshot.moved_to.as_ref().map(ToString::to_string),
            homes: snapshot.map.homes().map(home).collect(),
            instances: snapshot.instances.iter().map(instance).collect(),
        }
    }

    fn into_snapshot(self) -> Result<Snapshot> {
        let layout = Layout::new(self.epoch_ms, self.shard_bits, self.sequence_bits)?;
        let record = |instance: &Instance| {
            let record = InstanceRecord {
                dsn: instance.dsn.parse()?,
                state: InstanceState::parse(&instance.state)?,
                generation: Generation(instance.generation),
            };
            Ok((InstanceName::new(&instance.name)?, record))
        };
        let records = self.instances.iter().map(record).collect::<Result<_>>()?;
        let name = |number: usize| self.instances.get(number).map_or("", |found| &found.name);
        let homes = self.homes.iter().map(|(number, epoch)| (name(*number), *epoch));
        let version = MapVersion::new(self.map_version);
        let snapshot = Snapshot::assemble(self.cluster.clone(), layout, version, records, homes)?;
        let moved_to = self.catalog.as_deref().map(str::parse).transpose()?;
        Ok(Snapshot { moved_to, ..snapshot })
    }
}
