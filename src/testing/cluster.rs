//! A howdah cluster on the tests' servers.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::proxy::Proxy;
use super::servers::{TestServers, TestServersBuilder};
use crate::{Cluster, Config, Error, Init, InstanceName, Migrations, Result, ShardCount};

/// Connections of one test's pool to each server: many tests share a server and its 200.
const POOL_SIZE: u32 = 4;

/// Migrations at once on each server: tests run beside each other already.
const PARALLEL: usize = 2;

/// A cluster for one test: real servers, fresh shards, a configuration that reaches them.
///
/// By default two instances, `pg1` with the catalog and `pg2`, with eight shards, on
/// [shared servers](TestServers). Dropped, it deletes what it made.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> howdah::Result<()> {
/// use howdah::testing::TestCluster;
/// use howdah::{Migrations, Statement};
///
/// const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
///
/// let migrations = Migrations::new([(
///     "0001_notes.sql",
///     "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)",
/// )])?;
/// let test = TestCluster::builder().migrations(migrations).start().await?;
/// let cluster = test.cluster().await?;
/// assert_eq!(cluster.shard_for_key("alice").execute(&ADD, &[&"first light"]).await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestCluster {
    servers: TestServers,
    proxies: BTreeMap<String, Proxy>,
    config: Config,
}

/// What cluster a test wants; made by [`TestCluster::builder`].
#[derive(Debug)]
pub struct TestClusterBuilder {
    servers: TestServersBuilder,
    shards: u16,
    migrations: Option<Migrations>,
    proxies: bool,
}

impl TestClusterBuilder {
    /// How many instances, `pg1` on; 2 by default.
    #[must_use]
    pub fn instances(mut self, count: usize) -> Self {
        self.servers = self.servers.servers(count);
        self
    }

    /// How many streaming replicas each instance has; none by default. They make the servers the test's own.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.servers = self.servers.replicas(count);
        self
    }

    /// How many shards; 8 by default. Shard `s` starts on instance number `s mod instances`.
    #[must_use]
    pub fn shards(mut self, count: u16) -> Self {
        self.shards = count;
        self
    }

    /// The major version of PostgreSQL; 18 by default. See [`TestServersBuilder::postgres`].
    #[must_use]
    pub fn postgres(mut self, major: u32) -> Self {
        self.servers = self.servers.postgres(major);
        self
    }

    /// Servers that no other test uses: this one may kill them. By default servers are shared.
    #[must_use]
    pub fn own_servers(mut self) -> Self {
        self.servers = self.servers.own_servers();
        self
    }

    /// Puts a [`Proxy`] before each server, through which applications reach it; none by default. The catalog is reached
    /// without.
    #[must_use]
    pub fn proxies(mut self) -> Self {
        self.proxies = true;
        self
    }

    /// What is applied to every shard; nothing by default.
    #[must_use]
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = Some(migrations);
        self
    }

    /// Starts servers that do not run yet, and makes the cluster. Replicas have all of it when this returns.
    ///
    /// # Errors
    ///
    /// As [`TestServersBuilder::start`], [`Init::run`] and, for the first shard that failed,
    /// [`Migrations::up`].
    pub async fn start(self) -> Result<TestCluster> {
        let servers = self.servers.start().await?;
        let mut init = Init::new(ShardCount::new(self.shards)?);
        let mut proxies = BTreeMap::new();
        let mut catalog = None;
        for name in servers.names() {
            let mut direct = Vec::new();
            let mut ports = Vec::new();
            for server in servers.of_instance(name)? {
                direct.push(server.port());
                ports.push(server.port());
                if self.proxies {
                    let proxy = Proxy::start(server.port()).await?;
                    ports.pop();
                    ports.push(proxy.port());
                    proxies.insert(server.name().to_owned(), proxy);
                }
            }
            catalog.get_or_insert_with(|| dsn(&direct, servers.database()));
            init =
                init.instance(InstanceName::new(name)?, dsn(&ports, servers.database()).parse()?);
        }
        let catalog = catalog.ok_or_else(|| Error::input("a cluster needs an instance"))?;
        let config = Config::new(catalog).max_size(POOL_SIZE).min_idle(0);
        init.run(&config).await?;
        if let Some(migrations) = self.migrations {
            migrations.up(&config, PARALLEL, |_| {}).await?.into_result()?;
        }
        for name in servers.names() {
            servers.replicated(name).await?;
        }
        Ok(TestCluster { servers, proxies, config })
    }
}

/// The address of an instance with several hosts on this machine.
fn dsn(ports: &[u16], database: &str) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("postgres://howdah_app@{}/{database}", hosts.join(","))
}

impl TestCluster {
    /// Two instances, eight shards, nothing in them.
    ///
    /// # Errors
    ///
    /// As [`TestClusterBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Clusters of other kinds.
    #[must_use]
    pub fn builder() -> TestClusterBuilder {
        TestClusterBuilder {
            servers: TestServers::builder(),
            shards: 8,
            migrations: None,
            proxies: false,
        }
    }

    /// How the application reaches the cluster: as `howdah_app`, with a small pool. Change what the test is
    /// about.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A new handle on the cluster, with pools of its own.
    ///
    /// # Errors
    ///
    /// As [`Cluster::connect`].
    pub async fn cluster(&self) -> Result<Cluster> {
        Cluster::connect(self.config()).await
    }

    /// A superuser's connection to an instance's database, around the library.
    ///
    /// # Errors
    ///
    /// When there is no such instance, or it cannot be reached.
    pub async fn admin(&self, instance: &str) -> Result<Client> {
        self.servers.admin(instance).await
    }

    /// Ends a server of the test's [own](TestClusterBuilder::own_servers) with SIGKILL.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name.
    pub async fn kill(&mut self, server: &str) -> Result<()> {
        self.servers.kill(server).await
    }

    /// Starts a server of the test's own again.
    ///
    /// # Errors
    ///
    /// When the servers are shared, there is none of this name, or it does not start.
    pub async fn start_server(&mut self, server: &str) -> Result<()> {
        self.servers.start_server(server).await
    }

    /// Halts all processes of a server of the test's own with SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name that runs.
    pub async fn suspend(&mut self, server: &str) -> Result<()> {
        self.servers.suspend(server).await
    }

    /// Lets a server go on that was suspended.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name that runs.
    pub async fn resume(&mut self, server: &str) -> Result<()> {
        self.servers.resume(server).await
    }

    /// The proxy before a server, where [proxies](TestClusterBuilder::proxies) were asked for.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn proxy(&self, server: &str) -> Result<&Proxy> {
        self.proxies.get(server).ok_or_else(|| {
            Error::input(format!("there is no proxy before {server:?}"))
                .hint("ask for proxies() when the test is built")
        })
    }

    /// Waits until the replicas of a server have replayed what it has written by now. Replication is asynchronous: who kills
    /// the server without this, or promotes a replica, may lose what was written last.
    ///
    /// # Errors
    ///
    /// As [`TestServers::replicated`].
    ///
    /// # Panics
    ///
    /// When a replica does not get there within a minute.
    pub async fn replicated(&self, primary: &str) -> Result<()> {
        self.servers.replicated(primary).await
    }

    /// Makes a replica a primary.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it is a primary already.
    pub async fn promote(&mut self, server: &str) -> Result<()> {
        self.servers.promote(server).await
    }

    /// The servers below: names, addresses, processes.
    #[must_use]
    pub fn servers(&self) -> &TestServers {
        &self.servers
    }
}
