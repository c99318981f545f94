//! What a pool has done and what it has, in the columns that PgBouncer's `SHOW POOLS` and `SHOW STATS` have.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Error;
use crate::shard::InstanceName;

/// The connections to one instance's primary, or to one of its replicas, at one moment and in this process; from [`Cluster::stats`](crate::Cluster::stats).
///
/// Totals count from the pool's beginning; an average is the difference of two moments. Beside each field stands the column
/// of PgBouncer's `SHOW POOLS` or `SHOW STATS` that it corresponds to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolStats {
    /// The instance (`database`).
    pub instance: InstanceName,
    /// The address of the replica to which these connections go, as `host:port`; `None` where that is the primary.
    pub replica: Option<String>,
    /// The most connections that there may be (`pool_size`).
    pub size: u32,
    /// Connections lent to one task each (`sv_active`).
    pub active: usize,
    /// Connections that carry pipelined reads, of many tasks at once.
    pub pipelines: usize,
    /// Connections that wait to be lent (`sv_idle`).
    pub idle: usize,
    /// Connections that are being made (`sv_login`).
    pub connecting: usize,
    /// Tasks that wait for a connection (`cl_waiting`).
    pub waiting: usize,
    /// How long the first of them has waited (`maxwait`).
    pub longest_wait: Duration,
    /// Whether it is paused (`paused`).
    pub paused: bool,
    /// Why no connection can be made at present, as the last attempt found.
    pub trouble: Option<Error>,

    /// Statements executed, pipelined reads included (`total_query_count`).
    pub statements: u64,
    /// The time that they took, from sending to the last row (`total_query_time`).
    pub statement_time: Duration,
    /// Of the statements, the reads that went through a pipeline.
    pub pipelined: u64,
    /// Transactions ended, those of one statement not included (`total_xact_count`).
    pub transactions: u64,
    /// The time that they were open (`total_xact_time`).
    pub transaction_time: Duration,
    /// Times that a task asked for a connection of its own.
    pub checkouts: u64,
    /// Of these, those that got none.
    pub checkout_failures: u64,
    /// The time that they waited, the making of connections included (`total_wait_time`).
    pub wait_time: Duration,
    /// Connections made.
    pub connects: u64,
    /// Attempts to make one that failed.
    pub connect_failures: u64,

    /// Statements kept prepared on all connections now.
    pub statements_kept: u64,
    /// The bytes of their SQL.
    pub statement_bytes: u64,
    /// Executions that found their statement prepared.
    pub statement_hits: u64,
    /// Statements prepared (`total_server_parse_count`).
    pub statement_misses: u64,
    /// Statements forgotten because there were too many.
    pub statement_evictions: u64,
}

impl PoolStats {
    #[cfg(feature = "metrics")]
    fn host(&self) -> String {
        self.replica.clone().unwrap_or_else(|| "primary".to_owned())
    }

    /// Tells all of it to the `metrics` crate. Times are in seconds.
    #[cfg(feature = "metrics")]
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating; these numbers are small")]
    pub(crate) fn publish(&self) {
        use crate::observe::{gauge, total};

        for (name, value) in [
            ("howdah_pool_size", f64::from(self.size)),
            ("howdah_pool_active", self.active as f64),
            ("howdah_pool_pipelines", self.pipelines as f64),
            ("howdah_pool_idle", self.idle as f64),
            ("howdah_pool_connecting", self.connecting as f64),
            ("howdah_pool_waiting", self.waiting as f64),
            ("howdah_pool_longest_wait_seconds", self.longest_wait.as_secs_f64()),
            ("howdah_pool_paused", f64::from(u8::from(self.paused))),
            ("howdah_pool_in_trouble", f64::from(u8::from(self.trouble.is_some()))),
            ("howdah_pool_statements_kept", self.statements_kept as f64),
            ("howdah_pool_statement_bytes", self.statement_bytes as f64),
        ] {
            gauge(name, &self.instance, self.host(), value);
        }
        for (name, value) in [
            ("howdah_pool_statements_total", self.statements),
            ("howdah_pool_pipelined_total", self.pipelined),
            ("howdah_pool_transactions_total", self.transactions),
            ("howdah_pool_checkouts_total", self.checkouts),
            ("howdah_pool_checkout_failures_total", self.checkout_failures),
            ("howdah_pool_connects_total", self.connects),
            ("howdah_pool_connect_failures_total", self.connect_failures),
            ("howdah_pool_statement_hits_total", self.statement_hits),
            ("howdah_pool_statement_misses_total", self.statement_misses),
            ("howdah_pool_statement_evictions_total", self.statement_evictions),
        ] {
            total(name, &self.instance, self.host(), value);
        }
    }
}

/// What is counted with every statement, for each connection by itself: no two write to the same cache line, nor to the pair
/// of them that is fetched at once.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tally {
    statements: AtomicU64,
    pipelined: AtomicU64,
    /// Of both.
    statement_nanos: AtomicU64,
    checkouts: AtomicU64,
    wait_nanos: AtomicU64,
    hits: AtomicU64,
}

impl Tally {
    pub(super) fn executed(&self, took: Duration) {
        add(&self.statements, 1);
        add(&self.statement_nanos, nanos(took));
    }

    pub(super) fn executed_on_a_pipeline(&self, took: Duration) {
        add(&self.pipelined, 1);
        add(&self.statement_nanos, nanos(took));
    }

    pub(super) fn checked_out(&self, waited: Duration) {
        add(&self.checkouts, 1);
        add(&self.wait_nanos, nanos(waited));
    }

    pub(super) fn found_prepared(&self) {
        add(&self.hits, 1);
    }

    fn add(&self, other: &Self) {
        let Self { statements, pipelined, statement_nanos, checkouts, wait_nanos, hits } = other;
        add(&self.statements, statements.load(Relaxed));
        add(&self.pipelined, pipelined.load(Relaxed));
        add(&self.statement_nanos, statement_nanos.load(Relaxed));
        add(&self.checkouts, checkouts.load(Relaxed));
        add(&self.wait_nanos, wait_nanos.load(Relaxed));
        add(&self.hits, hits.load(Relaxed));
    }
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counters {
    tallies: Mutex<Tallies>,
    transactions: AtomicU64,
    transaction_nanos: AtomicU64,
    checkout_failures: AtomicU64,
    failed_wait_nanos: AtomicU64,
    connects: AtomicU64,
    connect_failures: AtomicU64,
    kept: AtomicU64,
    kept_bytes: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Tallies {
    /// Of the connections that there are.
    open: Vec<Arc<Tally>>,
    /// Of those that there were.
    closed: Tally,
}

impl Counters {
    /// The tally of a new connection.
    pub(super) fn open_tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.tallies().open.push(tally.clone());
        tally
    }

    /// Its connection is closed, and counts nothing any more.
    pub(super) fn close_tally(&self, tally: &Arc<Tally>) {
        let mut tallies = self.tallies();
        tallies.open.retain(|open| !Arc::ptr_eq(open, tally));
        tallies.closed.add(tally);
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        // Nothing in here panics half-way through a change.
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended_a_transaction(&self, took: Duration) {
        add(&self.transactions, 1);
        add(&self.transaction_nanos, nanos(took));
    }

    pub(super) fn failed_to_check_out(&self, waited: Duration) {
        add(&self.checkout_failures, 1);
        add(&self.failed_wait_nanos, nanos(waited));
    }

    pub(super) fn connected(&self, succeeded: bool) {
        add(if succeeded { &self.connects } else { &self.connect_failures }, 1);
    }

    /// A statement was prepared, and is kept.
    pub(super) fn prepared(&self, bytes: usize) {
        add(&self.misses, 1);
        add(&self.kept, 1);
        add(&self.kept_bytes, bytes as u64);
    }

    /// Statements are not kept any more.
    pub(super) fn forgot(&self, statements: usize, bytes: usize) {
        self.kept.fetch_sub(statements as u64, Relaxed);
        self.kept_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    pub(super) fn evicted(&self, statements: usize) {
        add(&self.evictions, statements as u64);
    }

    /// The totals; what the pool has at present is for it to say.
    pub(super) fn stats(&self, instance: InstanceName) -> PoolStats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let time = |counter: &AtomicU64| Duration::from_nanos(count(counter));
        let all = Tally::default();
        let tallies = self.tallies();
        all.add(&tallies.closed);
        tallies.open.iter().for_each(|tally| all.add(tally));
        drop(tallies);
        let failures = count(&self.checkout_failures);
        PoolStats {
            instance,
            replica: None,
            size: 0,
            active: 0,
            pipelines: 0,
            idle: 0,
            connecting: 0,
            waiting: 0,
            longest_wait: Duration::ZERO,
            paused: false,
            trouble: None,
            statements: count(&all.statements) + count(&all.pipelined),
            statement_time: time(&all.statement_nanos),
            pipelined: count(&all.pipelined),
            transactions: count(&self.transactions),
            transaction_time: time(&self.transaction_nanos),
            checkouts: count(&all.checkouts) + failures,
            checkout_failures: failures,
            wait_time: time(&all.wait_nanos) + time(&self.failed_wait_nanos),
            connects: count(&self.connects),
            connect_failures: count(&self.connect_failures),
            statements_kept: count(&self.kept),
            statement_bytes: count(&self.kept_bytes),
            statement_hits: count(&all.hits),
            statement_misses: count(&self.misses),
            statement_evictions: count(&self.evictions),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

/// Nanoseconds, of which a counter holds those of 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_closed_connection_did_is_counted_once_and_for_ever() {
        let counters = Counters::default();
        let (one, two) = (counters.open_tally(), counters.open_tally());
        let second = Duration::from_secs(1);
        one.executed(second);
        one.checked_out(second);
        two.executed_on_a_pipeline(second);
        two.found_prepared();
        counters.failed_to_check_out(second);
        let counted = || {
            let stats = counters.stats(InstanceName::new("pg1").unwrap());
            assert_eq!((stats.statements, stats.pipelined), (2, 1));
            assert_eq!((stats.statement_time, stats.wait_time), (2 * second, 2 * second));
            assert_eq!((stats.checkouts, stats.checkout_failures), (2, 1));
            assert_eq!(stats.statement_hits, 1);
        };
        counted();
        counters.close_tally(&one);
        counted();
        counters.close_tally(&two);
        counted();
        assert!(counters.tallies().open.is_empty());
    }
}
