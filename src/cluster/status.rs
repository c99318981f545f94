//! What is where, and how it is: the answer to `howdah status`.

use futures_util::future::join_all;
use tokio_postgres::Client;

use super::{Cluster, Instance};
use crate::catalog::InstanceState;
use crate::config::Dsn;
use crate::connect::{Identity, Lsn, Standing, statement_failure};
use crate::error::Kind;
use crate::shard::{InstanceName, MapVersion, ShardCount, ShardId};
use crate::{Error, Result};

/// A cluster at one moment; made by [`Cluster::status`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The cluster's identity, a UUID.
    pub cluster: String,
    /// The version of the shard map.
    pub map_version: MapVersion,
    /// How many shards there are.
    pub shards: ShardCount,
    /// Its instances, by name.
    pub instances: Vec<InstanceStatus>,
    /// Where the catalog is.
    pub catalog: Dsn,
    /// Whether the configuration names another place, from which the catalog has moved: it is out of date.
    pub catalog_moved: bool,
}

/// An instance at one moment.
#[derive(Debug)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Its name.
    pub name: InstanceName,
    /// How applications reach it.
    pub dsn: Dsn,
    /// Whether it takes new shards.
    pub state: InstanceState,
    /// The primary's version of PostgreSQL, such as `18.1`; `None` where no primary answers.
    pub server_version: Option<String>,
    /// The shards that live there, in order.
    pub shards: Vec<ShardId>,
    /// The size on disk of its database; `None` where no primary answers.
    pub bytes: Option<u64>,
    /// Its hosts, in the order of the address.
    pub hosts: Vec<HostStatus>,
}

/// One server of an instance.
#[derive(Debug)]
#[non_exhaustive]
pub struct HostStatus {
    /// Its name or address; the folder of a Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it does there.
    pub role: HostRole,
    /// How many bytes of WAL it has still to replay; 0 for the primary, `None` where it cannot be told.
    pub lag_bytes: Option<u64>,
    /// Why it is not reached.
    pub error: Option<Error>,
}

/// What a server does in its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostRole {
    /// It takes writes.
    Primary,
    /// It follows the primary.
    Replica,
    /// It does not answer, or is not who it should be.
    Unreachable,
}

impl HostRole {
    /// The word that the command-line tool uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a server says of itself.
struct Facts {
    standing: Standing,
    version_number: i32,
    bytes: i64,
}

impl Cluster {
    /// Asks every server of every instance how it is. One that does not answer in time is part of the answer.
    pub async fn status(&self) -> ClusterStatus {
        let snapshot = self.snapshot();
        let instances = self.instances();
        let instances = instances.iter().map(|instance| instance.status());
        let configured = &self.connector().settings().catalog;
        ClusterStatus {
            cluster: snapshot.cluster.to_string(),
            map_version: snapshot.map.version(),
            shards: snapshot.map.count(),
            instances: join_all(instances).await,
            catalog: snapshot.moved_to.as_ref().unwrap_or(configured).clone(),
            catalog_moved: snapshot.moved_to.is_some(),
        }
    }
}

impl Instance {
    async fn status(&self) -> InstanceStatus {
        let snapshot = self.cluster.snapshot();
        let identity = snapshot.instances.get(self.name());
        let identity = identity.map(|record| snapshot.identity(self.name(), record));
        let reached = self.cluster.0.pools.connector().connect_each(self.dsn()).await;
        let facts = reached.into_iter().map(|(host, port, client)| {
            let identity = identity.as_ref();
            async move { (host, port, Facts::ask(client, identity).await) }
        });
        let mut facts = join_all(facts).await;
        // Of two that say that they are the primary, the one that was promoted later is.
        let reigns = facts.iter().filter_map(|(_, _, facts)| facts.as_ref().ok()?.standing.reign());
        let latest = reigns.reduce(|one, other| if other.is_later_than(one) { other } else { one });
        for (_, _, facts) in &mut facts {
            let reign = facts.as_ref().ok().and_then(|facts| facts.standing.reign());
            if latest.zip(reign).is_some_and(|(latest, reign)| latest.is_later_than(reign)) {
                *facts = Err(Error::new(Kind::WrongServer, "a primary that has been replaced")
                    .hint("stop it, and rebuild it as a replica"));
            }
        }
        let primary = facts
            .iter()
            .filter_map(|(_, _, facts)| facts.as_ref().ok())
            .find_map(|facts| Some((facts, facts.standing.flushed()?)));
        let (primary, flushed) = primary.unzip();
        InstanceStatus {
            name: self.name().clone(),
            dsn: self.dsn().clone(),
            state: self.state(),
            server_version: primary.map(Facts::version),
            shards: self.shards(),
            bytes: primary.and_then(|facts| u64::try_from(facts.bytes).ok()),
            hosts: facts
                .iter()
                .map(|(host, port, facts)| HostStatus::new(host, *port, facts, flushed))
                .collect(),
        }
    }
}

impl HostStatus {
    fn new(host: &str, port: u16, facts: &Result<Facts>, flushed: Option<Lsn>) -> Self {
        let (role, lag_bytes, error) = match facts.as_ref().map(|facts| facts.standing) {
            Ok(Standing::Primary { .. }) => (HostRole::Primary, Some(0), None),
            Ok(Standing::Replica { replayed, .. }) => {
                // A replica that was asked after the primary may have come further.
                let lag = flushed.zip(replayed).map(|(flushed, replayed)| flushed.since(replayed));
                (HostRole::Replica, lag, None)
            }
            Err(error) => (HostRole::Unreachable, None, Some(error.clone())),
        };
        Self { host: host.to_owned(), port, role, lag_bytes, error }
    }
}

impl Facts {
    async fn ask(client: Result<Client>, identity: Option<&Identity>) -> Result<Self> {
        const FACTS: &str = "SELECT current_setting('server_version_num')::int,
            pg_database_size(current_database())";

        let client = client?;
        let settings = "SET statement_timeout = '5s'; ";
        let standing = match identity {
            Some(identity) => identity.greet(&client, settings).await?,
            None => Standing::ask(&client).await?,
        };
        let row = client.query_one(FACTS, &[]).await;
        let row = row.map_err(|error| statement_failure(error, "cannot ask the server"))?;
        Ok(Self { standing, version_number: row.get(0), bytes: row.get(1) })
    }

    fn version(&self) -> String {
        format!("{}.{}", self.version_number / 10_000, self.version_number % 10_000)
    }
}
