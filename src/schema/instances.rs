//! Instances come and go: added to a cluster that is made, emptied, removed.
//!
//! Each change is one transaction in the catalog, announced to all clients, and made under the lock that `init` takes.
//! What a change needs on the server itself comes before it when something is added, and after it when something is
//! removed: so whatever the catalog names is in place.

use std::sync::Arc;

use tokio_postgres::{Client, Row};

use super::furnish::furnish;
use super::plan::{Plan, read_homes};
use super::preflight::{lock_catalog, problems_of};
use crate::catalog::{CATALOG_VERSION, CHANNEL, MOST_SIGNPOSTS, Signpost, layout};
use crate::config::{Config, Dsn};
use crate::connect::{
    ClusterId, Connector, Generation, Identity, Role, is_absent, sqlstate, statement_failure,
};
use crate::shard::{InstanceName, ShardCount};
use crate::{Error, Result};

/// What keeps an instance that has the catalog.
const CATALOG_THERE: &str = "the catalog is there";

/// What keeps one on which moves have left something.
const LEFT: &str = "schemas are left of moves";

/// An instance to be [added](Instances::add).
///
/// # Examples
///
/// ```no_run
/// use howdah::{Config, InstanceName, Instances, NewInstance};
///
/// # async fn example() -> howdah::Result<()> {
/// let pg3 = NewInstance::new(InstanceName::new("pg3")?, "postgres://howdah_app@db3,db3-standby/app".parse()?);
/// Instances::open(&Config::load()?).await?.add(&pg3).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct NewInstance {
    name: InstanceName,
    dsn: Dsn,
    peer_dsn: Option<Dsn>,
    capacity: Option<f64>,
}

impl NewInstance {
    /// An instance, and how applications reach it.
    #[must_use]
    pub fn new(name: InstanceName, dsn: Dsn) -> Self {
        Self { name, dsn, peer_dsn: None, capacity: None }
    }

    /// How the other servers reach it when shards move. Default: as applications do.
    #[must_use]
    pub fn peer_dsn(mut self, dsn: Dsn) -> Self {
        self.peer_dsn = Some(dsn);
        self
    }

    /// Its share of the load, in proportion to the others'; a positive number. Default: 1.
    #[must_use]
    pub fn capacity(mut self, capacity: f64) -> Self {
        self.capacity = Some(capacity);
        self
    }
}

/// The instances of a cluster, for whoever changes them. Logs in as the configuration's `owner`.
#[derive(Debug)]
pub struct Instances {
    connector: Connector,
    catalog: Client,
    catalog_dsn: Dsn,
    plan: Plan,
    cluster: ClusterId,
}

impl Instances {
    /// Reads what the catalog says, and keeps other changes of the cluster away until dropped.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be reached or holds no cluster of this version;
    /// [refused](Error::is_refused) while another change is being made.
    pub async fn open(config: &Config) -> Result<Self> {
        const CLUSTER: &str = "SELECT cluster::text, catalog_version, ready, shards, epoch_ms, shard_bits, sequence_bits \
                               FROM howdah.cluster";

        let connector = Connector::new(Arc::new(config.settings()?))?;
        let place = lock_catalog(&connector).await?;
        let catalog_dsn = place.dsn.clone();
        let catalog = place.open()?;
        let row = match catalog.query_opt(CLUSTER, &[]).await {
            Ok(row) => row,
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(statement_failure(error, "cannot read the catalog")),
        };
        let row = row.filter(|row| row.get("ready")).ok_or_else(|| {
            Error::config("the catalog's database holds no cluster that is ready")
                .hint("make or finish it with `howdah init`")
        })?;
        let plan = Self::read(&catalog, &row).await?;
        let cluster = ClusterId::new(row.get::<_, String>("cluster"));
        Ok(Self { connector, catalog, catalog_dsn, plan, cluster })
    }

    async fn read(catalog: &Client, row: &Row) -> Result<Plan> {
        let version: i32 = row.get("catalog_version");
        if version != CATALOG_VERSION {
            return Err(Error::refused(format!(
                "the catalog is of version {version}, and this howdah changes {CATALOG_VERSION}"
            ))
            .hint("run `howdah init` of the newer one: it upgrades what is older"));
        }
        let shards = u16::try_from(row.get::<_, i32>("shards")).unwrap_or(u16::MAX);
        let (instances, homes) = read_homes(catalog).await?;
        let cluster = Some(ClusterId::new(row.get::<_, String>("cluster")));
        let (shards, layout) = (ShardCount::new(shards)?, layout(row)?);
        Ok(Plan { cluster, is_ready: true, shards, layout, instances, homes })
    }

    /// Makes a server an instance of the cluster: it may take shards from then on, and has none yet. Again: makes one that
    /// was [draining](Self::drain) take shards again, and changes what was given.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused), with nothing changed and all reasons named: where the database is another instance or
    /// belongs to another cluster, the server is too old, a role is missing, or the instance is known under another
    /// address. Otherwise what went wrong on the way; run it again.
    pub async fn add(&mut self, instance: &NewInstance) -> Result<()> {
        let NewInstance { name, dsn, peer_dsn, capacity } = instance;
        if capacity.is_some_and(|capacity| !capacity.is_finite() || capacity <= 0.0) {
            return Err(Error::input("a capacity is a positive number"));
        }
        if let Some(known) = self.plan.instances.get(name).filter(|known| *known != dsn) {
            return Err(Error::refused(format!(
                "instance {name} is known as {known}, not as {dsn}"
            ))
            .hint("take another name, or the same address"));
        }
        let client =
            self.connector.connect(dsn, Role::Owner).await.map_err(|error| error.at(name))?;
        let problems =
            problems_of(&client, name, &self.plan).await.map_err(|error| error.at(name))?;
        if !problems.is_empty() {
            return Err(Error::refused(format!(
                "nothing was touched: {name} {}",
                problems.join("; ")
            )));
        }
        let first = self.first_generation(name).await?;
        furnish(&client, &self.cluster, name, &self.plan.layout, first).await?;
        let generation = self.greet(name, dsn, first).await?;
        self.enter(name, dsn, peer_dsn.as_ref(), *capacity, generation).await?;
        self.plan.instances.insert(name.clone(), dsn.clone());
        Ok(())
    }

    /// The generation with which an instance begins. Programs may know one of this name that was removed, and believe no
    /// lower one than that had: its removal raised the map's version past that.
    async fn first_generation(&self, name: &InstanceName) -> Result<Generation> {
        const NEXT: &str = "SELECT map_version + 1 FROM howdah.cluster";

        if self.plan.instances.contains_key(name) {
            return Ok(Generation(1));
        }
        let row = self.catalog.query_one(NEXT, &[]).await.map_err(unreadable)?;
        Ok(Generation(row.get(0)))
    }

    /// Whether applications get in: nothing may be entered that they cannot reach. Returns its generation.
    async fn greet(
        &self,
        name: &InstanceName,
        dsn: &Dsn,
        generation: Generation,
    ) -> Result<Generation> {
        let identity = Identity {
            cluster: self.cluster.clone(),
            instance: name.clone(),
            generation,
            layout: self.plan.layout,
        };
        let app = self.connector.connect(dsn, Role::App).await.map_err(|error| error.at(name))?;
        identity.greet(&app, "").await?;
        let found = Identity::read(&app).await.map_err(|error| error.at(name))?;
        Ok(found.map_or(generation, |found| found.generation))
    }

    async fn enter(
        &self,
        name: &InstanceName,
        dsn: &Dsn,
        peer_dsn: Option<&Dsn>,
        capacity: Option<f64>,
        generation: Generation,
    ) -> Result<()> {
        const ENTER: &str = "INSERT INTO howdah.instance (name, dsn, peer_dsn, capacity, generation) \
                             VALUES ($1, $2, $3, coalesce($4::float8, 1), $5) \
                             ON CONFLICT (name) DO UPDATE SET state = 'active', \
                                 peer_dsn = coalesce($3, instance.peer_dsn), capacity = coalesce($4, instance.capacity)";

        let (dsn, peer_dsn) = (dsn.to_string(), peer_dsn.map(Dsn::to_string));
        let params: [&(dyn postgres_types::ToSql + Sync); 5] =
            [&name.as_str(), &dsn, &peer_dsn, &capacity, &generation.0];
        self.change(ENTER, &params).await
    }

    /// Changes how applications reach an instance, whose server is the same and is found at another address now.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or what answers there is [another server](Error::is_wrong_server), or nothing.
    pub async fn readdress(&mut self, name: &InstanceName, dsn: &Dsn) -> Result<()> {
        const LOWEST: &str = "SELECT generation FROM howdah.instance WHERE name = $1";
        const READDRESS: &str = "UPDATE howdah.instance SET dsn = $2 WHERE name = $1";

        if self.known(name)? == dsn {
            return Ok(());
        }
        let row = self.catalog.query_one(LOWEST, &[&name.as_str()]).await.map_err(unreadable)?;
        self.greet(name, dsn, Generation(row.get(0))).await?;
        self.change(READDRESS, &[&name.as_str(), &dsn.to_string()]).await?;
        self.plan.instances.insert(name.clone(), dsn.clone());
        Ok(())
    }

    /// Lets an instance take no more shards; those that are there stay until they are moved.
    ///
    /// # Errors
    ///
    /// When there is none of this name; [refused](Error::is_refused) when no other one takes shards.
    pub async fn drain(&mut self, name: &InstanceName) -> Result<()> {
        const OTHERS: &str =
            "SELECT EXISTS (SELECT FROM howdah.instance WHERE name <> $1 AND state = 'active')";
        const DRAIN: &str = "UPDATE howdah.instance SET state = 'draining' WHERE name = $1";

        self.known(name)?;
        let others = self.catalog.query_one(OTHERS, &[&name.as_str()]).await.map_err(unreadable)?;
        if !others.get::<_, bool>(0) {
            return Err(Error::refused(format!("no instance but {name} takes shards"))
                .hint("add one first: `howdah instance add`"));
        }
        self.change(DRAIN, &[&name.as_str()]).await
    }

    /// Takes an instance out of the cluster. Its server goes on, without anything of howdah's.
    ///
    /// A server that does not answer is only taken off the map. If the catalog was there once, nothing leads from there to
    /// where it is any more.
    ///
    /// # Errors
    ///
    /// When there is none of this name; [refused](Error::is_refused) while a shard lives there, a move has not ended
    /// that touches it, the catalog is there, or this configuration still leads to the catalog by way of it.
    pub async fn remove(&mut self, name: &InstanceName) -> Result<()> {
        // Who enters a move waits for the lock, and looks for its target after it.
        const QUIET: &str = "LOCK TABLE howdah.move IN SHARE MODE";
        // With its generation, for one of the same name that comes later.
        const REMOVE: &str = "WITH removed AS (DELETE FROM howdah.instance WHERE name = $1 AND NOT EXISTS (SELECT FROM howdah.move \
                              WHERE $1 IN (source, target) AND phase NOT IN ('finished', 'rolled_back', 'aborted')) \
                              RETURNING generation) \
                              UPDATE howdah.cluster SET map_version = greatest(map_version, generation) FROM removed";

        let dsn = self.known(name)?.clone();
        // Shards may have been moved since.
        (_, self.plan.homes) = read_homes(&self.catalog).await?;
        let mut problems = self.uses_of(name).await?;
        let client = match self.connector.connect(&dsn, Role::Owner).await {
            Ok(client) => Some(client),
            Err(error) if error.is_unavailable() => None,
            Err(error) => return Err(error.at(name)),
        };
        if let Some(client) = &client {
            problems.extend(self.left_on(client, name).await?);
            if problems.is_empty() {
                self.configuration_leads_elsewhere(name).await?;
            }
        }
        if !problems.is_empty() {
            let next = match client {
                Some(_) if problems == [CATALOG_THERE] => self.move_catalog_from(name),
                Some(_) if problems.iter().all(|problem| problem.starts_with(LEFT)) => {
                    "end their moves (`howdah moves list`); what belongs to none is dropped by hand"
                        .to_owned()
                }
                Some(_) => format!("empty it with `howdah instance drain {name}`"),
                None => format!("it is lost for good? `howdah moves finish MOVE --lost {name}`"),
            };
            return Err(
                Error::refused(format!("{name} is in use: {}", problems.join("; "))).hint(next)
            );
        }
        self.change_after(QUIET, REMOVE, &[&name.as_str()]).await?;
        self.plan.instances.remove(name);
        if let Some(client) = client {
            let dropped = client.batch_execute("DROP SCHEMA IF EXISTS howdah CASCADE").await;
            dropped.map_err(|error| {
                statement_failure(error, "removed, but its schema howdah is still there").at(name)
            })?;
        }
        Ok(())
    }

    /// How the catalog leaves an instance.
    fn move_catalog_from(&self, name: &InstanceName) -> String {
        match self.plan.instances.keys().find(|other| *other != name) {
            Some(other) => format!("move it first: `howdah catalog move --to {other}`"),
            None => "it is the only one: `howdah instance add` another, and move the catalog there"
                .to_owned(),
        }
    }

    /// What the catalog says that needs the instance.
    async fn uses_of(&self, name: &InstanceName) -> Result<Vec<String>> {
        const MOVES: &str = "SELECT 'm' || id FROM howdah.move \
                             WHERE $1 IN (source, target) AND phase NOT IN ('finished', 'rolled_back', 'aborted') \
                             ORDER BY id";

        let mut problems = Vec::new();
        let shards = self.plan.homes.iter().filter(|home| home.instance() == name).count();
        if shards > 0 {
            problems.push(format!("{shards} shards live there"));
        }
        let moves = self.catalog.query(MOVES, &[&name.as_str()]).await.map_err(unreadable)?;
        let moves: Vec<_> = moves.iter().map(|row| row.get::<_, String>(0)).collect();
        if !moves.is_empty() {
            problems.push(format!("moves that have not ended touch it: {}", moves.join(", ")));
        }
        Ok(problems)
    }

    /// What its database has that must not be lost.
    async fn left_on(&self, client: &Client, name: &InstanceName) -> Result<Vec<String>> {
        const SCHEMAS: &str = "SELECT nspname FROM pg_namespace \
                               WHERE nspname ~ '^shard_[0-9]{4,}_e[0-9]+$' ORDER BY 1";
        const CATALOG: &str = "SELECT to_regclass('howdah.cluster') IS NOT NULL \
                               AND to_regclass('howdah.signpost') IS NULL";

        let failed = |error| statement_failure(error, "cannot look at the server").at(name);
        let found = Identity::read(client).await.map_err(|error| error.at(name))?;
        if found.is_some_and(|found| found.cluster != self.cluster || found.instance != *name) {
            return Err(Error::refused(format!(
                "the server that answers as {name} is another one"
            )));
        }
        let mut problems = Vec::new();
        if client.query_one(CATALOG, &[]).await.map_err(failed)?.get(0) {
            problems.push(CATALOG_THERE.to_owned());
        }
        let schemas = client.query(SCHEMAS, &[]).await.map_err(failed)?;
        let schemas: Vec<_> = schemas.iter().map(|row| row.get::<_, String>(0)).collect();
        // What lives there was counted above.
        let here = || self.plan.homes.iter().filter(|home| home.instance() == name);
        let lives = |schema: &String| here().any(|home| home.schema() == *schema);
        let left: Vec<_> = schemas.into_iter().filter(|schema| !lives(schema)).collect();
        if !left.is_empty() {
            problems.push(format!("{LEFT}: {}", left.join(", ")));
        }
        Ok(problems)
    }

    /// Refuses to take away what leads us from the configuration to the catalog: the place that it names, or a signpost
    /// on the way.
    async fn configuration_leads_elsewhere(&self, name: &InstanceName) -> Result<()> {
        let catalog = &self.catalog_dsn;
        let mut place = self.connector.settings().catalog.clone();
        for _ in 0..MOST_SIGNPOSTS {
            if place == *catalog {
                break;
            }
            let client = self.connector.connect(&place, Role::Owner).await?;
            let found = Identity::read(&client).await?;
            if found.is_some_and(|at| at.cluster == self.cluster && at.instance == *name) {
                return Err(Error::refused(format!(
                    "the configuration leads to the catalog by way of {name}, where it was"
                ))
                .hint(format!(
                    "write [catalog] dsn = \"{catalog}\" into this and every other one"
                )));
            }
            let Some(signpost) = Signpost::read(&client).await? else { break };
            place = signpost.dsn;
        }
        Ok(())
    }

    fn known(&self, name: &InstanceName) -> Result<&Dsn> {
        let known = || self.plan.instances.keys().map(InstanceName::as_str).collect::<Vec<_>>();
        self.plan.instances.get(name).ok_or_else(|| {
            Error::input(format!("there is no instance {name}"))
                .hint(format!("this cluster has {}", known().join(", ")))
        })
    }

    /// Makes one change, raises the map's version with it, and tells everybody.
    async fn change(
        &self,
        sql: &str,
        params: &[&(dyn postgres_types::ToSql + Sync)],
    ) -> Result<()> {
        self.change_after("", sql, params).await
    }

    /// The same after a statement that takes a lock.
    async fn change_after(
        &self,
        lock: &str,
        sql: &str,
        params: &[&(dyn postgres_types::ToSql + Sync)],
    ) -> Result<()> {
        let failed = |error: tokio_postgres::Error| {
            if error.code().is_some_and(sqlstate::is_referred_to) {
                return Error::refused("a shard has come to live there just now").because(error);
            }
            statement_failure(error, "cannot change the catalog")
        };
        let raise = format!(
            "UPDATE howdah.cluster SET map_version = map_version + 1; NOTIFY {CHANNEL}; COMMIT"
        );
        let changed = async {
            self.catalog.batch_execute(&format!("BEGIN; {lock}")).await.map_err(failed)?;
            if self.catalog.execute(sql, params).await.map_err(failed)? == 0 {
                return Err(Error::refused("a move has come to touch it just now")
                    .hint("see `howdah moves list`, and run this again"));
            }
            self.catalog.batch_execute(&raise).await.map_err(failed)
        };
        let changed = changed.await;
        if changed.is_err() {
            // The error to tell is the first one.
            let _ = self.catalog.batch_execute("ROLLBACK").await;
        }
        changed
    }
}

fn unreadable(error: tokio_postgres::Error) -> Error {
    statement_failure(error, "cannot read the catalog")
}
