//! Where one instance's connections come from: how they are made, checked and judged, for bb8 to keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::berth::Berth;
use super::breaker::Breaker;
use super::session::Session;
use super::slots::Slots;
use super::stats::Counters;
use crate::Result;
use crate::connect::{Connector, Hosts, Link};
use crate::error::Phase;
use crate::observe;
use crate::shard::InstanceName;

/// The time that a check of a connection may take before it counts as dead.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Source {
    connector: Connector,
    hosts: Arc<Hosts>,
    /// The one replica to which it connects; none for the primary, whichever that is.
    replica: Option<usize>,
    /// How many are kept that nobody uses.
    min_idle: u32,
    /// What a new session is told before anything else; numbers alone.
    greeting: String,
    pub(super) breaker: Breaker,
    pub(super) counters: Arc<Counters>,
    /// A slot for each connection that is open, or being made, or closing: no pool has more, but where one takes too long to
    /// close.
    budget: Arc<Slots>,
    /// Connections of an older era are not lent again.
    era: AtomicU64,
    /// Open connections that may still be lent to somebody.
    lendable: AtomicUsize,
    /// Where tasks are started also by whoever drops a connection outside of a runtime.
    runtime: Handle,
    closed: watch::Sender<bool>,
}

impl Source {
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(super) fn new(
        connector: Connector,
        hosts: Arc<Hosts>,
        replica: Option<usize>,
        size: u32,
    ) -> Arc<Self> {
        let pool = connector.settings().pool;
        // Behind a pooler in transaction mode, a setting would stay with a server that is somebody else's next.
        let greeting = match pool.prepared {
            true => format!(
                "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {};",
                pool.statement_timeout.as_millis(),
                pool.idle_in_transaction_timeout.as_millis()
            ),
            false => String::new(),
        };
        Arc::new(Self {
            connector,
            hosts,
            replica,
            // Who reads from no replica keeps no connection there.
            min_idle: if replica.is_some() { 0 } else { pool.min_idle.min(size) },
            greeting,
            breaker: Breaker::new(),
            counters: Arc::default(),
            budget: Slots::new(size as usize),
            era: AtomicU64::new(0),
            lendable: AtomicUsize::new(0),
            runtime: Handle::current(),
            closed: watch::Sender::new(false),
        })
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    pub(super) fn instance(&self) -> &InstanceName {
        self.hosts.instance()
    }

    /// The host and port of the replica to which it connects; none where that is the primary.
    pub(super) fn replica(&self) -> Option<String> {
        let (host, port) = self.hosts.target(self.replica?).hosts().next()?;
        Some(format!("{host}:{port}"))
    }

    pub(super) fn min_idle(&self) -> u32 {
        self.min_idle
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How many connections there are, those that are being made included, and not those that are closing.
    pub(super) fn open(&self) -> usize {
        self.budget.taken().saturating_sub(self.budget.closing())
    }

    pub(super) fn resize(&self, size: u32) {
        self.budget.resize(size as usize);
    }

    /// Whether there are more than there may be.
    pub(super) fn has_too_many(&self) -> bool {
        self.budget.is_exceeded()
    }

    /// Lends none of the connections again that there are now.
    pub(super) fn turn_over(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes no more connections.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Whether somebody who waits for a connection may get one that is there already.
    pub(super) fn may_lend(&self) -> bool {
        self.lendable.load(Ordering::Acquire) > 0
    }

    /// A connection is not lent again.
    pub(super) fn lose_one(&self) {
        if self.lendable.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.breaker.remind();
        }
    }

    /// Gives up one connection where there are more than are used at a time, and than are kept beyond that.
    pub(super) fn spare_one(&self, used: usize) -> bool {
        let enough = used + self.min_idle as usize;
        let one_less = |lendable| if lendable > enough { Some(lendable - 1) } else { None };
        self.lendable.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less).is_ok()
    }

    /// Whether a sound connection should go all the same.
    pub(super) fn is_unwanted(&self, session: &Session) -> bool {
        !self.is_current(session) || self.has_too_many()
    }

    /// Whether it is of this era.
    pub(super) fn is_current(&self, session: &Session) -> bool {
        session.era() == self.era.load(Ordering::Relaxed)
    }

    async fn attempt(self: &Arc<Self>) -> Result<Session> {
        let slot = self.budget.take().await;
        let era = self.era.load(Ordering::Relaxed);
        // As it is before connecting: what is raised meanwhile may not have been asked for.
        let proven = self.hosts.lowest();
        let began = Instant::now();
        let made = observe::during_connect(self.instance(), Box::pin(self.connect())).await;
        self.counters.connected(made.is_ok());
        observe::connect(self.instance(), began.elapsed(), &made);
        let Link { client, wire, driven } = made?;
        let berth = Berth::new(driven, slot, self.runtime.clone());
        self.lendable.fetch_add(1, Ordering::AcqRel);
        self.breaker.succeeded();
        Ok(Session::new(client, wire, berth, self.clone(), era, proven))
    }

    async fn connect(&self) -> Result<Link> {
        let connected = match self.replica {
            None => self.hosts.connect(&self.greeting).await,
            Some(host) => self.hosts.connect_to_replica(host, &self.greeting).await,
        };
        connected.map_err(|error| error.in_phase(Phase::Connect).at(self.instance()))
    }
}

/// What bb8 asks.
#[derive(Debug)]
pub(super) struct Manager(pub(super) Arc<Source>);

/// There is no connection; who needs one hears why from the [`Breaker`].
#[derive(Debug)]
pub(super) struct NoConnection;

impl bb8::ManageConnection for Manager {
    // Boxed because bb8 moves it about each time that it is lent and comes back.
    type Connection = Box<Session>;
    type Error = NoConnection;

    /// Makes a connection; where that fails in a way that asks for it, it is this attempt that goes on. bb8 runs it in a
    /// task of its own, so nobody who waits can cut it short.
    async fn connect(&self) -> Result<Box<Session>, NoConnection> {
        let source = &self.0;
        if source.breaker.trouble().is_mended {
            return Err(NoConnection);
        }
        let error = match source.attempt().await {
            Ok(session) => return Ok(Box::new(session)),
            Err(error) => error,
        };
        let mut mending = source.breaker.failed(error).ok_or(NoConnection)?;
        let mut closed = source.closed.subscribe();
        loop {
            tokio::select! {
                _ = closed.wait_for(|closed| *closed) => return Err(NoConnection),
                () = tokio::time::sleep(mending.pause()) => {}
            }
            match source.attempt().await {
                Ok(session) => return Ok(Box::new(session)),
                Err(error) => {
                    // Nobody listens there any more: that is found out anew at no cost.
                    let over = error.is_connection_refused();
                    mending.failed(error);
                    if over {
                        return Err(NoConnection);
                    }
                }
            }
        }
    }

    async fn is_valid(&self, session: &mut Box<Session>) -> Result<(), NoConnection> {
        let now = Instant::now();
        if session.is_unsound() || session.is_old(now) || self.0.is_unwanted(session) {
            return Err(NoConnection);
        }
        if !session.is_proven() {
            return if session.prove().await { Ok(()) } else { Err(NoConnection) };
        }
        let idle_for = now.saturating_duration_since(session.last_used());
        if idle_for < self.0.connector.settings().pool.check_delay {
            return Ok(());
        }
        // Boxed because it is rare, and large.
        let check = timeout(CHECK_TIMEOUT, session.client().check_connection());
        match Box::pin(check).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NoConnection),
        }
    }

    fn has_broken(&self, session: &mut Box<Session>) -> bool {
        session.is_discarded()
    }
}
