//! What the instances carry, asked of them, and the plan that follows from it.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;

use super::plan::{Aim, Load, Place, RebalanceBy, RebalancePlan, plan};
use crate::catalog::{self, Snapshot};
use crate::cluster::{Cluster, Instance};
use crate::connect::{Role, sqlstate, statement_failure};
use crate::shard::{Home, InstanceName, ShardId};
use crate::{Error, Result};

/// How far from its fair share an instance may be, as a part of it, unless said otherwise.
const TOLERANCE: f64 = 0.1;

/// Plans which shards should live elsewhere, so that every instance carries its share.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Cluster, Rebalance, RebalanceBy};
///
/// # async fn example(cluster: Cluster) -> howdah::Result<()> {
/// let plan = Rebalance::new().by(RebalanceBy::Shards).plan(&cluster).await?;
/// for planned in &plan.moves {
///     println!("shard {} from {} to {}: {} bytes", planned.shard, planned.from, planned.to, planned.bytes);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Rebalance {
    by: RebalanceBy,
    tolerance: f64,
    only: Option<InstanceName>,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self::new()
    }
}

impl Rebalance {
    /// By bytes, with every instance within a tenth of its share.
    #[must_use]
    pub fn new() -> Self {
        Self { by: RebalanceBy::default(), tolerance: TOLERANCE, only: None }
    }

    /// What instances are evened out by. Default: bytes.
    #[must_use]
    pub fn by(mut self, by: RebalanceBy) -> Self {
        self.by = by;
        self
    }

    /// How far from its share an instance may be, as a part of it, from 0 to 1; by shards, no less than makes whole
    /// ones.
    /// Default: 0.1.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Only empties one instance, which is [draining](crate::InstanceState::Draining), and evens out nothing else.
    #[must_use]
    pub fn away_from(mut self, instance: InstanceName) -> Self {
        self.only = Some(instance);
        self
    }

    /// Asks every instance what its shards take, and plans. Changes nothing. Shards that are on the move count where
    /// they are going.
    ///
    /// # Errors
    ///
    /// When the catalog or an instance cannot be asked; by shards, the sizes on an instance that is down count as 0.
    /// [Refused](Error::is_refused) when no instance takes shards.
    pub async fn plan(&self, cluster: &Cluster) -> Result<RebalancePlan> {
        if !(0.0..=1.0).contains(&self.tolerance) {
            return Err(Error::input("a tolerance is a number from 0 to 1"));
        }
        let snapshot = cluster.refresh().await?;
        let (places, moving) = self.catalog(cluster, &snapshot).await?;
        let active = |place: &Place| place.state == crate::InstanceState::Active;
        if !places.iter().any(active) {
            return Err(
                Error::refused("no instance takes shards").hint("add one: `howdah instance add`")
            );
        }
        let instances = cluster.instances();
        let asked = instances.iter().map(|instance| self.ask(instance, &snapshot));
        let mut loads: Vec<Load> = try_join_all(asked).await?.into_iter().flatten().collect();
        for load in &mut loads {
            if let Some((_, target)) = moving.iter().find(|(shard, _)| *shard == load.shard) {
                load.instance = target.clone();
                load.is_moving = true;
            }
        }
        loads.sort_by_key(|load| load.shard);
        let aim = if self.only.is_some() { Aim::DrainOnly } else { Aim::Even };
        let mut plan = plan(&places, &loads, self.by, self.tolerance, aim);
        if let Some(only) = &self.only {
            plan.moves.retain(|planned| planned.from == *only);
        }
        Ok(plan)
    }

    /// The instances with their capacities, and the shards that are on the move with where to.
    async fn catalog(
        &self,
        cluster: &Cluster,
        snapshot: &Snapshot,
    ) -> Result<(Vec<Place>, Vec<(ShardId, InstanceName)>)> {
        const CAPACITIES: &str = "SELECT name, capacity FROM howdah.instance";
        // What is reversible lives at its target already, and `finish` or `rollback` are still to be decided: to even things out
        // is no reason to move it on, which would end its way back. To empty an instance is one.
        const MOVING: &str = "SELECT shard, CASE WHEN back THEN source ELSE target END FROM howdah.move \
                              WHERE phase IN ('preflight', 'copy', 'verify', 'fence') OR phase = 'reversible' AND $1";

        let connector = cluster.connector();
        let catalog = catalog::Place::find(connector, Role::App).await?.client;
        let read =
            async |sql, params: &[&(dyn ToSql + Sync)]| match catalog.query(sql, params).await {
                // A catalog of the version before has neither.
                Err(error) if error.code().is_some_and(sqlstate::is_older_table) => Ok(Vec::new()),
                read => read.map_err(|error| statement_failure(error, "cannot read the catalog")),
            };
        let rows = read(CAPACITIES, &[]).await?;
        let capacity = |name: &str| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
            row.map_or(1.0, |row| row.get(1))
        };
        let place = |(name, record): (&InstanceName, &catalog::InstanceRecord)| Place {
            name: name.clone(),
            state: record.state,
            capacity: capacity(name.as_str()),
        };
        let places = snapshot.instances.iter().map(place).collect();
        let moving = read(MOVING, &[&self.only.is_none()]).await?;
        let moving = moving.iter().map(|row| {
            let shard = u16::try_from(row.get::<_, i32>(0)).unwrap_or(u16::MAX);
            Ok((ShardId::new(shard)?, InstanceName::new(row.get(1))?))
        });
        Ok((places, moving.collect::<Result<_>>()?))
    }

    /// What the shards of an instance take on disk.
    async fn ask(&self, instance: &Instance, snapshot: &Snapshot) -> Result<Vec<Load>> {
        const BYTES: &str =
            "SELECT n.nspname::text, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
            FROM pg_namespace n
            LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm', 'S')
            WHERE n.nspname = ANY ($1::text[])
            GROUP BY 1";

        let homes = snapshot.map.homes().filter(|home| home.instance() == instance.name());
        let homes: Vec<&Home> = homes.collect();
        let schemas: Vec<_> = homes.iter().map(|home| home.schema()).collect();
        let asked = async {
            let client = instance.client().await?;
            let rows = client.query(BYTES, &[&schemas]).await;
            rows.map_err(|error| {
                statement_failure(error, "cannot size the shards").at(instance.name())
            })
        };
        let rows = match asked.await {
            Ok(rows) => rows,
            Err(error) if error.is_unavailable() && self.by == RebalanceBy::Shards => Vec::new(),
            Err(error) => return Err(error),
        };
        let bytes: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let load = |home: &&Home| Load {
            shard: home.shard(),
            instance: home.instance().clone(),
            bytes: bytes.get(&home.schema()).map_or(0, |bytes| u64::try_from(*bytes).unwrap_or(0)),
            is_moving: false,
        };
        Ok(homes.iter().map(load).collect())
    }
}
