//! What the catalog says of the cluster, and on which instance it is.

use super::site::Site;
use crate::catalog::{CATALOG_VERSION, InstanceRecord, Snapshot, read};
use crate::config::Dsn;
use crate::connect::Identity;
use crate::shard::{InstanceName, MapVersion};
use crate::{Error, Result};

/// What is known while the catalog is locked.
#[derive(Debug)]
pub(super) struct Facts {
    snapshot: Snapshot,
    /// The instance whose database it is; none where it has a database to itself.
    on: Option<InstanceName>,
}

impl Facts {
    /// Reads the catalog in a database, also one that is not open for changes yet.
    ///
    /// # Errors
    ///
    /// When there is none, or one of another version than is written here.
    pub(super) async fn read(site: &Site) -> Result<Self> {
        const VERSION: &str = "SELECT catalog_version FROM howdah.cluster";

        let snapshot = read(&site.client, true).await?.ok_or_else(|| {
            Error::config("the catalog's database holds no cluster")
                .hint("check [catalog] dsn, or make a cluster with `howdah init`")
        })?;
        let version: i32 = site.one(VERSION, &[], "cannot read the catalog").await?.get(0);
        if version != CATALOG_VERSION {
            return Err(Error::refused(format!(
                "the catalog is of version {version}, and this howdah changes {CATALOG_VERSION}"
            ))
            .hint("run `howdah init` of the newer one: it upgrades what is older"));
        }
        let on = Identity::read(&site.client).await?;
        let on = on.filter(|found| found.cluster == snapshot.cluster).map(|found| found.instance);
        Ok(Self { snapshot, on })
    }

    pub(super) fn map_version(&self) -> MapVersion {
        self.snapshot.map.version()
    }

    /// # Errors
    ///
    /// When there is none of this name.
    pub(super) fn instance(&self, name: &InstanceName) -> Result<&InstanceRecord> {
        self.snapshot.instances.get(name).ok_or_else(|| {
            let known: Vec<_> = self.snapshot.instances.keys().map(InstanceName::as_str).collect();
            Error::input(format!("there is no instance {name}"))
                .hint(format!("this cluster has {}", known.join(", ")))
        })
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = (&InstanceName, &InstanceRecord)> {
        self.snapshot.instances.iter()
    }

    pub(super) fn identity(&self, name: &InstanceName, record: &InstanceRecord) -> Identity {
        self.snapshot.identity(name, record)
    }

    pub(super) fn is_on(&self, name: &InstanceName) -> bool {
        self.on.as_ref() == Some(name)
    }

    /// The instance that it is on, and how applications reach it there.
    pub(super) fn place<'a>(&'a self, found_at: &'a Dsn) -> (Option<&'a str>, &'a Dsn) {
        let on = self.on.as_ref().and_then(|name| self.snapshot.instances.get_key_value(name));
        on.map_or((None, found_at), |(name, record)| (Some(name.as_str()), &record.dsn))
    }
}
