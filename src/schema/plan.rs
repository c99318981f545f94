//! A cluster as `init` shall make it, and what of it goes into the catalog.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::roles::create_roles;
use crate::Result;
use crate::catalog::{CATALOG_VERSION, CHANNEL};
use crate::config::Dsn;
use crate::connect::{ClusterId, statement_failure};
use crate::id::Layout;
use crate::shard::{Epoch, Home, InstanceName, ShardCount, ShardId};

/// A cluster as it shall be.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) cluster: Option<ClusterId>,
    /// Clients are let in already.
    pub(super) is_ready: bool,
    pub(super) shards: ShardCount,
    pub(super) layout: Layout,
    pub(super) instances: BTreeMap<InstanceName, Dsn>,
    pub(super) homes: Vec<Home>,
}

impl Plan {
    /// Writes the cluster into the catalog, not yet open to clients, and returns its identity.
    pub(super) async fn write(&mut self, catalog: &Client) -> Result<ClusterId> {
        const CLUSTER: &str = "INSERT INTO howdah.cluster (catalog_version, shards, epoch_ms, shard_bits, sequence_bits) \
                               VALUES ($1, $2, $3, $4, $5) RETURNING cluster::text";
        const INSTANCES: &str =
            "INSERT INTO howdah.instance (name, dsn) SELECT * FROM unnest($1::text[], $2::text[])";
        const HOMES: &str =
            "INSERT INTO howdah.home (shard, instance) SELECT * FROM unnest($1::int[], $2::text[])";

        let failed = |error| statement_failure(error, "cannot write the catalog");
        create_roles(catalog).await?;
        catalog.batch_execute("BEGIN").await.map_err(failed)?;
        catalog.batch_execute(include_str!("../../sql/catalog.sql")).await.map_err(failed)?;
        let cluster = match &self.cluster {
            Some(cluster) => {
                const UPGRADE: &str = "UPDATE howdah.cluster SET catalog_version = $1";
                catalog.execute(UPGRADE, &[&CATALOG_VERSION]).await.map_err(failed)?;
                cluster.clone()
            }
            None => {
                let (shards, layout) = (i32::from(self.shards.get()), &self.layout);
                let bits = (i32::from(layout.shard_bits()), i32::from(layout.sequence_bits()));
                let row = catalog
                    .query_one(
                        CLUSTER,
                        &[&CATALOG_VERSION, &shards, &layout.epoch_ms(), &bits.0, &bits.1],
                    )
                    .await
                    .map_err(failed)?;
                let names: Vec<_> = self.instances.keys().map(InstanceName::as_str).collect();
                let dsns: Vec<_> = self.instances.values().map(Dsn::to_string).collect();
                catalog.execute(INSTANCES, &[&names, &dsns]).await.map_err(failed)?;
                let shards: Vec<_> =
                    self.homes.iter().map(|home| i32::from(home.shard().get())).collect();
                let homes: Vec<_> =
                    self.homes.iter().map(|home| home.instance().as_str()).collect();
                catalog.execute(HOMES, &[&shards, &homes]).await.map_err(failed)?;
                ClusterId::new(row.get::<_, String>(0))
            }
        };
        catalog.batch_execute("COMMIT").await.map_err(failed)?;
        self.cluster = Some(cluster.clone());
        Ok(cluster)
    }

    /// Everything is in place: lets clients in.
    pub(super) async fn open(&self, catalog: &Client) -> Result<()> {
        let open =
            format!("UPDATE howdah.cluster SET ready = true WHERE NOT ready; NOTIFY {CHANNEL}");
        let opened = catalog.batch_execute(&open).await;
        opened.map_err(|error| statement_failure(error, "cannot open the cluster"))
    }
}

type Homes = (BTreeMap<InstanceName, Dsn>, Vec<Home>);

pub(super) async fn read_homes(catalog: &Client) -> Result<Homes> {
    let failed = |error| statement_failure(error, "cannot read the catalog");
    let mut instances = BTreeMap::new();
    for row in catalog.query("SELECT name, dsn FROM howdah.instance", &[]).await.map_err(failed)? {
        instances.insert(InstanceName::new(row.get(0))?, row.get::<_, &str>(1).parse()?);
    }
    let homes = "SELECT shard, instance, epoch FROM howdah.home ORDER BY shard";
    let home = |row: &tokio_postgres::Row| {
        let shard = u16::try_from(row.get::<_, i32>(0)).unwrap_or(u16::MAX);
        Ok(Home::new(ShardId::new(shard)?, InstanceName::new(row.get(1))?, Epoch::new(row.get(2))?))
    };
    let homes = catalog.query(homes, &[]).await.map_err(failed)?;
    Ok((instances, homes.iter().map(home).collect::<Result<_>>()?))
}
