//! `init`: makes a cluster of empty databases, finishes one that is half made, and upgrades one that is older.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::furnish::furnish;
use super::lock::{lock as shard_lock, unlock as shard_unlock};
use super::moving::moving;
use super::plan::{Plan, read_homes};
use super::preflight::{foreign_schema, lock_catalog, problems_of, refuse_foreign_schema};
use crate::catalog::{CATALOG_VERSION, layout};
use crate::config::{Config, Dsn};
use crate::connect::{
    ClusterId, Connector, Generation, Role, is_absent, sqlstate, statement_failure,
};
use crate::error::Kind;
use crate::id::{Layout, shard_sql};
use crate::shard::{Epoch, Home, InstanceName, ShardCount, ShardId};
use crate::{Error, Result};

/// How many shards are made in one transaction: few enough for the server's table of locks.
const SHARDS_AT_ONCE: usize = 32;
/// How often the map is read again for shards that moved before their turn came.
const ROUNDS: usize = 3;

/// What cluster to make, or to finish: `howdah init`.
///
/// Running it again is safe at any time: it finishes what was interrupted, upgrades what is older, and refuses what
/// belongs to another cluster or was decided otherwise, before it touches anything.
///
/// Shard `s` starts on instance number `s mod count`, in the order in which the instances are given. The log-in is the
/// configuration's `owner`.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Config, Init, InstanceName, ShardCount};
///
/// # async fn example() -> howdah::Result<()> {
/// let config = Config::load()?;
/// let report = Init::new(ShardCount::new(64)?)
///     .instance(InstanceName::new("pg1")?, "postgres://howdah_app@db1/app".parse()?)
///     .instance(InstanceName::new("pg2")?, "postgres://howdah_app@db2/app".parse()?)
///     .run(&config)
///     .await?;
/// assert_eq!(report.instances, 2);
/// # Ok(())
/// # }
/// ```
pub struct Init {
    shards: ShardCount,
    layout: Layout,
    instances: Vec<(InstanceName, Dsn)>,
    progress: Box<dyn Fn(usize, usize) + Send + Sync>,
}

/// What [`Init::run`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InitReport {
    /// The cluster's identity, a UUID.
    pub cluster: String,
    /// Whether there was none before.
    pub created: bool,
    /// How many shards the cluster has.
    pub shards: ShardCount,
    /// How many instances it has.
    pub instances: usize,
    /// Shards with an open move, whose schemas were left as they are: the other copy would not be changed with the home. End
    /// these moves, then run it again.
    pub left: Vec<ShardId>,
}

impl Init {
    /// A cluster of so many shards, for good.
    #[must_use]
    pub fn new(shards: ShardCount) -> Self {
        let layout = Layout::default();
        Self { shards, layout, instances: Vec::new(), progress: Box::new(|_, _| {}) }
    }

    /// The layout of its ids, for good. Default: the one that Instagram published.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// One more instance, and how applications reach it.
    #[must_use]
    pub fn instance(mut self, name: InstanceName, dsn: Dsn) -> Self {
        self.instances.push((name, dsn));
        self
    }

    /// Called with how many shards are in place, and how many there will be.
    #[must_use]
    pub fn on_progress(mut self, progress: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Makes the cluster, or finishes it.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused), with nothing changed and all reasons named: where a database belongs to another
    /// cluster or has a schema `howdah` that is not ours, a server is too old, a role is missing, or the cluster was
    /// made with other shards, layout or addresses. Otherwise what went wrong on the way; run it again.
    pub async fn run(&self, config: &Config) -> Result<InitReport> {
        let connector = Connector::new(Arc::new(config.settings()?))?;
        let catalog = lock_catalog(&connector).await?.open()?;
        let mut plan = self.plan(&catalog).await?;
        let created = plan.cluster.is_none();
        let servers = self.preflight(&connector, &plan).await?;
        let cluster = plan.write(&catalog).await?;
        let first = Generation(1);
        let furnish = servers
            .iter()
            .map(|(name, client)| furnish(client, &cluster, name, &plan.layout, first));
        try_join_all(furnish).await?;
        let left = self.put_shards(&catalog, &servers, &plan).await?;
        plan.open(&catalog).await?;
        Ok(InitReport {
            cluster: cluster.to_string(),
            created,
            shards: plan.shards,
            instances: plan.instances.len(),
            left,
        })
    }

    /// The cluster that the catalog describes already, if what is asked for agrees with it; else the one asked for.
    async fn plan(&self, catalog: &Client) -> Result<Plan> {
        const CLUSTER: &str = "SELECT cluster::text, catalog_version, ready, shards, epoch_ms, shard_bits, \
                               sequence_bits FROM howdah.cluster";

        let row = match catalog.query_opt(CLUSTER, &[]).await {
            Ok(row) => row,
            Err(error) if is_absent(&error) => {
                refuse_foreign_schema(catalog).await?;
                None
            }
            Err(error) if error.code().is_some_and(sqlstate::is_forbidden) => {
                return Err(foreign_schema());
            }
            Err(error) => return Err(statement_failure(error, "cannot read the catalog")),
        };
        let Some(row) = row else { return self.new_plan() };
        let version: i32 = row.get("catalog_version");
        if version > CATALOG_VERSION {
            return Err(Error::refused(format!("the catalog is of the newer version {version}"))
                .hint("upgrade this howdah"));
        }
        let (shards, layout) = (row.get::<_, i32>("shards"), layout(&row)?);
        if shards != i32::from(self.shards.get()) || layout != self.layout {
            return Err(Error::refused(format!(
                "the catalog holds a cluster of {shards} shards with {layout:?}; both are fixed"
            ))
            .hint("give the same numbers again, or another catalog"));
        }
        let (instances, homes) = read_homes(catalog).await?;
        for (name, dsn) in &self.instances {
            match instances.get(name) {
                Some(known) if known == dsn => {}
                Some(known) => {
                    return Err(Error::refused(format!(
                        "instance {name} is known as {known}, not as {dsn}"
                    )));
                }
                None => {
                    return Err(Error::refused(format!("the cluster has no instance {name}"))
                        .hint("add it with `howdah instance add`"));
                }
            }
        }
        let cluster = Some(ClusterId::new(row.get::<_, String>("cluster")));
        let is_ready = row.get("ready");
        Ok(Plan { cluster, is_ready, shards: self.shards, layout, instances, homes })
    }

    fn new_plan(&self) -> Result<Plan> {
        let instances: BTreeMap<_, _> = self.instances.iter().cloned().collect();
        if instances.is_empty() {
            return Err(
                Error::input("a cluster needs an instance").hint("give --instance NAME=URL")
            );
        }
        if instances.len() < self.instances.len() {
            return Err(Error::input("two instances have the same name"));
        }
        if u64::from(self.shards.get()) > 1 << self.layout.shard_bits() {
            return Err(Error::input(format!(
                "{} shards do not fit the {} bits that the layout has for them",
                self.shards,
                self.layout.shard_bits()
            )));
        }
        let home = |shard: ShardId| {
            let (name, _) = &self.instances[usize::from(shard.get()) % self.instances.len()];
            Home::new(shard, name.clone(), Epoch::FIRST)
        };
        let homes = self.shards.iter().map(home).collect();
        let (shards, layout) = (self.shards, self.layout);
        Ok(Plan { cluster: None, is_ready: false, shards, layout, instances, homes })
    }

    /// Logs in everywhere and looks for everything that stands in the way, before anything is touched. The sessions hold
    /// their databases' locks.
    async fn preflight(
        &self,
        connector: &Connector,
        plan: &Plan,
    ) -> Result<Vec<(InstanceName, Client)>> {
        let mut servers = Vec::new();
        let mut problems = Vec::new();
        for (name, dsn) in &plan.instances {
            let client =
                connector.connect(dsn, Role::Owner).await.map_err(|error| error.at(name))?;
            let found = problems_of(&client, name, plan).await.map_err(|error| error.at(name))?;
            problems.extend(found.into_iter().map(|problem| format!("{name} {problem}")));
            servers.push((name.clone(), client));
        }
        if problems.is_empty() {
            Ok(servers)
        } else {
            Err(Error::refused(format!("nothing was touched: {}", problems.join("; "))))
        }
    }

    /// Puts every shard where it lives. Shards may move meanwhile: those that were not met are looked for again. Returns those
    /// that were left as they are.
    async fn put_shards(
        &self,
        catalog: &Client,
        servers: &[(InstanceName, Client)],
        plan: &Plan,
    ) -> Result<Vec<ShardId>> {
        let done = AtomicUsize::new(0);
        let mut due = plan.homes.clone();
        let mut left = Vec::new();
        for round in 1..=ROUNDS {
            let fill = servers.iter().map(|(name, client)| {
                let here = due.iter().filter(|home| home.instance() == name).collect();
                self.fill(client, name, here, plan, &done)
            });
            let Unchanged { missed, moving } =
                try_join_all(fill).await?.into_iter().fold(Unchanged::default(), Unchanged::and);
            left.extend(moving);
            if missed.is_empty() {
                break;
            }
            if round == ROUNDS {
                return Err(not_met(&missed));
            }
            (_, due) = read_homes(catalog).await?;
            due.retain(|home| missed.contains(&home.shard()));
        }
        left.sort_unstable();
        Ok(left)
    }

    /// Puts shards into an instance; all of them may be there already. Returns those that were not changed.
    async fn fill(
        &self,
        client: &Client,
        name: &InstanceName,
        homes: Vec<&Home>,
        plan: &Plan,
        done: &AtomicUsize,
    ) -> Result<Unchanged> {
        let failed = |error| statement_failure(error, "cannot set up the instance").at(name);
        let mut unchanged = Unchanged::default();
        for homes in homes.chunks(SHARDS_AT_ONCE) {
            let before = unchanged.missed.len();
            if plan.is_ready {
                let upgraded = upgrade(client, &plan.layout, homes).await;
                unchanged = unchanged.and(upgraded.map_err(|error| error.at(name))?);
            } else {
                // Several commands in one message are one transaction.
                let sql: String = homes.iter().map(|home| shard_sql(&plan.layout, home)).collect();
                client.batch_execute(&sql).await.map_err(failed)?;
            }
            let put = homes.len() - (unchanged.missed.len() - before);
            let before = done.fetch_add(put, Ordering::Relaxed);
            (self.progress)(before + put, plan.homes.len());
        }
        Ok(unchanged)
    }
}

/// The shards that an upgrade left as they were.
#[derive(Default)]
struct Unchanged {
    /// They are not where the catalog said.
    missed: Vec<ShardId>,
    /// They have an open move, and a copy that would stay what it was.
    moving: Vec<ShardId>,
}

impl Unchanged {
    fn and(mut self, others: Self) -> Self {
        self.missed.extend(others.missed);
        self.moving.extend(others.moving);
        self
    }
}

/// Brings the schemas of shards up to date, in a cluster that is in use: a shard that has moved away since the catalog
/// was read must not get an empty schema under its old name, which is what keeps old maps from being obeyed.
async fn upgrade(client: &Client, layout: &Layout, homes: &[&Home]) -> Result<Unchanged> {
    const THERE: &str = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1::text[])";

    let failed = |error| statement_failure(error, "cannot bring the shards up to date");
    for home in homes {
        shard_lock(client, home.shard()).await?;
    }
    let names: Vec<_> = homes.iter().map(|home| home.schema()).collect();
    let there = client.query(THERE, &[&names]).await.map_err(failed)?;
    let is_there = |home: &&Home| there.iter().any(|row| row.get::<_, &str>(0) == home.schema());
    let (met, missed): (Vec<&Home>, Vec<&Home>) = homes.iter().copied().partition(is_there);
    let moving = moving(client, &met).await?;
    let at_rest = met.iter().filter(|home| !moving.contains(home));
    let sql: String = at_rest.map(|home| shard_sql(layout, home)).collect();
    client.batch_execute(&sql).await.map_err(failed)?;
    for home in homes {
        shard_unlock(client, home.shard()).await?;
    }
    let shards = |homes: Vec<&Home>| homes.into_iter().map(Home::shard).collect();
    Ok(Unchanged { missed: shards(missed), moving: shards(moving) })
}

fn not_met(shards: &[ShardId]) -> Error {
    let shards: Vec<_> = shards.iter().map(ToString::to_string).collect();
    let text = format!("shards were not where the catalog says: {}", shards.join(", "));
    Error::new(Kind::StaleHome, text)
        .hint("they are being moved: see `howdah moves list`, and run it again after that")
}

impl fmt::Debug for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Init")
            .field("shards", &self.shards)
            .field("layout", &self.layout)
            .field("instances", &self.instances)
            .finish_non_exhaustive()
    }
}
