//! One instance's connections, shared by all its shards.
//!
//! A FIFO [`gate`] in front lets in as many tasks as there are connections, so nobody is overtaken and the
//! queue has a bound; bb8 behind it keeps, checks and replaces the connections. A connection whose state is
//! in doubt is never lent again. Some of the connections serve as [`pipelines`] for single reads.

mod copy;
mod gate;
mod lent;
mod line;
mod manager;
mod pipelines;
mod session;
mod statements;

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::config::Dsn;
use crate::connect::{Connector, Hosts, Identity};
use crate::error::Kind;
use crate::observe;
use crate::shard::{Home, InstanceName};
use crate::statement::Statement;
use crate::{Error, Result};
use gate::Gate;
use manager::{Failures, Manager};
use pipelines::Pipelines;

pub(crate) use lent::Lent;
pub(crate) use session::Params;

/// The connections to one instance.
#[derive(Debug)]
pub(crate) struct Pool {
    connector: Connector,
    hosts: Arc<Hosts>,
    /// A pool for each host, for when it is a replica; none in these themselves.
    replicas: Box<[OnceLock<Pool>]>,
    gate: Gate,
    connections: bb8::Pool<Manager>,
    pipelines: Pipelines,
    failures: watch::Receiver<Option<Error>>,
    size: u32,
}

impl Pool {
    /// A pool of at most `size` connections. Connects to nothing yet, but for the minimum that is kept warm, in the
    /// background.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn new(connector: Connector, identity: Identity, dsn: Dsn, size: u32) -> Self {
        let hosts = Arc::new(Hosts::new(connector.clone(), identity, dsn));
        let replicas = (0..hosts.count()).map(|_| OnceLock::new()).collect();
        Self { replicas, ..Self::of(connector, hosts, None, size) }
    }

    /// The connections to one replica, made when they are needed.
    pub(crate) fn replica(&self, host: usize) -> &Self {
        self.replicas[host].get_or_init(|| {
            Self::of(self.connector.clone(), self.hosts.clone(), Some(host), self.size)
        })
    }

    fn of(connector: Connector, hosts: Arc<Hosts>, replica: Option<usize>, size: u32) -> Self {
        let settings = connector.settings().pool;
        let count = u32::try_from(hosts.count()).unwrap_or(u32::MAX).min(100);
        // Who reads from no replica keeps no connection there.
        let min_idle = if replica.is_some() { 0 } else { settings.min_idle.min(size) };
        let (failed, failures) = watch::channel(None);
        let manager = Manager::new(connector.clone(), hosts.clone(), replica);
        let connections = bb8::Pool::builder()
            .max_size(size)
            .min_idle(Some(min_idle))
            .max_lifetime(Some(settings.max_lifetime))
            .idle_timeout(Some(settings.idle_timeout))
            // The most recently used connection first: its caches are warm, and the others may go idle.
            .queue_strategy(bb8::QueueStrategy::Lifo)
            // The connector has a timeout of its own; bb8's must never be the one that strikes.
            .connection_timeout(settings.connect_timeout * (count + 2))
            .retry_connection(false)
            .error_sink(Box::new(Failures::new(failed)))
            .build_unchecked(manager);
        let gate = Gate::new(size as usize, settings.queue_length as usize, settings.queue_timeout);
        // A pooler in transaction mode does not keep a session's settings; one connection must be left to lend.
        let count = if settings.prepared { settings.pipelines.min(size - 1) } else { 0 };
        let pipelines = Pipelines::new(count, settings.max_lifetime);
        Self {
            connector,
            hosts,
            replicas: Box::default(),
            gate,
            connections,
            pipelines,
            failures,
            size,
        }
    }

    pub(crate) fn instance(&self) -> &InstanceName {
        &self.hosts.identity().instance
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.hosts.identity()
    }

    /// The most connections that it has.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    pub(crate) fn dsn(&self) -> &Dsn {
        self.hosts.dsn()
    }

    /// Its servers: which is the primary, and how far the replicas are.
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Lends a connection, in the order of asking.
    ///
    /// Dropping the future leaves the queue at once and loses no connection.
    ///
    /// # Errors
    ///
    /// When the queue is full or the wait too long; when a connection is needed and cannot be made, at once and
    /// with the reason. Nothing was executed.
    pub(crate) async fn lend(&self) -> Result<Lent> {
        let asked = Instant::now();
        let lent = self.wait().await;
        observe::checkout(self.instance(), asked.elapsed(), &lent);
        lent
    }

    /// Reads on a connection that others read on too. `None` when that is not possible, or did not succeed: the
    /// statement must then be run on a lent connection, which tells why.
    pub(crate) async fn read(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Option<(Vec<Row>, u64)> {
        let open = async || self.connect(self.gate.try_enter()?).await.ok();
        self.pipelines.read(statement, home, params, open).await
    }

    async fn wait(&self) -> Result<Lent> {
        let mut entering = pin!(self.gate.enter());
        let permit = loop {
            if self.gate.is_full() {
                self.pipelines.give_up_an_idle_one();
            }
            if let Ok(entered) = timeout(pipelines::IDLE, entering.as_mut()).await {
                break entered.map_err(|error| error.at(self.instance()))?;
            }
        };
        self.connect(permit).await
    }

    /// Takes a connection from bb8, or waits for the one that it makes.
    async fn connect(&self, permit: OwnedSemaphorePermit) -> Result<Lent> {
        let at = |error: Error| error.at(self.instance());
        let mut failures = self.failures.clone();
        failures.mark_unchanged();
        let connection = tokio::select! {
            biased;
            connection = self.connections.get_owned() => connection.map_err(|_| {
                at(Error::new(Kind::Timeout, "no connection could be made in time"))
            })?,
            // Whoever waits for a connection that could not be made learns why, instead of waiting on.
            _ = failures.changed() => {
                let failure = failures.borrow().clone();
                return Err(at(failure.unwrap_or_else(|| {
                    Error::new(Kind::Unavailable, "the pool is closed")
                })));
            }
        };
        Ok(Lent::new(connection, permit))
    }
}
