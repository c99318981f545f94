//! One instance's connections, shared by all its shards.
//!
//! A FIFO [`gate`] in front lets in as many tasks as there are connections, so nobody is overtaken and the
//! queue has a bound; where tasks wait, connections go from one to the next there. bb8 behind it keeps those that nobody uses, which
//! the [`source`] makes, checks and judges. A connection whose state is in doubt is never lent again. Some of the connections serve as [`pipelines`] for single reads. Where
//! none can be made, the [`breaker`] tells why.

mod admin;
mod berth;
mod breaker;
mod copy;
mod cursors;
mod gate;
mod lent;
mod limit;
mod line;
mod loan;
mod lookups;
mod payload;
mod pipelines;
mod session;
mod slots;
mod source;
mod statements;
mod stats;
mod watchman;

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bb8::{PooledConnection, RunError};
use futures_util::poll;
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::config::Dsn;
use crate::connect::{Connector, Hosts, Identity};
use crate::error::{Kind, Phase};
use crate::observe;
use crate::shard::{Home, InstanceName};
use crate::statement::Statement;
use crate::{Error, Result};
use gate::{Gate, Slot};
use loan::Loan;
use pipelines::Pipelines;
use source::{Manager, NoConnection, Source};

pub(crate) use lent::Lent;
pub(crate) use session::Params;
pub use stats::PoolStats;

/// How often bb8 looks for connections that have been idle for too long, at most and at least.
const REAP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(30));

type Got = Result<PooledConnection<'static, Manager>, RunError<NoConnection>>;
type Getting<'a> = Pin<Box<dyn Future<Output = Got> + Send + 'a>>;

/// The limits of one call, where it has any of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// For the wait for a connection.
    pub(crate) queue: Option<Duration>,
    /// For each statement, on the server.
    pub(crate) statement: Option<Duration>,
}

impl Limits {
    /// Whether a read on a pipeline ends soon enough.
    pub(crate) fn allow_pipelines(&self) -> bool {
        self.statement.is_none_or(|limit| limit >= line::LONGEST)
    }
}

/// The connections to one instance.
#[derive(Debug)]
pub(crate) struct Pool {
    source: Arc<Source>,
    /// A pool for each host, for when it is a replica; none in these themselves.
    replicas: Box<[OnceLock<Pool>]>,
    gate: Arc<Gate<Loan>>,
    connections: bb8::Pool<Manager>,
    /// How long a task that was let in waits for one of them.
    connection_timeout: Duration,
    pipelines: Arc<Pipelines>,
    queue_timeout: Duration,
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
        let mut pool = Self::of(connector, hosts, None, size);
        pool.replicas = replicas;
        pool
    }

    /// The connections to one replica, made when they are needed.
    pub(crate) fn replica(&self, host: usize) -> &Self {
        if let Some(there) = self.replicas[host].get() {
            return there;
        }
        let made = self.replicas[host].get_or_init(|| {
            let source = &self.source;
            Self::of(source.connector().clone(), source.hosts().clone(), Some(host), self.size())
        });
        // Whoever has just paused them all, or resumed them, may not have seen this one.
        if self.gate.is_paused() {
            made.gate.pause();
            if !self.gate.is_paused() {
                made.gate.resume();
            }
        }
        made
    }

    fn of(connector: Connector, hosts: Arc<Hosts>, replica: Option<usize>, size: u32) -> Self {
        let settings = connector.settings().pool;
        let count = u32::try_from(hosts.count()).unwrap_or(u32::MAX).min(100);
        // The connector has a timeout of its own; bb8's must never be the one that strikes first.
        let connection_timeout = settings.connect_timeout * (count + 2);
        // None stays idle past its age for longer than it may be old.
        let idle_timeout = settings.idle_timeout.min(settings.max_lifetime);
        let source = Source::new(connector, hosts, replica, size);
        let connections = bb8::Pool::builder()
            // The source's budget is the bound, for it can be changed.
            .max_size(u32::MAX)
            .min_idle(Some(source.min_idle()))
            // A session knows its own age, and bb8 need not look at the clock for it.
            .max_lifetime(None)
            .idle_timeout(Some(idle_timeout))
            // After half as long again at most it is closed.
            .reaper_rate((idle_timeout / 2).clamp(REAP.0, REAP.1))
            // In turns: after a COMMIT a server process works on for a while, and the next transaction need not wait for it.
            // So none stays idle, and those that are too many are found when they come back.
            .queue_strategy(bb8::QueueStrategy::Fifo)
            .connection_timeout(connection_timeout)
            .retry_connection(false)
            .build_unchecked(Manager(source.clone()));
        // A pooler in transaction mode does not keep a session's settings; one connection must be left to lend.
        let count = if settings.prepared { settings.pipelines.min(size - 1) } else { 0 };
        Self {
            source,
            replicas: Box::default(),
            gate: Gate::new(size, settings.queue_length as usize, settings.idle_timeout),
            connections,
            connection_timeout,
            pipelines: Arc::new(Pipelines::new(count)),
            queue_timeout: settings.queue_timeout,
        }
    }

    pub(crate) fn instance(&self) -> &InstanceName {
        self.source.instance()
    }

    /// The most connections that it has.
    pub(crate) fn size(&self) -> u32 {
        self.gate.size()
    }

    pub(crate) fn dsn(&self) -> &Dsn {
        self.source.hosts().dsn()
    }

    /// Its servers: which is the primary, and how far the replicas are.
    pub(crate) fn hosts(&self) -> &Hosts {
        self.source.hosts()
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
        self.lend_within(Limits::default()).await
    }

    /// As [`Pool::lend`], with limits of the call's own.
    pub(crate) async fn lend_within(&self, limits: Limits) -> Result<Lent> {
        let asked = Instant::now();
        let waiting = pin!(self.wait(asked, limits.queue.unwrap_or(self.queue_timeout)));
        let lent = observe::during_checkout(self.instance(), waiting).await;
        let got = lent.as_ref().map_or_else(|_| Instant::now(), Lent::since);
        let waited = got.saturating_duration_since(asked);
        match &lent {
            Ok(lent) => lent.tally().checked_out(waited),
            Err(_) => self.source.counters.failed_to_check_out(waited),
        }
        observe::checkout(self.instance(), waited, &lent);
        let lent = lent.map_err(|error| error.at(self.instance()))?;
        if let Some(limit) = limits.statement {
            lent.limit(limit);
        }
        Ok(lent)
    }

    /// Reads on a connection that others read on too. `None` when that is not possible, or did not succeed: the
    /// statement must then be run on a lent connection, which tells why.
    pub(crate) async fn read(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Option<(Vec<Row>, u64)> {
        let began = Instant::now();
        let open = async || self.connect(self.gate.try_enter()?, began).await.ok();
        let read = pin!(self.pipelines.read(statement, home, params, began, open));
        let (answer, took) = observe::during_execute(home.instance(), home.shard(), read).await?;
        let answer = Ok(answer);
        observe::statement(home.instance(), home.shard(), took, &answer);
        answer.ok()
    }

    async fn wait(&self, asked: Instant, patience: Duration) -> Result<Lent> {
        if let Some(slot) = self.gate.try_enter() {
            return self.connect(slot, asked).await;
        }
        let entering = watchman::enter(&self.gate, &self.pipelines, asked, patience);
        let (slot, handed) = observe::during_wait(self.instance(), entering).await?;
        let now = Instant::now();
        match handed {
            Some(loan) if loan.is_fit() => Ok(Lent::new(loan, slot, now)),
            // Where it has closed since it was handed over, it goes back first.
            handed => {
                drop(handed);
                self.connect(slot, now).await
            }
        }
    }

    /// Takes a connection from bb8, or waits for one. Whoever gets it at once has had it since a time just before, for a look
    /// at the clock costs as much as all the rest here.
    async fn connect(&self, slot: Slot<Loan>, mut since: Instant) -> Result<Lent> {
        // Before bb8 starts an attempt, or its failure could go unheard.
        let before = self.source.breaker.changes();
        let mut getting = self.ask();
        let got = match poll!(&mut getting) {
            Poll::Ready(got) => got,
            // Boxed because it is rare, and large.
            Poll::Pending => {
                let got = Box::pin(async {
                    let _insisting = slot.insist();
                    tokio::select! {
                        biased;
                        got = self.insist(getting) => Ok(got),
                        // Whoever waits for a connection that cannot be made learns why, instead of waiting on.
                        reason = self.despair(before) => Err(reason),
                    }
                });
                let got = got.await?;
                since = Instant::now();
                got
            }
        };
        match got {
            Ok(session) => Ok(Lent::new(Loan::new(session), slot, since)),
            Err(_) => Err(self.too_late()),
        }
    }

    fn ask(&self) -> Getting<'_> {
        // Boxed because it is large, and every call holds it.
        Box::pin(self.connections.get_owned())
    }

    /// Waits for bb8. It makes an attempt to connect when it is asked, and no other when that has failed: so it is asked again
    /// when others may succeed.
    async fn insist<'a>(&'a self, mut getting: Getting<'a>) -> Got {
        let waiting = async {
            let mut trouble = self.source.breaker.subscribe();
            loop {
                tokio::select! {
                    biased;
                    got = &mut getting => return got,
                    () = breaker::over(&mut trouble) => getting = self.ask(),
                }
            }
        };
        timeout(self.connection_timeout, waiting).await.unwrap_or(Err(RunError::TimedOut))
    }

    /// Waits until no connection can be made, and none is there that might be given back. Returns why.
    async fn despair(&self, before: u64) -> Error {
        let mut trouble = self.source.breaker.subscribe();
        loop {
            let now = trouble.borrow_and_update().clone();
            // A failure from before means nothing where everybody may try.
            let is_news = self.source.breaker.changes() != before;
            match now.reason {
                Some(reason) if (is_news || now.is_open) && !self.source.may_lend() => {
                    return reason;
                }
                _ => {}
            }
            if trouble.changed().await.is_err() {
                return Error::new(Kind::Unavailable, "the pool is closed");
            }
        }
    }

    fn too_late(&self) -> Error {
        let text = "no connection came back and none could be made in time";
        let error = Error::new(Kind::Timeout, text).in_phase(Phase::Connect);
        match &self.source.breaker.trouble().reason {
            Some(reason) => error.because(reason.clone()),
            None => error,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.source.close();
    }
}
